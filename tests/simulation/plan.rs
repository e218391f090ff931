//! What goes wrong in a run, and how often: drawn from the seed, so that runs differ much from each other.

use std::time::Duration;

use fastrand::Rng;
use ocps::csc::configuration::Polling;

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A time up to `longest`, short ones far more often than long ones.
pub(crate) fn short(rng: &mut Rng, longest: Duration) -> Duration {
    longest.mul_f64(rng.f64().powi(4))
}

/// A time up to `longest`.
pub(crate) fn any(rng: &mut Rng, longest: Duration) -> Duration {
    longest.mul_f64(rng.f64())
}

pub(crate) fn chance(rng: &mut Rng, probability: f64) -> bool {
    probability > 0.0 && rng.f64() < probability
}

/// The faults of a run. All probabilities are zero in its quiet phase.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// When the faults end.
    pub(crate) faults: Duration,
    /// Whether the journal is in a topic of Kafka.
    pub(crate) topic: bool,
    /// Whether another instance stands by.
    pub(crate) standby: bool,
    /// Of the instance that stands by, every so often: that it does not hear the other one for a while.
    pub(crate) deaf: f64,
    /// Whether commands come, and acks and events go, over Kafka too.
    pub(crate) kafka: bool,
    /// Whether the core waits for [`ocps::csc::Input::Joined`].
    pub(crate) joins: bool,
    /// Whether the service does one thing at a time, as the genuine one.
    pub(crate) serial: bool,
    /// Threads that poll.
    pub(crate) connections: usize,
    pub(crate) polling: Polling,
    pub(crate) max_jobs: usize,
    /// Mean time between things that people do.
    pub(crate) pace: Duration,
    /// Longest run of a job.
    pub(crate) job_time: Duration,
    /// After its end a job vanishes so much later.
    pub(crate) time_to_live: Duration,
    /// Of each request.
    pub(crate) spoilt: f64,
    /// Of each answer: that the service answers with something false.
    pub(crate) lie: f64,
    /// Of each PUT: that its job is shown late.
    pub(crate) late: f64,
    /// How late at most.
    pub(crate) latest: Duration,
    /// Of each PUT and DELETE: that a gateway sends it twice, and shows the second answer.
    pub(crate) repeated: f64,
    /// Of each GET: that a cache answers for a while that there is no such job.
    pub(crate) stale: f64,
    /// How long lists take at most.
    pub(crate) list_time: Duration,
    /// Of each list: to fail.
    pub(crate) list_fails: f64,
    /// Of each job in a list that is not named: to be left out.
    pub(crate) left_out: f64,
    /// Of each job in a list: to have a wrong phase.
    pub(crate) wrong_phase: f64,
    /// How old the phases are that a list shows.
    pub(crate) list_lag: Duration,
    /// From when on they do not change any more, for ever.
    pub(crate) frozen: Option<Duration>,
    /// Of the process, every so often: to stand still for a while.
    pub(crate) pause: f64,
    /// Of each effect and turn; ten times that while a PUT or a commit is in flight.
    pub(crate) crash: f64,
    /// Of each commit.
    pub(crate) disk_error: f64,
    /// Of each commit.
    pub(crate) disk_stall: f64,
    /// Of the service, the disk and the broker, every so often: to be away for a while.
    pub(crate) outage: f64,
    /// Of each command over Kafka: to come again.
    pub(crate) repeat: f64,
    /// Of each thing that people do: to end the daemon.
    pub(crate) terminate: f64,
    /// Of each thing that people do: a step of the clock.
    pub(crate) step: f64,
    /// Of each start: that the clock was set by hours or years since the last process.
    pub(crate) leap: f64,
    /// Of each start: that the machine was started before. The clock is right then: ages are known by it alone.
    pub(crate) reboot: f64,
    /// Of each start: that the journal is lost, or an old copy of it is put back.
    pub(crate) loss: f64,
    /// How old a submission in doubt may be to be sent again; well below `time_to_live`.
    pub(crate) resubmit_limit: Duration,
}

impl Plan {
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let mut one_of = |choices: &[f64]| choices[rng.usize(..choices.len())];
        let (spoilt, late) = (one_of(&[0.0, 0.05, 0.3]), one_of(&[0.0, 0.1, 0.5]));
        let (crash, repeat) = (one_of(&[0.0, 0.0002, 0.001, 0.004]), one_of(&[0.0, 0.3]));
        let (disk_error, disk_stall) = (one_of(&[0.0, 0.0, 0.05]), one_of(&[0.0, 0.0, 0.05]));
        let lie = one_of(&[0.0, 0.0, 0.0, 0.05]);
        let (repeated, stale) = (one_of(&[0.0, 0.0, 0.1, 1.0]), one_of(&[0.0, 0.0, 0.05, 0.2]));
        let list_time = secs(one_of(&[0.0, 0.0, 10.0, 100.0]) as u64);
        let (list_fails, list_lag) =
            (one_of(&[0.0, 0.0, 0.0, 0.5, 1.0]), secs(one_of(&[0.0, 0.0, 20.0]) as u64));
        let (left_out, wrong_phase) = (one_of(&[0.0, 0.0, 0.2, 1.0]), one_of(&[0.0, 0.0, 0.1]));
        let pause = one_of(&[0.0, 0.0, 0.1]);
        let latest = secs(one_of(&[14.0, 60.0, 400.0]) as u64);
        let time_to_live = secs(one_of(&[86_400.0, 86_400.0, 120.0, 10.0]) as u64);
        let job_time = secs(one_of(&[5.0, 60.0, 60.0, 700.0]) as u64);
        let pace = millis(one_of(&[300.0, 2_000.0, 10_000.0]) as u64);
        // Fast ones are short, so that no run takes much longer than the others.
        let faults = any(rng, (pace * 200).min(secs(900))) + secs(20);
        let kafka = rng.u8(..4) > 0;
        let reboot = [0.0, 0.3][rng.usize(..2)];
        let (topic, standby) = (seed % 4 == 3, seed % 8 == 7);
        Self {
            faults,
            topic,
            standby,
            deaf: if standby { 0.3 } else { 0.0 },
            kafka: kafka || topic,
            joins: topic || kafka || rng.bool(),
            serial: rng.bool(),
            connections: rng.usize(1..=4),
            polling: [Polling::Each, Polling::List, Polling::Auto { from: 2 }][rng.usize(..3)],
            max_jobs: rng.usize(3..=10),
            pace,
            job_time,
            time_to_live,
            spoilt,
            lie,
            late,
            latest,
            repeated,
            stale,
            list_time,
            list_fails,
            left_out,
            wrong_phase,
            list_lag,
            frozen: (rng.u8(..3) == 0).then(|| any(rng, faults)),
            pause: if standby { pause.max(0.05) } else { pause },
            crash,
            disk_error: if topic { disk_error.max(0.02) } else { disk_error },
            disk_stall,
            outage: [0.0, 0.1, 0.4][rng.usize(..3)],
            repeat,
            terminate: [0.0, 0.01, 0.05][rng.usize(..3)],
            step: if reboot > 0.0 { 0.0 } else { [0.0, 0.02][rng.usize(..2)] },
            leap: if reboot > 0.0 { 0.0 } else { [0.0, 0.3][rng.usize(..2)] },
            reboot,
            loss: if topic { 0.0 } else { [0.0, 0.0, 0.2][rng.usize(..3)] },
            resubmit_limit: (time_to_live / 2).min(secs(1800)),
        }
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn calm_down(&mut self) {
        self.pace = secs(5);
        self.spoilt = 0.0;
        self.lie = 0.0;
        self.late = 0.0;
        self.repeated = 0.0;
        self.stale = 0.0;
        self.list_time = Duration::ZERO;
        self.list_fails = 0.0;
        self.left_out = 0.0;
        self.wrong_phase = 0.0;
        self.pause = 0.0;
        self.deaf = 0.0;
        self.crash = 0.0;
        self.disk_error = 0.0;
        self.disk_stall = 0.0;
        self.outage = 0.0;
        self.repeat = 0.0;
        self.terminate = 0.0;
        self.step = 0.0;
        self.leap = 0.0;
        self.reboot = 0.0;
        self.loss = 0.0;
    }
}
