//! Which callers are allowed, and what each can do: the callers of `CALLERS_FILE`.
//!
//! The file has SHA-256 hashes of keys, so reading it reveals no key. Hashes are compared in constant time, and with every
//! entry, so that the response time does not reveal how close a guess was. The file and the upstream key files that it
//! names are reloaded together. A caller's open calls and the state of its rate limit survive a reload.

mod bucket;
pub mod edit;
mod file;
mod limits;
mod proxies;
mod xfcc;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

pub use self::{
    file::Faults,
    limits::Slot,
    proxies::{TrustedProxies, Unreadable},
};
use self::{
    file::{Entry, Hash, as_san},
    limits::{Limits, Rules},
};
use crate::{
    admission::Rejected,
    reload::{self, FileSnapshot, Reload},
    upstream::parse_key,
};

/// Leading characters of a key by which ALİM counts its calls.
const COUNTED_CHARACTERS: usize = 16;

/// The known callers.
#[derive(Debug)]
pub struct Callers {
    all: Vec<Arc<Caller>>,
    hashes: Vec<(Hash, usize)>,
    /// Callers by the names of their certificates.
    sans: HashMap<String, usize>,
}

/// One caller.
#[derive(Debug)]
pub struct Caller {
    name: Arc<str>,
    weight: u32,
    own_key: Option<OwnKey>,
    rules: Rules,
    limits: Limits,
}

/// A caller's own key for the upstream.
#[derive(Clone, Debug)]
pub struct OwnKey {
    file: Arc<Path>,
    key: SecretString,
}

/// Which upstream key is used. It does not change when the key in a file changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyIdentity {
    /// The bridge's own key.
    Service,
    /// The key in this file.
    File(Arc<Path>),
}

/// The owners of two keys that ALİM counts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCount(pub String, pub String);

/// Whether an entry can name a file with its own upstream key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnKeys {
    /// It can.
    Allowed,
    /// It can't: with `CREDENTIALS=caller`, callers bring their keys.
    Brought,
}

impl Callers {
    /// Reads the file, and reloads it when it changes.
    ///
    /// # Errors
    ///
    /// - [`reload::Error`] if the file can't be read, or with all errors in it, one per line.
    pub fn open(path: PathBuf, own_keys: OwnKeys) -> Result<Reload<Self>, reload::Error> {
        let base = folder_of(&path);
        let list = {
            let base = base.clone();
            move |content: &[u8]| key_files(&String::from_utf8_lossy(content), &base)
        };
        let parse = move |content: &[u8], files: &[FileSnapshot], last: Option<&Self>| {
            let text = String::from_utf8_lossy(content);
            let made = Self::parse(&text, &base, own_keys, files, last);
            made.map_err(|faults| faults.to_string())
        };
        Reload::listed(path, list, parse)
    }

    fn parse(
        text: &str,
        base: &Path,
        own_keys: OwnKeys,
        files: &[FileSnapshot],
        last: Option<&Self>,
    ) -> Result<Self, Faults> {
        let (entries, mut faults) = file::parse(text);
        let (mut hashes, mut sans) = (Vec::new(), HashMap::new());
        let mut all = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            hashes.extend(entry.hashes.iter().map(|hash| (*hash, index)));
            sans.extend(entry.sans.iter().map(|san| (san.clone(), index)));
            let own_key = own_key(&entry, base, own_keys, files, &mut faults);
            let known = last.and_then(|last| last.named(&entry.name));
            all.push(Arc::new(Caller {
                limits: Limits::new(entry.rules, known.map(|known| &known.limits)),
                name: entry.name,
                weight: entry.weight,
                own_key,
                rules: entry.rules,
            }));
        }
        faults.or(Self { all, hashes, sans })
    }

    /// The caller that has this key.
    pub fn with_key(&self, key: &str) -> Option<&Arc<Caller>> {
        let candidate = digest(&SHA256, key.as_bytes());
        let mut found = None;
        for (hash, index) in &self.hashes {
            if bool::from(hash.ct_eq(candidate.as_ref())) {
                found = Some(*index);
            }
        }
        self.all.get(found?)
    }

    /// The caller whose certificate has these names. `None` if they belong to two callers.
    pub fn with_certificate<T: AsRef<str>>(&self, names: &[T]) -> Option<&Arc<Caller>> {
        let known = |name: &T| self.sans.get(&as_san(name.as_ref()));
        let mut found = names.iter().filter_map(known);
        let first = found.next()?;
        let is_one = found.all(|other| other == first);
        self.all.get(*first).filter(|_| is_one)
    }

    /// Whether any caller is identified by a certificate.
    pub fn know_certificates(&self) -> bool {
        !self.sans.is_empty()
    }

    /// All callers, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Caller>> {
        self.all.iter()
    }

    /// Upstream keys, including the bridge's own, that share their first 16 characters: ALİM counts them as one. Two callers that name
    /// the same file are meant to share it.
    pub fn shared_counts(&self, service_key: Option<&SecretString>) -> Vec<SharedCount> {
        let start = |key: &SecretString| {
            let characters = key.expose_secret().chars();
            characters.take(COUNTED_CHARACTERS).collect::<String>()
        };
        let mut seen = HashMap::new();
        let mut shared = Vec::new();
        if let Some(key) = service_key {
            seen.insert(start(key), (KeyIdentity::Service, "the bridge".to_owned()));
        }
        for (caller, own) in self.all.iter().filter_map(|it| Some((it, it.own_key()?))) {
            let identity = caller.key_identity();
            let of = seen
                .entry(start(&own.key))
                .or_insert_with(|| (identity.clone(), caller.name.to_string()));
            if of.0 != identity {
                shared.push(SharedCount(of.1.clone(), caller.name.to_string()));
            }
        }
        shared
    }

    fn named(&self, name: &str) -> Option<&Caller> {
        let mut all = self.all.iter();
        all.find(|caller| &*caller.name == name).map(Arc::as_ref)
    }
}

impl Caller {
    /// Its name in logs, metrics and traces.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its weight when callers compete.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The upstream key that is used instead of the bridge's.
    pub fn own_key(&self) -> Option<&OwnKey> {
        self.own_key.as_ref()
    }

    /// Which upstream key is used.
    pub fn key_identity(&self) -> KeyIdentity {
        match &self.own_key {
            Some(own) => KeyIdentity::File(Arc::clone(&own.file)),
            None => KeyIdentity::Service,
        }
    }

    /// Whether its questions can contain a system prompt.
    pub fn may_override_system_prompt(&self) -> bool {
        self.rules.rejects_override != Some(true)
    }

    /// Its open calls to ALİM.
    pub fn open_calls(&self) -> usize {
        self.limits.open_calls()
    }

    /// Its limit on open calls; `None` if it has none.
    pub fn max_open_calls(&self) -> Option<usize> {
        self.rules.max_open_calls
    }

    /// Its rate limit as in the file; `None` if it has none.
    pub fn rate(&self) -> Option<String> {
        self.rules.rate.map(|rate| rate.to_string())
    }

    /// Admits one call by the caller's own limits, without waiting. Dropping the slot ends the call's share of the limit.
    ///
    /// # Errors
    ///
    /// - [`Rejected::CallerSaturated`] and [`Rejected::CallerRateLimited`].
    pub fn admit(&self) -> Result<Slot, Rejected> {
        self.limits.admit()
    }
}

impl OwnKey {
    /// The key itself.
    pub fn key(&self) -> &SecretString {
        &self.key
    }
}

impl fmt::Display for SharedCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(one, other) = self;
        write!(
            f,
            "the upstream keys of {one} and {other} begin with the same 16 characters: ALİM counts their calls as one key's"
        )
    }
}

/// The directory that the file's relative paths start from.
fn folder_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}

/// The upstream key files that the entries name.
fn key_files(text: &str, base: &Path) -> Vec<PathBuf> {
    let entries = file::parse(text).0.into_iter();
    let files = entries.filter_map(|entry| Some(base.join(entry.key_file?.path)));
    let mut files: Vec<_> = files.collect();
    files.sort();
    files.dedup();
    files
}

fn own_key(
    entry: &Entry,
    base: &Path,
    own_keys: OwnKeys,
    files: &[FileSnapshot],
    faults: &mut Faults,
) -> Option<OwnKey> {
    const FIELD: &str = "caller.upstream_key_file";
    let named = entry.key_file.as_ref()?;
    if own_keys == OwnKeys::Brought {
        let text = "can't be combined with CREDENTIALS=caller: callers bring their own keys";
        faults.add(named.line, FIELD, text);
        return None;
    }
    let file = base.join(&named.path);
    let look = files.iter().find(|look| look.path == file);
    let content = match look.map(|look| &look.content) {
        Some(Ok(content)) => Ok(content),
        Some(Err(error)) => Err(format!("can't be read: {error}")),
        None => Err("was not read".into()),
    };
    let key = content.and_then(|content| parse_key(content));
    let key = key.map_err(|why| faults.add(named.line, FIELD, why)).ok()?;
    let file = Arc::from(file);
    Some(OwnKey { file, key })
}

#[cfg(test)]
mod tests;
