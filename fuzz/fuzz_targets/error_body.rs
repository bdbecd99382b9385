//! Converts any upstream answer, to either kind of call, to the caller's result. Nothing panics. Statuses stay
//! within callers' limits, and contain no control characters and no part of the key.
//!
//! An input is an HTTP/1.1 answer with `\n` line ends: the status, lines of `name: value`, a blank line, the
//! body.

#![no_main]

use std::{cell::RefCell, future::poll_fn, sync::Arc};

use alim_bridge::{
    call::reply::ReplyHead,
    pb::InvokeResponse,
    service::fuzzing::{invoke, status},
    status::{Credentials, Failure},
    telemetry::{Method, Ongoing, metrics::Metrics, traces::Trace},
    upstream::{
        Error, fuzzing,
        sse::{Settings, framing::Framing},
    },
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use prost::Message;
use secrecy::SecretString;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic_types::StatusExt;

/// Lower case, so that it can be in a header's name too.
const KEY: &str = "5f2a9c-key";
const LIMIT: usize = 2048;
const STREAM: Settings = Settings {
    framing: Framing::Recover,
    max_event_bytes: LIMIT,
};

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().build().expect("a runtime"),
    );
    static CALL: Ongoing = sent_call();
}

/// A call that was sent to the upstream.
fn sent_call() -> Ongoing {
    let call = Ongoing::begin(
        Arc::new(Metrics::new().expect("metrics")),
        Method::Invoke,
        String::new(),
        Trace::begin(None, Method::Invoke, &HeaderMap::new()),
    );
    call.record().upstream_asked(&mut HeaderMap::new());
    call
}

fuzz_target!(|input: &[u8]| {
    let Some(answer) = parse(input) else { return };
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            if let Err(error) = invoked(answer.build()).await {
                check_status(error, &answer, None);
            }
            if let Err((error, delivered)) = streamed(answer.build()).await {
                check_status(error, &answer, delivered);
            }
        });
    });
});

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn build(&self) -> reqwest::Response {
        let mut answer = http::Response::new(self.body.clone());
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers.clone();
        answer.into()
    }
}

fn parse(input: &[u8]) -> Option<Answer> {
    let mut lines = input.split(|byte| *byte == b'\n');
    let status = StatusCode::from_bytes(lines.next()?).ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        headers.append(HeaderName::from_bytes(&line[..colon]).ok()?, value);
    }
    let body = lines.collect::<Vec<_>>().join(&b'\n');
    Some(Answer {
        status,
        headers,
        body,
    })
}

fn key() -> Option<SecretString> {
    Some(KEY.into())
}

async fn invoked(answer: reqwest::Response) -> Result<(), Error> {
    let (reply, head) = fuzzing::invoke(answer, key(), LIMIT).await?;
    assert_no_key_in_head(&head);
    let message = invoke(reply, LIMIT)?;
    let bytes = message.encode_to_vec();
    assert!(bytes.len() <= LIMIT);
    assert_eq!(InvokeResponse::decode(&*bytes).as_ref(), Ok(&message));
    Ok(())
}

/// An error has the number of events before it, if the response headers were sent.
async fn streamed(answer: reqwest::Response) -> Result<(), (Error, Option<u64>)> {
    let stream = fuzzing::stream(answer, key(), STREAM).await;
    let (mut events, head) = stream.map_err(|error| (error, None))?;
    assert_no_key_in_head(&head);
    let mut delivered = 0;
    while let Some(event) = poll_fn(|cx| events.poll_event(cx)).await {
        event.map_err(|error| (error, (delivered > 0).then_some(delivered)))?;
        delivered += 1;
    }
    Ok(())
}

/// Checks the error's status. The credentials only select its mapping.
fn check_status(error: Error, answer: &Answer, delivered: Option<u64>) {
    let credentials = match answer.body.len() % 2 {
        0 => Credentials::Service,
        _ => Credentials::Caller,
    };
    let failure = Failure::Upstream(error);
    let status = CALL.with(|call| status(failure, call.record(), credentials, delivered));
    let fields = status.clone().into_http::<()>().into_parts().0.headers;
    assert_bounds(&status, &fields);
    assert_clean(status.message());
    // Checked decoded: encoding can produce the key by chance, since `%` becomes `%25`.
    let mut plain = fields.clone();
    plain.remove("grpc-message");
    plain.remove("grpc-status-details-bin");
    assert_no_key(&plain);
    let bytes = status.details().windows(KEY.len());
    assert!(
        bytes.clone().all(|bytes| bytes != KEY.as_bytes()),
        "{status:?}"
    );
    let text = format!("{status:?} {:?}", status.get_error_details());
    assert!(!text.contains(KEY), "{text}");
    let read = Status::from_header_map(&fields).expect("a status");
    assert_eq!(
        (read.code(), read.message()),
        (status.code(), status.message())
    );
    assert_eq!(read.details(), status.details());
}

fn assert_bounds(status: &Status, fields: &HeaderMap) {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let total: usize = fields.iter().map(size).sum();
    assert!(total <= 4096, "{total} bytes of trailers: {fields:?}");
    let message = fields.get("grpc-message").map_or(0, HeaderValue::len);
    assert!(message <= 1024, "{message} bytes of message");
    let pushback = fields.get("grpc-retry-pushback-ms");
    let pushback = pushback.map(|value| value.to_str().expect("text").parse::<i64>());
    assert!(pushback.is_none_or(|millis| millis.is_ok_and(|millis| millis >= -1 && millis != 0)));

    let details = status.get_error_details();
    let info = details.error_info().expect("every status has one");
    assert_eq!(info.domain, "alim-bridge");
    assert_eq!(info.metadata["sent"], "true");
    assert!(
        info.reason
            .bytes()
            .all(|byte| byte == b'_' || byte.is_ascii_uppercase())
    );
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]);
    let violations = violations.unwrap_or_default();
    assert!(violations.len() <= 16, "{} violations", violations.len());
    for violation in violations {
        let (field, description) = (&violation.field, &violation.description);
        assert!(field.len() + description.len() <= 200, "{violation:?}");
        assert_clean(field);
        assert_clean(description);
    }
}

fn assert_clean(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(!text.contains("://"), "{text:?}");
}

fn assert_no_key_in_head(head: &ReplyHead) {
    assert_no_key(&head.headers);
    assert!(head.request_id.as_ref().is_none_or(|id| !id.contains(KEY)));
}

fn assert_no_key(fields: &HeaderMap) {
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value.as_bytes());
        assert!(
            !name.as_str().contains(KEY) && !value.contains(KEY),
            "{name}: {value}"
        );
    }
}
