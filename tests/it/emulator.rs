//! The embedded ALİM over real sockets: its wire format, its errors, its faults and its connections. The
//! clock is paused where time matters.

#![allow(clippy::unwrap_used)]

mod faults;

use std::time::Duration;

use alim_bridge::emulator::{self, Settings};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const KEY: Option<&str> = Some("dev-api-key-change-in-production");
const INVOKE: &str = "/api/v1/graph/invoke";
const STREAM: &str = "/api/v1/graph/stream";
const HEALTH: &str = "/api/v1/graph/health";
const THREADS: &str = "/api/v1/threads";
const NO_DELAY: Duration = Duration::ZERO;
const DONE: &str = "event: done\ndata: [DONE]\n\n";

/// A running emulator and a caller of it.
struct Alim {
    address: String,
    caller: reqwest::Client,
    shutdown: CancellationToken,
    run: AbortOnDropHandle<std::io::Result<()>>,
}

impl Alim {
    async fn start(token_delay: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let settings = Settings {
            token_delay,
            ..Settings::default()
        };
        let shutdown = CancellationToken::new();
        let no_redirect = reqwest::redirect::Policy::none();
        let caller = reqwest::Client::builder().redirect(no_redirect).no_proxy();
        let run = tokio::spawn(emulator::run(settings, listener, shutdown.clone()));
        Self {
            address,
            caller: caller.build().unwrap(),
            shutdown,
            run: AbortOnDropHandle::new(run),
        }
    }

    async fn call(&self, method: Method, path: &str, key: Option<&str>, body: &[u8]) -> Answer {
        let url = format!("http://{}{path}", self.address);
        let mut call = self.caller.request(method, url).body(body.to_vec());
        call = call.header("content-type", "application/json");
        if let Some(key) = key {
            call = call.header("x-api-key", key);
        }
        let answer = call.send().await.unwrap();
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            text: String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str, key: Option<&str>) -> Answer {
        self.call(Method::GET, path, key, b"").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = serde_json::to_vec(body).unwrap();
        self.call(Method::POST, path, KEY, &body).await
    }

    /// A raw connection with a POST of `body`.
    async fn raw_post(&self, path: &str, body: &Value) -> TcpStream {
        let (key, body) = (KEY.unwrap(), body.to_string());
        let call = format!(
            "POST {path} HTTP/1.1\r\nhost: alim\r\nx-api-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        socket.write_all(call.as_bytes()).await.unwrap();
        socket
    }
}

/// A complete answer.
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    /// Status and body in one line.
    fn line(&self) -> String {
        format!("{} {}", self.status, self.text)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The data of the events with this name. No answer has `event: ` in its text.
    fn data_of(&self, name: &str) -> Vec<&str> {
        let start = format!("{name}\ndata: ");
        let events = self.text.split("event: ");
        events
            .filter_map(|event| event.strip_prefix(&start)?.strip_suffix("\n\n"))
            .collect()
    }
}

fn in_thread(id: &Value) -> Value {
    json!({ "message": "Salam", "thread_id": id })
}

fn with_fault(fault: &str) -> Value {
    json!({ "message": "suvarma", "scenario_context": { "emulator_fault": fault } })
}

/// Reads until `end` was read, or to the end of the connection.
async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        match socket.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn each_event_of_a_stream_is_a_chunk_of_its_own_with_raw_data() {
    let alim = Alim::start(NO_DELAY).await;
    let mut socket = alim.raw_post(STREAM, &json!({ "message": "?" })).await;
    let head = read_until(&mut socket, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/event-stream; charset=utf-8\r\n"));
    assert!(head.contains("x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n"));
    let (first, last) = (("node", "classify_intent"), ("node", "generate_response"));
    let tokens = concat!(
        "Dəqiq| cavab| ver|mək| üçün| bir| az| məlu|mat| lazı|mdır|.|\n\n|Zəh|mət| olm|asa|,|",
        " yazın|:|\n|-| hansı| bitk|ini| becə|rirs|iniz| və| ya| hansı| heyv|anı| saxla|yırs|",
        "ınız|\n- təsər|rüfat|ınız| hansı| rayon|dadır|\n- prob|lem| nə| vaxt| və| necə|",
        " başl|ayıb|\n\n|Bu| məlum|atla| daha| fayd|alı| məsl|əhət| verə| bilə|rəm|.|",
    );
    let tokens = tokens.split('|').map(|text| ("token", text));
    let events = [first].into_iter().chain(tokens).chain([last]);
    let mut expected = String::new();
    for (name, data) in events.chain([("done", "[DONE]")]) {
        let event = format!("event: {name}\ndata: {data}\n\n");
        expected += &format!("{:X}\r\n{event}\r\n", event.len());
    }
    let body = read_until(&mut socket, "\r\n0\r\n\r\n").await;
    assert_eq!(body, expected + "0\r\n\r\n");
}

#[tokio::test]
async fn invoke_and_stream_return_the_same_text_with_tokens_that_break_framing() {
    let alim = Alim::start(NO_DELAY).await;
    for topic in "susuzluq zərərverici gübrə hava mal-qara Salam nə?".split(' ') {
        let body = json!({ "message": topic, "user_id": "u", "language": "az", "farm_id": "f",
            "system_prompt_override": "p", "thread_id": null, "scenario_context": {} });
        let reply = alim.post(INVOKE, &body).await.json();
        let stream = alim.post(STREAM, &body).await;
        let tokens = stream.data_of("token");
        assert_eq!(json!(tokens.concat()), reply["response"]);
        let nodes = json!(stream.data_of("node"));
        assert_eq!(nodes, reply["metadata"]["nodes_visited"]);
        assert!(tokens.contains(&"\n") && tokens.contains(&"\n\n"));
        assert!(tokens.iter().any(|token| token.starts_with("\n- ")));
        let end = format!("event: token\ndata: \n\nevent: node\ndata: generate_response\n\n{DONE}");
        assert!(stream.text.ends_with(&end), "{topic}");
    }
}

#[tokio::test]
async fn requested_tokens_are_sent_unchanged() {
    let alim = Alim::start(NO_DELAY).await;
    for tokens in [&["a\n\nb", "\n", "data: x"][..], &[], &["", "\r"]] {
        let context = json!({ "emulator_tokens": tokens });
        let body = json!({ "message": "?", "scenario_context": context });
        let reply = alim.post(INVOKE, &body).await.json();
        assert_eq!(reply["response"], tokens.concat());
        let stream = alim.post(STREAM, &body).await.text;
        let events = |text: &&str| format!("event: token\ndata: {text}\n\n");
        let expected: String = tokens.iter().chain([&""]).map(events).collect();
        assert!(stream.contains(&format!("classify_intent\n\n{expected}event: node")));
    }
}

#[tokio::test]
async fn a_reply_has_a_new_thread_the_model_and_the_metadata() {
    let alim = Alim::start(NO_DELAY).await;
    let reply = alim.post(INVOKE, &in_thread(&json!(""))).await.json();
    let thread = uuid::Uuid::try_parse(reply["thread_id"].as_str().unwrap()).unwrap();
    assert_eq!(thread.get_version_num(), 4);
    assert_eq!(reply["model"], "llama-3.3-70b-versatile");
    assert_eq!(reply["metadata"]["intent"], "greeting");
    assert_eq!(reply.as_object().unwrap().len(), 4);
    let stream = alim.post(STREAM, &in_thread(&reply["thread_id"])).await;
    assert!(stream.text.ends_with(DONE), "a stream continues it");
}

#[tokio::test]
async fn a_thread_exists_until_it_is_deleted() {
    let alim = Alim::start(NO_DELAY).await;
    let metadata = json!({ "metadata": { "farm": 7 } });
    let created = alim.post(THREADS, &metadata).await.json();
    assert_eq!(created["metadata"], metadata["metadata"]);
    let thread = &created["thread_id"];
    let path = format!("{THREADS}/{}", thread.as_str().unwrap());
    assert_eq!(alim.get(&path, KEY).await.json(), created);
    let reply = alim.post(INVOKE, &in_thread(thread)).await.json();
    assert_eq!(reply["thread_id"], *thread);
    let deleted = alim.call(Method::DELETE, &path, KEY, b"").await.json();
    assert_eq!(deleted, json!({ "deleted": true, "thread_id": thread }));
    let gone = alim.get(&path, KEY).await.line();
    assert_eq!(gone, r#"404 {"detail":"Thread not found"}"#);
    assert_eq!(alim.post(INVOKE, &in_thread(thread)).await.status, 500);
}

#[tokio::test]
async fn a_thread_id_that_is_unknown_or_not_a_uuid_fails_the_call() {
    let alim = Alim::start(NO_DELAY).await;
    for thread in ["3f2c1c5e-8f9c-4a39-9f8e-2b7f2c1d0e5a", "../runs/stream?a="] {
        let body = in_thread(&json!(thread));
        let invoke = alim.post(INVOKE, &body).await.line();
        let failed = r#"500 {"detail":"Graph execution failed: thread "#;
        assert!(invoke.starts_with(failed), "{invoke}");
        let stream = alim.post(STREAM, &body).await.line();
        assert!(stream.starts_with("200 event: error\ndata: thread "));
        assert_eq!(stream.matches("event: ").count(), 1);
    }
}

#[tokio::test]
async fn every_graph_and_thread_endpoint_requires_the_key() {
    let alim = Alim::start(NO_DELAY).await;
    for (method, path) in [
        (Method::POST, INVOKE),
        (Method::POST, STREAM),
        (Method::POST, THREADS),
        (Method::GET, "/api/v1/threads/x"),
        (Method::DELETE, "/api/v1/threads/x"),
        (Method::GET, HEALTH),
    ] {
        for key in [None, Some("")] {
            let missing = alim.call(method.clone(), path, key, b"{}").await;
            assert_eq!(missing.line(), r#"401 {"detail":"Missing API Key"}"#);
            assert_eq!(missing.headers["www-authenticate"], "ApiKey");
        }
        let wrong = alim.call(method, path, Some("another"), b"{}").await;
        assert_eq!(wrong.line(), r#"403 {"detail":"Invalid API Key"}"#);
    }
}

#[tokio::test]
async fn only_the_graphs_health_requires_the_key() {
    let alim = Alim::start(NO_DELAY).await;
    assert_eq!(alim.get("/health", None).await.status, 200);
    assert_eq!(alim.get("/live", None).await.status, 200);
    assert_eq!(alim.get(HEALTH, KEY).await.json()["healthy"], true);
}

#[tokio::test]
async fn an_invalid_body_gets_fastapis_error() {
    let alim = Alim::start(NO_DELAY).await;
    let error = r#"{"type":"string_type","loc":["body","message"],"msg":"Input should be a valid string","input":5}"#;
    for path in [INVOKE, STREAM] {
        let rejected = alim.post(path, &json!({ "message": 5 })).await.line();
        assert_eq!(rejected, format!(r#"422 {{"detail":[{error}]}}"#));
    }
}

#[tokio::test]
async fn an_unreadable_body_is_reported_even_without_a_key() {
    let alim = Alim::start(NO_DELAY).await;
    let not_utf8 = alim.call(Method::POST, INVOKE, None, b"\"a\xff\"").await;
    let detail = r#"400 {"detail":"There was an error parsing the body"}"#;
    assert_eq!(not_utf8.line(), detail);
    let not_json = alim.call(Method::POST, INVOKE, None, b"{").await;
    assert_eq!(not_json.status, 422);
}

#[tokio::test]
async fn a_threads_metadata_can_be_absent_but_not_null() {
    let alim = Alim::start(NO_DELAY).await;
    assert_eq!(alim.post(THREADS, &json!({})).await.status, 200);
    let rejected = alim
        .post(THREADS, &json!({ "metadata": null }))
        .await
        .line();
    let error = r#"{"type":"dict_type","loc":["body","metadata"],"msg":"Input should be a valid dictionary","input":null}"#;
    assert_eq!(rejected, format!(r#"422 {{"detail":[{error}]}}"#));
}

#[tokio::test]
async fn a_wrong_path_method_or_slash_gets_starlettes_answer() {
    let alim = Alim::start(NO_DELAY).await;
    let unknown = alim.get("/api/v1/graph/nothing/", None).await;
    assert_eq!(unknown.line(), r#"404 {"detail":"Not Found"}"#);
    let wrong = alim.get(INVOKE, None).await;
    assert_eq!(wrong.line(), r#"405 {"detail":"Method Not Allowed"}"#);
    assert_eq!(wrong.headers["allow"], "POST");
    for method in [Method::HEAD, Method::PUT] {
        let wrong = alim.call(method, "/api/v1/threads/x", None, b"").await;
        assert_eq!(
            (wrong.status, wrong.headers["allow"].as_bytes()),
            (405, &b"GET"[..])
        );
    }
    for path in [INVOKE, THREADS, "/health", "/api/v1/threads/x"] {
        let moved = alim.get(&format!("{path}/?a=b"), None).await;
        let location = format!("http://{}{path}?a=b", alim.address);
        assert_eq!(moved.headers["location"], location);
        assert_eq!(moved.line(), "307 ");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_gets_at_most_a_streams_head() {
    let alim = Alim::start(NO_DELAY).await;
    let long = Duration::from_secs(75);
    let mut invoke = alim.raw_post(INVOKE, &with_fault("silent")).await;
    assert!(timeout(long, invoke.read_u8()).await.is_err());
    let mut stream = alim.raw_post(STREAM, &with_fault("silent")).await;
    read_until(&mut stream, "\r\n\r\n").await;
    assert!(timeout(long, stream.read_u8()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_five_seconds_after_its_last_answer() {
    let alim = Alim::start(Duration::from_secs(1)).await;
    let mut socket = alim.raw_post(STREAM, &in_thread(&Value::Null)).await;
    read_until(&mut socket, "\r\n0\r\n\r\n").await;
    let before = Instant::now();
    assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(before.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn http2_without_tls_is_not_supported() {
    let alim = Alim::start(NO_DELAY).await;
    let mut socket = TcpStream::connect(&alim.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    socket.write_all(preface).await.unwrap();
    assert_eq!(read_until(&mut socket, "never").await, "");
}

#[tokio::test]
async fn a_drain_waits_for_a_stream_and_accepts_no_new_connection() {
    let mut alim = Alim::start(Duration::from_millis(2)).await;
    let mut stream = alim.raw_post(STREAM, &in_thread(&Value::Null)).await;
    read_until(&mut stream, "event: token\n").await;
    alim.shutdown.cancel();
    let body = read_until(&mut stream, "never").await;
    assert!(body.ends_with(&format!("{DONE}\r\n0\r\n\r\n")));
    (&mut alim.run).await.unwrap().unwrap();
    assert!(TcpStream::connect(&alim.address).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_drain_aborts_a_silent_call_after_four_seconds() {
    let mut alim = Alim::start(NO_DELAY).await;
    let mut invoke = alim.raw_post(INVOKE, &with_fault("silent")).await;
    let mut stream = alim.raw_post(STREAM, &with_fault("silent")).await;
    read_until(&mut stream, "\r\n\r\n").await;
    let before = Instant::now();
    alim.shutdown.cancel();
    (&mut alim.run).await.unwrap().unwrap();
    assert_eq!(before.elapsed().as_secs(), 4);
    assert_eq!(read_until(&mut invoke, "never").await, "");
    assert_eq!(read_until(&mut stream, "never").await, "");
}
