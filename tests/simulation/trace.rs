//! What happened in a run, line by line, and its sum.

use std::collections::VecDeque;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Trace {
    /// Lines that are kept to be shown.
    kept: usize,
    last: VecDeque<String>,
    /// Of all lines.
    sum: u64,
    count: u64,
}

impl Trace {
    pub(crate) fn new(kept: usize) -> Self {
        Self { kept, last: VecDeque::new(), sum: 0, count: 0 }
    }

    pub(crate) fn note(&mut self, now: Duration, line: &str) {
        let line = format!("{:>11.3} {line}", now.as_secs_f64());
        self.count += 1;
        for byte in line.bytes() {
            // FNV-1a.
            self.sum = (self.sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// By which two runs are known to be the same.
    pub(crate) fn sum(&self) -> (u64, u64) {
        (self.count, self.sum)
    }

    pub(crate) fn show(&self) {
        for line in &self.last {
            eprintln!("{line}");
        }
    }
}
