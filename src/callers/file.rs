//! Parses the text of `CALLERS_FILE`: TOML into entries. Each error has its line and field.
//!
//! No error repeats a value, because the value can be a misplaced key. An unknown field is an error, because a misspelt
//! limit would limit nobody.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use ring::digest::SHA256_OUTPUT_LEN;
use toml_edit::{Document, Item, TableLike};

use super::{bucket, limits::Rules};
use crate::quota;

/// Maximum of callers per file. Their names are labels of metrics.
const MAX_CALLERS: usize = 200;
const MAX_NAME_BYTES: usize = 32;
/// Which names are valid.
pub(super) const NAME_RULE: &str = "must be 1 to 32 of a-z, 0-9, '.', '_' and '-', and not \"service\", which names the bridge's own key";
const MAX_OPEN_CALLS: i64 = 1_000_000;
const MAX_WEIGHT: i64 = 1000;
const MAX_SAN_BYTES: usize = 2048;

pub(super) type Hash = [u8; SHA256_OUTPUT_LEN];

/// One `[[caller]]`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) hashes: Vec<Hash>,
    /// URIs unchanged, DNS names in lower case.
    pub(super) sans: Vec<String>,
    pub(super) weight: u32,
    pub(super) key_file: Option<KeyFile>,
    pub(super) rules: Rules,
}

/// The file of a caller's own upstream key.
#[derive(Debug)]
pub(super) struct KeyFile {
    /// As written in the file.
    pub(super) path: String,
    pub(super) line: usize,
}

/// One error in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    line: usize,
    field: String,
    text: String,
}

/// All errors of a file, one per line.
#[derive(Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, line: usize, field: impl Into<String>, text: impl Into<String>) {
        let (field, text) = (field.into(), text.into());
        self.0.push(Fault { line, field, text });
    }

    /// `value`, if there are no errors.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, Self> {
        self.0.sort_by_key(|fault| fault.line);
        match self.0.is_empty() {
            true => Ok(value),
            false => Err(self),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|fault| {
            let space = if fault.field.is_empty() { "" } else { " " };
            format!("line {}: {}{space}{}", fault.line, fault.field, fault.text)
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Whether the text is a valid name of a caller. It must differ from the name of the bridge's own key, because both are values of
/// one label and one descriptor.
pub(super) fn is_name(text: &str) -> bool {
    let is_fit = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let is_free = text != quota::SERVICE;
    is_free && (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(is_fit)
}

/// A certificate's name in the form for comparison: DNS names in lower case (RFC 4343), URIs unchanged.
pub(super) fn as_san(name: &str) -> String {
    match name.contains(':') {
        true => name.to_owned(),
        false => name.to_ascii_lowercase(),
    }
}

/// Parses the entries that have a name, and collects all errors. A file without any entry is an error, because nobody could
/// call.
pub(super) fn parse(text: &str) -> (Vec<Entry>, Faults) {
    let mut reader = Reader {
        text,
        faults: Faults::default(),
    };
    let entries = match Document::parse(text) {
        Ok(document) => reader.document(document.as_table()),
        Err(error) => {
            let first = error.message().lines().next().unwrap_or_default();
            reader.fault(error.span(), "", format!("is not TOML: {first}"));
            Vec::new()
        }
    };
    (entries, reader.faults)
}

struct Reader<'a> {
    text: &'a str,
    faults: Faults,
}

impl Reader<'_> {
    fn line(&self, span: Option<Range<usize>>) -> usize {
        let before = &self.text.as_bytes()[..span.map_or(0, |span| span.start)];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    fn fault(
        &mut self,
        span: Option<Range<usize>>,
        field: impl Into<String>,
        text: impl Into<String>,
    ) {
        let line = self.line(span);
        self.faults.add(line, field, text);
    }

    fn document(&mut self, document: &dyn TableLike) -> Vec<Entry> {
        let (mut defaults, mut tables) = (Rules::default(), Vec::new());
        for (name, item) in document.iter() {
            match name {
                "defaults" => match item.as_table_like() {
                    Some(table) => defaults = self.defaults(table),
                    None => self.fault(item.span(), "defaults", "must be a table"),
                },
                "caller" => match tables_of(item) {
                    Some(found) => tables = found,
                    None => self.fault(item.span(), "caller", "must be tables: [[caller]]"),
                },
                _ => self.unknown(document, "", name),
            }
        }
        match tables.len() {
            0 => self.fault(None, "caller", "is missing: no caller is listed"),
            1..=MAX_CALLERS => {}
            count => {
                let text = format!("stands {count} times, the limit is {MAX_CALLERS}");
                self.fault(None, "caller", text);
            }
        }
        let mut seen = HashMap::new();
        let entries = tables.into_iter();
        entries
            .filter_map(|(table, span)| self.entry(table, span, defaults, &mut seen))
            .collect()
    }

    fn defaults(&mut self, table: &dyn TableLike) -> Rules {
        let mut rules = Rules::default();
        for (name, item) in table.iter() {
            if !self.rule(&mut rules, "defaults", name, item) {
                self.unknown(table, "defaults.", name);
            }
        }
        rules
    }

    fn entry(
        &mut self,
        table: &dyn TableLike,
        span: Option<Range<usize>>,
        defaults: Rules,
        seen: &mut HashMap<Unique, usize>,
    ) -> Option<Entry> {
        let (mut name, mut key_file) = (None, None);
        let (mut hashes, mut sans, mut weight) = (Vec::new(), Vec::new(), 1);
        let mut rules = Rules::default();
        for (field, item) in table.iter() {
            match field {
                "name" => name = self.name(item, seen),
                "key_sha256" => hashes = self.hashes(item, seen),
                "san" => sans = self.sans(item, seen),
                "weight" => weight = self.number(item, "caller.weight", MAX_WEIGHT).unwrap_or(1),
                "upstream_key_file" => key_file = self.key_file(item),
                _ if self.rule(&mut rules, "caller", field, item) => {}
                _ => self.unknown(table, "caller.", field),
            }
        }
        if table.get("name").is_none() {
            self.fault(span, "caller.name", "is missing");
        }
        Some(Entry {
            name: name?,
            hashes,
            sans,
            weight,
            key_file,
            rules: rules.or(defaults),
        })
    }

    /// Reads a field that callers and defaults share. Returns false for any other field.
    fn rule(&mut self, rules: &mut Rules, table: &str, name: &str, item: &Item) -> bool {
        let field = format!("{table}.{name}");
        match name {
            "max_open_calls" => {
                let limit = self.number(item, &field, MAX_OPEN_CALLS);
                rules.max_open_calls = limit.map(|limit| limit as usize);
            }
            "rate" => {
                rules.rate = item.as_str().and_then(bucket::parse);
                if rules.rate.is_none() {
                    self.fault(item.span(), field, format!("must be {}", bucket::RULE));
                }
            }
            "system_prompt_override" => match item.as_str() {
                Some("allow") => rules.rejects_override = Some(false),
                Some("reject") => rules.rejects_override = Some(true),
                _ => self.fault(item.span(), field, "must be \"allow\" or \"reject\""),
            },
            _ => return false,
        }
        true
    }

    fn name(&mut self, item: &Item, seen: &mut HashMap<Unique, usize>) -> Option<Arc<str>> {
        let Some(name) = item.as_str().filter(|name| is_name(name)) else {
            self.fault(item.span(), "caller.name", NAME_RULE);
            return None;
        };
        self.check_unique(item.span(), "caller.name", Unique::Name(name.into()), seen);
        Some(name.into())
    }

    fn hashes(&mut self, item: &Item, seen: &mut HashMap<Unique, usize>) -> Vec<Hash> {
        const FIELD: &str = "caller.key_sha256";
        let rule = "must be a list of SHA-256 hashes, each 64 hex digits in quotes";
        let found = self.list(item, FIELD, rule, parse_hash);
        for (hash, span) in &found {
            self.check_unique(span.clone(), FIELD, Unique::Hash(*hash), seen);
        }
        found.into_iter().map(|(hash, _)| hash).collect()
    }

    fn sans(&mut self, item: &Item, seen: &mut HashMap<Unique, usize>) -> Vec<String> {
        let rule = "must be a list of URIs or DNS names of certificates, in quotes";
        let found = self.list(item, "caller.san", rule, |san| {
            let is_fit = (1..=MAX_SAN_BYTES).contains(&san.len())
                && san.bytes().all(|byte| byte.is_ascii_graphic());
            is_fit.then(|| as_san(san))
        });
        for (san, span) in &found {
            self.check_unique(span.clone(), "caller.san", Unique::San(san.clone()), seen);
        }
        found.into_iter().map(|(san, _)| san).collect()
    }

    fn key_file(&mut self, item: &Item) -> Option<KeyFile> {
        let line = self.line(item.span());
        let Some(path) = item.as_str().filter(|path| !path.is_empty()) else {
            self.fault(item.span(), "caller.upstream_key_file", "must be a path");
            return None;
        };
        let path = path.to_owned();
        Some(KeyFile { path, line })
    }

    fn number(&mut self, item: &Item, field: &str, max: i64) -> Option<u32> {
        let number = item.as_integer().filter(|it| (1..=max).contains(it));
        if number.is_none() {
            let rule = format!("must be a whole number from 1 to {max}");
            self.fault(item.span(), field, rule);
        }
        number.and_then(|number| u32::try_from(number).ok())
    }

    fn list<T>(
        &mut self,
        item: &Item,
        field: &str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<(T, Option<Range<usize>>)> {
        let Some(array) = item.as_array() else {
            self.fault(item.span(), field, rule);
            return Vec::new();
        };
        let mut found = Vec::new();
        for value in array {
            match value.as_str().and_then(&parse) {
                Some(parsed) => found.push((parsed, value.span())),
                None => self.fault(value.span(), field, rule),
            }
        }
        found
    }

    /// Adds an error if two callers share a name, a key or a certificate. They could not be distinguished.
    fn check_unique(
        &mut self,
        span: Option<Range<usize>>,
        field: &str,
        what: Unique,
        seen: &mut HashMap<Unique, usize>,
    ) {
        let line = self.line(span.clone());
        if let Some(first) = seen.insert(what, line) {
            self.fault(span, field, format!("is already in line {first}"));
        }
    }

    fn unknown(&mut self, table: &dyn TableLike, path: &str, name: &str) {
        let span = table.key(name).and_then(toml_edit::Key::span);
        let is_word = name.len() <= 32 && name.bytes().all(|it| matches!(it, b'a'..=b'z' | b'_'));
        let name = if is_word { name } else { "(a field)" };
        self.fault(span, format!("{path}{name}"), "is not a field of this file");
    }
}

/// A value that must be unique in a file.
#[derive(PartialEq, Eq, Hash)]
enum Unique {
    Name(String),
    Hash(Hash),
    San(String),
}

type Spanned<'a> = (&'a dyn TableLike, Option<Range<usize>>);

/// `[[caller]]`, or a list of inline tables.
fn tables_of(item: &Item) -> Option<Vec<Spanned<'_>>> {
    if let Some(tables) = item.as_array_of_tables() {
        let tables = tables.iter();
        return Some(tables.map(|it| (it as &dyn TableLike, it.span())).collect());
    }
    let tables = item.as_array()?.iter().map(|value| {
        let table = value.as_inline_table()?;
        Some((table as &dyn TableLike, table.span()))
    });
    tables.collect()
}

fn parse_hash(hex: &str) -> Option<Hash> {
    let is_hex = hex.len() == 2 * SHA256_OUTPUT_LEN && hex.bytes().all(|it| it.is_ascii_hexdigit());
    if !is_hex {
        return None;
    }
    let mut hash = [0; SHA256_OUTPUT_LEN];
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(hash)
}
