//! `serve --check`, and the settings in the line `serving`: what an operator reads before and after a rollout.

use alim_bridge::config::SETTINGS;

use super::{KEY, serve};
use crate::{
    support::{
        running::{Exited, start},
        upstream::refused_url,
    },
    tls::authority::{Authority, Files},
};

fn check(args: &[&str], settings: &[(&str, &str)]) -> Exited {
    start(&[&["serve", "--check"], args].concat(), settings).wait()
}

#[test]
fn a_check_prints_every_effective_setting_without_the_key_and_serves_nothing() {
    let settings = [
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
        ("ALIM_BRIDGE_MAX_CALLS", "7"),
        ("ALIM_BRIDGE_RETRIES", "1"),
    ];
    let checked = check(&["--retries", "3"], &settings);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let printed = format!("{}{}", checked.stdout, checked.stderr);
    assert!(!printed.contains(KEY), "{printed}");
    let lines: Vec<_> = checked.stdout.lines().collect();
    let names = lines.iter().map(|line| line.split_once('=').expect("=").0);
    let expected: Vec<_> = SETTINGS
        .iter()
        .map(|it| format!("ALIM_BRIDGE_{}", it.name))
        .collect();
    assert_eq!(names.collect::<Vec<_>>(), expected);
    for line in [
        "ALIM_BRIDGE_MAX_CALLS=7",
        "ALIM_BRIDGE_RETRIES=3",
        "ALIM_BRIDGE_UPSTREAM_API_KEY=<hidden>",
        "ALIM_BRIDGE_UPSTREAM_HEALTH_INTERVAL=5s",
        "ALIM_BRIDGE_LOG_FORMAT=json",
        "ALIM_BRIDGE_CALLERS_FILE=",
    ] {
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    assert!(!checked.stdout.contains("=auto"), "{lines:#?}");
}

#[test]
fn a_check_reads_all_files_and_reports_every_fault_with_64() {
    let files = Files::with(&Authority::new().vouch_for("127.0.0.1"));
    files.put("callers", "[[caller]]\nname = 'NO'\n");
    let [cert, key, callers] = ["tls.crt", "gone.key", "callers"].map(|name| files.path(name));
    let checked = check(
        &["--tls-cert-file", &cert, "--tls-key-file", &key],
        &[
            ("ALIM_BRIDGE_CALLERS_FILE", &*callers),
            ("ALIM_BRIDGE_TYPO", "1"),
        ],
    );
    assert_eq!((checked.code, &*checked.stdout), (Some(64), ""));
    for name in ["UPSTREAM_API_KEY", "TLS_KEY_FILE", "CALLERS_FILE", "TYPO"] {
        let fault = format!("alim-bridge: ALIM_BRIDGE_{name} ");
        assert!(checked.stderr.contains(&fault), "{}", checked.stderr);
    }
}

#[test]
fn an_expired_certificate_and_one_of_its_last_day_cause_a_warning() {
    let authority = Authority::new();
    let expired = "the certificate of TLS_CERT_FILE has expired";
    let tomorrow = authority.vouch_for_hours("127.0.0.1", 23);
    let later = authority.vouch_for_hours("127.0.0.1", 25);
    for (identity, warning) in [
        (
            authority.vouch_until("127.0.0.1", (2020, 1, 2)),
            Some(expired),
        ),
        (tomorrow, Some("expires within a day")),
        (later, None),
    ] {
        let files = Files::with(&identity);
        let [cert, key] = ["tls.crt", "tls.key"].map(|name| files.path(name));
        let settings = [
            ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
            ("ALIM_BRIDGE_TLS_CERT_FILE", &*cert),
            ("ALIM_BRIDGE_TLS_KEY_FILE", &key),
        ];
        let checked = check(&[], &settings);
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        let (bridge, _) = serve(&refused_url(), &settings[1..]);
        for log in [checked.stderr, bridge.stop().stderr] {
            let warned = log.contains("the certificate of TLS_CERT_FILE");
            assert_eq!(warned, warning.is_some(), "{log}");
            assert!(log.contains(warning.unwrap_or("")), "{log}");
        }
    }
}

#[test]
fn the_line_serving_has_all_settings_that_are_set_without_the_key() {
    let (bridge, _) = serve(&refused_url(), &[("ALIM_BRIDGE_MAX_CALLS", "7")]);
    let log = bridge.stop().stderr;
    let serving = log
        .lines()
        .find(|line| line.contains(r#""message":"serving""#));
    let serving = serving.expect("it served");
    for part in [
        "ADMIN_LISTEN=127.0.0.1:0 ",
        " MAX_CALLS=7 ",
        " INVOKE_TIMEOUT=120s ",
        " UPSTREAM_API_KEY=<hidden> ",
    ] {
        assert!(serving.contains(part), "{part}: {serving}");
    }
    assert!(!log.contains(KEY), "{log}");
    assert!(!serving.contains("CALLERS_FILE"), "{serving}");
}
