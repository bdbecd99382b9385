//! The command as a child process: its output and its exit codes.

mod chat;
mod check;
mod demo;
mod pages;
mod secrets;
mod silent;
mod terminal;
mod tls;
mod top;
mod warnings;

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{
    running::{Exited, Running, run, start},
    upstream::refused_url,
};

const KEY: &str = "hunter2-s3cret";

/// Its answer has two nodes and a dozen sentences.
const QUESTION: &str = "Salam!";

fn emulate() -> (Running, String) {
    let args = ["emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms"];
    let mut emulator = start(&args, &[("ALIM_EMULATOR_API_KEY", KEY)]);
    let url = emulator.address();
    (emulator, url)
}

/// A bridge on free ports, with these additional environment variables.
fn serve(upstream: &str, settings: &[(&str, &str)]) -> (Running, String) {
    let usual = [
        ("ALIM_BRIDGE_ADMIN_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_UPSTREAM_URL", upstream),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
    ];
    let mut bridge = start(&["serve"], &[&usual, settings].concat());
    let address = bridge.address();
    (bridge, address)
}

/// The embedded ALİM, a bridge in front of it, and the bridge's address.
fn deployed() -> (Running, Running, String) {
    let (emulator, url) = emulate();
    let (bridge, address) = serve(&format!("{url}/api/v1"), &[]);
    (emulator, bridge, address)
}

impl Exited {
    /// Its standard output. Panics if it failed.
    fn expect_stdout(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

fn objects(lines: &str) -> Vec<Value> {
    let parsed = lines.lines().map(serde_json::from_str);
    parsed.collect::<Result<_, _>>().expect("JSON lines")
}

#[test]
fn help_lists_the_commands_and_version_prints_the_version() {
    let help = run(&["--help"]).expect_stdout();
    for command in [
        "serve", "demo", "emulate", "invoke", "stream", "chat", "health",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    let version = concat!("alim-bridge ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(run(&["--version"]).expect_stdout(), version);
}

#[test]
fn an_invalid_command_line_exits_with_64() {
    for args in [
        &[][..],
        &["serv"],
        &["--verbose"],
        &["serve", "--verbose"],
        &["invoke"],
        &["stream", "a", "--timeout", "3"],
        &["invoke", "a", "--scenario-context", "[]"],
        &["chat", "a"],
        &["chat", "--scenario-context", "[]"],
        &["health", "--http", "live"],
    ] {
        let ended = run(args);
        assert_eq!((ended.code, &*ended.stdout), (Some(64), ""), "{args:?}");
        assert!(!ended.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn serve_names_every_invalid_setting_and_exits_with_64() {
    let variables = [("ALIM_BRIDGE_LISTEN", "here"), ("ALIM_BRIDGE_TYPO", "1")];
    let ended = start(&["serve", "--retries", "1000"], &variables).wait();
    assert_eq!((ended.code, &*ended.stdout), (Some(64), ""));
    for name in ["UPSTREAM_API_KEY", "LISTEN", "TYPO", "RETRIES"] {
        let prefix = format!("alim-bridge: ALIM_BRIDGE_{name} ");
        let lines = ended.stderr.lines();
        let named = lines.filter(|line| line.starts_with(&prefix));
        assert_eq!(named.count(), 1, "{name}\n{}", ended.stderr);
    }
}

#[test]
fn a_flag_of_serve_overrides_its_variable() {
    let variables = [
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
        ("ALIM_BRIDGE_LISTEN", "nowhere"),
        ("ALIM_BRIDGE_ADMIN_LISTEN", "nowhere"),
    ];
    let args = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"];
    let mut bridge = start(&args, &variables);
    assert!(bridge.address().starts_with("127.0.0.1:"));
}

#[test]
fn a_port_that_is_taken_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let serve = ["serve", "--listen", &address];
    let emulate = ["emulate", "--listen", &address];
    for args in [&serve[..], &emulate] {
        let ended = start(args, &[("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY)]).wait();
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
        let expected = format!("{address} can't be used: Address already in use");
        assert!(ended.stderr.contains(&expected), "{}", ended.stderr);
        assert!(ended.stderr.contains("another port"), "{}", ended.stderr);
    }
}

#[test]
fn invoke_and_stream_print_the_same_answer() {
    let (_emulator, _bridge, address) = deployed();
    let invoked = run(&["invoke", "--address", &address, QUESTION]).expect_stdout();
    assert!(invoked.starts_with("Salam! Mən ALİM"), "{invoked}");
    let streamed = run(&["stream", "--address", &address, QUESTION]);
    let notes: Vec<_> = streamed.stderr.lines().collect();
    assert_eq!(notes[..2], ["· classify_intent", "· generate_response"]);
    assert!(
        notes[2].contains(" tokens, ") && notes.len() == 3,
        "{notes:?}"
    );
    assert_eq!(streamed.expect_stdout(), invoked);
}

#[test]
fn the_tokens_of_stream_json_are_the_response_of_invoke_json() {
    let (_emulator, _bridge, address) = deployed();
    let invoked = run(&["invoke", "--json", "--address", &address, QUESTION]).expect_stdout();
    let streamed = run(&["stream", "--json", "--address", &address, QUESTION]).expect_stdout();
    let (reply, events) = (&objects(&invoked)[0], objects(&streamed));
    let tokens: Vec<_> = events
        .iter()
        .filter_map(|event| event["token"]["text"].as_str())
        .collect();
    assert_eq!(tokens.concat(), reply["response"]);
    assert_eq!(events[0]["node"]["name"], "classify_intent");
    let done = &events.last().expect("events")["done"];
    assert_eq!(done["tokenCount"], tokens.len().to_string());
    assert_eq!(
        reply["threadId"].as_str().map(str::len),
        Some(36),
        "{reply}"
    );
}

#[test]
fn a_stream_starts_a_thread_and_another_continues_it() {
    let (_emulator, _bridge, address) = deployed();
    let stream = ["stream", "--address", &address, QUESTION];
    let started = run(&[&stream[..], &["--start-thread"]].concat());
    let thread = started.stderr.lines().next().expect("a line");
    let thread = thread.strip_prefix("· thread ").expect("its id");
    let next = run(&[&stream[..], &["--thread-id", thread, "--json"]].concat());
    assert!(!next.stderr.contains("· thread"), "{}", next.stderr);
    let events = objects(&next.expect_stdout());
    assert_eq!(events.last().expect("events")["done"]["threadId"], thread);
    let both = run(&[&stream[..], &["--start-thread", "--thread-id", thread]].concat());
    assert_eq!(both.code, Some(64));
}

#[test]
fn health_is_reported_by_output_and_exit_code() {
    let (_emulator, url) = emulate();
    let (mut bridge, address) = serve(&format!("{url}/api/v1"), &[]);
    bridge.wait_for_log("the upstream is healthy");
    let service = ["--service", "alim.v1.GraphService"];
    for flags in [&[][..], &service] {
        let health = run(&[&["health", "--address", &address], flags].concat());
        assert_eq!(health.expect_stdout(), "SERVING\n");
    }
}

#[test]
fn health_over_http_requires_a_200() {
    let (_emulator, url) = emulate();
    let ask = |url: &str| run(&["health", "--http", url]);
    assert_eq!(ask(&format!("{url}/live")).expect_stdout(), "ok\n");
    for url in [format!("{url}/nowhere"), refused_url()] {
        let ended = ask(&url);
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{url}");
    }
}

#[test]
fn health_of_the_service_follows_the_upstream_and_that_of_the_process_does_not() {
    let (mut bridge, address) = serve(&refused_url(), &[]);
    bridge.wait_for_log("the upstream is not healthy");
    let health = ["health", "--address", &address];
    assert_eq!(run(&health).expect_stdout(), "SERVING\n");
    let service = run(&[&health[..], &["--service", "alim.v1.GraphService"]].concat());
    assert_eq!((service.code, &*service.stdout), (Some(1), ""));
    assert_eq!(service.stderr, "alim-bridge: NOT_SERVING\n");
}

#[test]
fn a_call_that_the_bridge_rejects_exits_with_64_plus_its_code() {
    let (_emulator, _bridge, address) = deployed();
    for (args, code, message) in [
        (&["invoke", ""][..], 67, "InvalidArgument (INVALID_REQUEST)"),
        (&["stream", ""], 67, "InvalidArgument (INVALID_REQUEST)"),
        (
            &["invoke", "a", "--thread-id", "b"],
            67,
            "thread_id must be",
        ),
        (&["health", "--service", "a"], 69, "NotFound"),
    ] {
        let ended = run(&[args, &["--address", &address]].concat());
        assert_eq!((ended.code, &*ended.stdout), (Some(code), ""), "{args:?}");
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
    }
}

#[test]
fn a_call_that_the_upstream_fails_exits_with_64_plus_its_code() {
    let (_emulator, _bridge, address) = deployed();
    for (command, fault, code, reason) in [
        ("invoke", "rate_limited", 72, "(UPSTREAM_RATE_LIMITED)"),
        ("invoke", "empty", 77, "(UPSTREAM_MALFORMED_REPLY)"),
        ("stream", "unavailable", 78, "(UPSTREAM_UNAVAILABLE)"),
        ("stream", "agent_failed", 77, "(UPSTREAM_STREAM_FAILED)"),
        ("stream", "truncated", 78, "(UPSTREAM_STREAM_TRUNCATED)"),
    ] {
        let context = format!(r#"{{"emulator_fault": "{fault}"}}"#);
        let context = ["--scenario-context", &context, "--address", &address];
        let ended = run(&[&[command, QUESTION][..], &context].concat());
        assert_eq!(ended.code, Some(code), "{fault}: {}", ended.stderr);
        assert!(ended.stderr.contains(reason), "{fault}: {}", ended.stderr);
    }
}

#[test]
fn a_call_that_times_out_exits_with_68() {
    let (_emulator, _bridge, address) = deployed();
    let silent_port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent_port.local_addr().expect("bound").to_string();
    let silent = ["--scenario-context", r#"{"emulator_fault": "silent"}"#];
    for (address, command) in [
        (&address, "stream"),
        (&silent_port, "invoke"),
        (&silent_port, "stream"),
    ] {
        let args = [
            command,
            QUESTION,
            "--timeout",
            "300ms",
            "--address",
            address,
        ];
        let ended = run(&[&args[..], &silent].concat());
        assert_eq!(ended.code, Some(68), "{command}: {}", ended.stderr);
    }
}

#[test]
fn a_bridge_that_is_not_there_exits_with_78() {
    let url = refused_url();
    let address = url.trim_end_matches("/api/v1");
    for command in ["invoke", "stream", "chat", "health"] {
        let has_message = matches!(command, "invoke" | "stream");
        let message = &["Salam"][..has_message.into()];
        let ended = run(&[&[command, "--address", address], message].concat());
        assert_eq!((ended.code, &*ended.stdout), (Some(78), ""), "{command}");
        assert!(ended.stderr.contains(address), "{}", ended.stderr);
    }
}

#[test]
fn ctrl_c_ends_a_stream_as_cancelled() {
    let (_emulator, _bridge, address) = deployed();
    let slow = ["--scenario-context", r#"{"emulator_fault": "slow"}"#];
    let stream = ["stream", "--address", &address, QUESTION];
    let mut stream = start(&[&stream[..], &slow].concat(), &[]);
    stream.wait_for_log("classify_intent");
    stream.signal("INT");
    assert_eq!(stream.wait().code, Some(65));
}

#[test]
fn sigterm_stops_serve_and_emulate_with_exit_code_0() {
    let (emulator, bridge, address) = deployed();
    run(&["invoke", "--address", &address, QUESTION]).expect_stdout();
    for running in [bridge, emulator] {
        let ended = running.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    }
}

/// Repeated, because a race can pass by chance.
#[test]
fn signals_are_handled_as_soon_as_the_port_is_printed() {
    for _ in 0..8 {
        let (emulator, _) = emulate();
        let (bridge, _) = serve(&refused_url(), &[]);
        for running in [emulator, bridge] {
            let ended = running.stop();
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        }
    }
}

#[test]
fn serve_starts_while_the_upstream_is_down_and_callers_get_a_status() {
    let (_bridge, address) = serve(&refused_url(), &[]);
    let ended = run(&["invoke", "--address", &address, QUESTION]);
    assert_eq!(ended.code, Some(78));
    assert!(
        ended.stderr.contains("(UPSTREAM_UNREACHABLE)"),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_service_key_is_in_no_output_at_trace_level() {
    let (_emulator, url) = emulate();
    let (bridge, address) = serve(&format!("{url}/api/v1"), &[("ALIM_BRIDGE_LOG", "trace")]);
    for args in [["invoke", QUESTION], ["stream", QUESTION], ["invoke", ""]] {
        let ended = run(&[&args[..], &["--address", &address]].concat());
        assert!(!(ended.stdout + &ended.stderr).contains(KEY));
    }
    let ended = bridge.stop();
    for logged in ["TRACE", "hyper_util", "/api/v1", "call ended"] {
        assert!(ended.stderr.contains(logged), "{logged} is not logged");
    }
    assert!(!(ended.stdout + &ended.stderr).contains(KEY));
}
