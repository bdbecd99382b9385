//! The command `top`: the admin page's figures in a terminal, refreshed until Ctrl-C.
//!
//! It reads `/status` as the page does. On a terminal it draws on the alternate screen, and gives the old one back
//! however it ends. Elsewhere, and with `--once`, it prints one frame.

mod frame;

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use secrecy::SecretString;
use serde_json::Value;
use terminal_size::{Height, Width, terminal_size};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use url::Url;

use self::frame::frame;
use super::Error;
use crate::upstream::fetch::fetch;

/// The alternate screen without a cursor, and back (xterm's control sequences).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Moves to the beginning; erases the rest of a line; erases the rest of the screen (ECMA-48).
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
/// The size of a frame that no terminal limits.
const UNLIMITED: (usize, usize) = (200, usize::MAX);

/// What `top` reads, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The admin port's URL.
    pub admin: Url,
    /// The admin port's token.
    pub token: Option<SecretString>,
    /// Between two frames.
    pub interval: Duration,
    /// Prints one frame.
    pub is_once: bool,
}

/// Draws frames until SIGINT or SIGTERM.
///
/// # Errors
///
/// - [`Error::Admin`] if the first frame can't be read. Later failures are shown in the frame.
/// - [`Error::Io`] if the output fails.
pub async fn run(settings: Settings) -> Result<(), Error> {
    let first = read(&settings).await?;
    if settings.is_once || !io::stdout().is_terminal() {
        let (width, height) = UNLIMITED;
        let lines = frame(&first, width, height).join("\n");
        return super::screen::print(&format!("{lines}\n"));
    }
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let screen = AlternateScreen::enter()?;
    screen.draw(&first, None)?;
    let mut ticks = interval(settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut last = first;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = ticks.tick() => {}
        }
        match read(&settings).await {
            Ok(status) => {
                last = status;
                screen.draw(&last, None)?;
            }
            Err(error) => screen.draw(&last, Some(&error.to_string()))?,
        }
    }
}

async fn read(settings: &Settings) -> Result<Value, Error> {
    let admin = &settings.admin;
    let failed = |why: &str| Error::Admin(format!("{admin}: {why}"));
    let url = admin
        .join("status")
        .map_err(|error| failed(&error.to_string()))?;
    let page = fetch(url, settings.token.as_ref()).await;
    let page = page.map_err(|error| {
        failed(&format!(
            "{error}; --admin is the bridge's ADMIN_LISTEN address"
        ))
    })?;
    match page.status {
        200 => serde_json::from_slice(&page.body).map_err(|_| failed("its /status is not JSON")),
        status => match String::from_utf8_lossy(&page.body).trim() {
            "" => Err(failed(&format!("it answered {status}"))),
            why => Err(failed(why)),
        },
    }
}

/// Gives the old screen back when it is dropped.
struct AlternateScreen;

impl AlternateScreen {
    fn enter() -> Result<Self, Error> {
        put(ENTER)?;
        Ok(Self)
    }

    fn draw(&self, status: &Value, trouble: Option<&str>) -> Result<(), Error> {
        let (width, height) = match terminal_size() {
            Some((Width(width), Height(height))) => (width.into(), height.into()),
            None => (80, 24),
        };
        let mut lines = frame(status, width, height);
        if let Some(trouble) = trouble {
            lines.truncate(height.saturating_sub(1));
            lines.insert(0, frame::cut(trouble, width));
        }
        let lines = lines.join(&format!("{ERASE_LINE}\r\n"));
        put(&format!("{HOME}{lines}{ERASE_LINE}{ERASE_BELOW}"))
    }
}

impl Drop for AlternateScreen {
    fn drop(&mut self) {
        let _ = put(LEAVE);
    }
}

/// Writes control sequences too. All text from outside in `text` must be sanitized.
fn put(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
