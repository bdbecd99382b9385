//! Parses an upstream key from a file or a setting.

use secrecy::{ExposeSecret, SecretString};

/// Parses the key, without the white space around it. It must be valid in a header.
///
/// # Errors
///
/// - A sentence that says what is wrong, without the key.
pub fn parse_key(content: &[u8]) -> Result<SecretString, String> {
    let text = String::from_utf8_lossy(content);
    let key = SecretString::from(text.trim());
    let is_valid = key
        .expose_secret()
        .bytes()
        .all(|byte| (0x21..0x7f).contains(&byte));
    match key.expose_secret() {
        "" => Err("holds no key".into()),
        _ if !is_valid => Err("holds a key with white space or characters beyond ASCII".into()),
        _ => Ok(key),
    }
}
