//! No key leaves the bridge except in the upstream's request. One run covers all kinds of failure at the finest log level.
//! Then everything that the bridge has output is searched for each key.
//!
//! The upstream quotes the key that it received wherever it can.

use std::{fmt::Write, fs};

use http::HeaderMap;
use serde_json::json;
use tempfile::TempDir;
use tonic::{Request, Status};

use crate::support::{
    ask, ask_stream,
    callers::entry,
    deployed::Deployed,
    extra::with_metadata,
    reply_json, sse_tokens,
    upstream::{Reply, Upstream, refused_url},
};

/// The part of each key that no text encoding changes. The characters around it are changed by some.
const SERVICE: &str = "Serv1ceS3cretZz9Q";
const CALLER: &str = "Cal1erS3cretYy8W";

/// Whose key is sent to the upstream, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Variable,
    File,
    Callers,
}

fn key(core: &str) -> String {
    format!("k\"%\\{core}/+==")
}

/// The bytes in each encoding of logs, statuses and headers, at each offset within a base64 group.
fn forms(core: &str) -> Vec<String> {
    let base64 = (0..3).map(|shift| {
        let padded = [&b"xx"[..shift], core.as_bytes()].concat();
        let text = base64(&padded);
        text[4..text.len() - 4].to_owned() // the first and last groups contain other bytes too
    });
    let hex = core.bytes().map(|byte| format!("{byte:02x}"));
    let list = core.bytes().map(|byte| byte.to_string());
    let list = list.collect::<Vec<_>>().join(", ");
    base64
        .chain([core.to_owned(), hex.collect(), list])
        .collect()
}

/// RFC 4648, 4, without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3).flat_map(|group| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(bits >> shift) as usize & 63]))
    });
    groups.collect()
}

fn quoted_twice(key: &str) -> String {
    format!("no such key: '{key}' ({key})")
}

/// Responses that quote this key in every possible position.
fn quoting(key: &str) -> Vec<Reply> {
    let quote = quoted_twice(key);
    let detail = json!({"detail": quote, "error": quote, "path": quote});
    let fields = json!({"detail": [{"loc": ["body", key], "msg": quote, "input": key}]});
    let event = |data: String| Reply::sse(format!("event: error\ndata: {data}\n\n"));
    let named = |reply: Reply| {
        let reply = reply.header("x-request-id", key).header("retry-after", key);
        reply.header("x-ratelimit-scope", key).header("server", key)
    };
    let mut replies: Vec<_> = [400, 401, 403, 404, 409, 413, 418, 429, 500, 502, 503, 504]
        .map(|status| named(Reply::json(status, &detail)))
        .into();
    replies.extend([
        named(Reply::json(422, fields)),
        named(Reply::json(200, reply_json())),
        named(Reply::sse(
            sse_tokens(&["a"]) + "event: done\ndata: [DONE]\n\n",
        )),
        Reply::head(307).header("location", &format!("http://127.0.0.1:9/?key={key}")),
        Reply::json(200, &quote),
        Reply::json(200, reply_json()).header("content-type", &format!("text/{key}")),
        Reply::json(200, reply_json()).header("content-encoding", key),
        Reply::json(500, &quote),
        Reply::nothing()
            .send(format!("{quote}\r\n\r\n"))
            .then_close(),
        Reply::nothing()
            .send(format!("HTTP/1.1 999 {key}\r\n{key}\r\n\r\n"))
            .then_close(),
        Reply::head(200)
            .header("content-length", key)
            .send(&quote)
            .then_close(),
        Reply::sse(sse_tokens(&["a"]))
            .send(format!("{key}\r\n"))
            .then_close(),
        event(detail.to_string()),
        event(quote.clone()),
        Reply::sse(format!(
            "{}event: error\ndata: {quote}\n\n",
            sse_tokens(&["a"])
        )),
        Reply::sse(detail.to_string()),
        Reply::sse(sse_tokens(&["a"])).send(&quote).then_reset(),
        Reply::nothing().then_hold(),
    ]);
    replies
}

/// All that callers received, as text.
#[derive(Default)]
struct RichStatus(String);

impl RichStatus {
    fn headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            writeln!(self.0, "{name}: {value}").expect("memory");
        }
    }

    fn status(&mut self, status: &Status) {
        self.headers(status.clone().into_http::<()>().headers());
        self.headers(status.metadata().as_ref());
        let details = String::from_utf8_lossy(status.details());
        writeln!(self.0, "{status:?} {} {details}", status.message()).expect("memory");
    }
}

/// A request with every key that this caller has, and a short deadline.
fn keyed<T>(message: T) -> Request<T> {
    let own = key(CALLER);
    let bearer = format!("Bearer {own}");
    with_metadata(
        message,
        &[
            ("x-api-key", own.as_bytes()),
            ("authorization", bearer.as_bytes()),
            ("grpc-timeout", b"500m"),
        ],
    )
}

/// Calls both methods: with the caller's keys, with none, and with an unknown key.
async fn call(bridge: &Deployed, received: &mut RichStatus) {
    let mut client = bridge.client();
    match client.invoke(keyed(ask("Salam"))).await {
        Ok(reply) => received.headers(reply.metadata().as_ref()),
        Err(status) => received.status(&status),
    }
    match client.stream(keyed(ask_stream("Salam"))).await {
        Ok(answer) => {
            received.headers(answer.metadata().as_ref());
            let mut events = answer.into_inner();
            while let Some(message) = events.message().await.transpose() {
                match message {
                    Ok(message) => write!(received.0, "{message:?}").expect("memory"),
                    Err(status) => return received.status(&status),
                }
            }
        }
        Err(status) => received.status(&status),
    }
}

/// The settings of one bridge. `dir` has its files.
fn settings(shown: Shown, format: &'static str, dir: &TempDir) -> Vec<(&'static str, String)> {
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let mut settings = vec![
        ("LOG", "trace".to_owned()),
        ("LOG_FORMAT", format.to_owned()),
        (
            "CALLERS_FILE",
            file("callers", &entry("orders", &key(CALLER))),
        ),
    ];
    match shown {
        Shown::Variable => settings.push(("UPSTREAM_API_KEY", key(SERVICE))),
        Shown::File => {
            settings.push(("UPSTREAM_API_KEY", String::new())); // counts as unset
            settings.push(("UPSTREAM_API_KEY_FILE", file("key", &key(SERVICE))));
        }
        Shown::Callers => {
            settings.push(("UPSTREAM_API_KEY", String::new()));
            settings.push(("CREDENTIALS", "caller".into()));
        }
    }
    settings
}

/// All output of a bridge with these settings in a run over all kinds of failure.
async fn everything(shown: Shown, format: &'static str) -> String {
    let quoted = key(if shown == Shown::Callers {
        CALLER
    } else {
        SERVICE
    });
    let mut replies = quoting(&quoted)
        .into_iter()
        .flat_map(|reply| [reply.clone(), reply]);
    let replies: Vec<_> = replies.by_ref().collect();
    let (count, upstream) = (replies.len() / 2, Upstream::scripted(replies));
    let dir = TempDir::new().expect("a directory");
    let mut all = RichStatus::default();
    for (url, times) in [(upstream.url(), count), (refused_url(), 1)] {
        let settings = settings(shown, format, &dir);
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let bridge = Deployed::with(&url, &settings);
        for _ in 0..times {
            call(&bridge, &mut all).await;
        }
        let mut client = bridge.client();
        for wrong in [&b"Bearer "[..], b"Bearer Wr0ngS3cretKey"] {
            let request = with_metadata(ask("Salam"), &[("authorization", wrong)]);
            all.status(&client.invoke(request).await.expect_err("no such caller"));
        }
        all.status(&client.invoke(keyed(ask(""))).await.expect_err("invalid"));
        all.0 += &bridge.metrics().await;
        let ended = bridge.running.stop();
        all.0 += &(ended.stdout + &ended.stderr);
    }
    let shown = upstream
        .requests()
        .into_iter()
        .map(|request| request.headers["x-api-key"].clone());
    let shown: Vec<_> = shown.collect();
    assert_eq!(shown, vec![quoted; 2 * count], "so there was a key to leak");
    all.0
}

fn assert_no_leak(all: &str, case: &str) {
    for core in [SERVICE, CALLER, "Wr0ngS3cretKey"] {
        for form in forms(core) {
            let at = all.find(&form);
            let around = at.map(|at| {
                let (from, to) = (at.saturating_sub(300), (at + 300).min(all.len()));
                String::from_utf8_lossy(&all.as_bytes()[from..to])
            });
            assert_eq!(around, None, "{case}: {core} as {form}");
        }
    }
    for expected in [
        "TRACE",
        "hyper_util",
        "call ended",
        "UPSTREAM_",
        "grpc_server_handled_total",
        "<key>",
    ] {
        assert!(all.contains(expected), "{case}: {expected} is nowhere");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_variable_is_nowhere_after_all_kinds_of_failure() {
    assert_no_leak(&everything(Shown::Variable, "text").await, "text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_file_is_nowhere_after_all_kinds_of_failure() {
    assert_no_leak(&everything(Shown::File, "json").await, "json");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_a_caller_is_nowhere_after_all_kinds_of_failure() {
    for format in ["text", "json"] {
        assert_no_leak(&everything(Shown::Callers, format).await, format);
    }
}

#[test]
fn the_search_finds_a_key_in_every_encoding() {
    let forms = forms(SERVICE);
    for (shift, text) in ["", "a", "ab"].iter().enumerate() {
        let encoded = base64(format!("{text}{}???", key(SERVICE)).as_bytes());
        assert!(forms.iter().any(|form| encoded.contains(form)), "{shift}");
    }
    assert!(
        forms
            .iter()
            .any(|form| format!("{:?}", SERVICE.as_bytes()).contains(form))
    );
}
