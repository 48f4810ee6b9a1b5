CREATE TABLE "collaterals" (
	"platform" text PRIMARY KEY NOT NULL,
	"digest" text NOT NULL,
	"content" jsonb NOT NULL,
	"issued_at" bigint NOT NULL,
	"expires_at" bigint NOT NULL,
	"fetched_at" bigint NOT NULL
);
--> statement-breakpoint
ALTER TABLE "runners" ADD COLUMN "platform" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "runners" ADD COLUMN "collateral_digest" text DEFAULT '' NOT NULL;--> statement-breakpoint
CREATE INDEX "runners_by_platform" ON "runners" USING btree ("platform","valid_until");