//! The callers: `load MODE --to ADDRESS --over grpc|http …`, on one thread. It prints JSON lines: what it waits
//! for, and last what it counted, with the CPU time of each `--watch`ed process over the same window.

mod caller;
mod flags;
mod modes;
mod pause;

use std::process::ExitCode;

use alim_bridge_compare::AnyError;
use tokio::task::LocalSet;

use crate::flags::Flags;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match LocalSet::new().run_until(run()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), AnyError> {
    let flags = Flags::parse(std::env::args().skip(1))?;
    match flags.mode.as_str() {
        "paced" => modes::paced(&flags).await,
        "whole" => modes::whole(&flags).await,
        "calls" => modes::calls(&flags).await,
        "burst" | "first" | "invoke" => modes::again_and_again(&flags).await,
        "hold" => modes::hold(&flags).await,
        "pause" => pause::run(&flags).await,
        other => Err(format!("no mode {other}").into()),
    }
}
