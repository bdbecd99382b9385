//! Measures the SSE pipeline by instruction count. Its cost must be linear for any chunk boundaries.
//!
//! `cargo bench --bench sse` runs this binary under valgrind's callgrind, once for each workload and
//! size. It prints a table, and exits 1 if a goal is missed or 2 if it can't measure. `-- --short` omits
//! the largest sizes. Unlike time, instruction counts do not depend on the machine's load.
//!
//! Each figure is the difference of two runs that build the same body: only one of them reads it.
//! eventsource-stream alone reads the same bodies for comparison, if its work is bounded.

use std::{
    env,
    fmt::Write as _,
    future::poll_fn,
    hint::black_box,
    io::{self, ErrorKind, Write as _},
    process::{Command, ExitCode},
};

use alim_bridge::{
    call::reply::Event,
    memory::Account,
    upstream::sse::{Events, Settings, framing::Framing},
};
use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::StreamExt;
use http_body_util::BodyExt;

const DONE: &str = "event: done\ndata: [DONE]\n\n";
const HEAD: &str = "event: token\ndata: ";
/// Most Azerbaijani words have two-byte letters, which is the slower path of every decoder.
const WORD: &str = " sahə";
const ASCII_WORD: &str = " soil";
const CHUNK_BYTES: usize = 1024;
/// Disables `rep movsb` in glibc, because valgrind counts each byte that it copies as an instruction.
const NO_REP_MOVSB: &str = "glibc.cpu.x86_rep_movsb_threshold=0x7fffffffffffffff";
/// Above the largest workload.
const MAX_EVENT_BYTES: usize = 8 << 20;
/// The largest cost per unit of a size, relative to the workload's first size.
const MAX_GROWTH: f64 = 1.05;

type AnyError = Box<dyn std::error::Error>;

/// A kind of body. Each ends with `done`.
struct Workload {
    name: &'static str,
    unit: &'static str,
    chunks: fn(usize) -> Vec<Bytes>,
    /// The others are compared with the first.
    sizes: &'static [usize],
    /// The largest size of `--short`.
    short: usize,
    /// The largest size for eventsource-stream alone.
    bare: usize,
    /// The largest number of instructions per unit, at any size. It is a little above the measured number, to
    /// detect regressions.
    goal: f64,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "line-in-chunks",
        unit: "byte",
        chunks: line_in_chunks,
        sizes: &[64 * KIB, 128 * KIB, MIB, 4 * MIB],
        short: MIB,
        bare: 128 * KIB,
        goal: 45.0,
    },
    Workload {
        name: "events-in-one-chunk",
        unit: "event",
        chunks: events_in_one_chunk,
        sizes: &[1000, 4000, 40_000],
        short: 4000,
        bare: 4000,
        goal: 4500.0,
    },
    Workload {
        name: "event-a-chunk",
        unit: "event",
        chunks: event_a_chunk,
        sizes: &[1000, 10_000],
        short: 1000,
        bare: 10_000,
        goal: 4500.0,
    },
    Workload {
        name: "event-ascii",
        unit: "byte",
        chunks: |bytes| event_in_one_chunk(ASCII_WORD, bytes),
        sizes: &[100_000, 1_000_000],
        short: 1_000_000,
        bare: 1_000_000,
        goal: 32.0, // eventsource-stream alone takes 21
    },
    Workload {
        name: "event-azerbaijani",
        unit: "byte",
        chunks: |bytes| event_in_one_chunk(WORD, bytes),
        sizes: &[100_000, 1_000_000],
        short: 1_000_000,
        bare: 1_000_000,
        goal: 45.0, // UTF-8 is checked twice, by us and by eventsource-stream
    },
    Workload {
        name: "event-no-utf8",
        unit: "line",
        chunks: event_no_utf8,
        sizes: &[1000, 4000, 100_000],
        short: 4000,
        bare: 0,
        goal: 2500.0,
    },
    Workload {
        name: "comments",
        unit: "line",
        chunks: comments,
        sizes: &[1000, 4000, 100_000],
        short: 4000,
        bare: 4000,
        goal: 350.0,
    },
    Workload {
        name: "event-of-short-lines",
        unit: "line",
        chunks: event_of_short_lines,
        sizes: &[1000, 4000, 100_000],
        short: 4000,
        bare: 4000,
        goal: 2500.0,
    },
];

fn main() -> ExitCode {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    if let ["read", reader, workload, size, part] = args[..] {
        read(reader, workload, size, part == "whole");
        return ExitCode::SUCCESS;
    }
    if !args.contains(&"--bench") {
        return ExitCode::SUCCESS; // cargo test: nothing to test here
    }
    match measure(args.contains(&"--short")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("can't measure: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the table. Returns false if a goal is missed.
fn measure(short: bool) -> Result<bool, AnyError> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{:<21} {:>9} {:>13}  {:>14} {:>7}  {:>14} {:>6}   {:>15} {:>9}",
        "workload",
        "size",
        "instructions",
        "per unit",
        "goal",
        "against first",
        "goal",
        "bare, per unit",
        "bare/ours",
    )?;
    let mut all_met = true;
    for workload in WORKLOADS {
        let mut first = None;
        let sizes = workload.sizes.iter().copied();
        for size in sizes.filter(|&size| !short || size <= workload.short) {
            let (row, met) = workload.row(size, &mut first)?;
            writeln!(out, "{row}{}", if met { "" } else { "   MISSED" })?;
            all_met &= met;
        }
    }
    writeln!(
        out,
        "\n-: eventsource-stream alone isn't run, because its cost grows with the square of the size, or \
         because it never finishes an event with a byte that is not UTF-8"
    )?;
    Ok(all_met)
}

impl Workload {
    /// One line of the table, and whether it meets its goals.
    fn row(&self, size: usize, first: &mut Option<f64>) -> Result<(String, bool), AnyError> {
        let units = size as f64;
        let instructions = count("ours", self.name, size)?;
        let each = instructions as f64 / units;
        let mut row = format!(
            "{:<21} {size:>9} {instructions:>13}  {each:>8.1}/{:<5} {:>7}",
            self.name, self.unit, self.goal
        );
        let growth = first.map_or(1.0, |first| each / first);
        match first.replace(first.unwrap_or(each)) {
            Some(_) => write!(row, "  {growth:>14.2} {MAX_GROWTH:>6}")?,
            None => write!(row, "  {:>14} {:>6}", "", "")?,
        }
        if size <= self.bare {
            let bare = count("bare", self.name, size)? as f64 / units;
            write!(row, "   {bare:>15.1} {:>9.2}", bare / each)?;
        } else {
            write!(row, "   {:>15} {:>9}", "-", "-")?;
        }
        let met = growth <= MAX_GROWTH && each <= self.goal;
        Ok((row, met))
    }
}

/// The instructions of reading a body, without those of building it.
fn count(reader: &str, workload: &str, size: usize) -> Result<u64, AnyError> {
    let whole = callgrind(&["read", reader, workload, &size.to_string(), "whole"])?;
    let built = callgrind(&["read", reader, workload, &size.to_string(), "built"])?;
    whole
        .checked_sub(built)
        .ok_or_else(|| "reading cost nothing".into())
}

/// The instructions of this binary with `args`.
fn callgrind(args: &[&str]) -> Result<u64, AnyError> {
    let output = Command::new("valgrind")
        .env("GLIBC_TUNABLES", NO_REP_MOVSB)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(args)
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => "valgrind is not installed".into(),
            _ => AnyError::from(error),
        })?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{args:?} failed:\n{stderr}").into());
    }
    stderr
        .lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        .ok_or_else(|| format!("no count from callgrind:\n{stderr}").into())
}

/// Runs in the child process: builds the body, reads it if `whole` is set, and checks the number of events,
/// so that no workload gets cheaper by losing events.
fn read(reader: &str, workload: &str, size: &str, whole: bool) {
    let workload = WORKLOADS.iter().find(|known| known.name == workload);
    let workload = workload.expect("the parent takes its names from the same table");
    let size = size.parse().expect("the parent wrote a number");
    let chunks = (workload.chunks)(size);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    if !whole {
        return;
    }
    let expected = match workload.unit {
        "event" => size,
        _ => 1,
    };
    let body = body(chunks);
    let events = match reader {
        "ours" => runtime.block_on(read_ours(body)),
        _ => runtime.block_on(read_bare(body)),
    };
    assert_eq!(events, expected, "tokens before done");
}

fn body(chunks: Vec<Bytes>) -> reqwest::Body {
    let chunks = chunks.into_iter().map(Ok::<_, io::Error>);
    reqwest::Body::wrap_stream(futures_util::stream::iter(chunks))
}

async fn read_ours(body: reqwest::Body) -> usize {
    let settings = Settings {
        framing: Framing::Recover,
        max_event_bytes: MAX_EVENT_BYTES,
    };
    let mut events = Events::new(body, settings, Account::unlimited(), None);
    let mut tokens = 0;
    while let Some(event) = poll_fn(|cx| events.poll_event(cx)).await {
        match black_box(event.expect("the body is sound")) {
            Event::Token(_) => tokens += 1,
            Event::Done => return tokens,
            other => panic!("{other:?}"),
        }
    }
    panic!("no done")
}

async fn read_bare(body: reqwest::Body) -> usize {
    let mut events = body.into_data_stream().eventsource();
    let mut tokens = 0;
    while let Some(event) = events.next().await {
        match black_box(event.expect("the body is sound")).event.as_str() {
            "token" => tokens += 1,
            "done" => return tokens,
            other => panic!("{other}"),
        }
    }
    panic!("no done")
}

/// Text of at least `bytes` bytes, rounded up to whole words.
fn text(word: &str, bytes: usize) -> String {
    word.repeat(bytes.div_ceil(word.len()))
}

fn token() -> String {
    format!("{HEAD}{WORD}\n\n")
}

fn in_one_chunk(body: String) -> Vec<Bytes> {
    vec![(body + DONE).into()]
}

fn line_in_chunks(bytes: usize) -> Vec<Bytes> {
    let mut body = Bytes::from(format!("{HEAD}{}\n\n{DONE}", text(WORD, bytes)));
    let chunks = std::iter::from_fn(|| match body.len() {
        0 => None,
        left => Some(body.split_to(CHUNK_BYTES.min(left))),
    });
    chunks.collect()
}

fn events_in_one_chunk(events: usize) -> Vec<Bytes> {
    in_one_chunk(token().repeat(events))
}

fn event_a_chunk(events: usize) -> Vec<Bytes> {
    let mut chunks = vec![Bytes::from(token()); events];
    chunks.push(DONE.into());
    chunks
}

fn event_in_one_chunk(word: &str, bytes: usize) -> Vec<Bytes> {
    in_one_chunk(format!("{HEAD}{}\n\n", text(word, bytes)))
}

fn event_of_short_lines(lines: usize) -> Vec<Bytes> {
    in_one_chunk(format!("event: token\n{}\n", "data: a\n".repeat(lines)))
}

fn event_no_utf8(lines: usize) -> Vec<Bytes> {
    let event = [b"event: token\n", &b"data: \xFF\n".repeat(lines)[..], b"\n"].concat();
    vec![event.into(), DONE.into()]
}

fn comments(lines: usize) -> Vec<Bytes> {
    in_one_chunk(": ping\n".repeat(lines) + &token())
}
