//! Who may call: the keys of `CALLER_KEYS_FILE`.
//!
//! The file holds SHA-256 hashes, one `name:sha256-hex` a line, so reading it gives nobody a key.
//! Names are for the log. Compared in constant time, and against every line, so that the time of an
//! answer tells nothing of how near a guess was.

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::ConstantTimeEq;

/// The callers that are known.
#[derive(Debug)]
pub struct CallerKeys {
    entries: Vec<(String, [u8; SHA256_OUTPUT_LEN])>,
}

impl CallerKeys {
    /// Reads the file's text; blank lines and lines that begin with `#` are passed over.
    ///
    /// # Errors
    ///
    /// - A sentence that names the line at fault; an empty list is a fault too, since nobody could
    ///   call.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let entries = lines
            .map(|(index, line)| {
                parse_line(line).ok_or_else(|| format!("line {} is not name:sha256-hex", index + 1))
            })
            .collect::<Result<Vec<_>, _>>()?;
        match entries.is_empty() {
            true => Err("no caller is listed".into()),
            false => Ok(Self { entries }),
        }
    }

    /// The name of the caller who holds this key.
    pub fn identify(&self, key: &str) -> Option<&str> {
        let hash = digest(&SHA256, key.as_bytes());
        let mut found = None;
        for (name, known) in &self.entries {
            if bool::from(known.ct_eq(hash.as_ref())) {
                found = Some(name.as_str());
            }
        }
        found
    }
}

fn parse_line(line: &str) -> Option<(String, [u8; SHA256_OUTPUT_LEN])> {
    let (name, hex) = line.split_once(':')?;
    let (name, hex) = (name.trim(), hex.trim());
    if name.is_empty()
        || hex.len() != 2 * SHA256_OUTPUT_LEN
        || !hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return None;
    }
    let mut hash = [0; SHA256_OUTPUT_LEN];
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some((name.to_owned(), hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SHA-256 of "test" (FIPS 180-4).
    const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_caller_is_known_by_the_hash_of_its_key() {
        let keys = CallerKeys::parse(&format!("# mesh\n\norders: {TEST}\n")).expect("a list");
        assert_eq!(keys.identify("test"), Some("orders"));
        assert_eq!(keys.identify("Test"), None);
        assert_eq!(keys.identify(TEST), None, "the hash is no key");
    }

    #[test]
    fn a_line_that_is_no_hash_is_named() {
        for line in [
            "orders",
            "orders:abc",
            &format!(":{TEST}"),
            &format!("a:{}x", &TEST[1..]),
        ] {
            let told = CallerKeys::parse(&format!("# first\n{line}")).expect_err("no hash");
            assert_eq!(told, "line 2 is not name:sha256-hex", "{line}");
        }
        assert!(CallerKeys::parse("# nobody").is_err());
    }
}
