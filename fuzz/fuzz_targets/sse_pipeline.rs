//! Bytes through the SSE pipeline: it never panics, keeps no more than its limit allows, and gives the
//! same events and the same end however the bytes are cut, in either framing. What a model said, framed
//! as ALİM frames it, comes back.
//!
//! An input is a character and the rest. For `a`…, which are limits, the rest is a body; for `0`…, limits
//! too, what is repeated in a body without end; for `A`… tokens, with [`NEXT`] between them. [`CUTS`]
//! are no part of bodies and tokens: each is one way to cut, where it stands.

#![no_main]

use std::{cell::RefCell, future::poll_fn, io};

use alim_bridge::{
    call::reply::Event,
    memory::Account,
    upstream::{
        Error,
        sse::{Events, Settings, framing::Framing},
    },
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const CUTS: [u8; 2] = [0x1e, 0x1f];
const NEXT: u8 = 0x1d;
/// A token that begins with it comes after a heartbeat and a node.
const INTERLUDE: char = '\u{1c}';
/// Bytes up to which a body is given byte by byte too, which is slow.
const FEW: usize = 300;
/// Bytes of a body that is repeated, at least; more than what may be kept at the three smaller limits.
const ENDLESS: usize = 32 * 1024;
/// As hyper gives them, or near it.
const CHUNK: usize = 4096;
const LIMITS: [usize; 6] = [16, 64, 256, 1024, 4096, 65536];

/// Bytes that the pipeline may keep for each byte of the limit. A line of invalid bytes is three times as
/// long in UTF-8, one-letter lines of a token are four times as long once they are fields, buffers
/// double as they grow, and the event is built while its text is still there.
const KEPT_PER_BYTE: usize = 24;
/// What it keeps besides: 4 KiB in each of three buffers, the body, the task that waits for its end.
const KEPT: usize = 16 * 1024;

thread_local! {
    static RUNTIME: RefCell<Runtime> = RefCell::new(
        Builder::new_current_thread().enable_time().build().expect("a runtime"),
    );
}

fuzz_target!(|input: &[u8]| {
    let Some((letter, rest)) = input.split_first() else {
        return;
    };
    let limit = LIMITS[usize::from(*letter) % LIMITS.len()];
    match letter {
        b'A'..=b'Z' => said(&String::from_utf8_lossy(rest)),
        b'0'..=b'9' => endless(rest, limit),
        _ => any(rest, limit),
    }
});

/// Any bytes at all.
fn any(marked: &[u8], limit: usize) {
    for framing in [Framing::Recover, Framing::Strict] {
        let settings = Settings {
            framing,
            max_event_bytes: limit,
        };
        let mut outcomes = ways(marked)
            .into_iter()
            .map(|chunks| read(chunks, settings));
        let whole = outcomes.next().expect("one way");
        outcomes.for_each(|outcome| assert_eq!(outcome, whole, "{framing:?}"));
    }
}

/// What a model said.
fn said(text: &str) {
    let mut marked = String::new();
    let mut expected = String::new();
    for token in text.split(char::from(NEXT)) {
        let (interlude, token) = match token.strip_prefix(INTERLUDE) {
            Some(token) => (": ping\n\nevent: node\ndata: n\n\n", token),
            None => ("", token),
        };
        let plain = token.replace(CUTS.map(char::from), "");
        if is_exempt(&plain) {
            continue;
        }
        marked += &format!("{interlude}event: token\ndata: {token}\n\n");
        expected += &plain;
    }
    marked += "event: done\ndata: [DONE]\n\n";
    let settings = Settings {
        framing: Framing::Recover,
        max_event_bytes: 1 << 20,
    };
    for chunks in ways(marked.as_bytes()) {
        let (events, end) = read(chunks, settings);
        let texts = events.iter().filter_map(|event| match event {
            Event::Token(text) => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(texts.collect::<String>(), expected);
        assert_eq!((events.last(), end), (Some(&Event::Done), None));
    }
}

/// What can't be told from framing: `\r`, and lines that begin as fields or comments do.
fn is_exempt(token: &str) -> bool {
    let fields = ["data:", "event:", "id:", "retry:", ":"];
    let is_field = |line: &str| fields.iter().any(|field| line.starts_with(field));
    token.contains('\r') || token.split('\n').skip(1).any(is_field)
}

/// The bytes whole, cut at either mark, and, where they are few, byte by byte.
fn ways(marked: &[u8]) -> Vec<Vec<Bytes>> {
    let is_mark = |byte: &u8| CUTS.contains(byte);
    let without =
        |bytes: &[u8]| -> Bytes { bytes.iter().copied().filter(|b| !is_mark(b)).collect() };
    let whole = without(marked);
    let mut ways = vec![vec![whole.clone()]];
    for mark in CUTS {
        ways.push(marked.split(|byte| *byte == mark).map(without).collect());
    }
    if whole.len() <= FEW {
        ways.push((0..whole.len()).map(|at| whole.slice(at..=at)).collect());
    }
    ways
}

type Outcome = (Vec<Event>, Option<String>);

/// The events, and the error at the end.
fn read(chunks: Vec<Bytes>, settings: Settings) -> Outcome {
    let mut events = Vec::new();
    let end = each(chunks, settings, |event| events.push(event));
    (events, end)
}

/// Reads the bytes again and again, as a body that does not end, and sees what is kept meanwhile; in
/// the framing that keeps more.
fn endless(bytes: &[u8], limit: usize) {
    let settings = Settings {
        framing: Framing::Recover,
        max_event_bytes: limit,
    };
    let chunk = Bytes::from(bytes.repeat(CHUNK / bytes.len().max(1) + 1));
    let chunks = vec![chunk; ENDLESS / CHUNK];
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    each(chunks, settings, drop);
    let kept = ALLOCATED.peak_usage().saturating_sub(before);
    let allowed = KEPT + KEPT_PER_BYTE * limit;
    assert!(kept <= allowed, "kept {kept} bytes, {allowed} allowed");
}

fn each(chunks: Vec<Bytes>, settings: Settings, mut take: impl FnMut(Event)) -> Option<String> {
    let chunks = tokio_stream::iter(chunks.into_iter().map(Ok::<_, io::Error>));
    let body = reqwest::Body::wrap_stream(chunks);
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let mut events = Events::new(body, settings, Account::unlimited(), None);
            loop {
                match poll_fn(|cx| events.poll_event(cx)).await {
                    Some(Ok(event)) => take(event),
                    Some(Err(error)) => break Some(told(&error)),
                    None => break None,
                }
            }
        })
    })
}

fn told(error: &Error) -> String {
    format!("{error:?}")
}
