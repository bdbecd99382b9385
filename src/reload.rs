//! A value that is made from files, and made again when they change.
//!
//! Kubernetes swaps mounted secrets by renaming a link, which file watchers miss, so the contents are
//! compared every few seconds. A file that is being written looks whole between two writes, so a change
//! counts once two reads an interval apart are equal. A file that was swapped, by a rename or by a link,
//! is whole and counts at once. A change that can't be read or used leaves the last good value in place
//! and is logged once.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
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

struct Source<T> {
    paths: Vec<PathBuf>,
    parse: Parse<T>,
    seen: Mutex<Seen>,
}

/// What the files held.
struct Seen {
    /// When they were last taken over, or found unusable.
    used: Vec<Look>,
    /// At the last look, if they had changed by then.
    changing: Option<Vec<Look>>,
}

/// One look at one file, which need not be readable.
struct Look {
    content: Result<Vec<u8>, io::Error>,
    place: Option<Place>,
}

/// Where the bytes of a path lie.
struct Place {
    /// The path with all links followed.
    path: PathBuf,
    file: (u64, u64),
    /// A rename changes the time of the inode and leaves the time of the content.
    was_renamed: bool,
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
        let looks = look(&paths);
        let value = parse(&contents(&looks)?).map_err(Error::Content)?;
        let seen = Seen {
            used: looks,
            changing: None,
        };
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(value)),
            source: Some(Arc::new(Source {
                paths,
                parse,
                seen: Mutex::new(seen),
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

    /// Reads the files once. A change that counts is taken over or, if it can't be used, logged.
    /// `None` if nothing has changed, or the change may not be whole yet.
    pub fn refresh(&self) -> Option<Outcome> {
        let source = self.source.as_ref()?;
        let looks = look(&source.paths);
        let mut seen = source.seen.lock().unwrap_or_else(|held| held.into_inner());
        if !seen.is_whole_change(&looks) {
            seen.note(looks);
            return None;
        }
        let contents = contents(&looks).map_err(|error| error.to_string());
        (seen.used, seen.changing) = (looks, None);
        let files = source.paths.iter().map(|path| path.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
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

impl Seen {
    fn is_whole_change(&self, now: &[Look]) -> bool {
        let changing = self.changing.as_ref();
        let mut pairs = self.used.iter().zip(now).enumerate();
        let is_settled = |(index, (used, now)): (usize, (&Look, &Look))| {
            used.has_content_of(now)
                || now.was_swapped_since(used)
                || changing.is_some_and(|last| last[index].has_content_of(now))
        };
        !self.is_unchanged(now) && pairs.all(is_settled)
    }

    fn is_unchanged(&self, now: &[Look]) -> bool {
        let mut pairs = self.used.iter().zip(now);
        pairs.all(|(used, now)| used.has_content_of(now))
    }

    fn note(&mut self, now: Vec<Look>) {
        match self.is_unchanged(&now) {
            true => (self.used, self.changing) = (now, None),
            false => self.changing = Some(now),
        }
    }
}

impl Look {
    fn at(path: &Path) -> Self {
        let place = Place::of(path).ok(); // before the content, which may be newer then and never older
        let content = fs::read(path);
        Self { content, place }
    }

    fn has_content_of(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Ok(one), Ok(other)) => one == other,
            (Err(one), Err(other)) => one.kind() == other.kind(),
            _ => false,
        }
    }

    /// Whether another, whole file stands in the place of the earlier one.
    fn was_swapped_since(&self, earlier: &Self) -> bool {
        match (&self.place, &earlier.place) {
            (Some(now), Some(then)) => {
                now.path != then.path || (now.file != then.file && now.was_renamed)
            }
            _ => false,
        }
    }
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let meta = fs::metadata(&path)?;
        let (changed, written) = (
            (meta.ctime(), meta.ctime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
        );
        Ok(Self {
            file: (meta.dev(), meta.ino()),
            was_renamed: changed > written,
            path,
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

fn look(paths: &[PathBuf]) -> Vec<Look> {
    paths.iter().map(|path| Look::at(path)).collect()
}

fn contents(looks: &[Look]) -> io::Result<Vec<Vec<u8>>> {
    let content = |look: &Look| match &look.content {
        Ok(content) => Ok(content.clone()),
        Err(error) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::from(error.kind()),
        }),
    };
    looks.iter().map(content).collect()
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
    use std::os::unix::fs::symlink;

    use super::{
        Outcome::{Failed, TakenOver},
        *,
    };

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        let text = String::from_utf8_lossy(&contents[0]);
        text.trim().parse().map_err(|_| "no number".into())
    }

    #[test]
    fn a_changed_file_is_taken_over_and_a_bad_one_is_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "1").expect("written");
        let value = Reload::files(vec![file.path().into()], number).expect("a number");
        for (content, outcome, expected) in
            [("2", TakenOver, 2), ("x", Failed, 2), ("3", TakenOver, 3)]
        {
            fs::write(&file, content).expect("written");
            assert_eq!(value.refresh(), None, "it may not be whole");
            assert_eq!(value.refresh(), Some(outcome), "after {content}");
            assert_eq!(value.refresh(), None, "once");
            assert_eq!(*value.load(), expected, "after {content}");
        }
        let path = file.path().to_owned();
        drop(file);
        let outcomes = [(); 3].map(|()| value.refresh());
        assert_eq!(
            outcomes,
            [None, Some(Failed), None],
            "once, when it is gone"
        );
        assert_eq!(*value.load(), 3);
        fs::write(&path, "3").expect("written");
        let outcomes = [(); 3].map(|()| value.refresh());
        assert_eq!(outcomes, [None, Some(TakenOver), None], "it is back");
        fs::remove_file(&path).expect("there");
    }

    #[test]
    fn a_file_that_is_still_being_written_is_not_taken_over() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = dir.path().join("number");
        fs::write(&path, "1").expect("written");
        let value = Reload::files(vec![path.clone()], number).expect("a number");
        for part in ["2", "23", "234"] {
            fs::write(&path, part).expect("written");
            assert_eq!(value.refresh(), None, "after {part}");
            assert_eq!(*value.load(), 1);
        }
        fs::remove_file(&path).expect("there");
        fs::write(&path, "2345").expect("written"); // as `install` does: another file, written in place
        assert_eq!(value.refresh(), None);
        assert_eq!(value.refresh(), Some(TakenOver));
        assert_eq!(*value.load(), 2345);
    }

    #[test]
    fn a_change_that_is_taken_back_changes_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "1").expect("written");
        let value = Reload::files(vec![file.path().into()], number).expect("a number");
        for content in ["2", "1", "2", "1"] {
            fs::write(&file, content).expect("written");
            assert_eq!(value.refresh(), None, "after {content}");
        }
    }

    #[test]
    fn a_renamed_file_and_a_swapped_link_are_taken_over_at_once() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("number"), "1").expect("written");
        let value = Reload::files(vec![at("number")], number).expect("a number");
        fs::write(at("new"), "2").expect("written");
        std::thread::sleep(Duration::from_millis(20)); // file systems count in ticks of up to 10 ms
        fs::rename(at("new"), at("number")).expect("renamed");
        assert_eq!(value.refresh(), Some(TakenOver));
        assert_eq!(*value.load(), 2);

        // As in a mounted Secret: number -> ..data/number, ..data -> the version.
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).expect("a directory");
            fs::write(at(version).join("number"), &version[1..]).expect("written");
        }
        symlink("v1", at("..data")).expect("a link");
        symlink("..data/number", at("mounted")).expect("a link");
        let value = Reload::files(vec![at("mounted")], number).expect("a number");
        symlink("v2", at("..new")).expect("a link");
        fs::rename(at("..new"), at("..data")).expect("renamed");
        assert_eq!(value.refresh(), Some(TakenOver));
        assert_eq!(*value.load(), 2);
    }

    #[test]
    fn a_value_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", Reload::fixed("secret")), "Reload { .. }");
    }
}
