ALTER TABLE "models" ADD COLUMN "nonce" numeric(20, 0) GENERATED ALWAYS AS (((listing->>'nonce')::numeric)) STORED;--> statement-breakpoint
ALTER TABLE "runners" ADD COLUMN "warm" jsonb DEFAULT '[]'::jsonb NOT NULL;--> statement-breakpoint
ALTER TABLE "runners" ADD COLUMN "region" text;--> statement-breakpoint
CREATE UNIQUE INDEX "models_nonce" ON "models" USING btree ("owner","name","nonce");--> statement-breakpoint
CREATE INDEX "runners_by_model" ON "runners" USING gin ("models" jsonb_path_ops);