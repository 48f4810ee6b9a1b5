DROP INDEX "chain_events_by_provider";--> statement-breakpoint
DROP INDEX "chain_events_by_publisher";--> statement-breakpoint
CREATE INDEX "chain_events_by_pot_runner" ON "chain_events" USING btree (("args"->>'runner')) WHERE "chain_events"."name" IN ('Settled', 'Distributed');--> statement-breakpoint
CREATE INDEX "chain_events_by_pot_publisher" ON "chain_events" USING btree (("args"->>'publisher')) WHERE "chain_events"."name" IN ('Settled', 'Distributed');