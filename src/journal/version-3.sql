-- Version 3: what happened to the job of an execute and when, note by note; `about` is text for people, `kind` says of
-- what. The place of a note is the key of its command times 100 and one of 100 places: the first 20 notes have one each,
-- the others take the next 80 in turn, so that the last stay.
CREATE TABLE history (
  place INTEGER PRIMARY KEY,
  number INTEGER NOT NULL,
  at REAL NOT NULL,
  kind TEXT NOT NULL,
  about TEXT NOT NULL
) STRICT;
CREATE TRIGGER history_goes_with_its_command AFTER DELETE ON commands BEGIN
  DELETE FROM history WHERE place BETWEEN old.key * 100 AND old.key * 100 + 99;
END;
