//! Metrics of tokio's runtime: whether its workers keep up.
//!
//! How long a single poll takes is not known without tokio's unstable metrics. So a timer measures the effect: a task that wakes
//! late had to wait for a worker that was busy with others, or for the machine's CPU.

use std::{sync::Arc, time::Duration};

use prometheus::{Counter, Histogram, IntGauge};
use tokio::{
    runtime::Handle,
    time::{Instant, interval},
};

use super::{metrics::Metrics, register::Register};

/// Between two measurements of the delay.
const INTERVAL: Duration = Duration::from_millis(100);
/// Seconds. tokio's timers are up to a millisecond late by design.
const DELAY_BUCKETS: [f64; 10] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The metrics of the runtime.
#[derive(Debug)]
pub(super) struct Runtime {
    workers: IntGauge,
    busy: Counter,
    tasks: IntGauge,
    queue: IntGauge,
    delay: Histogram,
}

impl Runtime {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            workers: new.gauge("alim_bridge_runtime_workers", "Threads that run tasks.")?,
            busy: new.add(Counter::new(
                "alim_bridge_runtime_busy_seconds_total",
                "Seconds that workers were not idle, of all workers together.",
            ))?,
            tasks: new.gauge("alim_bridge_runtime_tasks", "Tasks that have not ended.")?,
            queue: new.gauge(
                "alim_bridge_runtime_queue_depth",
                "Tasks in the queue that all workers share.",
            )?,
            delay: new.seconds(
                "alim_bridge_runtime_delay_seconds",
                "How late a task woke up that does so every 100 ms.",
                &DELAY_BUCKETS,
            )?,
        })
    }

    /// Reads the figures of the current runtime, if there is one.
    pub(super) fn update(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let metrics = runtime.metrics();
        let set = |gauge: &IntGauge, count| gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        set(&self.workers, metrics.num_workers());
        set(&self.tasks, metrics.num_alive_tasks());
        set(&self.queue, metrics.global_queue_depth());
        let workers = 0..metrics.num_workers();
        let busy: Duration = workers
            .map(|it| metrics.worker_total_busy_duration(it))
            .sum();
        let new = busy.as_secs_f64() - self.busy.get();
        self.busy.inc_by(new.max(0.0)); // two scrapes can overlap
    }
}

/// Measures the delay until the future is dropped.
pub async fn watch_delay(metrics: Arc<Metrics>) {
    let mut ticks = interval(INTERVAL);
    loop {
        let due = ticks.tick().await;
        let late = Instant::now().saturating_duration_since(due);
        metrics.runtime.delay.observe(late.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Admission;

    fn value(metrics: &Metrics, name: &str) -> f64 {
        let text = metrics.render(&Admission::new(1)).expect("text");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.expect(name).parse().expect("a number")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_blocked_worker_delays_the_timer_and_is_busy() {
        let metrics = Arc::new(Metrics::new().expect("fresh"));
        tokio::spawn(watch_delay(Arc::clone(&metrics)));
        let blocked = tokio::spawn(async {
            tokio::time::sleep(INTERVAL).await; // the timer runs by then
            std::thread::sleep(Duration::from_millis(600));
        });
        blocked.await.expect("no panic");
        let is_late = |metrics: &Metrics| {
            let bucket = |le: &str| {
                value(
                    metrics,
                    &format!(r#"alim_bridge_runtime_delay_seconds_bucket{{le="{le}"}}"#),
                )
            };
            bucket("+Inf") > bucket("0.25")
        };
        let seen = async {
            while !is_late(&metrics) {
                tokio::task::yield_now().await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(10), seen).await;
        seen.expect("the timer was late");
        let busy = value(&metrics, "alim_bridge_runtime_busy_seconds_total");
        assert!(busy >= 0.6, "{busy}");
        assert_eq!(value(&metrics, "alim_bridge_runtime_workers"), 1.0);
        assert!(value(&metrics, "alim_bridge_runtime_tasks") >= 1.0);
    }
}
