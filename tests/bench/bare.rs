//! The bare limit: what an execute and a poll need of the libraries, without any logic, in one thread; of an execute also
//! with a thread for each thing that may wait, as the daemon has them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use nix::time::ClockId;
use rusqlite::Connection;
use serde::Deserialize;
use ureq::Agent;

use crate::report::Times;
use crate::service::{PUT, Service, Way};

/// What is read of a job object.
#[derive(Deserialize)]
pub struct JobObject {
    #[serde(rename = "jobId")]
    pub job_id: String,
    pub phase: String,
}

pub struct Bare {
    agent: Agent,
    url: String,
    database: Connection,
    puts: usize,
}

impl Bare {
    /// Its database is as durable as the journal, and in the same file system.
    pub fn new(url: &str, dir: &Path) -> Self {
        let database = Connection::open(dir.join("bare.db")).unwrap();
        let set_up = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                      CREATE TABLE commands (key INTEGER PRIMARY KEY, document TEXT)";
        database.execute_batch(set_up).unwrap();
        let config = Agent::config_builder().no_delay(true).proxy(None).max_idle_age(Duration::from_secs(60));
        Self { agent: config.build().new_agent(), url: format!("{url}/job"), database, puts: 0 }
    }

    /// Commits a text as long as the record of a command.
    fn commit(&self) {
        let document = "x".repeat(1200);
        let mut statement =
            self.database.prepare_cached("INSERT INTO commands (document) VALUES (?)").unwrap();
        statement.execute([document]).unwrap();
    }

    /// A commit, a PUT, another commit.
    pub fn execute(&mut self) -> String {
        self.commit();
        let job_id = self.put();
        self.commit();
        job_id
    }

    fn put(&mut self) -> String {
        self.puts += 1;
        let body = PUT.replace("RUN", &format!("{}-ocps1-0123456789abcdef", self.puts));
        let request = self.agent.put(&self.url).header("Content-Type", "application/json");
        let text = request.send(body).unwrap().body_mut().read_to_string().unwrap();
        let job: JobObject = serde_json::from_str(&text).unwrap();
        job.job_id
    }

    /// One poll.
    pub fn get(&self, job: usize) -> JobObject {
        let url = format!("{}/{job:032x}", self.url);
        let text = self.agent.get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// One list.
    pub fn list(&self) -> Vec<JobObject> {
        let mut response = self.agent.get(&self.url).call().unwrap();
        let bytes = response.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// A server on a local socket that carries out each line.
    pub fn serve(mut self, dir: &Path) -> PathBuf {
        let path = dir.join("bare.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut output = stream.try_clone().unwrap();
            for (line, seq) in BufReader::new(stream).lines().zip(1..) {
                line.unwrap();
                output.write_all(ack(seq, &self.execute()).as_bytes()).unwrap();
            }
        });
        path
    }

    /// The same in threads: one reads the socket, one commits, one asks the service, one writes to the socket, and between
    /// all of them one that does nothing but hand on.
    pub fn serve_in_threads(url: &str, dir: &Path) -> PathBuf {
        let path = dir.join("threads.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let of_database = dir.join("database");
        std::fs::create_dir(&of_database).unwrap();
        let (mut service, database) = (Self::new(url, dir), Self::new(url, &of_database));
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut output = stream.try_clone().unwrap();
            let (lines, from_client) = unbounded();
            let (to_commit, commits) = unbounded::<()>();
            let (committed, from_database) = unbounded();
            let (to_ask, questions) = unbounded::<()>();
            let (answered, from_service) = unbounded();
            let (to_client, acks) = unbounded::<String>();
            thread::spawn(move || {
                BufReader::new(stream).lines().try_for_each(|line| lines.send(line.unwrap()))
            });
            thread::spawn(move || {
                commits.iter().try_for_each(|()| {
                    database.commit();
                    committed.send(())
                })
            });
            thread::spawn(move || questions.iter().try_for_each(|()| answered.send(service.put())));
            thread::spawn(move || acks.iter().try_for_each(|ack| output.write_all(ack.as_bytes())));
            for (_, seq) in from_client.iter().zip(1..) {
                to_commit.send(()).unwrap();
                from_database.recv().unwrap();
                to_ask.send(()).unwrap();
                let job_id = from_service.recv().unwrap();
                to_commit.send(()).unwrap();
                from_database.recv().unwrap();
                to_client.send(ack(seq, &job_id)).unwrap();
            }
        });
        path
    }
}

fn ack(seq: usize, job_id: &str) -> String {
    format!(
        r#"{{"ack":{{"seq":{seq},"ack":301,"name":"CMD_INPROGRESS","error":0,"result":"{{\"job_id\":\"{job_id}\"}}","timeout":0}}}}"#
    ) + "\n"
}

/// Seconds of the processor that this thread needs for something.
pub fn cost(what: impl FnOnce()) -> f64 {
    let own = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let before = own();
    what();
    (own() - before).as_secs_f64()
}

/// From the end of each job to when it is seen, if all that is done is to ask for the list in each interval.
pub fn lag(jobs: usize, way: Way, interval: Duration, dir: &Path) -> Times {
    let service = Service::start();
    service.add(jobs);
    service.answer(way);
    let bare = Bare::new(&service.url(), dir);
    let begun = Instant::now();
    service.end_jobs(2 * interval);
    let (mut lags, mut is_seen) = (Vec::new(), vec![false; jobs]);
    for round in 1.. {
        for (job, is_seen) in bare.list().into_iter().zip(&mut is_seen) {
            if job.phase != "executing" && !std::mem::replace(is_seen, true) {
                let ended = service.ended(&job.job_id).map(|(ended, ..)| ended.elapsed());
                lags.push(ended.unwrap().as_secs_f64());
            }
        }
        if lags.len() == jobs {
            break;
        }
        thread::sleep((begun + round * interval).saturating_duration_since(Instant::now()));
    }
    Times::of(lags)
}
