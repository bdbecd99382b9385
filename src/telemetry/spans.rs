//! Counts spans that are lost: those that exceed the queue, and those that the collector did not take.
//!
//! The SDK drops spans silently. So this file counts the spans that wait, and passes on no more than the queue holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use prometheus::IntCounter;

/// The queue of spans that wait for the collector.
#[derive(Debug)]
pub(super) struct SpanQueue {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    /// Maximum of spans that wait.
    limit: usize,
    dropped: IntCounter,
}

/// An exporter that counts what it takes from the queue, and what it fails to send.
#[derive(Debug)]
struct Counting<E> {
    exporter: E,
    waiting: Arc<AtomicUsize>,
    dropped: IntCounter,
}

impl SpanQueue {
    pub(super) fn new(
        exporter: impl SpanExporter + 'static,
        limit: usize,
        dropped: IntCounter,
    ) -> Self {
        let waiting = Arc::default();
        let exporter = Counting {
            exporter,
            waiting: Arc::clone(&waiting),
            dropped: dropped.clone(),
        };
        let config = BatchConfigBuilder::default().with_max_queue_size(limit);
        let batches = BatchSpanProcessor::builder(exporter);
        Self {
            batches: batches.with_batch_config(config.build()).build(),
            waiting,
            limit,
            dropped,
        }
    }

    fn has_room(&self) -> bool {
        let one_more = |waiting| (waiting < self.limit).then_some(waiting + 1);
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        match self.has_room() {
            true => self.batches.on_end(span),
            false => self.dropped.inc(),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

impl<E: SpanExporter> SpanExporter for Counting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        let sent = self.exporter.export(batch).await;
        if sent.is_err() {
            self.dropped.inc_by(spans as u64);
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
