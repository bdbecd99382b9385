//! `alim-bridge callers`, and a bridge that reads the file it wrote.

use std::fs;

use super::{invoked_by, replying};
use crate::support::{
    callers::{CallersFile, entry},
    deployed::Deployed,
    running::{run, start},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_added_key_works_at_a_running_bridge_and_is_printed_once() {
    let file = CallersFile::with("# ours\n[defaults]\nmax_open_calls = 9 # each\n");
    let path = file.path();
    let added = run(&["callers", "add", &path, "orders"]);
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let (first, text) = (
        added.stdout.trim(),
        fs::read_to_string(&path).expect("there"),
    );
    assert!(
        text.starts_with("# ours\n[defaults]\nmax_open_calls = 9 # each\n"),
        "{text}"
    );
    assert!(!text.contains(first) && !added.stderr.contains(first));

    let upstream = replying();
    let mut bridge = Deployed::with(&upstream.url(), &[("CALLERS_FILE", &path)]);
    let mut client = bridge.client();
    client.invoke(invoked_by(first)).await.expect("a reply");
    let added = run(&["callers", "add", &path, "billing"]);
    bridge.running.wait_for_log("changed files taken over");
    client
        .invoke(invoked_by(added.stdout.trim()))
        .await
        .expect("a reply");
    client.invoke(invoked_by(first)).await.expect("still known");

    let checked = run(&["callers", "check", &path]);
    let lines: Vec<_> = checked.stdout.lines().collect();
    assert_eq!(
        lines,
        [
            "orders: keys 1, certificate names 0, weight 1, open calls 9, rate unlimited",
            "billing: keys 1, certificate names 0, weight 1, open calls 9, rate unlimited",
        ]
    );
    assert_eq!(checked.code, Some(0));
}

#[test]
fn a_file_that_can_not_be_read_or_written_is_named() {
    let missing = "/nowhere/callers.toml";
    for (args, code, why) in [
        (&["callers", "check", missing][..], 64, "can't be read"),
        (
            &["callers", "add", missing, "orders"],
            1,
            "can't be written",
        ),
    ] {
        let ended = run(args);
        let expected = format!("alim-bridge: {missing} {why}: ");
        assert!(ended.stderr.starts_with(&expected), "{}", ended.stderr);
        assert_eq!(ended.code, Some(code));
    }
}

#[test]
fn check_and_serve_report_the_same_faults() {
    let text = entry("orders", "o") + "rate = 'often'\nupstream_key_file = 'gone'\n";
    let file = CallersFile::with(&(text + "colour = 'red'\n[[caller]]\n"));
    let path = file.path();
    let checked = run(&["callers", "check", &path]);
    assert_eq!((checked.code, &*checked.stdout), (Some(64), ""));
    let faults: Vec<_> = checked.stderr.lines().collect();
    assert_eq!(
        faults,
        [
            "alim-bridge: line 4: caller.rate must be a number of calls and their period of up to a day, such as \"60/min\", \"5/s\" or \"10/10s\"",
            "alim-bridge: line 5: caller.upstream_key_file can't be read: No such file or directory (os error 2)",
            "alim-bridge: line 6: caller.colour is not a field of this file",
            "alim-bridge: line 7: caller.name is missing",
        ]
    );
    let variables = [
        ("ALIM_BRIDGE_CALLERS_FILE", &*path),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", "k"),
    ];
    let served = start(&["serve"], &variables).wait();
    assert_eq!(served.code, Some(64));
    let logged = faults.iter().map(|line| {
        line.replace(
            "alim-bridge: ",
            "alim-bridge: ALIM_BRIDGE_CALLERS_FILE can't be used: ",
        )
    });
    assert_eq!(
        served.stderr.lines().collect::<Vec<_>>(),
        logged.collect::<Vec<_>>()
    );
}

#[test]
fn the_example_of_the_docs_gives_the_documented_output() {
    let docs = include_str!("../../../docs/callers.md");
    let block = |start: &str, end: &str| {
        let (_, rest) = docs.split_once(start).expect("a block");
        rest.split_once(end).expect("its end").0
    };
    let file = CallersFile::with(block("```toml\n", "```"));
    file.put_below("keys", "research", "its-own-key");
    let checked = run(&["callers", "check", &file.path()]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(checked.stdout, block("callers check callers.toml\n", "```"));
}

#[test]
fn own_keys_can_not_be_combined_with_keys_that_callers_bring() {
    let file = CallersFile::with(&(entry("orders", "o") + "upstream_key_file = 'key'\n"));
    file.put("key", "own");
    let path = file.path();
    let variables = [
        ("ALIM_BRIDGE_CALLERS_FILE", &*path),
        ("ALIM_BRIDGE_CREDENTIALS", "caller"),
    ];
    let served = start(&["serve"], &variables).wait();
    assert_eq!(served.code, Some(64));
    assert!(
        served
            .stderr
            .contains("line 4: caller.upstream_key_file can't be combined with CREDENTIALS=caller"),
        "{}",
        served.stderr
    );
}

#[test]
fn an_invalid_name_or_an_unwritable_file_adds_nothing() {
    let file = CallersFile::with(&entry("orders", "o"));
    let path = file.path();
    let before = fs::read_to_string(&path).expect("there");
    for name in ["Orders", "or ders", "", &"o".repeat(33)] {
        assert_eq!(
            run(&["callers", "add", &path, name]).code,
            Some(64),
            "{name}"
        );
    }
    assert_eq!(fs::read_to_string(&path).expect("there"), before);
    let nowhere = format!("{path}/below");
    assert_eq!(run(&["callers", "add", &nowhere, "orders"]).code, Some(64));
    assert_eq!(run(&["callers"]).code, Some(64));
}
