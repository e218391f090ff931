//! The journal thread: when it uses the disk, what the disk does then, and what it reports.

use std::time::Duration;

use ocps::csc::record::Record;
use ocps::csc::time::Time;
use ocps::journal::Report;

use super::super::plan::{any, chance, millis, secs, short};
use super::super::process::Disk;
use super::{Event, World};

impl World {
    pub(super) fn wake_journal(&mut self) {
        let delay = short(&mut self.rng, millis(2));
        let now = self.now;
        let process = self.process_mut();
        if process.journal.is_busy {
            return;
        }
        process.journal.wake += 1;
        let at = if process.journal.channel.is_empty() {
            process.born + process.journal.writer.wake_at()
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
        let stall = if is_stalled { any(&mut self.rng, secs(100)) } else { Duration::ZERO };
        let process = self.process_mut();
        let journal = &mut process.journal;
        if journal.is_busy || journal.wake != wake {
            return;
        }
        for batch in journal.channel.drain(..) {
            journal.writer.take(batch);
        }
        if journal.writer.wake_at() > time.mono {
            return self.wake_journal();
        }
        journal.is_busy = true;
        let process = process.number;
        self.after(quick + stall, Event::JournalActs { process });
    }

    /// What the thread asked for happens on the disk.
    pub(super) fn journal_acts(&mut self) {
        let disk = match self.rng.u8(..4) {
            _ if self.now >= self.disk_away_until && !chance(&mut self.rng, self.plan.disk_error) => {
                Disk::Works
            }
            0 => Disk::FailsAfterwards,
            _ => Disk::Fails,
        };
        let reports = self.write(disk);
        let process = self.process_mut();
        process.journal.is_busy = false;
        let (process, delay) = (process.number, short(&mut self.rng, millis(5)));
        if !reports.is_empty() {
            self.after(delay, Event::JournalSays { process, reports });
        }
        if self.crashes() {
            return self.crash("after a commit");
        }
        self.wake_journal();
    }

    /// One turn of the real writer on a disk like that.
    pub(super) fn write(&mut self, disk: Disk) -> Vec<Report> {
        let time = self.time();
        let (reports, committed) = self.process_mut().journal.turn(time, disk);
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
        self.rules.start.written(&left);
        self.process_mut().journal.channel.push_back(left);
        self.flush_messages();
        let time = self.time();
        let journal = &mut self.process_mut().journal;
        for batch in journal.channel.drain(..) {
            journal.writer.take(batch);
        }
        let disk_works = self.now >= self.disk_away_until && !self.process_mut().journal.is_busy;
        let mut turns = 0;
        while disk_works && self.process_mut().journal.waiting() > 0 {
            let journal = &mut self.process_mut().journal;
            let due = Time { mono: time.mono.max(journal.writer.wake_at()), ..time };
            let (_, committed) = journal.turn(due, Disk::Works);
            // After a pause its upkeep may be due first.
            turns += 1;
            assert!(!committed.is_empty() || turns < 3, "the journal keeps records back");
            self.durable(&committed);
        }
        self.bury();
    }

    /// Some of the messages that are on their way are delivered, and that is known, before the end.
    fn flush_messages(&mut self) {
        let mut deliveries = Vec::new();
        for event in self.events.values() {
            if let Event::Delivered { process, receipt } | Event::Reported { process, receipt } = event
                && *process == self.processes
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
