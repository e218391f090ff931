-- The commands that a new run is given.
SELECT * FROM commands WHERE key IN (
  -- All that are unfinished, or whose result or final ack is not delivered.
  SELECT key FROM commands WHERE settled = 0
  UNION
  SELECT key FROM commands WHERE suspected IS NOT NULL
  UNION
  -- The executes of jobs with an unfinished abort, however old they are.
  SELECT key FROM commands WHERE kind = 'execute' AND job_id IN (
    SELECT json_extract(document, '$.work.abort.job_id') FROM commands
    WHERE settled = 0 AND ended IS NULL AND kind = 'abort_job')
  UNION
  -- The last settled commands, as many as fit into the memory. (`+settled` keeps SQLite from using the index.)
  SELECT key FROM (
    SELECT key, sum(bytes) OVER (ORDER BY key DESC) AS bytes FROM (
      SELECT key, octet_length(document) + coalesce(octet_length(result), 0) AS bytes
      FROM commands WHERE +settled = 1 ORDER BY key DESC LIMIT :most))
  WHERE bytes <= :bytes)
ORDER BY key
