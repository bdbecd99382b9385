//! A peer's text on a terminal: escape sequences are removed.

use super::{QUESTION, serve};
use crate::{
    support::{running::run, upstream::refused_url},
    tls::authority::{Authority, Files},
};

/// A name that sets a terminal's title (ECMA-48: OSC).
const WITH_CONTROLS: &str = "\x1b]0;owned\x07.example";

fn assert_is_sanitized(text: &str) {
    assert!(text.contains("owned"), "the name is not printed: {text}");
    let is_plain = |char: char| !char.is_control() || char == '\n';
    assert!(text.chars().all(is_plain), "{text:?}");
}

#[test]
fn a_name_in_a_certificate_is_sanitized_for_the_terminal() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(WITH_CONTROLS));
    files.put("ca.crt", &authority.pem);
    let (cert, key, ca) = (
        files.path("tls.crt"),
        files.path("tls.key"),
        files.path("ca.crt"),
    );
    let tls = [
        ("ALIM_BRIDGE_TLS_CERT_FILE", &*cert),
        ("ALIM_BRIDGE_TLS_KEY_FILE", &*key),
    ];
    let (_bridge, address) = serve(&refused_url(), &tls);
    let url = format!("https://{address}");

    let ended = run(&["invoke", "--address", &url, "--ca-file", &ca, QUESTION]);
    assert_is_sanitized(&ended.stderr);
}
