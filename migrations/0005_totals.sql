CREATE TABLE "journal_totals" (
	"runner" text NOT NULL,
	"channel" text NOT NULL,
	"cumulative" numeric(39, 0) NOT NULL,
	"vouched" numeric(39, 0) NOT NULL,
	"at" bigint NOT NULL,
	CONSTRAINT "journal_totals_pk" PRIMARY KEY("runner","channel")
);
