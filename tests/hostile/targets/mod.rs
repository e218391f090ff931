//! What reads from outside, as functions of bytes, with real samples of each: the targets of the mutation
//! tests (`cargo test --test hostile`) and of the fuzzer (`make fuzz`), which share this module.
//!
//! A target calls the daemon's own code and panics where a promise is broken: beside what panics by itself,
//! that is an error of more than a line, an id that was not checked, an answer to what was not asked.
//! [`Target::run`] adds the promises that all have in common: no second of work, no memory over a bound.

mod config;
#[path = "../../support/core_settings.rs"]
#[allow(missing_docs, unreachable_pub, reason = "it is shared with other tests")]
mod core_settings;
mod driver;
mod http;
mod journal;
#[cfg(feature = "kafka")]
mod kafka;
mod line;
mod socket;
mod uws;

use std::time::Duration;

/// Between the parts of an input that has several, such as the layers of a configuration.
pub(crate) const PART: &[u8] = b"\n#----\n";

/// Something that reads from outside.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Reads an input.
    read: fn(&[u8]),
    /// Real inputs, and those that once found something.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Most memory at once, in bytes: so much, and so many for each byte of the input.
    memory: (u64, u64),
    /// How many mutations a test reads: some two seconds of them.
    pub(crate) cases: u64,
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "line", read: line::read, seeds: line::seeds, memory: (1 << 20, 20), cases: 1_000 },
    Target {
        name: "values",
        read: line::read_values,
        seeds: line::seeds_of_values,
        memory: (1 << 20, 100),
        cases: 4_000,
    },
    Target { name: "socket", read: socket::read, seeds: socket::seeds, memory: (4 << 20, 4), cases: 1_000 },
    Target {
        name: "component",
        read: config::read_component,
        seeds: config::seeds_of_component,
        memory: (32 << 20, 100),
        cases: 1_500,
    },
    Target {
        name: "settings",
        read: config::read_settings,
        seeds: config::seeds_of_settings,
        memory: (4 << 20, 100),
        cases: 1_500,
    },
    Target {
        name: "client_yaml",
        read: config::read_client_yaml,
        seeds: config::seeds_of_client_yaml,
        memory: (32 << 20, 100),
        cases: 1_500,
    },
    Target { name: "uws", read: uws::read, seeds: uws::seeds, memory: (4 << 20, 20), cases: 1_000 },
    Target {
        name: "journal",
        read: journal::read_file,
        seeds: journal::seeds_of_files,
        memory: (16 << 20, 20),
        cases: 100,
    },
    Target {
        name: "rows",
        read: journal::read_rows,
        seeds: journal::seeds_of_rows,
        memory: (16 << 20, 400),
        cases: 100,
    },
    #[cfg(feature = "kafka")]
    Target {
        name: "message",
        read: kafka::read_message,
        seeds: kafka::seeds_of_messages,
        memory: (16 << 20, 20),
        cases: 2_000,
    },
    #[cfg(feature = "kafka")]
    Target {
        name: "schema",
        read: kafka::read_schema,
        seeds: kafka::seeds_of_schemas,
        memory: (16 << 20, 100),
        cases: 400,
    },
    #[cfg(feature = "kafka")]
    Target {
        name: "registry",
        read: kafka::read_registry,
        seeds: kafka::seeds_of_registry,
        memory: (16 << 20, 100),
        cases: 500,
    },
];

/// What an input cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of the processor.
    pub(crate) time: Duration,
    /// Most bytes at once.
    pub(crate) memory: u64,
}

impl Target {
    /// The target of that name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Reads an input, and panics if that costs too much; time is what the processor counts, so that a busy
    /// machine harms nobody.
    pub(crate) fn run(&self, data: &[u8], time_max: Duration) -> Cost {
        let before = processor_time();
        let allocated = allocation_counter::measure(|| (self.read)(data));
        let cost = Cost { time: processor_time().saturating_sub(before), memory: allocated.bytes_max };
        let (least, each) = self.memory;
        let most = least + each * data.len() as u64;
        assert!(
            cost.memory <= most,
            "{} bytes of memory for an input of {}; allowed are {most}",
            cost.memory,
            data.len()
        );
        assert!(cost.time <= time_max, "{:?} for an input of {} bytes", cost.time, data.len());
        cost
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Checks a message for people: one line that is no longer than people read.
pub(crate) fn check_reason(reason: &str) {
    assert!(!reason.trim().is_empty(), "an empty reason");
    assert!(!reason.contains(char::is_control), "not one line: {reason:?}");
    assert!(reason.len() < 4_000, "{} bytes: {reason:.500}", reason.len());
}

/// The parts of an input, at most so many; what is missing is empty.
pub(crate) fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut rest = data;
    let mut count = 0;
    std::array::from_fn(|_| {
        count += 1;
        let end = rest.windows(PART.len()).position(|w| w == PART).filter(|_| count < N);
        let (part, after) = match end {
            Some(end) => (&rest[..end], &rest[end + PART.len()..]),
            None => (rest, &[][..]),
        };
        rest = after;
        part
    })
}

/// Joins parts to an input.
pub(crate) fn join(parts: &[&str]) -> Vec<u8> {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    parts.join(PART)
}

/// Seeds from texts.
pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
