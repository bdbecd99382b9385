//! How the end of a call is counted.

use super::*;
use crate::admission::Admission;

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_within_100_ms_of_its_deadline_has_exceeded_it() {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    for (millis, reason, left_early) in [(899, 0, 1), (901, 1, 1), (1500, 2, 1)] {
        let trace = Trace::begin(None, Method::Invoke, &HeaderMap::new());
        let call = Ongoing::begin(Arc::clone(&metrics), Method::Invoke, "id".into(), trace);
        let record = call.record();
        record.caller_deadline(record.started() + Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(millis)).await;
        drop(call);
        let text = metrics.render(&Admission::new(1)).expect("text");
        for line in [
            format!(r#"alim_bridge_failures_total{{reason="CALLER_DEADLINE"}} {reason}"#),
            format!("alim_bridge_caller_cancelled_total {left_early}"),
        ] {
            assert!(text.lines().any(|found| found == line), "{millis}: {text}");
        }
    }
}

#[test]
fn failures_of_tools_and_probes_do_not_count_as_failed_calls() {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    for method in [Method::Reflection, Method::HealthWatch, Method::Stream] {
        let trace = Trace::begin(None, method, &HeaderMap::new());
        let call = Ongoing::begin(Arc::clone(&metrics), method, "id".into(), trace);
        call.record().failed(Reason::CallerCredentialsMissing);
    }
    let text = metrics.render(&Admission::new(1)).expect("text");
    let count = r#"alim_bridge_failures_total{reason="CALLER_CREDENTIALS_MISSING"} 1"#;
    assert!(text.lines().any(|line| line == count), "{text}");
}
