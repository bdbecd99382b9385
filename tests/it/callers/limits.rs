//! The limits of one caller: open calls, rate and fields. They take nothing from other callers.

use std::time::Duration;

use crate::support::{
    Bridge, RichStatus, ask, ask_stream,
    callers::entry,
    extra::advance_time,
    read_all, sse_tokens,
    upstream::{Gate, Reply, Upstream},
};
use alim_bridge::pb::{InvokeRequest, StreamRequest};
use tonic::{Code, Status};

use super::{because, invoke, invoked_by, knowing, replying, streamed_by};

fn retry_delay(status: &Status) -> Option<Duration> {
    let info = status.error_details().retry_info().cloned()?;
    info.retry_delay
}

#[tokio::test]
async fn a_caller_at_its_limit_of_open_calls_is_rejected_and_others_are_not() {
    let gate = Gate::default();
    let reply = Reply::sse(sse_tokens(&["a"])).wait(&gate);
    let upstream = Upstream::answering(reply);
    let text = entry("orders", "o") + "max_open_calls = 2\n" + &entry("billing", "b");
    let (bridge, _file) = knowing(&upstream, &text, &[]).await;
    let mut client = bridge.client.clone();
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(client.stream(streamed_by("o")).await.expect("a token"));
    }
    let invoked = invoke(&bridge, invoked_by("o")).await.expect_err("full");
    let streamed = client.stream(streamed_by("o")).await.expect_err("full");
    for status in [invoked, streamed] {
        let full = because(Code::ResourceExhausted, "CALLER_SATURATED");
        assert_eq!(status.code_and_reason(), full);
        assert_eq!(status.info("sent").as_deref(), Some("false"));
        assert_eq!((status.pushback(), retry_delay(&status)), (None, None));
    }
    let _other = client.stream(streamed_by("b")).await.expect("a token");
    assert_eq!(upstream.requests().len(), 3, "what is rejected is not sent");
    gate.open();
    for stream in open {
        read_all(stream.into_inner())
            .await
            .1
            .expect_err("no done came");
    }
    client
        .stream(streamed_by("o"))
        .await
        .expect("its slots are free");
}

#[tokio::test]
async fn a_caller_above_its_rate_gets_the_exact_retry_delay() {
    let upstream = replying();
    let text = entry("orders", "o") + "rate = \"2/min\"\n" + &entry("billing", "b");
    let (bridge, _file) = knowing(&upstream, &text, &[]).await;
    for _ in 0..2 {
        invoke(&bridge, invoked_by("o")).await.expect("a reply");
    }
    let status = invoke(&bridge, invoked_by("o")).await.expect_err("above");
    let above = because(Code::ResourceExhausted, "CALLER_RATE_LIMITED");
    assert_eq!(status.code_and_reason(), above);
    assert_eq!(status.info("sent").as_deref(), Some("false"));
    let wait = retry_delay(&status).expect("a time");
    assert!((20..=30).contains(&wait.as_secs()), "{wait:?}");
    let pushback = wait.as_micros().div_ceil(1000).to_string();
    assert_eq!(status.pushback(), Some(pushback));
    invoke(&bridge, invoked_by("b"))
        .await
        .expect("another caller");

    let mut in_haste = invoked_by("o");
    in_haste.set_timeout(Duration::from_secs(10));
    let status = invoke(&bridge, in_haste).await.expect_err("above");
    assert_eq!(
        status.pushback().as_deref(),
        Some("-1"),
        "beyond its deadline"
    );
    assert!(retry_delay(&status).is_some());

    advance_time(retry_delay(&status).expect("a time")).await;
    invoke(&bridge, invoked_by("o")).await.expect("the third");
    assert_eq!(upstream.requests().len(), 4);
}

/// The statuses of both methods for a question with a system prompt.
async fn with_prompt(bridge: &Bridge, key: &str, prompt: &str) -> [Result<(), Status>; 2] {
    let (invoked, streamed) = (invoked_by(key), streamed_by(key));
    let prompt = Some(prompt.to_owned());
    let invoked = invoked.map(|_| InvokeRequest {
        system_prompt_override: prompt.clone(),
        ..ask("Salam")
    });
    let streamed = streamed.map(|_| StreamRequest {
        system_prompt_override: prompt,
        ..ask_stream("Salam")
    });
    let mut client = bridge.client.clone();
    [
        client.invoke(invoked).await.map(drop),
        client.stream(streamed).await.map(drop),
    ]
}

#[tokio::test]
async fn a_forbidden_system_prompt_is_rejected_with_the_fields_name() {
    let upstream = replying();
    let defaults = "[defaults]\nsystem_prompt_override = \"reject\"\n";
    let allowed = entry("billing", "b") + "system_prompt_override = \"allow\"\n";
    let text = [defaults, &entry("orders", "o"), &allowed].concat();
    let (bridge, _file) = knowing(&upstream, &text, &[]).await;
    for prompt in ["Be rude.", ""] {
        for answer in with_prompt(&bridge, "o", prompt).await {
            let status = answer.expect_err("not allowed");
            let not_allowed = because(Code::PermissionDenied, "FIELD_NOT_ALLOWED");
            assert_eq!(status.code_and_reason(), not_allowed);
            assert_eq!(status.info("sent").as_deref(), Some("false"));
            let rich = status.error_details();
            let fields = &rich.bad_request().expect("a BadRequest").field_violations;
            assert_eq!(fields.len(), 1);
            assert_eq!(fields[0].field, "system_prompt_override");
        }
    }
    assert!(upstream.requests().is_empty());
    invoke(&bridge, invoked_by("o")).await.expect("without it");
    let [invoked, _] = with_prompt(&bridge, "b", "Be kind.").await;
    invoked.expect("allowed");
    let asked = upstream.requests().into_iter().map(|asked| asked.json());
    let prompts = asked.filter(|asked| asked["system_prompt_override"] == "Be kind.");
    assert_eq!(prompts.count(), 2, "by both methods");
}
