-- Deletes some of the settled commands that are too many or too old, the first ones first. An index holds all that is
-- needed of them for that.
DELETE FROM commands WHERE key IN (
  SELECT key FROM (
    SELECT key, ended, row_number() OVER (ORDER BY key DESC) AS place FROM commands WHERE settled = 1)
  WHERE (place > :rows OR (place > :least AND ended < :expired))
    AND key NOT IN (SELECT key FROM commands WHERE suspected IS NOT NULL)
  ORDER BY key LIMIT :most)
