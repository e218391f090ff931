-- Deletes some of the settled commands that are too many or too old. No part scans the whole table. (`+settled` keeps
-- SQLite from using the index: in the order of keys, only few rows are read.)
DELETE FROM commands WHERE key IN (
  -- The first ones, where there are too many.
  SELECT key FROM (
    SELECT key FROM commands WHERE +settled = 1 AND suspected IS NULL ORDER BY key
    LIMIT min(:most, max(0, (SELECT count(*) FROM commands WHERE settled = 1) - :rows)))
  UNION
  -- The oldest ones, but none of the last by key: the clock may be wrong.
  SELECT key FROM (
    SELECT key FROM commands
    WHERE settled = 1 AND ended < :expired AND suspected IS NULL
      AND key <= (SELECT key FROM commands WHERE +settled = 1 ORDER BY key DESC LIMIT 1 OFFSET :least)
    ORDER BY ended, key LIMIT :most)
  LIMIT :most)
