//! The client's TLS, and errors as text and as JSON.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use serde_json::Value;

use super::{deployed, objects, serve};
use crate::{
    support::{
        running::{Exited, run},
        upstream::refused_url,
    },
    tls::authority::{Authority, Files},
};

const DOCKERFILE: &str = include_str!("../../../Dockerfile");

/// PEM files of a bridge (`tls.*`), of its callers (`client.*`) and of their authority (`ca.crt`).
fn files() -> Files {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for("127.0.0.1"));
    files.put("ca.crt", &authority.pem);
    let caller = authority.vouch_for("orders");
    files.put("client.crt", &caller.cert);
    files.put("client.key", &caller.key);
    files
}

/// Starts a bridge with TLS or mutual TLS, and runs `health` with these flags.
fn health(files: &Files, is_mutual: bool, flags: &[&str]) -> Exited {
    let path = |name: &str| files.path(name);
    let client_ca = if is_mutual {
        path("ca.crt")
    } else {
        String::new()
    };
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    let settings = [
        ("ALIM_BRIDGE_ADMIN_LISTEN", "off"),
        ("ALIM_BRIDGE_TLS_CERT_FILE", cert.as_str()),
        ("ALIM_BRIDGE_TLS_KEY_FILE", &key),
        ("ALIM_BRIDGE_TLS_CLIENT_CA_FILE", &client_ca),
    ];
    let (_bridge, address) = serve(&refused_url(), &settings);
    run(&[&["health", "--address", &address], flags].concat())
}

#[test]
fn health_works_with_tls() {
    let files = files();
    let ca = files.path("ca.crt");
    for flags in [&["--ca-file", &ca][..], &["--insecure"]] {
        assert_eq!(health(&files, false, flags).expect_stdout(), "SERVING\n");
    }
}

#[test]
fn health_works_with_mutual_tls() {
    let files = files();
    let [ca, cert, key] = ["ca.crt", "client.crt", "client.key"].map(|name| files.path(name));
    let identity = ["--cert-file", &cert, "--key-file", &key];
    for trust in [&["--ca-file", &ca][..], &["--insecure"]] {
        let ended = health(&files, true, &[trust, &identity].concat());
        assert_eq!(ended.expect_stdout(), "SERVING\n");
    }
}

#[test]
fn a_tls_mismatch_gets_a_hint() {
    let files = files();
    let assert_hint = |ended: &Exited, hint: &str| {
        assert!(ended.code.is_some_and(|code| code > 64), "{}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    };
    assert_hint(&health(&files, false, &[]), "the bridge may speak TLS");
    assert_hint(&health(&files, true, &["--insecure"]), "--cert-file");
    let (_bridge, address) = serve(&refused_url(), &[]);
    let plain = run(&["health", "--insecure", "--address", &address]);
    assert_hint(&plain, "the bridge may not speak TLS");
    let gone = refused_url();
    let gone = gone
        .trim_start_matches("http://")
        .trim_end_matches("/api/v1");
    let gone = run(&["health", "--address", gone]);
    assert_hint(&gone, "\nalim-bridge:   nothing listens there");
    assert!(!gone.stderr.contains("TLS"), "{}", gone.stderr);
}

#[test]
fn a_certificate_of_another_authority_gets_a_hint() {
    let files = files();
    let other = Files::with(&Authority::new().vouch_for("127.0.0.1"));
    other.put("ca.crt", &Authority::new().pem);
    let ended = health(&files, false, &["--ca-file", &other.path("ca.crt")]);
    assert_eq!(ended.code, Some(64 + 14), "{}", ended.stderr);
    assert!(ended.stderr.contains("pass --ca-file"), "{}", ended.stderr);
}

/// Nginx, the admin port and ALİM itself answer so.
#[test]
fn a_port_that_speaks_no_http2_gets_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let _ = caller.read(&mut [0; 512]);
            let _ = caller.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    });
    for address in [address.clone(), format!("https://{address}")] {
        let ended = run(&["health", "--address", &address]);
        let hint = "does not speak gRPC";
        assert!(ended.stderr.contains(hint), "{address}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 2, "{}", ended.stderr);
    }
}

#[test]
fn invalid_tls_files_of_a_client_exit_with_64() {
    let files = files();
    let cert = files.path("client.crt");
    for flags in [
        &["--cert-file", &cert][..],
        &["--insecure", "--ca-file", &cert],
        &["--ca-file", "/nowhere"],
        &[
            "--insecure",
            "--cert-file",
            "/nowhere",
            "--key-file",
            "/nowhere",
        ],
    ] {
        let ended = run(&[&["health", "--address", "127.0.0.1:9"], flags].concat());
        assert_eq!(ended.code, Some(64), "{flags:?}: {}", ended.stderr);
    }
}

/// Runs the Dockerfile's HEALTHCHECK with the admin port of a bridge in a test.
#[test]
fn the_images_health_check_works_with_tls() {
    let line = DOCKERFILE.lines().find(|line| line.contains("\"health\""));
    let words = line.expect("a check").split('"').skip(1).step_by(2).skip(1);
    let words: Vec<_> = words.collect();
    let files = files();
    let (cert, key, ca) = (
        files.path("tls.crt"),
        files.path("tls.key"),
        files.path("ca.crt"),
    );
    let settings = [
        ("ALIM_BRIDGE_TLS_CERT_FILE", cert.as_str()),
        ("ALIM_BRIDGE_TLS_KEY_FILE", &key),
        ("ALIM_BRIDGE_TLS_CLIENT_CA_FILE", &ca),
    ];
    let (mut bridge, _) = serve(&refused_url(), &settings);
    let serving: Value = serde_json::from_str(&bridge.wait_for_log("\"serving\"")).expect("JSON");
    let admin = serving["admin"].as_str().expect("an address");
    let check: Vec<_> = words
        .iter()
        .map(|word| word.replace("127.0.0.1:9464", admin))
        .collect();
    let check: Vec<_> = check.iter().map(String::as_str).collect();
    assert!(
        check.last().is_some_and(|url| url.contains(admin)),
        "{check:?}"
    );
    assert_eq!(run(&check).expect_stdout(), "ok\n");
}

#[test]
fn a_failure_has_its_request_id_and_is_json_on_request() {
    let (_emulator, _bridge, address) = deployed();
    let truncated = r#"{"emulator_fault": "truncated"}"#;
    for (command, context, reason) in [
        ("invoke", "{}", "INVALID_REQUEST"),
        ("stream", truncated, "UPSTREAM_STREAM_TRUNCATED"),
    ] {
        let message = if reason == "INVALID_REQUEST" {
            ""
        } else {
            "Salam"
        };
        let args = [
            command,
            message,
            "--address",
            &address,
            "--scenario-context",
            context,
        ];
        let text = run(&args).stderr;
        assert!(text.contains("\nalim-bridge:   request id "), "{text}");
        let ended = run(&[&args[..], &["--json"]].concat());
        let error = &objects(&ended.stderr)[0]["error"];
        assert_eq!(error["reason"], reason, "{error}");
        assert_eq!(
            error["requestId"].as_str().map(str::len),
            Some(36),
            "{error}"
        );
        assert!(error["metadata"]["sent"].is_string(), "{error}");
    }
    let invalid = run(&["invoke", "", "--json", "--address", &address]).stderr;
    let violation = &objects(&invalid)[0]["error"]["fieldViolations"][0];
    assert_eq!(violation["field"], "message", "{invalid}");
    let gone = run(&["invoke", "a", "--json", "--address", "127.0.0.1:9"]).stderr;
    let text = objects(&gone)[0]["error"]["message"].to_string();
    assert!(text.contains("127.0.0.1:9"), "{gone}");
}
