//! Calls that succeed: what the upstream gets, and what the caller gets.

use crate::support::{
    Bridge, SERVICE_KEY, ask, reply_json, sse_answer, text, token,
    upstream::{Reply, Upstream},
};
use alim_bridge::pb::{InvokeRequest, stream_response::Event};
use serde_json::json;

const THREAD: &str = "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b";

fn full_request() -> InvokeRequest {
    use prost_types::{Struct, Value, value::Kind};
    let number = Value {
        kind: Some(Kind::NumberValue(5.0)),
    };
    InvokeRequest {
        message: "Nə vaxt suvarım?".into(),
        user_id: "u-1".into(),
        thread_id: Some(THREAD.to_uppercase()),
        farm_id: Some("f-1".into()),
        language: Some("az".into()),
        system_prompt_override: Some("Qısa cavab ver.".into()),
        scenario_context: Some(Struct {
            fields: [("hectares".into(), number)].into(),
        }),
    }
}

#[tokio::test]
async fn invoke_sends_every_field_and_the_service_key() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let reply = bridge
        .client
        .clone()
        .invoke(full_request())
        .await
        .expect("a reply")
        .into_inner();
    assert_eq!(
        (reply.response.as_str(), reply.model.as_str()),
        ("Suvarın.", "m")
    );
    assert_eq!((reply.thread_id.as_str(), reply.metadata), (THREAD, None));
    let request = &upstream.requests()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("POST", "/api/v1/graph/invoke")
    );
    assert_eq!(request.headers["x-api-key"], SERVICE_KEY);
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["accept"], "application/json");
    let expected = json!({
        "message": "Nə vaxt suvarım?", "user_id": "u-1", "thread_id": THREAD, "farm_id": "f-1",
        "language": "az", "system_prompt_override": "Qısa cavab ver.", "scenario_context": {"hectares": 5},
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn unset_fields_are_not_in_the_json() {
    let upstream = Upstream::answering(Reply::json(200, reply_json()));
    let bridge = Bridge::start(&upstream.url()).await;
    let request = InvokeRequest {
        user_id: String::new(),
        thread_id: Some(String::new()),
        ..ask("Salam")
    };
    bridge
        .client
        .clone()
        .invoke(request)
        .await
        .expect("a reply");
    assert_eq!(upstream.requests()[0].json(), json!({"message": "Salam"}));
}

#[tokio::test]
async fn absent_optional_fields_and_unknown_fields_are_accepted() {
    let body =
        json!({"response": "", "thread_id": "t", "new": [1], "metadata": {"nodes_visited": ["a"]}});
    let upstream = Upstream::answering(Reply::json(200, body));
    let bridge = Bridge::start(&upstream.url()).await;
    let reply = bridge.invoke("Salam").await.expect("a reply").into_inner();
    assert_eq!((reply.response.as_str(), reply.model.as_str()), ("", ""));
    assert!(
        reply
            .metadata
            .expect("metadata")
            .fields
            .contains_key("nodes_visited")
    );
}

#[tokio::test]
async fn stream_turns_each_event_into_a_message_and_ends_with_one_done() {
    let body = "event: node\ndata: retrieve_weather\n\nevent: token\ndata: Sal\n\nevent: token\ndata: am ə\n\n\
                event: citation\ndata: {}\n\ndata: bare\n\nevent: done\ndata: [DONE]\n\nevent: token\ndata: late\n\n";
    let upstream = Upstream::answering(Reply::sse(body));
    let bridge = Bridge::start(&upstream.url()).await;
    let (events, ending) = bridge.stream_all("Salam").await;
    ending.expect("OK");
    assert_eq!(text(&events), "Salam ə");
    let Event::Node(node) = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(node.name, "retrieve_weather");
    let others = events.iter().filter_map(|event| match event {
        Event::Other(other) => Some((other.r#type.as_str(), other.data.as_str())),
        _ => None,
    });
    let others: Vec<_> = others.collect();
    assert_eq!(others, [("citation", "{}"), ("message", "bare")]);
    let Some(Event::Done(done)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!((done.token_count, done.character_count), (2, 7));
    let (first, all) = (
        done.time_to_first_token.expect("there was a token"),
        done.duration.expect("set"),
    );
    assert!((first.seconds, first.nanos) <= (all.seconds, all.nanos));
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Done(_)))
            .count(),
        1
    );
}

#[tokio::test]
async fn a_stream_without_tokens_has_no_time_to_first_token() {
    let upstream = Upstream::answering(Reply::sse(sse_answer(&[])));
    let bridge = Bridge::start(&upstream.url()).await;
    let (events, ending) = bridge.stream_all("Salam").await;
    ending.expect("OK");
    let [Event::Done(done)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((done.token_count, done.time_to_first_token), (0, None));
}

#[tokio::test]
async fn stream_asks_for_an_event_stream() {
    let upstream = Upstream::answering(Reply::sse(sse_answer(&["a"])));
    let bridge = Bridge::start(&upstream.url()).await;
    let (events, _) = bridge.stream_all("Salam").await;
    assert_eq!(events[0], token("a"));
    let request = &upstream.requests()[0];
    assert_eq!(request.path, "/api/v1/graph/stream");
    assert_eq!(request.headers["accept"], "text/event-stream");
}
