//! What it costs to keep commands: through the journal, beside bare SQLite commits of the same texts.
//!
//! `make bench` writes to a real file system (that of the build). All are as durable as the journal (WAL, FULL); the
//! ratio is what counts: absolute times are this machine's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ocps::csc::command::{Sender, Via};
use ocps::csc::id::{EntryKey, RunId, SalIndex, SeqNum};
use ocps::csc::record::{AcceptedCommand, Record, Work};
use ocps::csc::request::Submission;
use ocps::csc::time::Tai;
use ocps::journal::{Identity, Journal, Limits, Report};
use rusqlite::Connection;

/// Commands in each series.
const ROUNDS: usize = 1000;
/// Series; the kinds alternate, so that a drift of the machine meets all of them.
const SERIES: usize = 5;
/// Commands in a batched transaction, and of clients that each wait for their answer.
const TOGETHER: usize = 100;

fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let bare = Bare::open(&dir.path().join("bare.db"));
    let identity = Identity { index: SalIndex::LsstCam, simulated: false };
    let limits = Limits::new(Duration::from_secs(86_400));
    let (journal, _) = Journal::open(&dir.path().join("journal.db"), identity, limits).unwrap();
    let mut kept = RecoveredCommand { journal, keys: 0 };
    let mut bare_times = Vec::new();
    let mut journal_times = Vec::new();
    let mut totals = [Duration::ZERO; 4];
    for _ in 0..SERIES {
        totals[0] += sum(&mut bare_times, (0..ROUNDS).map(|_| bare.insert(1)));
        totals[1] += (0..ROUNDS / TOGETHER).map(|_| bare.insert(TOGETHER)).sum::<Duration>();
        totals[2] += sum(&mut journal_times, (0..ROUNDS).map(|_| kept.write(1)));
        totals[3] += (0..ROUNDS / TOGETHER).map(|_| kept.write(TOGETHER)).sum::<Duration>();
        // The checkpoints belong to the quiet times.
        std::thread::sleep(Duration::from_millis(1500));
        bare.checkpoint();
    }
    println!("time until one command is durable, when nothing else is to be written:");
    let reference = report("bare SQLite, one insert in a transaction", &mut bare_times, None);
    report("through the journal and its thread", &mut journal_times, Some(reference));
    println!("commands in a second:");
    let per_second = totals.map(|total| (ROUNDS * SERIES) as f64 / total.as_secs_f64());
    let rate = |name: &str, of: usize| {
        println!("{name:50} {:9.0}/s  ratio {:.2}", per_second[of], per_second[of] / per_second[0]);
    };
    rate("bare SQLite, one insert in a transaction", 0);
    rate(&format!("bare SQLite, {TOGETHER} inserts in a transaction"), 1);
    rate("through the journal, each waits for the one before", 2);
    rate(&format!("through the journal, {TOGETHER} at a time"), 3);
    kept.journal.close(Duration::from_secs(10)).unwrap();
}

fn sum(times: &mut Vec<Duration>, more: impl Iterator<Item = Duration>) -> Duration {
    let begun = times.len();
    times.extend(more);
    times[begun..].iter().sum()
}

/// Prints p50 and p99, and their ratios to those of `bare`.
fn report(name: &str, times: &mut [Duration], bare: Option<[f64; 2]>) -> [f64; 2] {
    times.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e6);
    let ratio = bare.map(|[b50, b99]| format!("  ratio {:.2} and {:.2}", p50 / b50, p99 / b99));
    println!("{name:50} p50 {p50:7.1} us  p99 {p99:7.1} us{}", ratio.unwrap_or_default());
    [p50, p99]
}

/// A plain table of texts, as durable as the journal.
struct Bare(Connection);

impl Bare {
    fn open(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        let set_up = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                      PRAGMA wal_autocheckpoint = 0; CREATE TABLE commands (key INTEGER PRIMARY KEY, document TEXT)";
        connection.execute_batch(set_up).unwrap();
        Self(connection)
    }

    fn insert(&self, count: usize) -> Duration {
        let document = "x".repeat(1200);
        let begun = Instant::now();
        self.0.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut statement = self.0.prepare_cached("INSERT INTO commands (document) VALUES (?)").unwrap();
        for _ in 0..count {
            statement.execute([&document]).unwrap();
        }
        self.0.execute_batch("COMMIT").unwrap();
        begun.elapsed()
    }

    fn checkpoint(&self) {
        self.0.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    }
}

/// The journal, and the last key that it was given.
struct RecoveredCommand {
    journal: Journal,
    keys: u64,
}

impl RecoveredCommand {
    /// Hands over so many commands, each in a turn of its own, and waits until all are durable.
    fn write(&mut self, count: usize) -> Duration {
        let records: Vec<Record> = (0..count).map(|_| self.accepted()).collect();
        let begun = Instant::now();
        for record in records {
            self.journal.write(vec![record]).unwrap();
        }
        let mut durable = 0;
        while durable < count {
            match self.journal.reports().recv().unwrap() {
                Report::Durable(keys) => durable += keys.len(),
                report @ (Report::Back | Report::Failed(_)) => panic!("{report:?}"),
            }
        }
        begun.elapsed()
    }

    /// An execute as large as a usual one, of about 1200 bytes.
    fn accepted(&mut self) -> Record {
        self.keys += 1;
        let variable = |number: usize| (format!("VARIABLE_{number}").into(), "v".repeat(30));
        let seq_num = SeqNum(i32::try_from(self.keys).unwrap());
        let submission = Submission {
            run_id: RunId::parse(&format!("{}-0123456789abcdef", self.keys)).unwrap(),
            command: "bash -c '$SHELL_SCRIPT'".to_owned(),
            source_url: "https://github.com/lsst-dm/uws_scripts".to_owned(),
            commit_ref: "main".to_owned(),
            environment: (0..12).map(variable).collect(),
            pipeline: "${OCPS_DIR}/pipelines/test.yaml".to_owned(),
        };
        Record::Accepted(Box::new(AcceptedCommand {
            key: EntryKey(self.keys),
            sender: Sender {
                via: Via::Kafka,
                identity: "root@summit".to_owned(),
                origin: 1234,
                seq_num,
                sent: Tai(1_795_369_818.9),
            },
            accepted: Tai(1_795_369_819.1),
            uptime: None,
            work: Work::Execute {
                submission: Arc::new(submission),
                url: "http://uws.example.org:8080/uws-server".into(),
                poll_interval: Duration::from_secs(1),
                prereqs: Vec::new(),
            },
        }))
    }
}
