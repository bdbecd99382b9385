//! A value that is parsed from files, and reloaded when they change.
//!
//! Kubernetes swaps mounted secrets by renaming a link, which file watchers miss. So the contents are compared every few
//! seconds. A file that is being written looks complete between two writes. So a change counts once two reads, one interval
//! apart, are equal. A file that was swapped, by a rename or by a link, is complete and counts at once.
//!
//! If a change can't be read or used, the last good value stays in use. The failure is logged once.

mod snapshot;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;

pub use self::snapshot::FileSnapshot;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(2);

/// Parses the value from the files. It also gets the current value, if there is one.
type Parse<T> = Box<dyn Fn(&[FileSnapshot], Option<&T>) -> Result<T, Error> + Send + Sync>;
/// Returns the further files that the first one's content refers to.
type List = Box<dyn Fn(&[u8]) -> Vec<PathBuf> + Send + Sync>;

/// Why a value can't be parsed from its files. The text contains no path, because a path setting can hold a key by mistake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The files were read, but their content is invalid. The text has one error per line.
    #[error("{0}")]
    Content(String),
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new value is in use.
    TakenOver,
    /// The files can't be read or used. The last good value stays in use.
    Failed,
}

/// The last good value; clones share it.
pub struct Reload<T> {
    current: Arc<ArcSwap<T>>,
    source: Option<Arc<Source<T>>>,
}

struct Source<T> {
    paths: Vec<PathBuf>,
    list: Option<List>,
    parse: Parse<T>,
    seen: Mutex<Seen>,
}

/// The previous contents of the files.
#[derive(Default)]
struct Seen {
    /// The files that were last used, or found unusable.
    used: Vec<FileSnapshot>,
    /// The files at the last check, if they differed from `used`.
    changing: Option<Vec<FileSnapshot>>,
}

impl<T: 'static> Reload<T> {
    /// A value that never changes.
    pub fn fixed(value: T) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(value)),
            source: None,
        }
    }

    /// Reads the files and parses their contents, in the order of `paths`.
    ///
    /// # Errors
    ///
    /// - [`Error::Read`] when a file can't be read, [`Error::Content`] when `parse` fails.
    pub fn files(
        paths: Vec<PathBuf>,
        parse: fn(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<Self, Error> {
        let parse = move |files: &[FileSnapshot], _: Option<&T>| {
            let contents = files.iter().map(|file| Ok(file.read()?.to_vec()));
            let contents = contents.collect::<io::Result<Vec<_>>>()?;
            parse(&contents).map_err(Error::Content)
        };
        Self::of(paths, None, Box::new(parse))
    }

    /// Reads a file and those that `list` finds in it. `parse` gets all of them and the current value. A change in any of the
    /// files applies to all of them together, or not at all.
    ///
    /// # Errors
    ///
    /// - [`Error::Read`] when the first file can't be read.
    /// - [`Error::Content`] when `parse` fails.
    pub fn listed(
        path: PathBuf,
        list: impl Fn(&[u8]) -> Vec<PathBuf> + Send + Sync + 'static,
        parse: impl Fn(&[u8], &[FileSnapshot], Option<&T>) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let parse = move |files: &[FileSnapshot], last: Option<&T>| {
            let [first, others @ ..] = files else {
                unreachable!("a snapshot of each path")
            };
            parse(first.read()?, others, last).map_err(Error::Content)
        };
        Self::of(vec![path], Some(Box::new(list)), Box::new(parse))
    }

    fn of(paths: Vec<PathBuf>, list: Option<List>, parse: Parse<T>) -> Result<Self, Error> {
        let mut source = Source {
            paths,
            list,
            parse,
            seen: Mutex::default(),
        };
        let files = source.read_all(&[]);
        let value = (source.parse)(&files, None)?;
        source.seen = Mutex::new(Seen {
            used: files,
            changing: None,
        });
        Ok(Self {
            current: Arc::new(ArcSwap::from_pointee(value)),
            source: Some(Arc::new(source)),
        })
    }

    /// The current value.
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Whether the value comes from files, which can change.
    pub fn is_from_files(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the files once. Applies a complete change, or logs why it can't be used.
    /// `None` if nothing has changed, or if the change can still be incomplete.
    pub fn refresh(&self) -> Option<Outcome> {
        let source = self.source.as_ref()?;
        let mut seen = source.seen.lock().unwrap_or_else(|held| held.into_inner());
        let now = source.read_all(&seen.used);
        if !seen.is_complete_change(&now) {
            seen.update(now);
            return None;
        }
        let parsed = (source.parse)(&now, Some(&self.load()));
        (seen.used, seen.changing) = (now, None);
        let files = source.paths.iter().map(|path| path.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        Some(match parsed {
            Ok(value) => {
                self.current.store(Arc::new(value));
                tracing::info!(%files, "changed files taken over");
                Outcome::TakenOver
            }
            Err(why) => {
                let why = why.to_string().replace('\n', "; ");
                tracing::warn!(%files, %why, "changed files can't be used: the last stand");
                Outcome::Failed
            }
        })
    }
}

impl<T> Source<T> {
    /// Reads all files. If the first one is as in `last`, the files that it lists are the same as then.
    fn read_all(&self, last: &[FileSnapshot]) -> Vec<FileSnapshot> {
        let mut files: Vec<_> = self
            .paths
            .iter()
            .map(|path| FileSnapshot::at(path))
            .collect();
        if let (Some(list), [first]) = (&self.list, &*files) {
            let listed = match (last, &first.content) {
                ([known, others @ ..], _) if known.has_content_of(first) => {
                    others.iter().map(|file| file.path.clone()).collect()
                }
                (_, Ok(content)) => list(content),
                (_, Err(_)) => Vec::new(),
            };
            files.extend(listed.iter().map(|path| FileSnapshot::at(path)));
        }
        files
    }
}

impl Seen {
    fn is_complete_change(&self, now: &[FileSnapshot]) -> bool {
        let is_settled = |now: &FileSnapshot| {
            let has_path = |file: &&FileSnapshot| file.path == now.path;
            let used = self.used.iter().find(has_path);
            let last = self.changing.iter().flatten().find(has_path);
            used.is_some_and(|used| used.has_content_of(now) || now.was_swapped_since(used))
                || last.is_some_and(|last| last.has_content_of(now))
        };
        !self.is_unchanged(now) && now.iter().all(is_settled)
    }

    fn is_unchanged(&self, now: &[FileSnapshot]) -> bool {
        let mut pairs = self.used.iter().zip(now);
        self.used.len() == now.len()
            && pairs.all(|(used, now)| used.path == now.path && used.has_content_of(now))
    }

    fn update(&mut self, now: Vec<FileSnapshot>) {
        match self.is_unchanged(&now) {
            true => (self.used, self.changing) = (now, None),
            false => self.changing = Some(now),
        }
    }
}

impl<T: Send + Sync + 'static> Reload<T> {
    /// Refreshes every two seconds, and calls `report` after each change. Never returns; drop the future to stop it.
    pub async fn watch(self, report: impl Fn(Outcome)) {
        while self.source.is_some() {
            tokio::time::sleep(INTERVAL).await;
            let this = self.clone();
            // A read can block, for example on a dead mount. It must not block calls.
            let refreshed = tokio::task::spawn_blocking(move || this.refresh()).await;
            if let Ok(Some(outcome)) = refreshed {
                report(outcome);
            }
        }
        std::future::pending().await
    }
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
    /// Omits the value, which can be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{
        Outcome::{Failed, TakenOver},
        *,
    };

    fn number(contents: &[Vec<u8>]) -> Result<u32, String> {
        let text = String::from_utf8_lossy(&contents[0]);
        text.trim().parse().map_err(|_| "no number".into())
    }

    #[test]
    fn a_changed_file_is_applied_and_a_bad_one_is_not() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "1").expect("written");
        let value = Reload::files(vec![file.path().into()], number).expect("a number");
        for (content, outcome, expected) in
            [("2", TakenOver, 2), ("x", Failed, 2), ("3", TakenOver, 3)]
        {
            fs::write(&file, content).expect("written");
            assert_eq!(value.refresh(), None, "it can be incomplete");
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
            "reported once after the file is gone"
        );
        assert_eq!(*value.load(), 3);
        fs::write(&path, "3").expect("written");
        let outcomes = [(); 3].map(|()| value.refresh());
        assert_eq!(outcomes, [None, Some(TakenOver), None], "it is back");
        fs::remove_file(&path).expect("there");
    }

    #[test]
    fn a_file_that_is_still_being_written_is_not_applied() {
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
        fs::write(&path, "2345").expect("written"); // like `install`: a new file, written in place
        assert_eq!(value.refresh(), None);
        assert_eq!(value.refresh(), Some(TakenOver));
        assert_eq!(*value.load(), 2345);
    }

    #[test]
    fn a_reverted_change_is_not_applied() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "1").expect("written");
        let value = Reload::files(vec![file.path().into()], number).expect("a number");
        for content in ["2", "1", "2", "1"] {
            fs::write(&file, content).expect("written");
            assert_eq!(value.refresh(), None, "after {content}");
        }
    }

    #[test]
    fn a_renamed_file_and_a_swapped_link_are_applied_at_once() {
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
    fn debug_omits_the_value() {
        assert_eq!(format!("{:?}", Reload::fixed("secret")), "Reload { .. }");
    }

    fn sum(first: &[u8], others: &[FileSnapshot], last: Option<&u32>) -> Result<u32, String> {
        let mut sum = u32::try_from(first.len()).expect("short") * 1000;
        for file in others {
            sum += number(&[file.content.as_ref().map_err(|_| "gone")?.clone()])?;
        }
        Ok(sum + last.map_or(0, |_| 100_000))
    }

    #[test]
    fn a_listed_file_is_applied_with_the_file_that_lists_it() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("list"), "a").expect("written");
        fs::write(at("a"), "1").expect("written");
        let base = dir.path().to_owned();
        let list = move |content: &[u8]| {
            let names = String::from_utf8_lossy(content).into_owned();
            names
                .split_whitespace()
                .map(|name| base.join(name))
                .collect()
        };
        let value = Reload::listed(at("list"), list, sum).expect("a sum");
        assert_eq!(*value.load(), 1001);
        for (name, content, outcome, expected) in [
            ("a", "2", TakenOver, 101_002),
            ("list", "a b", Failed, 101_002), // b is not there
            ("b", "30", TakenOver, 103_032),
            ("b", "x", Failed, 103_032),
            ("list", "b", Failed, 103_032),
            ("list", "a", TakenOver, 101_002),
        ] {
            fs::write(at(name), content).expect("written");
            assert_eq!(value.refresh(), None, "{name} can be incomplete");
            assert_eq!(value.refresh(), Some(outcome), "{name}: {content}");
            assert_eq!(value.refresh(), None, "{name} once");
            assert_eq!(*value.load(), expected, "{name}: {content}");
        }
    }
}
