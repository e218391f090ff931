//! A process that stands still, as a paused machine does, and what it does when it continues.

use std::mem;
use std::time::Duration;

use ocps::lease::TERM;

use super::super::cluster::moment;
use super::super::plan::{any, chance, secs, short};
use super::super::service::unclear;
use super::standby::SILENCE;
use super::{Event, World};
use crate::reply::failed_instead;

/// How often the journal is asked, after a pause, whether another instance has taken it over.
const QUESTIONS: u32 = 3;
/// After a shorter pause it is not asked.
const STOOD_STILL: Duration = secs(2);

impl World {
    /// A process that stands still finds later what happens to it now.
    pub(super) fn hold_back(&mut self, event: Event) -> Option<Event> {
        let Some(process) = self.process.as_mut().filter(|process| process.still.is_some()) else {
            return Some(event);
        };
        // What wakes it, and what the world does without it.
        let is_outside = matches!(event, Event::Thaw { .. } | Event::TakeOver { .. });
        if is_outside || !(event.is_for(process.number) || matches!(event, Event::Command(_))) {
            return Some(event);
        }
        process.missed.push(event);
        None
    }

    /// It is in the midst of a commit or of a request, and may stand still or be taken over from there.
    pub(super) fn may_be_disturbed(&mut self) {
        let Some(process) = self.process.as_ref().filter(|_| self.plan.standby) else { return };
        let (process, unheard) = (process.number, process.unheard);
        match unheard {
            None if chance(&mut self.rng, self.plan.pause / 3.0) => {
                self.after(Duration::ZERO, Event::Freeze { process });
            }
            Some(since) if since + SILENCE <= self.now && self.rng.bool() => {
                self.after(Duration::ZERO, Event::TakeOver { process, since });
            }
            None | Some(_) => {}
        }
    }

    /// The process stands still for a while.
    pub(super) fn freeze(&mut self) {
        let pause = secs(10) + short(&mut self.rng, secs(400));
        self.stand_still(pause);
        self.fall_silent();
    }

    pub(super) fn stand_still(&mut self, pause: Duration) {
        let now = self.now;
        let Some(process) = self.process.as_mut().filter(|process| process.still.is_none()) else { return };
        process.still = Some(now);
        let process = process.number;
        self.note(&format!("the process stands still for {pause:?}"));
        self.after(pause, Event::Thaw { process });
    }

    pub(super) fn thaw(&mut self) {
        self.note("the process continues");
        self.rules.thaw(self.now);
        let now = self.now;
        let process = self.process_mut();
        process.unheard = None;
        let since = process.still.take().unwrap_or(now);
        let confirmed = process.journal.lease.confirmed();
        let was_cut_off = confirmed.is_some_and(|confirmed| confirmed.age(moment(since)) >= TERM);
        let mut missed = mem::take(&mut process.missed);
        for event in &mut missed {
            if let Event::Answer { outcome, .. } = event
                && self.rng.bool()
            {
                // It was there in time, but nobody read it.
                outcome.answer = failed_instead(&outcome.answer, unclear());
            }
        }
        if self.cluster.is_some() {
            self.rules.counts.woken += u64::from(self.is_superseded);
            self.threads_continue(&mut missed);
            let is_owner = if now - since < STOOD_STILL { Some(true) } else { self.is_owner() };
            if is_owner.is_none() && !was_cut_off {
                self.crash("since it does not know whether it was taken over from");
            }
            if !is_owner.unwrap_or(was_cut_off) {
                return self.give_back(missed);
            }
        }
        missed.into_iter().for_each(|event| self.at(self.now, event));
    }

    /// Threads that wait for the service do not wait for the main loop: they begin what is next.
    fn threads_continue(&mut self, missed: &mut [Event]) {
        let now = self.now;
        for event in missed {
            if let Event::Answer { process, outcome, served } = event {
                let (process, mut outcome, served) = (*process, outcome.clone(), *served);
                self.process_mut().workers.ended(&mut outcome, now);
                *event = Event::Answered { process, outcome, served };
            }
        }
        self.begin_requests();
    }

    /// The main loop does nothing before the journal has said whether another instance has taken it over; none if it does not
    /// answer.
    fn is_owner(&mut self) -> Option<bool> {
        self.process_mut().journal.channel.push_back(Vec::new());
        for _ in 0..QUESTIONS {
            let disk = self.disk();
            self.process_mut().journal.take();
            self.commit(disk);
            let (now, journal) = (self.now, &self.process_mut().journal);
            if journal.is_fenced() {
                self.fenced();
                return Some(false);
            }
            if journal.lease.confirmed() == Some(moment(now)) {
                return Some(true);
            }
        }
        None
    }

    /// The process has ended without reading these: messages may be on the wire, and commands are for the next one.
    pub(super) fn give_back(&mut self, missed: Vec<Event>) {
        for event in missed {
            if matches!(event, Event::Command(_) | Event::Delivered { .. }) {
                let delay = any(&mut self.rng, secs(30));
                self.after(delay, event);
            }
        }
    }
}
