//! One look at one file: what it held, and where its bytes lay.
//!
//! The place tells a file that was swapped, which is whole, from one that is being written.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// One look at one file, which need not be readable.
pub struct Look {
    /// The path that was asked for.
    pub path: PathBuf,
    /// What the file held.
    pub content: Result<Vec<u8>, io::Error>,
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

impl Look {
    pub(super) fn at(path: &Path) -> Self {
        let place = Place::of(path).ok(); // before the content, which may be newer then and never older
        let content = fs::read(path);
        let path = path.to_owned();
        Self {
            path,
            content,
            place,
        }
    }

    /// The content, or a copy of the error.
    pub(super) fn read(&self) -> io::Result<&[u8]> {
        match &self.content {
            Ok(content) => Ok(content),
            Err(error) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::from(error.kind()),
            }),
        }
    }

    pub(super) fn has_content_of(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Ok(one), Ok(other)) => one == other,
            (Err(one), Err(other)) => one.kind() == other.kind(),
            _ => false,
        }
    }

    /// Whether another, whole file stands in the place of the earlier one.
    pub(super) fn was_swapped_since(&self, earlier: &Self) -> bool {
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
