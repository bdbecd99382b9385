//! A key for the upstream as a file or a setting holds it.

use secrecy::{ExposeSecret, SecretString};

/// The key without the white space round it; it must be fit for a header.
///
/// # Errors
///
/// - A sentence that says what is wrong, and does not repeat the key.
pub fn parse_key(content: &[u8]) -> Result<SecretString, String> {
    let text = String::from_utf8_lossy(content);
    let key = SecretString::from(text.trim());
    let is_fit = key
        .expose_secret()
        .bytes()
        .all(|byte| (0x21..0x7f).contains(&byte));
    match key.expose_secret() {
        "" => Err("holds no key".into()),
        _ if !is_fit => Err("holds a key with white space or characters beyond ASCII".into()),
        _ => Ok(key),
    }
}
