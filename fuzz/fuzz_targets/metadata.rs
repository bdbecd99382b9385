//! Checks a caller's metadata and the upstream's headers: only listed ones are forwarded, within bounds. Any
//! `grpc-timeout` gives valid deadlines.
//!
//! An input is lines of `name: value`. Lines that are not headers are ignored.

#![no_main]

use std::{sync::Arc, time::Duration};

use alim_bridge::{
    call::{
        deadline::TimeoutKind,
        headers::{REQUEST_ID, to_caller, to_upstream},
    },
    middleware::timeouts::Timeouts,
    service::fuzzing::deadlines,
    telemetry::{Method, Ongoing, metrics::Metrics, traces::Trace},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

const TIMEOUTS: Timeouts = Timeouts {
    invoke: Duration::from_secs(120),
    initial: Duration::from_secs(60),
    idle: Duration::from_secs(30),
    lifetime: Duration::from_secs(900),
};

thread_local! {
    static METRICS: Arc<Metrics> = Arc::new(Metrics::new().expect("metrics"));
}

fuzz_target!(|input: &[u8]| {
    let fields = fields(input);
    check_to_upstream(&fields);
    check_to_caller(&fields);
    for path in [
        "/alim.v1.GraphService/Invoke",
        "/alim.v1.GraphService/Stream",
        "/grpc.health.v1.Health/Watch",
        "/",
    ] {
        check_deadlines(Method::of(path), &fields);
    }
    let trace = Trace::begin(None, Method::Invoke, &fields);
    let metrics = METRICS.with(Arc::clone);
    let call = Ongoing::begin(metrics, Method::Invoke, String::new(), trace);
    assert!(call.record().trace_id().is_none_or(|id| id.len() == 32));
});

fn fields(input: &[u8]) -> HeaderMap {
    let lines = input.split(|byte| *byte == b'\n');
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    };
    let mut fields = HeaderMap::new();
    for (name, value) in lines.filter_map(field) {
        fields.append(name, value);
    }
    fields
}

fn check_to_upstream(metadata: &HeaderMap) {
    let sent = to_upstream(metadata);
    for (name, value) in &sent {
        let listed = ["traceparent", "tracestate", "baggage", "accept-language"];
        assert!(
            *name == REQUEST_ID || listed.contains(&name.as_str()),
            "{name}"
        );
        assert!(
            value.len() <= 8192 && value.to_str().is_ok(),
            "{name}: {value:?}"
        );
        let came = metadata.get_all(name).iter().any(|found| found == value);
        assert!(came || *name == REQUEST_ID, "{name}: {value:?}");
    }
    let ids: Vec<_> = sent.get_all(REQUEST_ID).iter().collect();
    assert!(
        ids.len() == 1 && (1..=128).contains(&ids[0].len()),
        "{ids:?}"
    );
    assert_eq!(to_upstream(&sent), sent, "forwarding is idempotent");
}

fn check_to_caller(head: &HeaderMap) {
    let back = to_caller(head);
    assert!(back.len() <= 7, "retry-after and six limits: {back:?}");
    for (name, value) in &back {
        assert!(
            name == "retry-after" || name.as_str().starts_with("x-ratelimit-"),
            "{name}"
        );
        assert!(
            name.as_str().len() <= 40 && !name.as_str().ends_with("-bin"),
            "{name}"
        );
        assert!(
            value.len() <= 128 && value.to_str().is_ok(),
            "{name}: {value:?}"
        );
    }
}

fn check_deadlines(method: Method, metadata: &HeaderMap) {
    let started = Instant::now();
    let [head, end] = deadlines(&TIMEOUTS, method, metadata, started);
    assert!(started <= head.at && head.at <= end.at, "{head:?} {end:?}");
    let timeout = metadata
        .get("grpc-timeout")
        .and_then(|value| timeout(value.as_bytes()));
    let sent = timeout.map(|timeout| started + timeout.min(Duration::from_secs(1 << 30)));
    match (end.kind, sent) {
        (TimeoutKind::Caller, Some(sent)) => assert!(end.at <= sent),
        (TimeoutKind::Caller, None) => assert!(!method.is_ours(), "nobody set it"),
        (_, Some(sent)) => assert!(end.at <= sent, "the caller's deadline comes first"),
        (_, None) => {}
    }
}

/// A second implementation of the protocol's timeout: 1 to 8 digits and a unit.
fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let nanos: u128 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    let digit = |sum: u128, byte: &u8| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u128::from(byte - b'0'))
    };
    let count = digits.iter().try_fold(0, digit)?;
    let nanos = nanos * count;
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}
