CREATE TABLE "models" (
	"digest" text PRIMARY KEY NOT NULL,
	"position" bigint GENERATED ALWAYS AS IDENTITY (sequence name "models_position" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"owner" text NOT NULL,
	"name" text NOT NULL,
	"version" text NOT NULL,
	"manifest" jsonb NOT NULL,
	"listing" jsonb NOT NULL,
	"signature" text NOT NULL,
	"card" text DEFAULT '' NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE TABLE "receipts" (
	"channel" text NOT NULL,
	"job" text NOT NULL,
	"position" bigint GENERATED ALWAYS AS IDENTITY (sequence name "receipts_position" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1),
	"runner" text NOT NULL,
	"receipt" jsonb NOT NULL,
	"detail" jsonb NOT NULL,
	"proof" jsonb NOT NULL,
	"signature" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "receipts_pk" PRIMARY KEY("channel","job")
);
--> statement-breakpoint
CREATE TABLE "runners" (
	"signer" text PRIMARY KEY NOT NULL,
	"provider" text NOT NULL,
	"hpke_key" text NOT NULL,
	"statement" text NOT NULL,
	"evidence" jsonb NOT NULL,
	"collateral" jsonb NOT NULL,
	"registration" jsonb NOT NULL,
	"verdict" jsonb NOT NULL,
	"evidence_digest" text NOT NULL,
	"verified_at" bigint NOT NULL,
	"valid_until" bigint NOT NULL,
	"online" boolean DEFAULT false NOT NULL,
	"models" jsonb DEFAULT '[]'::jsonb NOT NULL,
	"capacity" integer DEFAULT 0 NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL
);
--> statement-breakpoint
CREATE INDEX "models_by_owner_name" ON "models" USING btree ("owner","name","position");--> statement-breakpoint
CREATE INDEX "models_by_position" ON "models" USING btree ("position");--> statement-breakpoint
CREATE INDEX "receipts_by_channel" ON "receipts" USING btree ("channel","position");