//! The filter of the application log, which an operator can change while the bridge runs.
//!
//! A change concerns the bridge's own targets only. Other libraries' finest levels can print keys: h2 and hyper trace the
//! heads that they send. Each change is laid over the setting `LOG`, not over the change before.

use std::sync::{Mutex, OnceLock};

use tracing_subscriber::{EnvFilter, Registry, filter::Directive, reload};

/// The crate's name: the target of the bridge's own lines, and the start of all its others.
const OWN_TARGET: &str = "alim_bridge";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The maximum size of a change in bytes.
const MAX_BYTES: usize = 512;

static CONTROL: OnceLock<Control> = OnceLock::new();

struct Control {
    setting: EnvFilter,
    handle: reload::Handle<EnvFilter, Registry>,
    current: Mutex<String>,
}

/// Why a filter is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is too long.
    #[error("a filter has at most {MAX_BYTES} bytes, this one has {0}")]
    TooLong(usize),
    /// A part has no known level.
    #[error(
        "part {0} must be a level, or alim_bridge::module=level; the levels are off, error, warn, info, debug and trace"
    )]
    Level(usize),
    /// A part names another target.
    #[error("part {0} must concern alim_bridge: other libraries can print keys")]
    Target(usize),
    /// This process has no log of its own.
    #[error("the log is not set up")]
    NoLog,
}

/// A layer that filters by the setting until a [`Change`] is applied.
pub(super) fn layer(setting: EnvFilter) -> reload::Layer<EnvFilter, Registry> {
    let (layer, handle) = reload::Layer::new(setting.clone());
    let current = Mutex::new(setting.to_string());
    let _ = CONTROL.set(Control {
        setting,
        handle,
        current,
    });
    layer
}

/// The current filter. `None` if this process has no log.
pub fn current() -> Option<String> {
    let current = CONTROL.get()?.current.lock();
    Some(current.unwrap_or_else(|held| held.into_inner()).clone())
}

/// A filter that can be applied: the setting `LOG` with changes.
#[derive(Debug)]
pub struct Change {
    filter: EnvFilter,
    text: String,
}

impl Change {
    /// Lays `changes` over `LOG`, such as `debug` or `alim_bridge::upstream=trace`. Without changes, it is `LOG` itself.
    ///
    /// # Errors
    ///
    /// - [`Error`] if the changes can't be read, or concern other targets.
    pub fn parse(changes: &str) -> Result<Self, Error> {
        let directives = parse(changes)?;
        let mut filter = CONTROL.get().ok_or(Error::NoLog)?.setting.clone();
        for directive in directives {
            filter = filter.add_directive(directive);
        }
        let text = filter.to_string();
        Ok(Self { filter, text })
    }

    /// The whole filter.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Uses the filter from now on.
    pub fn apply(self) {
        let Some(control) = CONTROL.get() else { return };
        let mut current = control
            .current
            .lock()
            .unwrap_or_else(|held| held.into_inner());
        let reloaded = control.handle.reload(self.filter);
        reloaded.expect("the subscriber lasts as long as the process");
        *current = self.text;
    }
}

fn parse(changes: &str) -> Result<Vec<Directive>, Error> {
    if changes.len() > MAX_BYTES {
        return Err(Error::TooLong(changes.len()));
    }
    let parts = changes.split(',').map(str::trim).enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    parts
        .map(|(index, part)| directive(index + 1, part))
        .collect()
}

fn directive(number: usize, part: &str) -> Result<Directive, Error> {
    let (target, level) = part.split_once('=').unwrap_or((OWN_TARGET, part));
    let level = level.trim().to_ascii_lowercase();
    if !LEVELS.contains(&&*level) {
        return Err(Error::Level(number));
    }
    let is_own = target == OWN_TARGET || target.starts_with("alim_bridge::");
    let is_path = |char: char| char.is_ascii_lowercase() || char == '_' || char == ':';
    if !is_own || !target.chars().all(is_path) {
        return Err(Error::Target(number));
    }
    let parsed = format!("{target}={level}").parse();
    parsed.map_err(|_| Error::Level(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(changes: &str) -> Result<Vec<String>, String> {
        let directives = parse(changes).map_err(|error| error.to_string())?;
        Ok(directives.iter().map(Directive::to_string).collect())
    }

    #[test]
    fn only_the_bridges_own_targets_can_change() {
        let own = "alim_bridge::upstream=trace";
        let several = parsed("DEBUG, alim_bridge::upstream=trace,");
        assert_eq!(several, Ok(vec!["alim_bridge=debug".into(), own.into()]));
        assert_eq!(parsed(""), Ok(Vec::new()));
        for other in [
            "h2=trace",
            "info,hyper=off",
            "alim_bridge2=info",
            "=info",
            "alim_bridge[x]=info",
        ] {
            let error = parsed(other).expect_err(other);
            assert!(error.contains("must concern alim_bridge"), "{error}");
        }
        for wrong in [
            "loud",
            "alim_bridge=loud",
            "h2",
            "alim_bridge",
            "alim_bridge=debug=info",
        ] {
            let error = parsed(wrong).expect_err(wrong);
            assert!(error.contains("must be a level"), "{error}");
        }
        assert!(parsed(&"info,".repeat(200)).is_err());
    }
}
