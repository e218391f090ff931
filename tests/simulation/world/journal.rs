//! The journal thread: when it uses the disk, what the disk does then, and what it reports.

use std::time::Duration;

use ocps::csc::record::{Record, Recovered};
use ocps::csc::time::Time;
use ocps::journal::Report;
use ocps::journal::store::{Store, Upkeep};
use ocps::journal::topic::{Topic, Unopened};
use ocps::journal::writer::Writer;

use super::super::cluster::{Cluster, OnTopic};
use super::super::plan::{any, chance, millis, secs, short};
use super::super::process::{Disk, Journal, Kept};
use super::{Event, World};

/// How long the journal's thread waits for an answer of the broker.
const BROKER_PATIENCE: Duration = secs(5);

impl World {
    /// Opens the journal; or after which time that is to be tried again.
    pub(super) fn open(&mut self) -> Result<(Journal, Recovered), Duration> {
        let tai = self.tai();
        let Some(cluster) = self.cluster.clone() else {
            let Some(mut store) = self.store.take() else { panic!("another process has the journal") };
            // Opening forgets by the clock too.
            while store.sqlite.upkeep(tai) == Ok(Upkeep::More) {}
            let recovered = store.sqlite.recover().unwrap();
            return Ok((Journal::new(Kept::File(Writer::new(store))), recovered));
        };
        cluster.set(self.now, self.disk());
        let opened = Topic::open(&cluster, tai);
        // What was on its way has arrived, or never will.
        self.keep_durable();
        match opened {
            Ok((topic, recovered)) => {
                let kept = Kept::Topic(Writer::new(OnTopic { topic, cluster }));
                Ok((Journal::new(kept), recovered))
            }
            Err(Unopened::Away(reason) | Unopened::Fenced(reason)) => {
                self.note(&format!("the journal is not opened: {reason}"));
                Err(millis(250) + any(&mut self.rng, secs(10)))
            }
            Err(unopened @ (Unopened::Refused(_) | Unopened::Yielded)) => panic!("{unopened}"),
        }
    }

    /// Whoever had the topic open is gone, or has closed it in order.
    pub(super) fn part(&mut self, store: OnTopic, is_closed: bool) {
        let cluster = store.cluster.clone();
        if is_closed {
            cluster.set(self.now, self.disk());
            let _ = store.close();
        }
        if !self.is_superseded {
            cluster.part();
        }
    }

    /// What has become durable in the topic without an answer.
    pub(super) fn keep_durable(&mut self) {
        let records = self.cluster.as_ref().map(Cluster::durable).unwrap_or_default();
        if !records.is_empty() {
            self.durable(&records);
            self.note(&format!("durable: {} records, which had not been answered", records.len()));
        }
    }

    pub(super) fn wake_journal(&mut self) {
        let delay = short(&mut self.rng, millis(2));
        let now = self.now;
        let process = self.process_mut();
        if process.journal.is_busy {
            return;
        }
        process.journal.wake += 1;
        let at = if process.journal.channel.is_empty() {
            process.born + process.journal.wake_at()
        } else {
            now + delay
        };
        let (process, wake) = (process.number, process.journal.wake);
        self.at(at, Event::JournalWakes { process, wake });
    }

    /// The thread takes what was handed over and turns to the disk.
    pub(super) fn journal_wakes(&mut self, wake: u64) {
        let time = self.time();
        let is_stalled = chance(&mut self.rng, self.plan.disk_stall);
        let quick = short(&mut self.rng, millis(10));
        // A broker that does not answer is not waited for so long.
        let longest = if self.cluster.is_some() { BROKER_PATIENCE } else { secs(100) };
        let stall = if is_stalled { any(&mut self.rng, longest) } else { Duration::ZERO };
        let process = self.process_mut();
        let journal = &mut process.journal;
        if journal.is_busy || journal.wake != wake {
            return;
        }
        journal.take();
        if journal.wake_at() > time.mono {
            return self.wake_journal();
        }
        journal.is_busy = true;
        let process = process.number;
        self.after(quick + stall, Event::JournalActs { process });
        if self.process_mut().journal.waiting() > 0 {
            self.may_be_disturbed();
        }
    }

    /// What the thread asked for happens on the disk.
    pub(super) fn journal_acts(&mut self) {
        let disk = self.disk();
        self.commit(disk);
        self.process_mut().journal.is_busy = false;
        if self.crashes() {
            return self.crash("after a commit");
        }
        self.wake_journal();
    }

    /// What the disk or the broker does now.
    pub(super) fn disk(&mut self) -> Disk {
        match (self.rng.u8(..4), self.cluster.is_some()) {
            _ if self.now >= self.disk_away_until && !chance(&mut self.rng, self.plan.disk_error) => {
                Disk::Works
            }
            (0, _) => Disk::FailsAfterwards,
            (_, false) => Disk::Fails,
            (_, true) if self.now < self.disk_away_until => Disk::Fails,
            (_, true) => {
                let moods = [Disk::Fails, Disk::OnTheWire, Disk::OnTheWire, Disk::Leaderless, Disk::GivesUp];
                moods[self.rng.usize(..moods.len())]
            }
        }
    }

    /// One turn of the real writer, and what the main loop hears of it.
    pub(super) fn commit(&mut self, disk: Disk) {
        let reports = self.write(disk);
        let process = self.process_mut();
        let (is_fenced, process) = (process.journal.is_fenced(), process.number);
        let delay = short(&mut self.rng, millis(5));
        if is_fenced {
            self.after(delay, Event::Fenced { process });
        } else if !reports.is_empty() {
            self.after(delay, Event::JournalSays { process, reports });
            self.may_be_disturbed();
        }
    }

    /// One turn of the real writer on a disk like that.
    pub(super) fn write(&mut self, disk: Disk) -> Vec<Report> {
        let (now, time) = (self.now, self.time());
        let journal = &mut self.process_mut().journal;
        let due = Time { mono: time.mono.max(journal.wake_at()), ..time };
        let (reports, committed) = journal.turn(now, due, disk);
        if !committed.is_empty() {
            self.durable(&committed);
            self.note(&format!("durable: {} records, {disk:?}", committed.len()));
        }
        reports
    }

    /// Its reports wait until the main loop reads them.
    pub(super) fn journal_reports(&mut self, reports: Vec<Report>) {
        for report in &reports {
            self.note(&format!("journal: {report:?}"));
        }
        let longest = if chance(&mut self.rng, 0.01) { secs(3) } else { millis(5) };
        let delay = short(&mut self.rng, longest);
        let process = self.process_mut();
        process.journal.reports.extend(reports);
        let process = process.number;
        self.after(delay, Event::JournalReported { process });
    }

    pub(super) fn journal_reported(&mut self) {
        let process = self.process.as_mut().unwrap();
        for report in process.journal.reports.drain(..) {
            self.rules.start.report(&report);
            process.turn.report(report);
        }
        self.turn();
    }

    /// The daemon ends by itself: what can still be published and written is.
    pub(super) fn end(&mut self) {
        self.note("the daemon ends");
        self.rules.start.ended();
        let left = self.process_mut().turn.left();
        self.rules.start.written_at_the_end(&left);
        self.process_mut().journal.channel.push_back(left);
        self.flush_messages();
        let time = self.time();
        self.process_mut().journal.take();
        let disk_works = self.now >= self.disk_away_until && !self.process_mut().journal.is_busy;
        let mut turns = 0;
        while disk_works && self.process_mut().journal.waiting() > 0 {
            let now = self.now;
            let journal = &mut self.process_mut().journal;
            let due = Time { mono: time.mono.max(journal.wake_at()), ..time };
            let (_, committed) = journal.turn(now, due, Disk::Works);
            if journal.is_fenced() {
                break;
            }
            // After a pause its upkeep may be due first.
            turns += 1;
            assert!(!committed.is_empty() || turns < 3, "the journal keeps records back");
            self.durable(&committed);
        }
        let journal = &mut self.process_mut().journal;
        journal.is_closed = disk_works && journal.waiting() == 0;
        self.bury();
    }

    /// Some of the messages that are on their way are delivered, and that is known, before the end.
    fn flush_messages(&mut self) {
        let (number, mut deliveries) = (self.number(), Vec::new());
        for event in self.events.values() {
            if let Event::Delivered { process, receipt } | Event::Reported { process, receipt } = event
                && *process == number
                && self.now >= self.broker.away_until
                && self.rng.bool()
            {
                self.rules.delivered(*process, *receipt);
                deliveries.push(Record::Delivered(*receipt));
            }
        }
        self.process_mut().journal.channel.push_back(deliveries);
    }
}
