import { defineConfig } from 'drizzle-kit'

export default defineConfig({ dialect: 'postgresql', schema: './functions/store/schema.ts', out: './migrations' })
