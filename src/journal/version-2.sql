-- Version 2: how long the machine had been up when a command was accepted, and in which boot, so that its age does not
-- depend on a clock; and whether the service was searched for jobs that the journal does not know.
ALTER TABLE commands ADD COLUMN boot TEXT;
ALTER TABLE commands ADD COLUMN uptime REAL;
ALTER TABLE journal ADD COLUMN searched INTEGER NOT NULL DEFAULT 1;
