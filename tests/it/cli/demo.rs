//! The commands `demo` and `emulate`: their output, their ports and their logs.

use std::{net::TcpListener, process::Command};

use serde_json::Value;

use super::{KEY, QUESTION, emulate, serve};
use crate::support::running::{Exited, run, start};

#[test]
fn demo_prints_both_calls_and_next_steps_and_stops_on_sigterm() {
    let mut demo = start(&["demo"], &[]);
    let address = demo.wait_for_line("alim-bridge serves gRPC on ");
    let address = address.rsplit(' ').next().expect("a last word");
    demo.wait_for_line("Ready.");
    let Exited {
        code,
        stdout,
        stderr,
    } = demo.stop();
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout.matches("Tövsiyələr:").count(), 2, "{stdout}");
    for line in ["\n· classify_intent\n", " tokens, ", "first token after"] {
        assert!(stdout.contains(line), "{stdout}");
    }
    let tries = stdout
        .lines()
        .filter(|line| line.starts_with("grpcurl -plaintext "));
    assert_eq!(
        tries.filter(|line| line.contains(address)).count(),
        4,
        "{stdout}"
    );
}

#[test]
fn demo_serves_metrics_and_logs_if_configured() {
    let logged = [
        ("ALIM_BRIDGE_ACCESS_LOG", "on"),
        ("ALIM_BRIDGE_RETRIES", "x"), // only `serve` reads it
    ];
    let mut demo = start(&["demo", "--admin-listen", "127.0.0.1:0"], &logged);
    let metrics = demo.wait_for_line("Its metrics are on ");
    let metrics = metrics.rsplit(' ').next().expect("a last word").to_owned();
    let page = demo.wait_for_line("Its admin page is on ");
    let page = page.rsplit(' ').next().expect("a last word").to_owned();
    assert_eq!(run(&["health", "--http", &page]).expect_stdout(), "ok\n");
    demo.wait_for_log("\"call ended\"");
    demo.wait_for_line(&format!("curl -s {metrics}"));
    assert_eq!(run(&["health", "--http", &metrics]).expect_stdout(), "ok\n");
    assert_eq!(demo.stop().code, Some(0));

    let ended = run(&["demo", "--admin-listen", "here", "--log", "a=b=c"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(64), ""));
    for name in ["ADMIN_LISTEN", "LOG"] {
        let error = format!("alim-bridge: ALIM_BRIDGE_{name} must be ");
        assert!(ended.stderr.contains(&error), "{}", ended.stderr);
    }
}

#[test]
fn demo_suggests_how_to_try_a_quota() {
    let mut demo = start(&["demo", "--admin-listen", "off"], &[]);
    demo.wait_for_line("alim-bridge demo --upstream-quota 5/10s ");
    assert_eq!(demo.stop().code, Some(0));
    let args = ["demo", "--admin-listen", "off", "--upstream-quota", "3/min"];
    let mut demo = start(&args, &[]);
    let address = demo.wait_for_line("alim-bridge serves gRPC on ");
    let address = address.rsplit(' ').next().expect("a last word").to_owned();
    let line = demo.wait_for_line("/alim-bridge invoke --address ");
    assert!(line.starts_with("for n in $(seq 4); do /"), "{line}");
    assert!(line.contains(&address), "{line}");
    demo.wait_for_line("Ready.");
    let call = || run(&["invoke", "--json", "--address", &address, "Salam"]);
    assert_eq!(call().code, Some(0), "the demo made two calls");
    let Exited { code, stderr, .. } = call();
    assert_eq!(code, Some(72), "{stderr}");
    assert!(stderr.contains("QUOTA_EXHAUSTED"), "{stderr}");
}

#[test]
fn a_command_that_the_demo_suggests_can_be_pasted() {
    let mut demo = start(&["demo", "--admin-listen", "off"], &[]);
    let line = demo.wait_for_line("/alim-bridge stream --address ");
    demo.wait_for_line("/alim-bridge chat --address ");
    let pasted = Command::new("sh").args(["-c", &line]).output();
    let printed = String::from_utf8(pasted.expect("sh").stdout).expect("UTF-8");
    assert!(printed.starts_with("Suvarmalısınız"), "{line}: {printed}");
}

#[test]
fn demo_says_that_another_port_takes_the_place_of_a_taken_one() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("bound").to_string();
    let mut demo = start(&["demo", "--admin-listen", &taken], &[]);
    let line = demo.wait_for_line(&format!("{taken} can't be used"));
    let other = line.split("): ").nth(1).and_then(|it| it.split(' ').next());
    demo.wait_for_line(&format!("http://{}/metrics", other.expect("an address")));
}

#[test]
fn demo_rejects_a_variable_that_is_no_setting_and_emulate_passes_over_it() {
    let typo = [("ALIM_BRIDGE_LISTN", "x")];
    let ended = start(&["demo"], &typo).wait();
    let error = "alim-bridge: ALIM_BRIDGE_LISTN is not a setting of alim-bridge: did you mean ALIM_BRIDGE_LISTEN?\n";
    assert_eq!((ended.code, &*ended.stderr), (Some(64), error));
    start(&["emulate", "--listen", "127.0.0.1:0"], &typo).wait_for_line("listening");
}

#[test]
fn demo_works_without_an_admin_port() {
    let mut demo = start(&["demo", "--admin-listen", "off"], &[]);
    demo.wait_for_line("Ready.");
    let printed = demo.stop().expect_stdout();
    assert!(!printed.contains("/metrics"), "{printed}");
}

#[test]
fn emulate_logs_requests_but_never_a_message_or_a_key() {
    let (mut emulator, url) = emulate();
    run(&["health", "--http", &format!("{url}/live")]).expect_stdout(); // a probe: only at debug
    assert_eq!(
        run(&["health", "--http", &format!("{url}/nowhere")]).code,
        Some(1)
    );
    let line = emulator.wait_for_log("\"answered\"");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&line["path"], &line["status"]),
        (&"/nowhere".into(), &404.into())
    );

    let args = ["emulate", "--listen", "127.0.0.1:0", "--log", "trace"];
    let mut verbose = start(&args, &[("ALIM_EMULATOR_API_KEY", KEY)]);
    let (_bridge, address) = serve(&format!("{}/api/v1", verbose.address()), &[]);
    run(&["invoke", "--address", &address, QUESTION]).expect_stdout();
    let log = verbose.stop().stderr;
    assert!(log.contains("/graph/invoke"), "{log}");
    assert!(!log.contains(KEY) && !log.contains(QUESTION), "{log}");

    let ended = run(&["emulate", "--log-format", "xml"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(64), ""));
}

/// Both the demo and its call receive the signal. Repeated, because either can be first.
#[test]
fn ctrl_c_during_a_demo_exits_with_0() {
    for _ in 0..8 {
        let mut demo = start(&["demo"], &[]);
        demo.wait_for_line("── Invoke");
        demo.signal("INT");
        let ended = demo.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
}
