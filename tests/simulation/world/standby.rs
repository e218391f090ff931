//! Two instances: one stands by, and takes over when it does not hear the other one. Which may be alive, and asleep.

use std::mem;
use std::time::Duration;

use ocps::csc::request::Action;
use ocps::lease::TERM;

use super::super::plan::{any, secs};
use super::super::process::{Disk, Process};
use super::super::rules::Rules;
use super::super::verdict::Counts;
use super::{Event, World};

/// How long an instance must not be heard before it is taken for dead.
pub(super) const SILENCE: Duration = secs(10);

/// A process whose journal was taken over, and what may be expected of it: nothing becomes durable any more.
#[derive(Debug)]
pub(super) struct Superseded {
    pub(super) process: Process,
    rules: Rules,
}

impl World {
    /// Does something as the process whose journal was taken over.
    pub(super) fn as_superseded(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(Superseded { process, rules }) = self.superseded.take().map(|other| *other) else { return };
        let successor = (self.process.replace(process), mem::replace(&mut self.rules, rules));
        self.is_superseded = true;
        act(self);
        self.is_superseded = false;
        let process = mem::replace(&mut self.process, successor.0);
        let rules = mem::replace(&mut self.rules, successor.1);
        match process {
            Some(process) => self.superseded = Some(Box::new(Superseded { process, rules })),
            None => self.rules.counts.add(&rules.counts),
        }
    }

    /// The process is not heard any more.
    pub(super) fn fall_silent(&mut self) {
        let since = self.now;
        // Whoever was taken over from is not listened for.
        let is_awaited = self.plan.standby && !self.is_superseded;
        let Some(process) = self.process.as_mut().filter(|_| is_awaited) else { return };
        process.unheard = Some(since);
        let process = process.number;
        let delay = SILENCE + any(&mut self.rng, secs(10));
        self.after(delay, Event::TakeOver { process, since });
    }

    /// Its heartbeats do not come to the instance that stands by, although it is well.
    pub(super) fn go_unheard(&mut self) {
        if self.process.as_ref().is_none_or(|process| process.unheard.is_some()) {
            return;
        }
        self.fall_silent();
        let (process, time) = (self.number(), any(&mut self.rng, secs(60)));
        self.after(time, Event::Heard { process });
    }

    pub(super) fn is_unheard(&self, number: u32, since: Duration) -> bool {
        let process = self.process.as_ref().filter(|process| process.number == number);
        process.is_some_and(|process| process.unheard == Some(since))
    }

    /// The instance that stood by opens the journal of one that may be alive, and does its work from then on.
    pub(super) fn take_over(&mut self, since: Duration) {
        let process = self.number();
        let again = Event::TakeOver { process, since };
        if self.superseded.is_some() {
            return self.after(SILENCE, again);
        }
        self.stop_in_a_commit();
        let (journal, recovered) = match self.open() {
            Ok(opened) => opened,
            Err(wait) => return self.after(wait, again),
        };
        self.note(&format!("process {process} is taken over from"));
        self.rules.counts.takeovers += 1;
        self.has_sent = false;
        let Some(mut process) = self.process.take() else { return };
        let mut rules = self.rules.clone();
        rules.counts = Counts::default();
        rules.excused.clear();
        // Commands that it has not read are read by its successor, or by none.
        let (commands, missed) =
            mem::take(&mut process.missed).into_iter().partition(|event| matches!(event, Event::Command(_)));
        (process.missed, process.unheard) = (missed, None);
        self.give_back(commands);
        let (number, delay) = (process.number, any(&mut self.rng, secs(20)));
        self.after(delay, Event::DuplicateInstance { process: number });
        self.superseded = Some(Box::new(Superseded { process, rules }));
        self.rules.end();
        if self.rng.bool() {
            // It continues while it may still send something.
            let pause = any(&mut self.rng, TERM);
            self.as_superseded(|world| world.stand_still(pause));
        }
        self.begin(journal, recovered);
    }

    /// If it stands still in a commit, that may be on its way already.
    fn stop_in_a_commit(&mut self) {
        let is_busy = |process: &Process| process.still.is_some() && process.journal.is_busy;
        if self.process.as_ref().is_some_and(is_busy) && self.rng.bool() {
            self.commit(Disk::OnTheWire);
        }
    }

    /// Something is about to be changed at a service.
    pub(super) fn check_sender(&mut self, action: &Action) {
        let number = self.number();
        assert!(
            !(self.is_superseded && self.has_sent),
            "{number} sends {action:?}, as its successor has done"
        );
        self.rules.counts.late += u64::from(self.is_superseded);
        self.has_sent |= !self.is_superseded;
    }

    /// The process learns that another one has taken over: it ends at once, and publishes nothing.
    pub(super) fn fenced(&mut self) {
        self.note("the process learns that it was taken over from");
        self.rules.counts.fenced += 1;
        self.bury();
    }
}
