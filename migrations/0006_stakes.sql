CREATE TABLE "stakes" (
	"runner" text PRIMARY KEY NOT NULL,
	"amount" numeric(29, 0) NOT NULL,
	"exiting" numeric(29, 0) NOT NULL,
	"withdrawable_at" bigint NOT NULL,
	"slashed" boolean NOT NULL
);
--> statement-breakpoint
ALTER TABLE "chain_cursor" ADD COLUMN "contracts" text DEFAULT '' NOT NULL;--> statement-breakpoint
ALTER TABLE "chain_events" ADD COLUMN "contract" text DEFAULT 'escrow' NOT NULL;--> statement-breakpoint
CREATE INDEX "chain_events_by_staked" ON "chain_events" USING btree (("args"->>'runner')) WHERE "chain_events"."contract" = 'stake';--> statement-breakpoint
CREATE INDEX "chain_events_by_provider" ON "chain_events" USING btree (("args"->>'provider')) WHERE "chain_events"."name" = 'Settled';--> statement-breakpoint
CREATE INDEX "chain_events_by_publisher" ON "chain_events" USING btree (("args"->>'publisher')) WHERE "chain_events"."name" = 'Settled';