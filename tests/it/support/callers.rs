//! A callers file in a temporary directory, which can also contain the key files that it names.

use std::fs;

use ring::digest::{SHA256, digest};
use tempfile::TempDir;

/// The file `callers.toml`.
pub(crate) struct CallersFile(TempDir);

impl CallersFile {
    pub(crate) fn with(text: &str) -> Self {
        let file = Self(TempDir::new().expect("a directory"));
        file.put("callers.toml", text);
        file
    }

    pub(crate) fn put(&self, name: &str, content: &str) {
        fs::write(self.0.path().join(name), content).expect("written");
    }

    pub(crate) fn put_below(&self, folder: &str, name: &str, content: &str) {
        fs::create_dir_all(self.0.path().join(folder)).expect("a directory");
        self.put(&format!("{folder}/{name}"), content);
    }

    pub(crate) fn path(&self) -> String {
        let path = self.0.path().join("callers.toml");
        path.to_str().expect("UTF-8").into()
    }
}

/// An entry for a caller with this key. Lines after it belong to the same entry.
pub(crate) fn entry(name: &str, key: &str) -> String {
    let hash = sha256(key);
    format!("[[caller]]\nname = \"{name}\"\nkey_sha256 = [\"{hash}\"]\n")
}

/// The hash of a key, in the file's format.
pub(crate) fn sha256(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
