//! The back-end itself: keeps one session, and makes a new one where it was lost.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::access::Access;
use super::session::{Session, Timeouts, Trouble};
use super::values::{self, Value};
use crate::backend::Backend;
use crate::config::settings;
use crate::csc::request::{Action, Answer, Contact, Failure, FailureKind};
use crate::url::Url;

/// Rapid Analysis; connects when it is first asked to do something.
pub struct RapidAnalysis {
    access: Access,
    timeouts: Timeouts,
    /// Pushes come one at a time, so nobody waits for this but a ping.
    session: Mutex<Option<Session>>,
}

impl RapidAnalysis {
    /// A back-end for that Redis; nothing is looked at yet.
    #[must_use]
    pub fn new(access: Access, settings: &settings::Redis) -> Self {
        let timeouts = Timeouts { connect: settings.connect_timeout, response: settings.response_timeout };
        Self { access, timeouts, session: Mutex::new(None) }
    }

    /// Connects anew, so that a `start` finds what changed since the last one.
    fn ping(&self, session: &mut Option<Session>) -> Answer {
        *session = None;
        // Connection, password and ping.
        let end = Instant::now() + self.timeouts.connect + 2 * self.timeouts.response;
        match self.open_and_ping(end) {
            Ok(opened) => {
                log::info!("Redis at {} answers", self.access.shown());
                *session = Some(opened);
                Answer::Done
            }
            Err(failure) => failure.answer(&self.access),
        }
    }

    fn push(&self, session: &mut Option<Session>, config: &str, end: Instant) -> Answer {
        let values = match values::parse(config) {
            Ok(values) => values,
            Err(reason) => return Answer::Rejected { reason },
        };
        let pushed = match session.take() {
            // Nothing was carried out, so that it can be sent once more.
            Some(mut lost) => match lost.push(&values, end) {
                Ok(()) => Ok(lost),
                Err(Trouble::Lost(why)) => {
                    log::warn!("Redis at {} {why}: connecting again", self.access.shown());
                    drop(lost);
                    self.open_and_push(&values, end)
                }
                Err(trouble) => Err(trouble.into()),
            },
            None => self.open_and_push(&values, end),
        };
        match pushed {
            Ok(opened) => {
                *session = Some(opened);
                log::info!("pushed to Redis: {}", values::shown(&values));
                Answer::Done
            }
            Err(failure) => failure.answer(&self.access),
        }
    }

    fn open_and_ping(&self, end: Instant) -> Result<Session, Cause> {
        let mut session = self.open(end)?;
        session.ping(end)?;
        Ok(session)
    }

    fn open_and_push(&self, values: &[Value], end: Instant) -> Result<Session, Cause> {
        let mut session = self.open(end)?;
        session.push(values, end)?;
        Ok(session)
    }

    fn open(&self, end: Instant) -> Result<Session, Cause> {
        let target = self.access.target().map_err(Cause::Settings)?;
        Ok(Session::open(&target, self.timeouts, end)?)
    }
}

impl Backend for RapidAnalysis {
    fn perform(&self, _url: &Url, action: &Action) -> Answer {
        let begun = Instant::now();
        // There is a session or there is none: a panic leaves nothing half done.
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        match action {
            Action::Ping => self.ping(&mut session),
            Action::Push { config, patience } => self.push(&mut session, config, begun + *patience),
            Action::Submit(_) | Action::Status { .. } | Action::Remove { .. } | Action::List { .. } => {
                Answer::Rejected { reason: "Rapid Analysis has no jobs".to_owned() }
            }
        }
    }
}

/// Why something did not work.
enum Cause {
    /// The settings are incomplete or wrong.
    Settings(String),
    Redis(Trouble),
}

impl From<Trouble> for Cause {
    fn from(trouble: Trouble) -> Self {
        Self::Redis(trouble)
    }
}

impl Cause {
    fn answer(self, access: &Access) -> Answer {
        let (kind, contact, what) = match self {
            Self::Settings(reason) => {
                let (kind, contact) = (FailureKind::NotSent, Contact::Silent);
                return Answer::Failed(Failure { kind, contact, reason });
            }
            Self::Redis(Trouble::Lost(what)) => (FailureKind::NotSent, Contact::Silent, what),
            Self::Redis(Trouble::Refused(what)) => (FailureKind::Refused, Contact::Answered, what),
            Self::Redis(Trouble::Unclear(what)) => (FailureKind::Unclear, Contact::Silent, what),
            Self::Redis(Trouble::Partial(what)) => (FailureKind::Wrong, Contact::Answered, what),
        };
        let reason = format!("Redis at {} {what}", access.shown());
        Answer::Failed(Failure { kind, contact, reason })
    }
}
