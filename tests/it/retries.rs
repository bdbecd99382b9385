//! Which calls are retried, and which never are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    Bridge, reply_json,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::CreateThreadRequest;
use axum::{Router, http::header::CONTENT_TYPE};
use tokio::net::TcpSocket;
use tokio_util::task::AbortOnDropHandle;

/// An upstream that answers everything with `body`, but starts to listen only after the first attempts were refused. Also
/// returns how many calls have reached it.
async fn late_upstream(body: String) -> (String, Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let url = format!("http://{}/api/v1", socket.local_addr().expect("bound"));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let app = Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::Relaxed);
        ([(CONTENT_TYPE, "application/json")], body)
    });
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let listener = socket.listen(16).expect("listening");
        axum::serve(listener, app).await.expect("serves");
    });
    (url, calls, AbortOnDropHandle::new(late))
}

#[tokio::test]
async fn a_call_that_found_no_connection_is_retried_and_sent_once() {
    let (url, calls, _late) = late_upstream(reply_json()).await;
    let bridge = Bridge::with(&url, &[("RETRIES", "10")]).await;
    bridge
        .invoke("Salam")
        .await
        .expect("the late upstream's answer");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_thread_call_that_found_no_connection_is_retried_and_sent_once() {
    let (url, calls, _late) = late_upstream(r#"{"thread_id":"t"}"#.into()).await;
    let bridge = Bridge::with(&url, &[("RETRIES", "10")]).await;
    let asked = CreateThreadRequest::default();
    let made = bridge.threads().create_thread(asked).await;
    made.expect("the late upstream's answer");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_whose_pooled_connection_was_closed_uses_a_new_one() {
    let upstream = Upstream::scripted([
        Reply::json(200, reply_json()).header("connection", "close"),
        Reply::json(200, reply_json()),
    ]);
    let bridge = Bridge::start(&upstream.url()).await;
    bridge.invoke("Salam").await.expect("a reply");
    bridge.invoke("Salam").await.expect("a reply");
    let requests = upstream.requests();
    assert_ne!(requests[0].connection, requests[1].connection);
}
