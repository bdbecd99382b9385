//! The SSE pipeline against the standard and against ALİM's framing, however its bytes are split.

use std::{
    future::poll_fn,
    task::{Context, Poll, Waker},
};

use crate::sse_cases::{CASES, FRAMING};
use alim_bridge::{
    call::reply::Event,
    memory::Account,
    upstream::{
        Error,
        sse::{Events, Settings, framing::Framing},
    },
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use proptest::prelude::*;

const DONE: &[u8] = b"event: done\ndata: [DONE]\n\n";

fn pipeline(
    chunks: Vec<Vec<u8>>,
    framing: Framing,
    max_event_bytes: usize,
) -> (Vec<Event>, Option<Error>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let chunks = chunks
            .into_iter()
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
        let body = reqwest::Body::wrap_stream(tokio_stream::iter(chunks));
        let mut events = Events::new(
            body,
            Settings {
                framing,
                max_event_bytes,
            },
            Account::unlimited(),
            None,
        );
        let mut all = Vec::new();
        loop {
            match poll_fn(|cx| events.poll_event(cx)).await {
                Some(Ok(event)) => all.push(event),
                Some(Err(error)) => return (all, Some(error)),
                None => return (all, None),
            }
        }
    })
}

fn whole(body: &[u8], framing: Framing) -> Vec<Event> {
    pipeline(vec![body.to_vec()], framing, 1 << 20).0
}

fn byte_by_byte(body: &[u8], framing: Framing) -> Vec<Event> {
    let bytes = body.iter().map(|byte| vec![*byte]).collect();
    pipeline(bytes, framing, 1 << 20).0
}

fn others(events: &[(&str, &str)]) -> Vec<Event> {
    let other = |(kind, data): &(&str, &str)| Event::Other {
        kind: (*kind).into(),
        data: (*data).into(),
    };
    events.iter().map(other).collect()
}

fn tokens(events: &[Event]) -> Vec<String> {
    let until_done = events.iter().take_while(|event| **event != Event::Done);
    let token = |event: &Event| match event {
        Event::Token(text) => Some(text.clone()),
        _ => None,
    };
    until_done.filter_map(token).collect()
}

#[test]
fn the_standards_cases_hold_whole_and_byte_by_byte_in_either_framing() {
    for case in CASES {
        for framing in [Framing::Recover, Framing::Strict] {
            let expected = others(case.events);
            let (name, rule) = (case.name, case.rule);
            assert_eq!(
                whole(case.body, framing),
                expected,
                "{name}, {framing:?}: {rule}"
            );
            assert_eq!(
                byte_by_byte(case.body, framing),
                expected,
                "{name}, {framing:?}, byte by byte: {rule}"
            );
        }
    }
}

#[test]
fn unescaped_newlines_are_recovered_as_listed() {
    for row in FRAMING {
        let name = row.name;
        for read in [whole, byte_by_byte] {
            let arrived = tokens(&read(row.wire, Framing::Recover));
            assert_eq!(arrived, row.arrives, "{name}");
            assert_eq!(arrived.concat(), row.joined, "{name}");
            let strict = tokens(&read(row.wire, Framing::Strict));
            assert_eq!(strict.concat(), row.strict_joined, "{name}, strict");
        }
    }
}

#[test]
fn unambiguous_text_is_recovered_exactly() {
    let faithful = FRAMING
        .iter()
        .filter(|row| row.tokens.concat() == row.joined)
        .count();
    assert!(faithful >= 30, "only {faithful} rows are faithful");
}

#[test]
fn an_event_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let event = b"event: token\ndata: abcde\n\n".to_vec();
    let lines = event.len() - 2; // without the last two line ends, which join no lines
    let (events, error) = pipeline(vec![event.clone()], Framing::Recover, lines);
    assert_eq!(events, [Event::Token("abcde".into())]);
    assert!(matches!(error, Some(Error::Truncated)));
    let (events, error) = pipeline(vec![event], Framing::Recover, lines - 1);
    assert_eq!(events, []);
    assert!(matches!(error, Some(Error::TooLarge { limit, .. }) if limit == lines - 1));
}

#[test]
fn an_event_of_many_lines_is_joined_whatever_its_size() {
    for lines in [1, 10, 60, 100, 2000] {
        let body = format!(
            "\u{feff}\u{feff}x: 1\n{}\n",
            "data: a\u{feff}\n".repeat(lines)
        );
        let expected = vec!["a\u{feff}"; lines].join("\n");
        assert_eq!(
            whole(body.as_bytes(), Framing::Recover),
            others(&[("message", &expected)])
        );
    }
}

#[test]
fn an_endless_line_is_rejected_early() {
    let chunks = vec![vec![b'x'; 1000]; 2000];
    let (_, error) = pipeline(chunks, Framing::Recover, 4096);
    assert!(matches!(error, Some(Error::TooLarge { limit: 4096, .. })));
}

#[test]
fn endless_data_lines_without_a_blank_line_are_rejected() {
    let chunks = vec![b"data: x\n".to_vec(); 2000];
    let (_, error) = pipeline(chunks, Framing::Recover, 4096);
    assert!(matches!(error, Some(Error::TooLarge { .. })));
}

#[test]
fn endless_heartbeats_are_no_event_and_use_no_memory() {
    let mut chunks = vec![b"data: x\n".to_vec()];
    chunks.extend(vec![b": ping\n".repeat(1000); 2000]);
    chunks.push(b"\n".to_vec());
    let (events, _) = pipeline(chunks, Framing::Recover, 64);
    assert_eq!(events, others(&[("message", "x")]));
}

#[tokio::test]
async fn after_done_the_body_is_read_to_its_end_and_its_connection_reused() {
    let (ended, end) = tokio::sync::oneshot::channel();
    let chunks = async_chunks(DONE, ended);
    let settings = Settings {
        framing: Framing::Recover,
        max_event_bytes: 1024,
    };
    let mut events = Events::new(
        reqwest::Body::wrap_stream(chunks),
        settings,
        Account::unlimited(),
        None,
    );
    assert!(matches!(
        poll_fn(|cx| events.poll_event(cx)).await,
        Some(Ok(Event::Done))
    ));
    end.await.expect("the end was asked for");
}

/// One chunk. `ended` is signalled when the stream is polled after it.
fn async_chunks(
    chunk: &'static [u8],
    ended: tokio::sync::oneshot::Sender<()>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((Some(chunk), Some(ended)), |(chunk, ended)| async move {
        let Some(chunk) = chunk else {
            ended.map(|ended| ended.send(()));
            return None;
        };
        Some((Ok(Bytes::from_static(chunk)), (None, ended)))
    })
}

#[test]
fn invalid_utf8_and_byte_order_marks_are_read_alike_in_small_and_large_events() {
    for lines in [1, 1000] {
        let mut body = b"\n\xEF\xBB\xBFunknown\ndata: \xEF\xBB\xBF\n".to_vec();
        body.extend(b"data: \xFF\n".repeat(lines));
        body.push(b'\n');
        let data = format!("\u{feff}{}", "\n\u{fffd}".repeat(lines));
        for read in [whole, byte_by_byte] {
            assert_eq!(read(&body, Framing::Recover), others(&[("message", &data)]));
        }
    }
}

/// Model text with newlines and multi-byte characters, but without ambiguous lines: those that begin with a field's name
/// and colon, or with a colon, and `\r`.
fn model_text() -> impl Strategy<Value = Vec<String>> {
    let piece = prop_oneof![
        4 => "[a-zəğıöüçş ,.!-]{0,6}",
        3 => Just("\n".to_owned()),
        1 => Just("\n\n".to_owned()),
        1 => Just("data".to_owned()),
        1 => Just("  iki".to_owned()),
        1 => Just("🌾 : x".to_owned()),
        1 => Just(String::new()),
    ];
    let token = proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
    proptest::collection::vec(token, 0..12).prop_map(|tokens| {
        let is_clear = |token: &String| {
            let fields = ["data:", "event:", "id:", "retry:", ":"];
            !token
                .split('\n')
                .skip(1)
                .any(|line| fields.iter().any(|field| line.starts_with(field)))
        };
        tokens.into_iter().filter(is_clear).collect()
    })
}

fn split(body: &[u8], splits: &[usize]) -> Vec<Vec<u8>> {
    let mut splits: Vec<_> = splits
        .iter()
        .map(|split| split % (body.len() + 1))
        .collect();
    splits.extend([0, body.len()]);
    splits.sort_unstable();
    splits
        .windows(2)
        .map(|pair| body[pair[0]..pair[1]].to_vec())
        .collect()
}

proptest! {
    #[test]
    fn the_models_text_is_recovered_however_the_bytes_are_split(
        said in model_text(),
        splits in proptest::collection::vec(any::<usize>(), 0..30),
        heartbeats in any::<bool>(),
    ) {
        let mut body = Vec::new();
        for token in &said {
            body.extend_from_slice(format!("event: token\ndata: {token}\n\n").as_bytes());
            if heartbeats {
                body.extend_from_slice(b": ping\n\n");
            }
        }
        body.extend_from_slice(DONE);
        let (events, error) = pipeline(split(&body, &splits), Framing::Recover, 1 << 20);
        prop_assert!(error.is_none());
        prop_assert_eq!(tokens(&events).concat(), said.concat());
        prop_assert_eq!(events.last(), Some(&Event::Done));
    }

    #[test]
    fn any_bytes_give_the_same_events_however_they_are_split(
        body in proptest::collection::vec(
            prop_oneof![
                Just(b"data: ".to_vec()), Just(b"event: token\n".to_vec()), Just(b"\n".to_vec()),
                Just(b"\r".to_vec()), Just(b"\xEF\xBB\xBF".to_vec()), Just(b": x\n".to_vec()),
                Just(b"event: done\n".to_vec()), proptest::collection::vec(any::<u8>(), 0..4),
            ],
            0..40,
        ),
        splits in proptest::collection::vec(any::<usize>(), 0..30),
    ) {
        let body = body.concat();
        let (at_once, _) = pipeline(vec![body.clone()], Framing::Recover, 256);
        let (in_pieces, _) = pipeline(split(&body, &splits), Framing::Recover, 256);
        prop_assert_eq!(at_once, in_pieces);
    }
}

/// How often the pipeline yields while it reads one chunk of `count` such lines.
fn yields(line: &str, count: usize) -> usize {
    let body = [line.repeat(count).as_bytes(), DONE].concat();
    let settings = Settings {
        framing: Framing::Recover,
        max_event_bytes: 1 << 20,
    };
    let mut events = Events::new(
        reqwest::Body::from(body),
        settings,
        Account::unlimited(),
        None,
    );
    let mut cx = Context::from_waker(Waker::noop());
    let mut yields = 0;
    loop {
        match events.poll_event(&mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(end) => {
                assert!(end.is_none(), "{end:?}");
                return yields;
            }
            Poll::Pending => yields += 1,
        }
    }
}

#[test]
fn a_flood_of_lines_or_bytes_yields_to_other_tasks() {
    for line in ["\n", ": ping\n", "id: 1\n\n", "event: token\ndata: a\n\n"] {
        let lines = 10_000 * line.matches('\n').count();
        let yields = yields(line, 10_000);
        assert!(yields >= lines / 256, "{line:?}: {yields}");
    }
    let long = format!(": {}\n", "x".repeat(8_000));
    assert!(yields(&long, 900) >= 100);
}
