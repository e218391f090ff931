//! An execute of Rapid Analysis (index 101): its values are pushed to Redis, and that is all. There is no job.
//!
//! Consumers see the values in the order of the commands, so one push is under way at a time and the others
//! wait. Scripts wait 5 s in all: whatever a push or those before it do, each is answered before that.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::STOPPING;
use super::command::{CommandName, Execute, Sender};
use super::configuration::Service;
use super::context::{Context, Purpose};
use super::event::Ack;
use super::request::{Action, Failure, FailureKind, NotDone};
use super::timers::Timer;

/// How long the values of an execute may take to be pushed. The scripts' 5 s must do for the way of the command and
/// of its ack too.
const PATIENCE: Duration = Duration::from_millis(4250);

/// How much later than it should the back-end may answer. It knows best what became of a push; if it keeps silent,
/// the sender is told that it is unclear.
const GRACE: Duration = Duration::from_millis(250);

/// An execute that waits for those before it.
#[derive(Debug)]
struct Push {
    sender: Sender,
    config: Arc<str>,
    until: Duration,
}

/// The one that the back-end has.
#[derive(Debug, Default)]
enum Flight {
    /// None.
    #[default]
    Free,
    /// Its answer is awaited.
    Awaited { sender: Sender, until: Duration },
    /// Its sender was answered that it is unclear; the back-end is still at it.
    GivenUp,
}

/// All pushes in progress.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    /// In the order of the commands, and so of their times too.
    waiting: VecDeque<Push>,
    flight: Flight,
}

impl Pushes {
    /// Accepts an execute of Rapid Analysis; of its parameters only `config` means something there.
    pub(super) fn push(
        &mut self,
        ctx: &mut Context,
        service: Option<&Service>,
        sender: Sender,
        execute: Execute,
    ) {
        let max = ctx.settings.max_jobs;
        if self.waiting.len() >= max {
            let reason = format!("{max} commands wait for Redis, which is the limit; nothing was pushed");
            return ctx.fail(&sender, Some(CommandName::Execute), reason);
        }
        let until = ctx.now.mono + PATIENCE;
        self.waiting.push_back(Push { sender, config: Arc::from(execute.config), until });
        self.advance(ctx, service);
    }

    /// Answers those whose time is over, and begins the next.
    pub(super) fn advance(&mut self, ctx: &mut Context, service: Option<&Service>) {
        let now = ctx.now.mono;
        if let Flight::Awaited { until, .. } = self.flight
            && now >= until
        {
            self.give_up(ctx, "Redis did not answer in time");
        }
        while self.waiting.front().is_some_and(|push| now >= push.until) {
            if let Some(late) = self.waiting.pop_front() {
                refuse(ctx, &late.sender, "commands before it waited for Redis too long");
            }
        }
        match self.flight {
            Flight::Awaited { .. } | Flight::GivenUp => {}
            Flight::Free => {
                if let Some(Push { sender, config, until }) = self.waiting.pop_front() {
                    let action = Action::Push { config, patience: until.saturating_sub(now) };
                    let url = service.map_or_else(|| "".into(), |service| service.url.clone());
                    ctx.ask(Purpose::Push, url, action);
                    self.flight = Flight::Awaited { sender, until: until + GRACE };
                }
            }
        }
        self.set_timer(ctx);
    }

    fn set_timer(&self, ctx: &mut Context) {
        let flight = match &self.flight {
            Flight::Awaited { until, .. } => Some(*until),
            Flight::Free | Flight::GivenUp => None,
        };
        let first = self.waiting.front().map(|push| push.until);
        ctx.timers.set(Timer::Push, [flight, first].into_iter().flatten().min());
    }

    /// The process stood still: the answer may be there. What waits is too late for its sender.
    pub(super) fn forgive(&mut self, ctx: &mut Context, pause: Duration) {
        match &mut self.flight {
            Flight::Awaited { until, .. } => *until += pause,
            Flight::Free | Flight::GivenUp => {}
        }
        self.set_timer(ctx);
    }

    /// The answer to a push.
    pub(super) fn on_pushed(&mut self, ctx: &mut Context, result: Result<(), NotDone>) {
        let verdict = result.map_err(|not_done| match not_done {
            NotDone::Rejected(reason) => nothing_was_pushed(&reason),
            NotDone::Failed(failure) => push_failed(&failure),
        });
        match mem::take(&mut self.flight) {
            Flight::Awaited { sender, .. } => match verdict {
                Ok(()) => ctx.ack(&sender, Some(CommandName::Execute), Ack::Complete),
                Err(reason) => ctx.fail(&sender, Some(CommandName::Execute), reason),
            },
            Flight::GivenUp => {
                let end = verdict.err().unwrap_or_else(|| "the values were pushed".to_owned());
                ctx.warn(format!("an execute whose sender was told that it is unclear: {end}"));
            }
            Flight::Free => {}
        }
        // The next one is begun at once.
        ctx.timers.set(Timer::Push, Some(ctx.now.mono));
    }

    /// The daemon stops: what waits is not begun.
    pub(super) fn stop(&mut self, ctx: &mut Context) {
        for push in self.waiting.drain(..) {
            refuse(ctx, &push.sender, STOPPING);
        }
    }

    /// Answers the sender of the push in progress that nobody knows what becomes of it.
    pub(super) fn give_up(&mut self, ctx: &mut Context, why: &str) {
        if let Flight::Awaited { sender, .. } = &self.flight {
            ctx.fail(sender, Some(CommandName::Execute), unclear(why));
            self.flight = Flight::GivenUp;
        }
    }
}

fn refuse(ctx: &mut Context, sender: &Sender, why: &str) {
    ctx.fail(sender, Some(CommandName::Execute), nothing_was_pushed(why));
}

fn push_failed(failure: &Failure) -> String {
    match failure.kind {
        FailureKind::NotSent | FailureKind::Refused | FailureKind::NotNow => {
            nothing_was_pushed(&failure.reason)
        }
        FailureKind::Unclear => unclear(&failure.reason),
        // The back-end says what was pushed.
        FailureKind::Wrong => failure.reason.clone(),
    }
}

fn nothing_was_pushed(reason: &str) -> String {
    format!("{reason}; nothing was pushed")
}

fn unclear(reason: &str) -> String {
    format!(
        "{reason}; it is unclear whether the values were pushed: look at the lists before you send them again"
    )
}

#[cfg(test)]
mod tests {
    use super::super::command::{Command, Order, Via};
    use super::super::configuration::{Configuration, Service};
    use super::super::event::Event;
    use super::super::id::{ClientId, JobId, SalIndex, SeqNum};
    use super::super::request::{Answer, Contact, Outcome, Request};
    use super::super::state::SummaryState;
    use super::super::time::{Tai, Time};
    use super::super::{Csc, Effect, Input, Settings};
    use super::*;

    const MAX: usize = 3;

    fn sender(seq_num: i32) -> Sender {
        Sender {
            via: Via::Socket(ClientId(1)),
            identity: "root@host".to_owned(),
            origin: 7,
            seq_num: SeqNum(seq_num),
            sent: Tai(1.5),
        }
    }

    fn execute(config: &str) -> Order {
        Order::Execute(Execute {
            pipeline: String::new(),
            version: String::new(),
            config: config.to_owned(),
            data_query: String::new(),
            prereq_jobs: Vec::new(),
            output_dataset_types: String::new(),
        })
    }

    fn failure(kind: FailureKind, reason: &str) -> Result<(), NotDone> {
        Err(Failure { kind, contact: Contact::Silent, reason: reason.to_owned() }.into())
    }

    fn configuration() -> Configuration {
        let service = Service {
            url: "".into(),
            poll_interval: Duration::from_secs(1),
            butler: None,
            input_collection: None,
            output_glob: None,
        };
        Configuration { service, files: String::new(), version: String::new(), directory_url: String::new() }
    }

    /// A core with virtual time, and what it said since it was last asked.
    struct Rig {
        csc: Csc,
        now: Duration,
        acks: Vec<String>,
        requests: Vec<Request>,
        exited: bool,
    }

    impl Rig {
        fn new(index: SalIndex) -> Self {
            let settings = Settings {
                index,
                simulated: false,
                log_level: 20,
                payload: Arc::new(crate::config::settings::Settings::default().uws),
                submit_timeout: Duration::from_secs(60),
                settle_time: Duration::from_secs(15),
                outage_limit: Duration::from_secs(300),
                resubmit_limit: Duration::from_secs(1800),
                history: Duration::from_secs(86_400),
                uptime: None,
                journal: true,
                joins: false,
                max_jobs: MAX,
            };
            let start = Time { mono: Duration::ZERO, tai: Tai(0.0) };
            let csc = Csc::new(settings, 1, start, &mut Vec::new());
            Self { csc, now: Duration::ZERO, acks: Vec::new(), requests: Vec::new(), exited: false }
        }

        fn enabled(index: SalIndex) -> Self {
            let mut rig = Self::new(index);
            rig.command(1, Order::Start { override_name: String::new() });
            rig.input(Input::Configuration(Ok(configuration())));
            if index == SalIndex::Ra {
                rig.answer(Ok(()));
            }
            rig.command(2, Order::Enable);
            assert_eq!(rig.said(), ["1 Complete", "2 Complete"]);
            rig
        }

        fn input(&mut self, input: Input) {
            let mut effects = Vec::new();
            self.csc.handle(Time { mono: self.now, tai: Tai(0.0) }, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Ack { to, ack, .. } => self.acks.push(match ack {
                        Ack::Failed { reason } => format!("{} {reason}", to.seq_num.0),
                        Ack::InProgress { .. } | Ack::Complete | Ack::Aborted => {
                            format!("{} {ack:?}", to.seq_num.0)
                        }
                    }),
                    Effect::Request(request) => self.requests.push(request),
                    Effect::Exit => self.exited = true,
                    Effect::Publish { event, .. } => {
                        assert!(!matches!(event, Event::JobId { .. } | Event::JobResult(_)), "{event:?}");
                    }
                    Effect::Journal(_)
                    | Effect::StopRequests
                    | Effect::ReadConfiguration { .. }
                    | Effect::WatchConfigurations(_)
                    | Effect::SetLogLevel(_)
                    | Effect::Fail(_)
                    | Effect::Log(..) => {}
                }
            }
        }

        fn command(&mut self, seq_num: i32, order: Order) {
            self.input(Input::Command(Command { sender: sender(seq_num), order }));
        }

        /// Answers the oldest request.
        fn answer(&mut self, result: Result<(), NotDone>) {
            let Request { ticket, action, .. } = self.requests.remove(0);
            let answer = match result {
                Err(NotDone::Failed(failure)) => action.failed(failure),
                Ok(()) if action == Action::Ping => Answer::Ping(Ok(())),
                result @ (Ok(()) | Err(NotDone::Rejected(_))) => Answer::Push(result),
            };
            self.input(Input::Outcome(Outcome { ticket, answer }));
        }

        /// Time goes on, with every tick that is asked for.
        fn wait(&mut self, time: Duration) {
            let end = self.now + time;
            while self.csc.next_deadline() <= end {
                self.now = self.now.max(self.csc.next_deadline());
                self.input(Input::Tick);
            }
            self.now = end;
        }

        fn said(&mut self) -> Vec<String> {
            mem::take(&mut self.acks)
        }

        /// The pushes that the back-end has been asked for and has not answered, with their patience in ms.
        fn asked(&self) -> Vec<(&str, u128)> {
            let push = |request: &'_ Request| matches!(request.action, Action::Push { .. });
            assert!(self.requests.iter().all(push), "{:?}", self.requests);
            let fields = self.requests.iter().filter_map(|request| match &request.action {
                Action::Push { config, patience } => Some((&**config, patience.as_millis())),
                Action::Ping
                | Action::Submit(_)
                | Action::Status { .. }
                | Action::Remove { .. }
                | Action::List { .. } => None,
            });
            fields.collect()
        }
    }

    #[test]
    fn pushes_are_made_one_by_one_in_order() {
        let mut rig = Rig::enabled(SalIndex::Ra);
        rig.command(3, execute("a"));
        rig.command(4, execute("b"));
        rig.wait(Duration::from_secs(1));
        assert_eq!(rig.asked(), [("a", 4250)]);
        rig.answer(Ok(()));
        assert_eq!(rig.said(), ["3 Complete"]);
        assert_eq!(rig.asked(), [("b", 3250)]);
        rig.answer(Err(NotDone::Rejected("no".to_owned())));
        assert_eq!(rig.said(), ["4 no; nothing was pushed"]);
        assert_eq!(rig.csc.next_deadline(), Duration::from_secs(2));
    }

    #[test]
    fn the_health_told_is_that_of_redis_whatever_service_is_configured() {
        let mut rig = Rig::new(SalIndex::Ra);
        rig.command(1, Order::Start { override_name: String::new() });
        let mut with_service = configuration();
        with_service.service.url = "http://uws".into();
        rig.input(Input::Configuration(Ok(with_service)));
        rig.answer(Ok(()));
        assert!(rig.csc.status().service.last_believed.is_some());
        rig.command(2, Order::Enable);
        rig.command(3, execute("a"));
        rig.answer(failure(FailureKind::NotSent, "connection refused"));
        assert!(rig.csc.status().service.silent_for.is_some());
    }

    #[test]
    fn a_failure_says_what_became_of_the_values() {
        let check = |answer: Result<(), NotDone>, expected: &str| {
            let mut rig = Rig::enabled(SalIndex::Ra);
            rig.command(3, execute("a"));
            rig.answer(answer);
            let said = rig.said();
            assert!(said.len() == 1 && said[0].starts_with(&format!("3 {expected}")), "{said:?}");
            // It is told, not repeated.
            rig.wait(Duration::from_secs(60));
            assert_eq!((rig.asked(), rig.acks.len()), (vec![], 0));
        };
        check(failure(FailureKind::NotSent, "x"), "x; nothing was pushed");
        check(failure(FailureKind::Refused, "x"), "x; nothing was pushed");
        check(failure(FailureKind::Unclear, "x"), "x; it is unclear whether the values were pushed");
        check(failure(FailureKind::Wrong, "one of two"), "one of two");
    }

    #[test]
    fn all_are_answered_in_time_even_if_the_back_end_is_not() {
        let mut rig = Rig::enabled(SalIndex::Ra);
        rig.command(3, execute("a"));
        rig.wait(Duration::from_secs(1));
        rig.command(4, execute("b"));
        rig.wait(Duration::from_millis(3499));
        assert_eq!(rig.said(), [""; 0]);
        rig.wait(Duration::from_millis(1));
        let said = rig.said();
        assert!(
            said.len() == 1 && said[0].starts_with("3 Redis did not answer in time; it is uncl"),
            "{said:?}"
        );
        rig.wait(Duration::from_millis(750));
        let late = "commands before it waited for Redis too long; nothing was pushed";
        assert_eq!(rig.said(), [format!("4 {late}")]);
        // The back-end is still at the first one: nothing overtakes it.
        rig.command(5, execute("c"));
        assert_eq!(rig.asked(), [("a", 4250)]);
        rig.wait(Duration::from_secs(1));
        rig.answer(Ok(()));
        assert_eq!((rig.said(), rig.asked()), (vec![], vec![("c", 3250)]));
        rig.answer(Ok(()));
        assert_eq!(rig.said(), ["5 Complete"]);
    }

    #[test]
    fn those_that_wait_are_bounded() {
        let mut rig = Rig::enabled(SalIndex::Ra);
        for seq_num in 0..=i32::try_from(MAX).unwrap() {
            rig.command(10 + seq_num, execute("a"));
        }
        assert_eq!(rig.said(), [""; 0]);
        rig.command(20, execute("a"));
        assert_eq!(rig.said(), ["20 3 commands wait for Redis, which is the limit; nothing was pushed"]);
    }

    #[test]
    fn start_needs_a_ping() {
        let mut rig = Rig::new(SalIndex::Ra);
        rig.command(1, Order::Start { override_name: String::new() });
        rig.input(Input::Configuration(Ok(configuration())));
        rig.command(2, Order::Enable);
        assert_eq!(rig.requests.len(), 1);
        assert_eq!((rig.said(), rig.csc.state()), (vec![], SummaryState::Standby));
        rig.answer(failure(FailureKind::Refused, "Redis at h:1 refuses the password"));
        let said = ["1 Redis at h:1 refuses the password", "2 enable not allowed in state STANDBY"];
        assert_eq!((rig.said(), rig.csc.state()), (said.map(str::to_owned).to_vec(), SummaryState::Standby));
        rig.command(3, Order::Start { override_name: String::new() });
        rig.input(Input::Configuration(Err("bad".to_owned())));
        assert_eq!((rig.said(), rig.requests.len()), (vec!["3 bad".to_owned()], 0));
        rig.command(4, Order::Start { override_name: String::new() });
        rig.input(Input::Configuration(Ok(configuration())));
        rig.answer(Ok(()));
        assert_eq!((rig.said(), rig.csc.state()), (vec!["4 Complete".to_owned()], SummaryState::Disabled));
    }

    #[test]
    fn a_stop_begins_nothing_and_leaves_nobody_without_an_answer() {
        let mut rig = Rig::enabled(SalIndex::Ra);
        rig.command(3, execute("a"));
        rig.command(4, execute("b"));
        rig.input(Input::Terminate);
        assert_eq!(rig.said(), ["4 the daemon is stopping; nothing was pushed"]);
        assert!(!rig.exited);
        rig.answer(Ok(()));
        assert_eq!(rig.said(), ["3 Complete"]);
        assert!(rig.exited && rig.requests.is_empty());

        let mut rig = Rig::enabled(SalIndex::Ra);
        rig.command(3, execute("a"));
        rig.input(Input::Terminate);
        rig.wait(Duration::from_secs(5));
        let said = rig.said();
        assert!(said.len() == 1 && said[0].starts_with("3 the daemon ended before Redis answered; it is un"));
        assert!(rig.exited);
    }

    #[test]
    fn what_is_allowed_depends_on_the_back_end() {
        let abort = || Order::AbortJob(JobId::parse("x").unwrap());
        let mut rig = Rig::new(SalIndex::Ra);
        rig.command(1, execute("a"));
        rig.command(2, abort());
        let not_allowed =
            ["1 execute not allowed in state STANDBY", "2 abort_job not allowed in state STANDBY"];
        assert_eq!(rig.said(), not_allowed);
        let mut rig = Rig::enabled(SalIndex::Ra);
        rig.command(3, abort());
        assert_eq!(rig.said(), ["3 Rapid Analysis (index 101) has no jobs to abort"]);
        let mut rig = Rig::enabled(SalIndex::Latiss);
        rig.command(3, execute("a"));
        assert_eq!(rig.said(), ["3 pipeline is empty: give the URL or path of a pipeline"]);
        assert!(rig.requests.iter().all(|request| request.action == Action::Ping), "{:?}", rig.requests);
    }
}
