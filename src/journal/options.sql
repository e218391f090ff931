-- The options of a connection.

-- Only this process uses the file, so that SQLite needs no file of shared memory, which is dangerous on a full disk.
PRAGMA locking_mode = EXCLUSIVE;
-- A commit is on the disk when it returns.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
-- After so many pages, 4 MiB, the `-wal` file is copied to the main file and written again from its beginning.
PRAGMA wal_autocheckpoint = 1000;
-- How much of the `-wal` file is kept between commits, 4 MiB: a commit needs no new room on the disk for so much.
PRAGMA journal_size_limit = 4194304;
-- A damaged file is noticed, and a failing disk is an error and not a signal.
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
PRAGMA temp_store = MEMORY;
