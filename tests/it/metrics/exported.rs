//! Metrics as a collector receives them by OTLP. `tests/otlp/run` compares all of them with a real collector.

use std::time::Duration;

use alim_bridge::telemetry::otlp::Settings;
use http::HeaderMap;
use opentelemetry_proto::tonic::{
    metrics::v1::{AggregationTemporality, HistogramDataPoint, Metric, metric::Data},
    resource::v1::Resource,
};

use crate::{
    support::{
        Bridge, SERVICE_KEY, config, reply_json,
        upstream::{Reply, Upstream},
    },
    traces::collector::{Collector, value},
};

/// A bridge that sends its metrics to a collector.
async fn exporting(upstream: &Upstream, collector: &str) -> Bridge {
    let mut config = config(&[
        ("UPSTREAM_URL", &upstream.url()),
        ("UPSTREAM_API_KEY", SERVICE_KEY),
    ]);
    config.server.metrics_export = Some(Settings {
        collector: collector.parse().expect("a URL"),
        headers: HeaderMap::new(),
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        is_compressed: true,
    });
    Bridge::from_config(config).await
}

/// Waits for an export that satisfies the condition.
async fn received(
    collector: &Collector,
    is_it: impl Fn(&[Metric]) -> bool,
) -> (Resource, Vec<Metric>) {
    let until = async {
        loop {
            let (resource, metrics) = collector.metrics();
            if is_it(&metrics) {
                return (resource, metrics);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), until).await;
    found.expect("such an export")
}

/// The only point of a histogram.
fn point(metrics: &[Metric], name: &str) -> Option<HistogramDataPoint> {
    let metric = metrics.iter().find(|metric| metric.name == name)?;
    let Some(Data::Histogram(histogram)) = &metric.data else {
        panic!("{metric:?}")
    };
    assert_eq!(metric.unit, "s");
    let cumulative = AggregationTemporality::Cumulative;
    assert_eq!(histogram.aggregation_temporality(), cumulative);
    assert_eq!(histogram.data_points.len(), 1, "{histogram:?}");
    histogram.data_points.first().cloned()
}

#[tokio::test]
async fn a_collector_gets_calls_under_the_names_of_both_conventions() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let collector = Collector::start().await;
    let bridge = exporting(&upstream, &collector.url).await;
    for _ in 0..2 {
        bridge.invoke("Salam").await.expect("a reply");
    }
    let has_both = |metrics: &[Metric]| {
        point(metrics, "rpc.server.call.duration").is_some_and(|point| point.count == 2)
    };
    let (resource, metrics) = received(&collector, has_both).await;

    let method = "alim.v1.GraphService/Invoke";
    for (name, attributes) in [
        (
            "rpc.server.call.duration",
            [("rpc.method", method), ("rpc.status_code", "OK")],
        ),
        (
            "grpc.server.call.duration",
            [("grpc.method", method), ("grpc.status", "OK")],
        ),
    ] {
        let point = point(&metrics, name).expect(name);
        for (attribute, expected) in attributes {
            assert_eq!(value(&point.attributes, attribute), expected);
        }
        assert_eq!((point.count, point.bucket_counts.iter().sum()), (2, 2));
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert!(0 < point.start_time_unix_nano);
        assert!(point.start_time_unix_nano < point.time_unix_nano);
    }
    assert_eq!(value(&resource.attributes, "service.name"), "alim-bridge");
    let instance = value(&resource.attributes, "service.instance.id");
    assert_eq!(instance.len(), 36, "{instance}");
}

#[tokio::test]
async fn an_export_that_fails_is_counted_and_costs_no_call() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let gone = crate::support::upstream::refused_url();
    let bridge = exporting(&upstream, gone.trim_end_matches("/api/v1")).await;
    bridge.invoke("Salam").await.expect("a reply");
    let failed = "alim_bridge_metric_exports_failed_total";
    super::scraped(&bridge, failed, 1.0).await;
    bridge.invoke("Salam").await.expect("a reply");
}
