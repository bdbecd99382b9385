//! The commands `callers check` and `callers add`: one reads the file as `serve` does, the other adds a key to it.
//!
//! The bridge generates the new key, writes its hash, and returns the key once. Comments and order are kept. The file is
//! replaced by a rename, so that a running bridge never reads a partial file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::{Caller, Callers, OwnKeys, file};
use crate::reload;

/// The prefix of keys, so that anyone who finds one knows what it is for.
const KEY_PREFIX: &str = "alimb_";
const KEY_BYTES: usize = 32;

/// Why a callers file can't be used or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{path} can't be read: {1}", path = .0.display())]
    Read(PathBuf, io::Error),
    /// The file is invalid.
    #[error(transparent)]
    File(reload::Error),
    /// The name is not valid for a caller.
    #[error("a caller's name {}", file::NAME_RULE)]
    Name,
    /// The file can't be written.
    #[error("{path} can't be written: {1}", path = .0.display())]
    Write(PathBuf, io::Error),
    /// The system provides no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

/// Describes a valid file, one line per caller.
///
/// # Errors
///
/// - [`Error::File`] with all errors, one per line, or [`Error::Read`].
pub fn check(path: &Path) -> Result<Vec<String>, Error> {
    let callers = Callers::open(path.to_owned(), OwnKeys::Allowed);
    let callers = callers.map_err(|error| match error {
        reload::Error::Read(error) => Error::Read(path.to_owned(), error),
        invalid => Error::File(invalid),
    });
    let callers = callers?.load();
    let mut lines: Vec<_> = callers
        .iter()
        .map(|caller| callers.describe(caller))
        .collect();
    for shared in callers.shared_counts(None) {
        lines.push(format!("warning: {shared}"));
    }
    Ok(lines)
}

/// Adds a new key to the caller of this name, and returns the key. Creates the caller and the file if they do not exist.
///
/// # Errors
///
/// - [`Error`]. Nothing was written then.
pub fn add(path: &Path, name: &str) -> Result<String, Error> {
    if !file::is_name(name) {
        return Err(Error::Name);
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::Read(path.to_owned(), error)),
    };
    let key = new_key()?;
    let text = with_key(&text, name, &key)?;
    swap(path, &text).map_err(|error| Error::Write(path.to_owned(), error))?;
    Ok(key)
}

impl Callers {
    /// One line about a caller.
    fn describe(&self, caller: &Caller) -> String {
        let index = self.all.iter().position(|it| it.name == caller.name);
        let keys = self.hashes.iter().filter(|(_, of)| Some(*of) == index);
        let sans = self.sans.values().filter(|of| Some(**of) == index);
        let (keys, sans) = (keys.count(), sans.count());
        let rules = &caller.rules;
        let or_any = |limit: Option<String>| limit.unwrap_or_else(|| "unlimited".into());
        let mut line = format!(
            "{}: keys {keys}, certificate names {sans}, weight {}, open calls {}, rate {}",
            caller.name,
            caller.weight,
            or_any(rules.max_open_calls.map(|limit| limit.to_string())),
            or_any(rules.rate.map(|rate| rate.to_string())),
        );
        if !caller.may_override_system_prompt() {
            line += ", no system_prompt_override";
        }
        if caller.own_key.is_some() {
            line += ", own upstream key";
        }
        if keys + sans == 0 {
            line += " (warning: nothing identifies it, so it can't call)";
        }
        line
    }
}

fn new_key() -> Result<String, Error> {
    let mut bytes = [0; KEY_BYTES];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::Random)?;
    Ok(format!("{KEY_PREFIX}{}", hex(&bytes)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the hash of `key` to the entry of `name` in the text.
fn with_key(text: &str, name: &str, key: &str) -> Result<String, Error> {
    let content = |why: String| Error::File(reload::Error::Content(why));
    let document = text.parse::<DocumentMut>();
    let mut document =
        document.map_err(|error| content(format!("is not TOML: {}", error.message())))?;
    let hash = hex(digest(&SHA256, key.as_bytes()).as_ref());
    let callers = document.entry("caller");
    let callers = callers.or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(tables) = callers.as_array_of_tables_mut() else {
        return Err(content("caller must be tables: [[caller]]".into()));
    };
    let is_named = |table: &Table| table.get("name").and_then(Item::as_str) == Some(name);
    let found = tables.iter().position(is_named);
    match found.and_then(|index| tables.get_mut(index)) {
        Some(table) => {
            let hashes = table.entry("key_sha256").or_insert(list_of(None));
            let hashes = hashes.as_array_mut();
            hashes
                .ok_or_else(|| content("caller.key_sha256 must be a list".into()))?
                .push(hash);
        }
        None => {
            let mut table = Table::new();
            table.insert("name", name.into());
            table.insert("key_sha256", list_of(Some(hash)));
            tables.push(table);
        }
    }
    let text = document.to_string();
    let (_, faults) = file::parse(&text);
    faults
        .or(text)
        .map_err(|faults| content(faults.to_string()))
}

fn list_of(hash: Option<String>) -> Item {
    Item::Value(Value::Array(Array::from_iter(hash)))
}

/// Replaces the file that `path` leads to, and keeps its permissions.
fn swap(path: &Path, text: &str) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = target.clone().into_os_string();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::write(&new, text)?;
    if let Ok(meta) = fs::metadata(&target) {
        fs::set_permissions(&new, meta.permissions())?;
    }
    fs::rename(&new, &target)
}
