//! What a peer chooses and a terminal or a text log shows: no escape sequence crosses.

use super::{QUESTION, serve};
use crate::{
    support::{running::run, upstream::refused_url},
    tls::authority::{Authority, Files},
};

/// A name that sets a terminal's title (ECMA-48: OSC).
const DRESSED: &str = "\x1b]0;owned\x07.example";

fn assert_is_plain(text: &str) {
    assert!(text.contains("owned"), "the name is not shown: {text}");
    let is_plain = |char: char| !char.is_control() || char == '\n';
    assert!(text.chars().all(is_plain), "{text:?}");
}

#[test]
fn a_name_in_a_certificate_reaches_no_terminal_as_it_is() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for(DRESSED));
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
    let (_dressed, dressed) = serve(&refused_url(), &tls);
    let url = format!("https://{dressed}");

    let asked = run(&["invoke", "--address", &url, "--ca-file", &ca, QUESTION]);
    assert_is_plain(&asked.stderr);
}
