//! A snapshot of one file: its content, and the location of its bytes.
//!
//! The location distinguishes a swapped file, which is complete, from one that is being written.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A snapshot of one file, or of the error that reading it gave.
pub struct FileSnapshot {
    /// The path as configured.
    pub path: PathBuf,
    /// The file's content.
    pub content: Result<Vec<u8>, io::Error>,
    location: Option<Location>,
}

/// The location of a path's bytes.
struct Location {
    /// The path with all links followed.
    path: PathBuf,
    device_and_inode: (u64, u64),
    /// A rename changes the inode's time, but not the content's.
    was_renamed: bool,
}

impl FileSnapshot {
    pub(super) fn at(path: &Path) -> Self {
        let location = Location::of(path).ok(); // read first, so that the content is never older than it
        let content = fs::read(path);
        let path = path.to_owned();
        Self {
            path,
            content,
            location,
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

    /// Whether another, complete file has replaced the earlier one.
    pub(super) fn was_swapped_since(&self, earlier: &Self) -> bool {
        match (&self.location, &earlier.location) {
            (Some(now), Some(then)) => {
                let is_same_file = now.device_and_inode == then.device_and_inode;
                now.path != then.path || (!is_same_file && now.was_renamed)
            }
            _ => false,
        }
    }
}

impl Location {
    fn of(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let meta = fs::metadata(&path)?;
        let (changed, written) = (
            (meta.ctime(), meta.ctime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
        );
        Ok(Self {
            device_and_inode: (meta.dev(), meta.ino()),
            was_renamed: changed > written,
            path,
        })
    }
}
