-- How the file is opened.

-- We use the file alone, so there is no shared memory in a file of its own, which a full disk would make dangerous.
PRAGMA locking_mode = EXCLUSIVE;
-- What was committed is on the disk.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
-- Only upkeep brings it to the main file.
PRAGMA wal_autocheckpoint = 0;
-- What is kept of the `-wal` file between commits, 4 MiB: room that a commit need not ask the disk for.
PRAGMA journal_size_limit = 4194304;
-- A damaged file is noticed, and a failing disk is an error and not a signal.
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
PRAGMA temp_store = MEMORY;
