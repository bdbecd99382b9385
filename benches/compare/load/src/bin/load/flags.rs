//! What the orchestrator asks for.

use std::net::SocketAddr;

use alim_bridge_compare::AnyError;

/// How to reach the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Grpc,
    Http,
}

/// The flags; each has a value.
pub struct Flags {
    pub mode: String,
    pub to: SocketAddr,
    pub over: Over,
    pub connections: usize,
    pub streams: usize,
    pub period_us: u64,
    /// Streams that tick together.
    pub group: usize,
    pub tokens: u64,
    /// Of each caller.
    pub calls: u64,
    /// Before the window opens.
    pub warm_s: f64,
    /// The window.
    pub seconds: f64,
    /// For `hold`: what to ask for, and how many streams to have open at each step.
    pub ask: String,
    pub steps: Vec<usize>,
    /// Processes whose CPU time is told.
    pub watch: Vec<u32>,
}

impl Flags {
    /// Reads `MODE --name value …`.
    ///
    /// # Errors
    ///
    /// - An unknown flag, or a value that is none.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, AnyError> {
        let mut flags = Self {
            mode: words.next().ok_or("usage: load MODE --to ADDRESS …")?,
            to: ([127, 0, 0, 1], 0).into(),
            over: Over::Grpc,
            connections: 1,
            streams: 1,
            period_us: 50_000,
            group: 20,
            tokens: 0,
            calls: 0,
            warm_s: 0.0,
            seconds: 1.0,
            ask: "idle".into(),
            steps: Vec::new(),
            watch: Vec::new(),
        };
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            match name.as_str() {
                "--to" => flags.to = value.parse()?,
                "--over" if value == "http" => flags.over = Over::Http,
                "--over" if value == "grpc" => flags.over = Over::Grpc,
                "--connections" => flags.connections = value.parse()?,
                "--streams" => flags.streams = value.parse()?,
                "--period-us" => flags.period_us = value.parse()?,
                "--group" => flags.group = value.parse()?,
                "--tokens" => flags.tokens = value.parse()?,
                "--calls" => flags.calls = value.parse()?,
                "--warm" => flags.warm_s = value.parse()?,
                "--seconds" => flags.seconds = value.parse()?,
                "--ask" => flags.ask = value,
                "--steps" => {
                    flags.steps = value.split(',').map(str::parse).collect::<Result<_, _>>()?
                }
                "--watch" => {
                    flags.watch = value.split(',').map(str::parse).collect::<Result<_, _>>()?
                }
                _ => return Err(format!("no flag {name} {value}").into()),
            }
        }
        Ok(flags)
    }
}
