//! The warnings of a bridge at startup.

use super::{KEY, serve};
use crate::{
    support::{
        running::{run, start_with_file_limit},
        upstream::refused_url,
    },
    tls::authority::{Authority, Files},
};

#[test]
fn a_bridge_that_anyone_can_call_warns_and_serves() {
    const WARNING: &str = "anyone who reaches this address may call";
    let url = refused_url();
    let (open, address) = serve(&url, &[("ALIM_BRIDGE_LISTEN", "0.0.0.0:0")]);
    let here = address.replace("0.0.0.0", "127.0.0.1");
    run(&["health", "--address", &here]).expect_stdout();
    let log = open.stop().stderr;
    let warning = log.lines().find(|line| line.contains(WARNING));
    assert!(warning.is_some_and(|line| line.contains("WARN")), "{log}");
    let (closed, _) = serve(&url, &[]);
    assert!(!closed.stop().stderr.contains(WARNING));
}

#[test]
fn a_bridge_that_every_page_can_call_warns_even_on_loopback() {
    const WARNING: &str = "any page in a browser that reaches this address may call";
    for (origins, is_warned) in [("*", true), ("https://app.example.az", false)] {
        let (bridge, _) = serve(&refused_url(), &[("ALIM_BRIDGE_GRPC_WEB", origins)]);
        let log = bridge.stop().stderr;
        let warning = log.lines().find(|line| line.contains(WARNING));
        assert_eq!(
            warning.is_some_and(|line| line.contains("WARN")),
            is_warned,
            "{log}"
        );
    }
}

#[test]
fn a_limit_on_open_files_below_max_calls_causes_a_warning() {
    const WARNING: &str = "the limit on open files is below";
    let log = |files| {
        let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
        let settings = [
            ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
            ("ALIM_BRIDGE_MAX_CALLS", "50"),
            ("ALIM_BRIDGE_MAX_CONNECTIONS", "50"),
        ];
        let mut bridge = start_with_file_limit(files, &args, &settings);
        bridge.address();
        bridge.stop().stderr
    };
    assert!(log(163).contains(WARNING));
    assert!(!log(164).contains(WARNING));
}

#[test]
fn tls_alone_does_not_prevent_the_warning_about_an_open_network() {
    let authority = Authority::new();
    let files = Files::with(&authority.vouch_for("127.0.0.1"));
    files.put("ca.crt", &authority.pem);
    files.put("callers", "[[caller]]\nname = 'orders'\n");
    let [cert, key, ca, callers] =
        ["tls.crt", "tls.key", "ca.crt", "callers"].map(|name| files.path(name));
    let tls = [
        ("ALIM_BRIDGE_TLS_CERT_FILE", &*cert),
        ("ALIM_BRIDGE_TLS_KEY_FILE", &key),
    ];
    let client_ca = [tls[0], tls[1], ("ALIM_BRIDGE_TLS_CLIENT_CA_FILE", &ca)];
    let callers_send_keys = [
        ("ALIM_BRIDGE_CREDENTIALS", "caller"),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", ""),
    ];
    for (settings, is_warned) in [
        (&tls[..], true),
        (&client_ca, false),
        (&[("ALIM_BRIDGE_CALLERS_FILE", &*callers)], false),
        (&callers_send_keys, false),
    ] {
        let open = [("ALIM_BRIDGE_LISTEN", "0.0.0.0:0")];
        let (bridge, _) = serve(&refused_url(), &[&open, settings].concat());
        let log = bridge.stop().stderr;
        let warned = log.contains("anyone who reaches this address may call");
        assert_eq!(warned, is_warned, "{log}");
    }
}
