-- Version 1. This text is in each journal and never changes.
--
-- In `commands`, `settled` says that a command ended and that its result and final ack are delivered; `suspected` is set
-- while a second job of its run may appear. Large texts come last, where they are not read for the sake of what comes
-- after them. In `seen`, `sent` is the bits of the stamp.
CREATE TABLE journal (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  sal_index INTEGER NOT NULL,
  simulated INTEGER NOT NULL,
  lives INTEGER NOT NULL,
  last_key INTEGER NOT NULL
) STRICT;
CREATE TABLE commands (
  key INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  accepted REAL NOT NULL,
  job_id TEXT,
  suspected REAL,
  ended REAL,
  said_result INTEGER NOT NULL DEFAULT 0,
  said_ack INTEGER NOT NULL DEFAULT 0,
  settled INTEGER NOT NULL
    AS (ended IS NOT NULL AND said_ack AND (said_result OR result IS NULL)),
  document TEXT NOT NULL,
  ending TEXT,
  result TEXT
) STRICT;
CREATE INDEX commands_by_end ON commands (settled, ended);
CREATE INDEX commands_suspected ON commands (suspected) WHERE suspected IS NOT NULL;
CREATE TABLE seen (
  number INTEGER PRIMARY KEY,
  at REAL NOT NULL,
  identity TEXT NOT NULL,
  origin INTEGER NOT NULL,
  seq_num INTEGER NOT NULL,
  sent INTEGER NOT NULL,
  UNIQUE (identity, origin, seq_num, sent)
) STRICT;
CREATE TABLE summary_state (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  state TEXT NOT NULL,
  override TEXT NOT NULL
) STRICT;
