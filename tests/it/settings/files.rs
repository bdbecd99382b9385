//! Settings that name files: keys, certificates and callers. Also who can then call the bridge.

use std::{fs, path::PathBuf};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use secrecy::ExposeSecret;
use tempfile::{NamedTempFile, TempDir};

use alim_bridge::config::SETTINGS;

use super::{KEY, assert_rejected, error, invalid, parse, parsed};

fn file(content: impl AsRef<[u8]>) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, content).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

/// A certificate and its key, as PEM files.
fn tls_files() -> (NamedTempFile, NamedTempFile) {
    let made = generate_simple_self_signed(["localhost".to_owned()]);
    let CertifiedKey { cert, signing_key } = made.expect("a certificate");
    (file(cert.pem()), file(signing_key.serialize_pem()))
}

/// A file that lists one caller.
fn callers_file() -> NamedTempFile {
    file("[[caller]]\nname = 'orders'")
}

/// A path to a missing file in an existing directory.
fn missing() -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a directory");
    let path = folder.path().join("missing.pem");
    (folder, path)
}

#[test]
fn the_bridge_needs_exactly_one_key_unless_callers_send_theirs() {
    let key_file = file("k");
    let key_file = ("UPSTREAM_API_KEY_FILE", path(&key_file));
    let caller = ("CREDENTIALS", "caller");
    for (settings, expected) in [
        (&[][..], &["UPSTREAM_API_KEY"][..]),
        (&[KEY], &[]),
        (&[key_file], &[]),
        (&[KEY, key_file], &["UPSTREAM_API_KEY_FILE"]),
        (&[caller], &[]),
        (&[caller, KEY], &["CREDENTIALS"]),
        (&[caller, key_file], &["CREDENTIALS"]),
    ] {
        assert_eq!(invalid(settings), expected, "{settings:?}");
    }
    assert!(parse(&[caller]).expect("valid").upstream.key.is_none());
}

#[test]
fn white_space_around_a_key_is_trimmed() {
    for content in ["s3cret", "s3cret\n", "s3cret\r\n", " s3cret \n\n"] {
        let file = file(content);
        let config = parse(&[("UPSTREAM_API_KEY_FILE", path(&file))]).expect("valid");
        let key = config.upstream.key.expect("a key").load();
        assert_eq!(key.expose_secret(), "s3cret", "{content:?}");
    }
}

#[test]
fn a_key_that_is_invalid_in_a_header_is_rejected() {
    for key in ["a b", "a\tb", "a\nb", "açar", "a\u{7f}", "\n"] {
        assert_eq!(
            invalid(&[("UPSTREAM_API_KEY", key)]),
            ["UPSTREAM_API_KEY"],
            "{key:?}"
        );
        let file = file(key);
        let settings = [("UPSTREAM_API_KEY_FILE", path(&file))];
        assert_eq!(invalid(&settings), ["UPSTREAM_API_KEY_FILE"], "{key:?}");
    }
}

#[test]
fn an_admin_token_has_at_least_sixteen_characters() {
    for (token, is_accepted) in [
        ("0123456789abcdef\n", true),
        ("0123456789abcde\n", false),
        ("", false),
        ("a token of words", false),
    ] {
        let file = file(token);
        let settings = [KEY, ("ADMIN_TOKEN_FILE", path(&file))];
        let expected: &[&str] = if is_accepted {
            &[]
        } else {
            &["ADMIN_TOKEN_FILE"]
        };
        assert_eq!(invalid(&settings), expected, "{token:?}");
        assert!(is_accepted || token.is_empty() || !error(&settings).contains(token.trim()));
    }
}

#[test]
fn a_certificate_requires_a_key_and_a_key_a_certificate() {
    let (cert, key) = tls_files();
    let [cert, key, client_ca] = [
        ("TLS_CERT_FILE", path(&cert)),
        ("TLS_KEY_FILE", path(&key)),
        ("TLS_CLIENT_CA_FILE", path(&cert)),
    ];
    assert_eq!(invalid(&[KEY, cert]), ["TLS_KEY_FILE"]);
    assert_eq!(invalid(&[KEY, key]), ["TLS_CERT_FILE"]);
    assert_eq!(invalid(&[KEY, client_ca]), ["TLS_CLIENT_CA_FILE"]);
    assert!(parsed(&[]).server.tls.is_none());
    assert!(parsed(&[cert, key]).server.tls.is_some());
    assert!(parsed(&[cert, key, client_ca]).server.tls.is_some());
}

#[test]
fn a_missing_file_is_reported_with_the_name_of_its_setting() {
    let (_folder, missing) = missing();
    let missing = missing.to_str().expect("UTF-8");
    assert_eq!(
        invalid(&[("UPSTREAM_API_KEY_FILE", missing)]),
        ["UPSTREAM_API_KEY_FILE"]
    );
    assert_rejected("UPSTREAM_CA_FILE", &[missing]);
    assert_rejected("CALLERS_FILE", &[missing]);
    let (cert, key) = tls_files();
    let good = [("TLS_CERT_FILE", path(&cert)), ("TLS_KEY_FILE", path(&key))];
    for name in ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"] {
        let others = good.into_iter().filter(|(other, _)| *other != name);
        let settings: Vec<_> = others.chain([KEY, (name, missing)]).collect();
        assert_eq!(invalid(&settings), [name], "{name}");
    }
}

#[test]
fn files_with_other_contents_are_rejected() {
    let other = file("Suvarın.\n");
    assert_rejected("UPSTREAM_CA_FILE", &[path(&other)]);
    assert_rejected("CALLERS_FILE", &[path(&other)]);
    let (cert, _) = tls_files();
    let cert = ("TLS_CERT_FILE", path(&cert));
    assert!(!invalid(&[KEY, cert, ("TLS_KEY_FILE", path(&other))]).is_empty());
}

#[test]
fn a_key_in_place_of_its_file_is_not_in_the_error() {
    for row in SETTINGS.iter().filter(|row| row.name.ends_with("_FILE")) {
        let text = error(&[
            (row.name, "hunter2"),
            ("TLS_CERT_FILE", "hunter2"),
            ("TLS_KEY_FILE", "hunter2"),
        ]);
        assert!(
            text.contains(row.name) && !text.contains("hunter2"),
            "{text}"
        );
    }
}

#[test]
fn the_contents_of_an_invalid_file_are_not_in_the_error() {
    let secret = file("orders: hunter2 ü");
    let (cert, _) = tls_files();
    for name in ["UPSTREAM_API_KEY_FILE", "CALLERS_FILE", "TLS_KEY_FILE"] {
        let text = error(&[("TLS_CERT_FILE", path(&cert)), (name, path(&secret))]);
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_bridge_is_open_if_it_listens_beyond_loopback_and_authenticates_nobody() {
    let (cert, key) = tls_files();
    let callers = callers_file();
    let everywhere = ("LISTEN", "0.0.0.0:50051");
    let mutual_tls = [
        ("TLS_CERT_FILE", path(&cert)),
        ("TLS_KEY_FILE", path(&key)),
        ("TLS_CLIENT_CA_FILE", path(&cert)),
    ];
    assert!(parsed(&[everywhere]).is_open_to_the_network());
    assert!(parsed(&[("LISTEN", "[::]:50051")]).is_open_to_the_network());
    for closed in [
        &[][..],
        &[("LISTEN", "127.0.0.2:50051")],
        &[("LISTEN", "[::1]:50051")],
        &[everywhere, ("CALLERS_FILE", path(&callers))],
        &[&[everywhere], &mutual_tls[..]].concat(),
    ] {
        assert!(!parsed(closed).is_open_to_the_network(), "{closed:?}");
    }
}

#[test]
fn authorities_for_the_quota_service_need_the_service_and_certificates() {
    let (cert, _) = tls_files();
    let quota = ("UPSTREAM_QUOTA", "30/min");
    let service = ("QUOTA_SERVICE", "https://ratelimit:8081");
    let with = |file| ("QUOTA_SERVICE_CA_FILE", path(file));
    let config = parse(&[KEY, quota, service, with(&cert)]).expect("valid");
    let service_settings = config.upstream.quota.service.expect("a service");
    let pem = fs::read(cert.path()).expect("readable");
    assert_eq!(service_settings.ca_pem, Some(pem));
    assert_eq!(
        invalid(&[KEY, quota, with(&cert)]),
        ["QUOTA_SERVICE_CA_FILE"]
    );
    let other = file("no certificate");
    assert_eq!(
        invalid(&[KEY, quota, service, with(&other)]),
        ["QUOTA_SERVICE_CA_FILE"]
    );
}
