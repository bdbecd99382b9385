//! The cases of a caller in Rust.

mod report;

use std::time::Duration;

use caller::pb::{
    CreateThreadRequest, DeleteThreadRequest, GetThreadRequest, InvokeRequest, StreamRequest,
    StreamResponse, graph_service_client::GraphServiceClient, stream_response::Event,
    thread_service_client::ThreadServiceClient,
};
use report::{Call, must_fail, run, skip, surroundings};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

type Alim = GraphServiceClient<Channel>;

#[tokio::main]
async fn main() {
    let address = surroundings("ALIM_ADDRESS");
    let endpoint = Endpoint::new(format!("http://{address}")).expect("an address");
    let channel = endpoint.connect_lazy();
    let alim = Alim::new(channel.clone());
    run("invoke", invoke(alim.clone())).await;
    run("stream", stream(alim.clone())).await;
    run("deadline", deadline(alim.clone())).await;
    run("cancel", cancel(alim.clone())).await;
    run("details", details(alim.clone())).await;
    run("retry-info", retry_info(alim.clone())).await;
    run("health", health(channel.clone())).await;
    run("thread", thread(channel)).await;
    run("no-retry", no_retry(alim.clone())).await;
    run("no-retry-after-event", no_retry_after_event(alim.clone())).await;
    run("paid-runs", paid_runs(alim)).await;
    for case in ["retry", "balance", "full-bridge", "drain"] {
        skip(case, "tonic reads no service config");
    }
}

async fn read(alim: &mut Alim, call: &Call) -> Result<Vec<StreamResponse>, Status> {
    let mut events = alim.stream(call.stream()).await?.into_inner();
    let mut all = Vec::new();
    while let Some(event) = events.message().await? {
        all.push(event);
    }
    Ok(all)
}

async fn invoke(mut alim: Alim) {
    let reply = alim
        .invoke(Call::new([]).invoke())
        .await
        .expect("a reply")
        .into_inner();
    assert!(
        !reply.response.is_empty() && !reply.thread_id.is_empty(),
        "{reply:?}"
    );
}

async fn stream(mut alim: Alim) {
    let events = read(&mut alim, &Call::new([]))
        .await
        .expect("a whole stream");
    let mut tokens = Vec::new();
    let mut done = None;
    for StreamResponse { event } in events {
        match event {
            Some(Event::Token(token)) => tokens.push(token.text),
            Some(Event::Done(end)) => done = Some(end),
            _ => {}
        }
    }
    let reply = alim
        .invoke(Call::new([]).invoke())
        .await
        .expect("a reply")
        .into_inner();
    assert_eq!(tokens.concat(), reply.response);
    assert_eq!(done.expect("a Done").token_count, tokens.len() as u64);
}

async fn deadline(mut alim: Alim) {
    // Where tonic's own clock is first it says CANCELLED; the bridge's own says DEADLINE_EXCEEDED.
    let late = |code| matches!(code, Code::DeadlineExceeded | Code::Cancelled);
    let call = Call::new(["silent"]);
    let mut request = call.invoke();
    request.set_timeout(Duration::from_secs(1));
    assert!(late(
        alim.invoke(request).await.expect_err("a deadline").code()
    ));
    call.must_be_closed();

    let call = Call::new(["silent"]);
    let mut request = call.stream();
    request.set_timeout(Duration::from_secs(1));
    assert!(late(
        alim.stream(request).await.expect_err("a deadline").code()
    ));
    call.must_be_closed();
}

async fn one_node(alim: &mut Alim, call: &Call) -> tonic::Streaming<StreamResponse> {
    let mut events = alim
        .stream(call.stream())
        .await
        .expect("a head")
        .into_inner();
    let first = events
        .message()
        .await
        .expect("an event")
        .expect("not the end");
    assert!(matches!(first.event, Some(Event::Node(_))), "{first:?}");
    events
}

async fn cancel(mut alim: Alim) {
    let call = Call::new(["held"]);
    drop(one_node(&mut alim, &call).await);
    call.must_be_closed();
}

async fn details(mut alim: Alim) {
    let request = Request::new(InvokeRequest {
        thread_id: Some("../x".to_owned()),
        ..Default::default()
    });
    let failure = must_fail(
        alim.invoke(request).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
    );
    assert_eq!(failure.fields, ["message", "thread_id"]);
}

async fn retry_info(mut alim: Alim) {
    let call = Call::new(["rate_limited"]);
    let answer = alim.stream(call.stream()).await;
    let failure = must_fail(answer, Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED");
    assert_eq!(failure.retry_after, Some(Duration::from_secs(1)));
    call.must_be_sent(1);
}

async fn health(channel: Channel) {
    let mut health = HealthClient::new(channel);
    for service in ["", "alim.v1.GraphService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let told = health.check(request).await.expect("an answer").into_inner();
        assert_eq!(told.status(), ServingStatus::Serving);
    }
}

async fn thread(channel: Channel) {
    let (mut alim, mut threads) = (
        Alim::new(channel.clone()),
        ThreadServiceClient::new(channel),
    );
    let made = threads.create_thread(CreateThreadRequest::default()).await;
    let thread_id = made.expect("a thread").into_inner().thread_id;
    let question = StreamRequest {
        message: "Bəs sabah?".to_owned(),
        thread_id: Some(thread_id.clone()),
        ..Default::default()
    };
    let mut events = alim.stream(question).await.expect("a head").into_inner();
    let mut last = None;
    while let Some(event) = events.message().await.expect("a whole stream") {
        last = event.event;
    }
    assert!(matches!(last, Some(Event::Done(_))), "{last:?}");

    let look_up = GetThreadRequest {
        thread_id: thread_id.clone(),
    };
    let found = threads
        .get_thread(look_up.clone())
        .await
        .expect("the thread");
    assert_eq!(found.into_inner().thread_id, thread_id);
    threads
        .delete_thread(DeleteThreadRequest { thread_id })
        .await
        .expect("deleted");
    must_fail(
        threads.get_thread(look_up).await,
        Code::NotFound,
        "UPSTREAM_NOT_FOUND",
    );

    let starting = StreamRequest {
        message: "Salam!".to_owned(),
        start_thread: true,
        ..Default::default()
    };
    let mut events = alim.stream(starting).await.expect("a head").into_inner();
    let mut thread_id = String::new();
    while let Some(event) = events.message().await.expect("a whole stream") {
        if let Some(Event::Done(done)) = event.event {
            thread_id = done.thread_id;
        }
    }
    let found = threads.get_thread(GetThreadRequest { thread_id }).await;
    found.expect("the thread that the stream named");
}

async fn no_retry(mut alim: Alim) {
    for (meets, code, reason) in [
        ("failed", Code::Internal, "UPSTREAM_FAILED"),
        ("reset", Code::Unavailable, "UPSTREAM_INTERRUPTED"),
    ] {
        let call = Call::new([meets]);
        must_fail(alim.invoke(call.invoke()).await, code, reason);
        call.must_be_sent(1);
        let call = Call::new([meets]);
        must_fail(read(&mut alim, &call).await, code, reason);
        call.must_be_sent(1);
    }
}

/// tonic repeats nothing by itself.
async fn paid_runs(mut alim: Alim) {
    for meets in [
        "unavailable",
        "unavailable_0",
        "unavailable_past",
        "unavailable_1",
    ] {
        let call = Call::new([meets]);
        let reason = "UPSTREAM_UNAVAILABLE";
        must_fail(alim.invoke(call.invoke()).await, Code::Unavailable, reason);
        call.must_be_sent(1);
    }
}

async fn no_retry_after_event(mut alim: Alim) {
    let call = Call::new(["cut"]);
    let mut events = one_node(&mut alim, &call).await;
    assert_eq!(
        events.message().await.expect_err("a cut").code(),
        Code::Unavailable
    );
    call.must_be_sent(1);
}
