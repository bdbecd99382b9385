//! The kinds of load. Each that measures has a warm-up and a window; only the window is counted.

use std::{
    cell::Cell,
    io::{self, BufRead},
    process,
    rc::Rc,
    time::{Duration, Instant},
};

use alim_bridge_compare::{AnyError, ask::Ask, grpc::Reading, process::all_cpu_ns, tally::Tally};
use serde_json::{Value, json};
use tokio::{
    task::{JoinSet, spawn_blocking, spawn_local},
    time::{sleep, timeout, timeout_at},
};

use crate::{caller::Callers, flags::Flags};

/// How long all streams together may take to begin, and all calls to end.
const PATIENCE: Duration = Duration::from_secs(45);
/// Streams that are being opened at once.
const OPENING: usize = 100;

/// Tokens at a steady pace on all streams.
pub async fn paced(flags: &Flags) -> Result<(), AnyError> {
    let callers = Callers::open(flags, Reading::Always).await?;
    let tally = Rc::new(Tally::default());
    let due = Instant::now() + PATIENCE;
    for number in 0..flags.streams {
        let (callers, tally) = (Rc::clone(&callers), Rc::clone(&tally));
        let message = paced_message(flags, number, 0);
        let opened = Rc::clone(&tally);
        spawn_local(async move {
            if let Err(error) = callers.stream(number, &message, &tally).await {
                fail(&tally, &*error);
            }
        });
        begun(&opened, (number + 1).saturating_sub(OPENING), due).await?;
    }
    begun(&tally, flags.streams, due).await?;
    sleep(Duration::from_secs_f64(flags.warm_s)).await;
    tell(&json!({ "open": flags.streams }));
    window(flags, &tally).await;
    Ok(())
}

/// A known count of tokens on all streams, to their ends.
pub async fn whole(flags: &Flags) -> Result<(), AnyError> {
    let callers = Callers::open(flags, Reading::Always).await?;
    let tally = Rc::new(Tally::default());
    tally.is_open.set(true);
    let mut streams = JoinSet::new();
    for number in 0..flags.streams {
        let (callers, tally) = (Rc::clone(&callers), Rc::clone(&tally));
        let message = paced_message(flags, number, flags.tokens);
        streams.spawn_local(async move { callers.stream(number, &message, &tally).await });
    }
    all_end(streams, &tally).await
}

/// A known count of calls, each caller's one after the other: bursts of `--tokens`, or Invokes if that is 0.
pub async fn calls(flags: &Flags) -> Result<(), AnyError> {
    let callers = Callers::open(flags, Reading::Always).await?;
    let tally = Rc::new(Tally::default());
    tally.is_open.set(true);
    let mut calling = JoinSet::new();
    for number in 0..flags.streams {
        let (callers, tally) = (Rc::clone(&callers), Rc::clone(&tally));
        let (calls, tokens) = (flags.calls, flags.tokens);
        calling.spawn_local(async move {
            for _ in 0..calls {
                match tokens {
                    0 => callers.invoke(number, &tally).await?,
                    tokens => {
                        let burst = Ask::Burst { tokens }.to_string();
                        callers.stream(number, &burst, &tally).await?;
                    }
                }
                tally.add(&tally.calls, 1);
            }
            Ok(())
        });
    }
    all_end(calling, &tally).await
}

/// Waits until all have ended, and tells what they counted.
async fn all_end(mut calls: JoinSet<Result<(), AnyError>>, tally: &Tally) -> Result<(), AnyError> {
    let all = async {
        while let Some(ended) = calls.join_next().await {
            ended??;
        }
        Ok::<_, AnyError>(())
    };
    timeout(2 * PATIENCE, all).await??;
    tell(&tally.report());
    Ok(())
}

/// The streams of a group tick together, the groups evenly apart: with 1,000 streams, 50 ms and groups of 20,
/// 20 tokens each millisecond, whatever the subject.
fn paced_message(flags: &Flags, number: usize, tokens: u64) -> String {
    let groups = flags.streams.div_ceil(flags.group).max(1) as u64;
    let group = (number / flags.group) as u64;
    let phase_us = flags.period_us * group / groups;
    Ask::Paced {
        period_us: flags.period_us,
        phase_us,
        tokens,
    }
    .to_string()
}

/// So many callers, each with one call at a time.
pub async fn again_and_again(flags: &Flags) -> Result<(), AnyError> {
    let callers = Callers::open(flags, Reading::Always).await?;
    let tally = Rc::new(Tally::default());
    let is_over = Rc::new(Cell::new(false));
    let mut calling = JoinSet::new();
    for number in 0..flags.streams {
        let (callers, tally, is_over) =
            (Rc::clone(&callers), Rc::clone(&tally), Rc::clone(&is_over));
        let burst = Ask::Burst {
            tokens: flags.tokens.max(1),
        }
        .to_string();
        let is_invoke = flags.mode == "invoke";
        calling.spawn_local(async move {
            while !is_over.get() {
                let called = match is_invoke {
                    true => callers.invoke(number, &tally).await,
                    false => callers.stream(number, &burst, &tally).await,
                };
                match called {
                    Ok(()) => tally.add(&tally.calls, 1),
                    Err(error) => {
                        fail(&tally, &*error);
                        sleep(Duration::from_millis(100)).await; // a dead subject must not make a busy loop
                    }
                }
            }
        });
    }
    sleep(Duration::from_secs_f64(flags.warm_s)).await;
    window(flags, &tally).await;
    is_over.set(true);
    let ended = async { while calling.join_next().await.is_some() {} };
    let _ = timeout(Duration::from_secs(5), ended).await;
    Ok(())
}

/// Streams that stay open: tells each step that is reached, and goes on when a line comes.
pub async fn hold(flags: &Flags) -> Result<(), AnyError> {
    let reading = if flags.ask == "stall" {
        Reading::Stalls
    } else {
        Reading::Always
    };
    let callers = Callers::open(flags, reading).await?;
    let tally = Rc::new(Tally::default());
    let mut open = 0;
    for step in &flags.steps {
        let due = Instant::now() + PATIENCE;
        while open < *step {
            let (callers, tally) = (Rc::clone(&callers), Rc::clone(&tally));
            let (number, ask) = (open, flags.ask.clone());
            let opened = Rc::clone(&tally);
            spawn_local(async move {
                if let Err(error) = callers.hold(number, &ask, &tally).await {
                    fail(&tally, &*error);
                }
            });
            open += 1;
            begun(&opened, open.saturating_sub(OPENING), due).await?;
        }
        begun(&tally, open, due).await?;
        tell(&json!({ "open": open }));
        spawn_blocking(|| io::stdin().lock().read_line(&mut String::new())).await??;
    }
    Ok(())
}

/// Waits until so many streams have begun; the tally has no waiters, and this is not what is measured.
async fn begun(tally: &Tally, streams: usize, due: Instant) -> Result<(), AnyError> {
    let all = async {
        while tally.begun.get() < streams as u64 {
            if tally.failed.get() > 0 {
                return Err("a stream failed before all had begun");
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    let begun = timeout_at(due.into(), all).await;
    begun.map_err(|_| {
        format!(
            "{} of {streams} streams begun in {PATIENCE:?}",
            tally.begun.get()
        )
    })??;
    Ok(())
}

/// Counts for `--seconds`, then tells.
async fn window(flags: &Flags, tally: &Tally) {
    let own = process::id();
    let pids: Vec<u32> = flags.watch.iter().copied().chain([own]).collect();
    let start = Instant::now();
    let before = all_cpu_ns(&pids);
    tally.is_open.set(true);
    sleep(Duration::from_secs_f64(flags.seconds)).await;
    tally.is_open.set(false);
    let after = all_cpu_ns(&pids);
    let seconds = start.elapsed().as_secs_f64();
    let used = |(after, before): (&u64, &u64)| after.saturating_sub(*before) as f64 / 1e9;
    let cpu: Vec<f64> = after.iter().zip(&before).map(used).collect();
    let mut report = tally.report();
    report["seconds"] = json!(seconds);
    report["own_cpu_s"] = json!(cpu.last());
    report["cpu_s"] = json!(cpu[..cpu.len() - 1]);
    tell(&report);
}

fn fail(tally: &Tally, error: &dyn std::error::Error) {
    if tally.failed.get() < 3 {
        eprintln!("load: {error}");
    }
    tally.failed.set(tally.failed.get() + 1);
}

fn tell(line: &Value) {
    println!("{line}");
}
