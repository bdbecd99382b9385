//! The embedded ALİM with the real one's rate limit, behind a bridge without a quota and with one.

use std::time::Duration;

use crate::support::{Bridge, RichStatus, SERVICE_KEY, extra::get, running::run};
use alim_bridge::emulator::{self, OverLimit, RateLimit};
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An ALİM that allows each key three requests in two seconds, and a bridge in front of it.
async fn limited(over_limit: OverLimit, settings: &[(&str, &str)]) -> (DropGuard, Bridge) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let stop = CancellationToken::new();
    let rate = "3/2s".parse().expect("a rate");
    let emulated = emulator::Settings {
        api_key: SERVICE_KEY.into(),
        token_delay: Duration::ZERO,
        rate_limit: Some(RateLimit { rate, over_limit }),
    };
    tokio::spawn(emulator::run(emulated, listener, stop.clone()));
    for _ in 0..9 {
        assert_eq!(get(address, "/health").await.0, 200, "not counted");
    }
    let bridge = Bridge::with(&format!("http://{address}/api/v1"), settings).await;
    (stop.drop_guard(), bridge)
}

#[tokio::test]
async fn without_a_quota_alim_rejects_calls_above_its_limit() {
    for (over_limit, reason) in [
        (OverLimit::Crash, "UPSTREAM_FAILED"),
        (OverLimit::TooManyRequests, "UPSTREAM_RATE_LIMITED"),
    ] {
        let (_alim, bridge) = limited(over_limit, &[]).await;
        for left in ["2", "1", "0"] {
            let answer = bridge.invoke("Salam").await.expect("within the limit");
            let remaining = answer.metadata().get("x-ratelimit-remaining");
            assert_eq!(remaining.expect("ALİM's"), left);
        }
        let status = bridge.invoke("Salam").await.expect_err("above the limit");
        assert_eq!(status.code_and_reason().1, reason);
        let has_retry_info = status.error_details().retry_info().is_some();
        assert_eq!(has_retry_info, over_limit == OverLimit::TooManyRequests);
    }
}

#[tokio::test]
async fn with_the_quota_of_its_limit_alim_rejects_nothing() {
    let settings = [("UPSTREAM_QUOTA", "3/2s"), ("QUOTA_WAIT", "30s")];
    let (_alim, bridge) = limited(OverLimit::Crash, &settings).await;
    let calls = (0..10).map(|_| bridge.invoke("Salam"));
    for answer in join_all(calls).await {
        answer.expect("each in its turn");
    }
}

#[test]
fn an_invalid_rate_limit_is_bad_usage() {
    for args in [
        ["emulate", "--rate-limit", "30"],
        ["emulate", "--rate-limit-status", "503"],
    ] {
        assert_eq!(run(&args).code, Some(64), "{args:?}");
    }
}
