//! What happened to a job and when, for people who look it up.
//!
//! Only changes are noted, so that a job that is polled for days costs nothing. Of many notes about one job the first
//! and the last are kept, in memory and in the journal ([`Record::Noted`]). Nothing waits for a note or depends on one.

use std::fmt;
use std::sync::Arc;

use strum::{EnumString, IntoStaticStr};

use super::context::Context;
use super::id::{EntryKey, JobId};
use super::record::Record;
use super::report::beginning;
use super::time::Tai;

/// How many of the first notes about a job are kept.
const FIRST: usize = 20;
/// How many of the last notes about a job are kept.
const LAST: usize = 80;
/// Maximum number of notes that are kept about one job.
pub const NOTES_MAX: usize = FIRST + LAST;
/// Longest text of a note, in characters.
const ABOUT_MAX: usize = 500;

/// One thing that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The notes about a job are numbered from 0; missing numbers were left out.
    pub number: u32,
    /// When.
    pub at: Tai,
    /// What.
    pub kind: NoteKind,
    /// What the kind says besides; else empty.
    pub about: Arc<str>,
}

/// What happened to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum NoteKind {
    /// Its command was accepted: from whom. Not kept as a note, since the command itself is kept.
    Accepted,
    /// It waits for prerequisites: their ids.
    Waits,
    /// It does not wait for a prerequisite any more: its id.
    WaitOver,
    /// A prerequisite does not exist, and is not waited for: its id.
    MissingPrereq,
    /// A submission failed: what is known of it, and why.
    SubmissionFailed,
    /// The service's list does not show it: it is submitted again.
    SubmittedAgain,
    /// The service created it: its id.
    Created,
    /// The service's list shows it: its id.
    Found,
    /// The daemon was restarted and tracks it again.
    Resumed,
    /// The service says that it is in another phase: which.
    Phase,
    /// It is to be aborted: by whom.
    Abort,
    /// It ended: how. Not kept as a note, since the end itself is kept.
    Ended,
    /// Its result and final ack were delivered, but late: which of them there are.
    Delivered,
    /// Notes that are not kept: how many.
    LeftOut,
}

impl NoteKind {
    /// The kind in one word.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Note {
    /// Its place among the notes about its job, below [`NOTES_MAX`]: a later note takes the place of an earlier one.
    pub fn place(&self) -> u32 {
        let (first, last) = (FIRST as u32, LAST as u32);
        self.number.checked_sub(first).map_or(self.number, |later| first + later % last)
    }
}

/// The note as a sentence.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.about;
        match self.kind {
            NoteKind::Accepted => write!(f, "accepted from {about}"),
            NoteKind::Waits => write!(f, "waits for {about}"),
            NoteKind::WaitOver => write!(f, "waits for {about} no longer"),
            NoteKind::MissingPrereq => write!(f, "prerequisite {about} does not exist: not waited for"),
            NoteKind::SubmissionFailed => write!(f, "submission {about}"),
            NoteKind::SubmittedAgain => f.write_str("not in the service's list: submitted again"),
            NoteKind::Created => write!(f, "created as job {about}"),
            NoteKind::Found => write!(f, "found in the service's list as job {about}"),
            NoteKind::Resumed => f.write_str("resumed after a restart of the daemon"),
            NoteKind::Phase => write!(f, "phase {about}"),
            NoteKind::Abort => write!(f, "abort_job of {about}"),
            NoteKind::Ended => f.write_str(about),
            NoteKind::Delivered => write!(f, "delivered: {about}"),
            NoteKind::LeftOut => write!(f, "{about} notes are not kept"),
        }
    }
}

/// The notes about one job, the first first.
#[derive(Clone, Debug, Default)]
pub(super) struct History(pub(super) Vec<Note>);

impl History {
    /// Adds a note about the job of this execute.
    pub(super) fn note(&mut self, ctx: &mut Context, key: EntryKey, kind: NoteKind, about: &str) {
        let number = self.0.last().map_or(0, |last| last.number.saturating_add(1));
        let note = Note { number, at: ctx.now.tai, kind, about: beginning(about, ABOUT_MAX).into() };
        if self.0.len() >= NOTES_MAX {
            self.0.remove(FIRST);
        }
        self.0.push(note.clone());
        ctx.journal(Record::Noted { key, note });
    }

    /// Whether there is a note that this prerequisite is not waited for any more.
    pub(super) fn has_wait_ended(&self, prereq: &JobId) -> bool {
        let is_end = |kind| matches!(kind, NoteKind::WaitOver | NoteKind::MissingPrereq);
        self.0.iter().any(|note| is_end(note.kind) && *note.about == *prereq.as_str())
    }

    /// All notes; where some are not kept, one says how many.
    pub(super) fn complete(&self) -> Vec<Note> {
        let (mut complete, mut next) = (Vec::with_capacity(self.0.len() + 3), 0);
        for note in &self.0 {
            if let Some(count @ 1..) = note.number.checked_sub(next) {
                let (kind, about) = (NoteKind::LeftOut, count.to_string().into());
                complete.push(Note { number: next, at: note.at, kind, about });
            }
            next = note.number.saturating_add(1);
            complete.push(note.clone());
        }
        complete
    }
}
