//! Tests of the registry of open calls.

use http::HeaderMap;

use super::*;
use crate::{
    call::deadline::TimeoutKind,
    memory::Budget,
    telemetry::{Method, Ongoing, metrics::Metrics, traces::Trace},
};

#[tokio::test(start_paused = true)]
async fn a_stalled_call_is_reset_once_however_long_its_task_takes_to_end() {
    let calls = OpenCalls::default();
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let peer = ([127, 0, 0, 1], 50_051).into();
    let connection = Connection::new(peer, &Budget::unlimited());
    let open = || {
        let trace = Trace::begin(None, Method::Invoke, &HeaderMap::new());
        let begun = Ongoing::begin(Arc::clone(&metrics), Method::Invoke, "id".into(), trace);
        let record = begun.record().clone();
        let end = Deadline::after(Instant::now(), Duration::from_secs(60), TimeoutKind::Invoke);
        (begun, calls.open(record, None, end, &connection, true))
    };
    let _open = [open(), open(), open()];
    assert_eq!(calls.abort_stalled(1), 0, "not stalled yet");
    tokio::time::advance(STALL_TIMEOUT).await;
    assert_eq!(calls.abort_stalled(1), 1);
    assert_eq!(calls.abort_stalled(1), 0, "its memory is on its way");
    assert_eq!(calls.abort_stalled(3 * SEND_BUFFER_BYTES), 2);
    assert_eq!(calls.abort_stalled(usize::MAX), 0);
}
