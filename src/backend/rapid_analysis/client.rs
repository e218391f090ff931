//! The back-end itself: it keeps one session, and makes a new one if that was lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::access::Access;
use super::session::{Session, Trouble};
use super::values::{self, Value};
use crate::backend::{Backend, withheld};
use crate::config::settings;
use crate::csc::request::{Contact, Failure, FailureKind};
use crate::lease::Lease;
use crate::url::Url;

/// Rapid Analysis; connects when it is first asked to do something.
pub struct RapidAnalysis {
    access: Access,
    settings: settings::Redis,
    lease: Lease,
    /// Pushes come one at a time, so that only a ping ever waits for the lock.
    session: Mutex<Option<Session>>,
}

impl RapidAnalysis {
    /// A back-end for that Redis, which pushes only while the lease is valid; connects to nothing yet.
    #[must_use]
    pub fn new(access: Access, settings: &settings::Redis, lease: Lease) -> Self {
        Self { access, settings: settings.clone(), lease, session: Mutex::new(None) }
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        // A panic leaves a whole session or none.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, end: Instant) -> Result<Session, Failure> {
        let not_sent = |reason| Failure { kind: FailureKind::NotSent, contact: Contact::Silent, reason };
        let target = self.access.target().map_err(not_sent)?;
        Session::open(&target, &self.settings, end).map_err(|trouble| self.failure(trouble))
    }

    /// Pushes over the connection that there is; if that is lost before anything was carried out, over a new one.
    fn push_over(&self, old: Option<Session>, values: &[Value], end: Instant) -> Result<Session, Failure> {
        if let Some(mut session) = old {
            match session.push(values, &self.lease, end) {
                Ok(()) => return Ok(session),
                Err(Trouble(FailureKind::NotSent, why)) => {
                    log::warn!("Redis at {} {why}: connecting again", self.access.shown());
                }
                Err(trouble) => return Err(self.failure(trouble)),
            }
        }
        let mut session = self.open(end)?;
        session.push(values, &self.lease, end).map_err(|trouble| self.failure(trouble))?;
        Ok(session)
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        let Trouble(kind, what) = trouble;
        let contact = match kind {
            FailureKind::NotSent | FailureKind::Unclear | FailureKind::NotNow => Contact::Silent,
            FailureKind::Rejected | FailureKind::Refused | FailureKind::Wrong => Contact::Answered,
        };
        Failure { kind, contact, reason: format!("Redis at {} {what}", self.access.shown()) }
    }
}

impl Backend for RapidAnalysis {
    fn push(&self, config: &str, patience: Duration) -> Result<(), Failure> {
        let end = Instant::now() + patience;
        let mut session = self.session();
        let values = values::parse(config).map_err(Failure::rejected)?;
        let pushed = self.push_over(session.take(), &values, end).map_err(|failure| {
            let is_withheld = failure.kind == FailureKind::NotSent && !self.lease.is_valid();
            if is_withheld { withheld() } else { failure }
        });
        *session = Some(pushed?);
        log::info!("pushed to Redis: {}", values::shown(&values));
        Ok(())
    }

    /// Connects anew, so that a `start` finds what changed since the last one.
    fn ping(&self, _url: &Url) -> Result<(), Failure> {
        let mut session = self.session();
        *session = None;
        let end = Instant::now() + self.settings.connect_timeout + self.settings.response_timeout;
        let mut opened = self.open(end)?;
        opened.ping(end).map_err(|trouble| self.failure(trouble))?;
        log::info!("Redis at {} answers", self.access.shown());
        *session = Some(opened);
        Ok(())
    }
}
