//! Keys on the command line: no command takes one as an argument or prints it, and each warns before it sends
//! one in clear text.

use std::fs;

use tempfile::NamedTempFile;

use super::{KEY, deployed, serve};
use crate::support::{
    running::{Exited, run, start},
    upstream::refused_url,
};

/// An address that no packet reaches (RFC 5737).
const UNREACHABLE: &str = "192.0.2.1:1";

fn file(content: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, content).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

fn assert_rejected_without_the_key(ended: &Exited) {
    assert_eq!(ended.code, Some(64), "{}{}", ended.stdout, ended.stderr);
    let output = format!("{}{}", ended.stdout, ended.stderr);
    assert!(!output.contains(KEY), "{output}");
}

#[test]
fn no_command_takes_a_key_as_an_argument() {
    for (command, flag) in [
        ("serve", "--upstream-api-key"),
        ("emulate", "--api-key"),
        ("invoke", "--caller-key"),
        ("stream", "--api-key"),
        ("chat", "--caller-key"),
        ("health", "--api-key"),
    ] {
        for args in [
            &[command, flag, KEY][..],
            &[command, &format!("{flag}={KEY}")],
        ] {
            let ended = run(args);
            assert_rejected_without_the_key(&ended);
            let error = format!("unexpected argument '{flag}'");
            assert!(ended.stderr.contains(&error), "{}", ended.stderr);
        }
    }
}

#[test]
fn a_key_comes_from_its_file_or_from_its_variable() {
    let (emulator, url) = {
        let args = ["emulate", "--listen", "127.0.0.1:0", "--token-delay", "0ms"];
        let key = file(&format!("{KEY}\n"));
        let mut emulator = start(&[&args[..], &["--api-key-file", path(&key)]].concat(), &[]);
        let url = emulator.address();
        (emulator, format!("{url}/api/v1"))
    };
    let caller_credentials = [
        ("ALIM_BRIDGE_CREDENTIALS", "caller"),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", ""),
    ];
    let (_bridge, address) = serve(&url, &caller_credentials);
    let invoke = ["invoke", "--address", &address, "Salam!"];
    let (key, wrong) = (file(&format!(" {KEY}\n")), file("another"));
    let with = |flags: &[&str], variables: &[(&str, &str)]| {
        let args = [&invoke[..], flags].concat();
        start(&args, variables).wait().code
    };
    let variable = ("ALIM_API_KEY", KEY);
    assert_eq!(with(&["--api-key-file", path(&key)], &[]), Some(0));
    assert_eq!(with(&[], &[variable]), Some(0));
    assert_eq!(
        with(&["--api-key-file", path(&wrong)], &[variable]),
        Some(64 + 7)
    );
    drop(emulator);
}

#[test]
fn a_key_in_place_of_its_file_is_not_printed() {
    let (_emulator, _bridge, address) = deployed();
    let empty = file("\n");
    for key in [KEY, path(&empty)] {
        for flag in ["--api-key-file", "--caller-key-file"] {
            let ended = run(&["invoke", "--address", &address, flag, key, "Salam!"]);
            assert_rejected_without_the_key(&ended);
        }
        assert_rejected_without_the_key(&run(&["emulate", "--api-key-file", key]));
    }
}

#[test]
fn a_password_in_an_address_is_rejected_and_not_printed() {
    for address in [
        format!("http://user:{KEY}@127.0.0.1:1"),
        format!("user:{KEY}@127.0.0.1:1"),
        format!("https://{KEY}@[::1]:1/"),
        format!("http://user:{KEY}@not a host"),
    ] {
        let ended = run(&["invoke", "--address", &address, "Salam!"]);
        assert_rejected_without_the_key(&ended);
        assert_rejected_without_the_key(&run(&["health", "--http", &address]));
        let variable = ("ALIM_BRIDGE_UPSTREAM_URL", &*address);
        assert_rejected_without_the_key(&start(&["serve"], &[variable]).wait());
    }
}

#[test]
fn a_key_sent_in_clear_text_causes_a_warning() {
    let warning = "in clear";
    let ask = |address: &str, key: &[(&str, &str)]| {
        let args = ["invoke", "--address", address, "--timeout", "1ms", "Salam!"];
        let mut running = start(&args, key);
        match key.is_empty() || address.contains("127.0.0.1") {
            true => !running.wait().stderr.contains(warning),
            false => running.wait_for_log(warning).contains("--address"),
        }
    };
    let key = [("ALIM_CALLER_KEY", KEY)];
    assert!(ask(UNREACHABLE, &key), "a key to {UNREACHABLE}");
    assert!(ask("127.0.0.1:1", &key), "loopback");

    for (url, is_warned) in [
        ("http://192.0.2.1/api/v1", true),
        ("http://alim.example/api/v1", true),
        ("https://192.0.2.1/api/v1", false),
        ("http://[::1]:1/api/v1", false),
        (&refused_url(), false),
    ] {
        let (bridge, _) = serve(url, &[]);
        let log = bridge.stop().stderr;
        let warned = log.contains(warning) && log.contains("UPSTREAM_URL");
        assert_eq!(warned, is_warned, "{url}: {log}");
    }
}
