CREATE TABLE "chain_checkpoints" (
	"block" bigint PRIMARY KEY NOT NULL,
	"hash" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "chain_cursor" (
	"id" integer PRIMARY KEY NOT NULL,
	"block" bigint NOT NULL,
	"hash" text NOT NULL
);
--> statement-breakpoint
CREATE TABLE "chain_events" (
	"block" bigint NOT NULL,
	"log_index" integer NOT NULL,
	"block_hash" text NOT NULL,
	"transaction" text NOT NULL,
	"name" text NOT NULL,
	"args" jsonb NOT NULL,
	CONSTRAINT "chain_events_pk" PRIMARY KEY("block","log_index")
);
--> statement-breakpoint
CREATE TABLE "drifts" (
	"id" bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY (sequence name "drifts_id" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"kind" text NOT NULL,
	"subject" text NOT NULL,
	"expected" text NOT NULL,
	"found" text NOT NULL,
	"cause" text NOT NULL,
	"block" bigint NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "chain_events_by_channel" ON "chain_events" USING btree (("args"->>'channel'),"block");--> statement-breakpoint
CREATE INDEX "chain_events_by_buyer" ON "chain_events" USING btree (("args"->>'buyer'),"block");--> statement-breakpoint
CREATE UNIQUE INDEX "drifts_once" ON "drifts" USING btree ("kind","subject","expected","found");