//! Feeds bytes to the SSE pipeline. It never panics, and buffers no more than its limit allows. In either
//! framing, the events and the end do not depend on chunk boundaries. A model's text that is framed as
//! ALİM frames it is recovered.
//!
//! The first character of an input selects a limit and the kind of the rest. `a`…: a body. `0`…: bytes that
//! repeat in an endless body. `A`…: tokens, separated by [`NEXT`]. [`CUTS`] are not part of bodies and
//! tokens: each of the two marks is one set of chunk boundaries.

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
/// A token that begins with it follows a heartbeat and a node.
const INTERLUDE: char = '\u{1c}';
/// Bodies up to this size are also fed byte by byte, which is slow.
const MAX_BYTE_BY_BYTE: usize = 300;
/// Minimum bytes of an endless body: more than the pipeline can buffer at the three smaller limits.
const ENDLESS: usize = 32 * 1024;
/// A chunk's size, close to hyper's.
const CHUNK: usize = 4096;
const LIMITS: [usize; 6] = [16, 64, 256, 1024, 4096, 65536];

/// Bytes that the pipeline can buffer for each byte of the limit. A line of invalid bytes is three times as
/// long in UTF-8. One-letter lines of a token are four times as long as fields. Buffers double as they grow.
/// The event is built while its text is still buffered.
const KEPT_PER_BYTE: usize = 24;
/// The rest: 4 KiB in each of three buffers, the body, and the task that waits for its end.
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
        b'A'..=b'Z' => check_tokens(&String::from_utf8_lossy(rest)),
        b'0'..=b'9' => check_memory(rest, limit),
        _ => check_body(rest, limit),
    }
});

/// Checks that any body gives the same outcome for all chunk boundaries.
fn check_body(marked: &[u8], limit: usize) {
    for framing in [Framing::Recover, Framing::Strict] {
        let settings = Settings {
            framing,
            max_event_bytes: limit,
        };
        let mut outcomes = chunkings(marked)
            .into_iter()
            .map(|chunks| read(chunks, settings));
        let whole = outcomes.next().expect("one chunking");
        outcomes.for_each(|outcome| assert_eq!(outcome, whole, "{framing:?}"));
    }
}

/// Checks that a model's text is recovered.
fn check_tokens(text: &str) {
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
    for chunks in chunkings(marked.as_bytes()) {
        let (events, end) = read(chunks, settings);
        let texts = events.iter().filter_map(|event| match event {
            Event::Token(text) => Some(text.as_str()),
            _ => None,
        });
        assert_eq!(texts.collect::<String>(), expected);
        assert_eq!((events.last(), end), (Some(&Event::Done), None));
    }
}

/// Whether a token is ambiguous: it has `\r`, or a line that begins like a field or a comment.
fn is_exempt(token: &str) -> bool {
    let fields = ["data:", "event:", "id:", "retry:", ":"];
    let is_field = |line: &str| fields.iter().any(|field| line.starts_with(field));
    token.contains('\r') || token.split('\n').skip(1).any(is_field)
}

/// The bytes as one chunk, split at either mark, and byte by byte if they are few.
fn chunkings(marked: &[u8]) -> Vec<Vec<Bytes>> {
    let is_mark = |byte: &u8| CUTS.contains(byte);
    let without =
        |bytes: &[u8]| -> Bytes { bytes.iter().copied().filter(|b| !is_mark(b)).collect() };
    let whole = without(marked);
    let mut chunkings = vec![vec![whole.clone()]];
    for mark in CUTS {
        chunkings.push(marked.split(|byte| *byte == mark).map(without).collect());
    }
    if whole.len() <= MAX_BYTE_BY_BYTE {
        chunkings.push((0..whole.len()).map(|at| whole.slice(at..=at)).collect());
    }
    chunkings
}

type Outcome = (Vec<Event>, Option<String>);

/// The events, and the error at the end.
fn read(chunks: Vec<Bytes>, settings: Settings) -> Outcome {
    let mut events = Vec::new();
    let end = each(chunks, settings, |event| events.push(event));
    (events, end)
}

/// Reads the bytes repeatedly, as an endless body, and checks the peak memory, in the framing that buffers
/// more.
fn check_memory(bytes: &[u8], limit: usize) {
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
                    Some(Err(error)) => break Some(describe(&error)),
                    None => break None,
                }
            }
        })
    })
}

fn describe(error: &Error) -> String {
    format!("{error:?}")
}
