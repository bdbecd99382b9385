//! The access log's records of a run.

use serde_json::Value;

use crate::support::deployed::Deployed;

/// The number of records for each call. Records are read as they come, so a soak does not store them.
#[derive(Default)]
pub(super) struct Records {
    pub(super) counts: Vec<u8>,
    /// The number of hostile callers' records.
    pub(super) others: u64,
}

impl Records {
    pub(super) fn read(&mut self, bridge: &mut Deployed) {
        while let Some(line) = bridge.running.next_log() {
            assert!(!line.contains("panicked"), "{line}");
            let Ok(record) = serde_json::from_str::<Value>(&line) else {
                panic!("not JSON: {line}");
            };
            if record["message"] != "call ended" {
                continue;
            }
            let id = record["request_id"].as_str().expect("an id");
            let Some(id) = id.strip_prefix("chaos-") else {
                self.others += 1;
                continue;
            };
            let number: usize = id.parse().expect("a number");
            self.counts.resize(self.counts.len().max(number + 1), 0);
            self.counts[number] += 1;
        }
    }

    pub(super) fn total(&self) -> u64 {
        let ours: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        ours + self.others
    }
}
