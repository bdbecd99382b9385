//! What a load counts while its window is open. One thread, so plain cells.

use std::cell::{Cell, RefCell};

use serde_json::{Value, json};

/// The counts.
#[derive(Default)]
pub struct Tally {
    /// Whether to count at all.
    pub is_open: Cell<bool>,
    /// Streams whose first event came, ever.
    pub begun: Cell<u64>,
    /// Tokens.
    pub tokens: Cell<u64>,
    /// Pieces that the transport gave them in: DATA frames, or reads.
    pub pieces: Cell<u64>,
    /// Calls that ended well.
    pub calls: Cell<u64>,
    /// Calls that did not.
    pub failed: Cell<u64>,
    /// Nanoseconds from a token's writing to its arrival.
    pub delays: RefCell<Vec<u64>>,
    /// Nanoseconds from a stream's start to its first token.
    pub firsts: RefCell<Vec<u64>>,
    /// Nanoseconds of whole calls.
    pub whole: RefCell<Vec<u64>>,
}

impl Tally {
    /// Adds to a count while the window is open.
    pub fn add(&self, count: &Cell<u64>, more: u64) {
        if self.is_open.get() {
            count.set(count.get() + more);
        }
    }

    /// Keeps a time while the window is open.
    pub fn keep(&self, times: &RefCell<Vec<u64>>, time: u64) {
        if self.is_open.get() {
            times.borrow_mut().push(time);
        }
    }

    /// All of it; times in microseconds.
    pub fn report(&self) -> Value {
        json!({
            "tokens": self.tokens.get(),
            "pieces": self.pieces.get(),
            "calls": self.calls.get(),
            "failed": self.failed.get(),
            "delay_us": percentiles(&self.delays),
            "first_us": percentiles(&self.firsts),
            "whole_us": percentiles(&self.whole),
        })
    }
}

fn percentiles(times: &RefCell<Vec<u64>>) -> Value {
    let mut times = times.borrow_mut();
    if times.is_empty() {
        return Value::Null;
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0), "count": times.len() })
}
