//! Bytes through the SSE pipeline: it never panics, keeps no more than its limit allows, and gives the
//! same events and the same end however the bytes are cut, in either framing. What a model said, framed
//! as ALİM frames it, comes back.
//!
//! An input is a letter and the rest. `a`… are limits, and the rest is a body; `A`… are the same
//! limits, and the rest are tokens, with [`NEXT`] between them. [`CUTS`] are no part of either: each
//! is one way to cut, where it stands.

#![no_main]

use std::{cell::RefCell, future::poll_fn, io};

use alim_bridge::{
    reply::Event,
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
const LIMITS: [usize; 6] = [16, 64, 256, 1024, 4096, 65536];

/// Bytes that the pipeline may keep for each byte of the limit. A line of invalid bytes is three times as
/// long in UTF-8, one-letter lines of a token are four times as long once they are fields, buffers
/// double as they grow, and the event is built while its text is still there.
const KEPT_PER_BYTE: usize = 24;
/// What it keeps besides: 4 KiB in each of three buffers, the body, the task that waits for its end.
const KEPT: usize = 20 * 1024;

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
    match letter.is_ascii_uppercase() {
        true => said(&String::from_utf8_lossy(rest)),
        false => any(rest, limit),
    }
});

/// Any bytes at all.
fn any(marked: &[u8], limit: usize) {
    for framing in [Framing::Recover, Framing::Strict] {
        let settings = Settings {
            framing,
            max_event_bytes: limit,
        };
        let mut all = ways(marked).into_iter();
        let whole = read(all.next().expect("one way"), settings);
        for chunks in all {
            assert_eq!(read(chunks, settings), whole, "{framing:?}");
        }
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

/// The events and the error at the end, read twice: the second time to see what was kept meanwhile.
fn read(chunks: Vec<Bytes>, settings: Settings) -> Outcome {
    let mut events = Vec::new();
    let end = each(chunks.clone(), settings, |event| events.push(event));
    let held = chunks.clone(); // what is let go of must not hide what is kept
    let before = ALLOCATED.current_usage();
    ALLOCATED.reset_peak_usage();
    let again = each(chunks, settings, drop);
    let kept = ALLOCATED.peak_usage() - before;
    let allowed = KEPT + KEPT_PER_BYTE * settings.max_event_bytes;
    assert!(kept <= allowed, "kept {kept} bytes, {allowed} allowed");
    assert_eq!(end, again);
    drop(held);
    (events, end)
}

fn each(chunks: Vec<Bytes>, settings: Settings, mut take: impl FnMut(Event)) -> Option<String> {
    let chunks = tokio_stream::iter(chunks.into_iter().map(Ok::<_, io::Error>));
    let body = reqwest::Body::wrap_stream(chunks);
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let mut events = Events::new(body, settings, None);
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
