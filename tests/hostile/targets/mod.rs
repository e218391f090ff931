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

const fn target(
    name: &'static str,
    read: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    memory: (u64, u64),
    cases: u64,
) -> Target {
    Target { name, read, seeds, memory, cases }
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    target("line", line::read, line::seeds, (1 << 20, 20), 1_000),
    target("values", line::read_values, line::seeds_of_values, (1 << 20, 100), 4_000),
    target("socket", socket::read, socket::seeds, (4 << 20, 4), 1_000),
    target("component", config::read_component, config::seeds_of_component, (32 << 20, 100), 1_500),
    target("settings", config::read_settings, config::seeds_of_settings, (4 << 20, 100), 1_500),
    target("client_yaml", config::read_client_yaml, config::seeds_of_client_yaml, (32 << 20, 100), 1_500),
    target("uws", uws::read, uws::seeds, (4 << 20, 20), 1_000),
    target("journal", journal::read_file, journal::seeds_of_files, (16 << 20, 20), 100),
    target("rows", journal::read_rows, journal::seeds_of_rows, (16 << 20, 400), 100),
    #[cfg(feature = "kafka")]
    target("message", kafka::read_message, kafka::seeds_of_messages, (16 << 20, 20), 2_000),
    #[cfg(feature = "kafka")]
    target("schema", kafka::read_schema, kafka::seeds_of_schemas, (16 << 20, 100), 400),
    #[cfg(feature = "kafka")]
    target("registry", kafka::read_registry, kafka::seeds_of_registry, (16 << 20, 100), 500),
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
