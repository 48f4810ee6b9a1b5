/** Words rows as a table of even columns, numbers to the right. */
export function tableOf(heading: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const cells = rows.map((row) => row.map(String))
  const widths = heading.map((name, at) => Math.max(name.length, ...cells.map((row) => row[at]!.length)))
  const isNumber = heading.map((_, at) => cells.length > 0 && cells.every((row) => /^\d+$/.test(row[at]!)))
  const line = (row: readonly string[]) =>
    row.map((cell, at) => (isNumber[at] ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!))).join('  ')
  return [heading, ...cells].map(line).join('\n')
}
