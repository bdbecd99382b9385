//! A value that is made from files, and made again when they change.
//!
//! Kubernetes swaps mounted secrets by renaming a link, which file watchers miss, so the contents are
//! compared every few seconds. A change that can't be read or used leaves the last good value in place
//! and says so in the log, once: a half-written certificate must not stop a service.

use std::{
    fmt, fs, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(2);

type Parse<T> = fn(&[Vec<u8>]) -> Result<T, String>;

/// Why a value can't be made from its files. It does not repeat a path: that may be a key that was
/// put in the wrong place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The files were read, but don't hold what they should.
    #[error("{0}")]
    Content(String),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The files' new value is in use.
    TakenOver,
    /// The files can't be read or used; the last good value is.
    Failed,
}

/// The newest good value; clones share it.
pub struct Reload<T> {
    current: Arc<ArcSwap<T>>,
    source: Option<Arc<Source<T>>>,
}

/// What the last look at the files found; they need not be readable.
type Seen = Result<Vec<Vec<u8>>, io::ErrorKind>;

struct Source<T> {
    paths: Vec<PathBuf>,
    parse: Parse<T>,
    seen: Mutex<Seen>,
}

impl<T> Reload<T> {
    /// A value that never changes.
    pub fn fixed(value: T) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(value)),
            source: None,
        }
    }

    /// The value that `parse` makes of the files' contents, given in the order of `paths`.
    ///
    /// # Errors
    ///
    /// - [`Error::Read`] when a file can't be read, [`Error::Content`] when `parse` refuses.
    pub fn files(paths: Vec<PathBuf>, parse: Parse<T>) -> Result<Self, Error> {
        let contents = read(&paths)?;
        let value = parse(&contents).map_err(Error::Content)?;
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(value)),
            source: Some(Arc::new(Source {
                paths,
                parse,
                seen: Mutex::new(Ok(contents)),
            })),
        })
    }

    /// The value as it is now.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether it is made of files, which may change.
    pub fn is_of_files(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the files once; a change is taken over or, if it can't be used, told in the log once.
    /// `None` where nothing has changed.
    pub fn refresh(&self) -> Option<Outcome> {
        let source = self.source.as_ref()?;
        let found = read(&source.paths);
        let mut seen = source.seen.lock().unwrap_or_else(|held| held.into_inner());
        let now = found.as_ref().map_err(io::Error::kind).cloned();
        if *seen == now {
            return None;
        }
        *seen = now;
        let files = source.paths.iter().map(|path| path.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        let contents = found.map_err(|error| error.to_string());
        Some(match contents.and_then(|it| (source.parse)(&it)) {
            Ok(value) => {
                self.current.store(Arc::new(value));
                tracing::info!(%files, "changed files taken over");
                Outcome::TakenOver
            }
            Err(why) => {
                tracing::warn!(%files, %why, "changed files can't be used: the last stand");
                Outcome::Failed
            }
        })
    }
}

impl<T: Send + Sync + 'static> Reload<T> {
    /// Refreshes every two seconds, and tells what became of each change; never returns, and is stopped
    /// by being dropped.
    pub async fn watch(self, tell: impl Fn(Outcome)) {
        while self.source.is_some() {
            tokio::time::sleep(INTERVAL).await;
            let this = self.clone();
            // A read that blocks, as on a dead mount, must not block calls.
            let refreshed = tokio::task::spawn_blocking(move || this.refresh()).await;
            if let Ok(Some(outcome)) = refreshed {
                tell(outcome);
            }
        }
        std::future::pending().await
    }
}

fn read(paths: &[PathBuf]) -> io::Result<Vec<Vec<u8>>> {
    paths.iter().map(fs::read).collect()
}

impl<T> Clone for Reload<T> {
    fn clone(&self) -> Self {
        Self {
            current: Arc::clone(&self.current),
            source: self.source.clone(),
        }
    }
}

impl<T> fmt::Debug for Reload<T> {
    /// Says nothing of the value: it may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        let text = String::from_utf8_lossy(&contents[0]);
        text.trim().parse().map_err(|_| "no number".into())
    }

    #[test]
    fn a_changed_file_is_taken_over_and_a_bad_one_is_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "1").expect("written");
        let value = Reload::files(vec![file.path().into()], number).expect("a number");
        use Outcome::{Failed, TakenOver};
        for (content, outcome, expected) in
            [("2", TakenOver, 2), ("x", Failed, 2), ("3", TakenOver, 3)]
        {
            fs::write(&file, content).expect("written");
            assert_eq!(value.refresh(), Some(outcome), "after {content}");
            assert_eq!(value.refresh(), None, "once");
            assert_eq!(*value.load(), expected, "after {content}");
        }
        let path = file.path().to_owned();
        drop(file);
        assert_eq!(value.refresh(), Some(Failed), "after the file is gone");
        assert_eq!(value.refresh(), None, "once");
        assert_eq!(*value.load(), 3);
        fs::write(&path, "3").expect("written");
        assert_eq!(value.refresh(), Some(TakenOver), "it is back");
        fs::remove_file(&path).expect("there");
    }

    #[test]
    fn a_value_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", Reload::fixed("secret")), "Reload { .. }");
    }
}
