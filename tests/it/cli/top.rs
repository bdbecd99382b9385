//! The command `top`: one frame, a terminal, the token, and what it says if it can't read `/status`.

use std::{fs, time::Duration};

use rexpect::session::spawn_command;
use tempfile::NamedTempFile;

use super::{KEY, QUESTION};
use crate::support::{
    running::{Running, command, run, start},
    upstream::refused_url,
};

const TOKEN: &str = "a-token-of-32-characters-for-test";

/// A bridge whose upstream is down, and its admin port.
fn serve(settings: &[(&str, &str)]) -> (Running, String, String) {
    let url = refused_url();
    let usual = [
        ("ALIM_BRIDGE_ADMIN_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_LISTEN", "127.0.0.1:0"),
        ("ALIM_BRIDGE_UPSTREAM_URL", &url),
        ("ALIM_BRIDGE_UPSTREAM_API_KEY", KEY),
        ("ALIM_BRIDGE_LOG_FORMAT", "json"),
    ];
    let mut bridge = start(&["serve"], &[&usual, settings].concat());
    let serving: serde_json::Value =
        serde_json::from_str(&bridge.wait_for_log("\"serving\"")).expect("JSON");
    let admin = serving["admin"].as_str().expect("an address").to_owned();
    let address = bridge.address();
    (bridge, address, admin)
}

#[test]
fn top_prints_one_frame_with_the_failed_call() {
    let (_bridge, address, admin) = serve(&[]);
    assert_eq!(
        run(&["invoke", "--address", &address, QUESTION]).code,
        Some(78)
    );
    for admin in [&*admin, &format!("http://{admin}/")] {
        let frame = run(&["top", "--once", "--admin", admin]).expect_stdout();
        assert!(
            frame.starts_with(concat!("alim-bridge ", env!("CARGO_PKG_VERSION"), "  up ")),
            "{frame}"
        );
        for part in [
            "calls 0/4096",
            "no call is open",
            "UPSTREAM_UNREACHABLE",
            "started 1  failed 1",
        ] {
            assert!(frame.contains(part), "{part}: {frame}");
        }
        assert!(
            !frame.contains('\u{1b}') && !frame.contains(QUESTION),
            "{frame}"
        );
    }
}

#[test]
fn top_sends_the_token_of_its_file_or_variable() {
    let file = NamedTempFile::new().expect("a file");
    fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let (_bridge, _, admin) = serve(&[("ALIM_BRIDGE_ADMIN_TOKEN_FILE", path)]);
    let top = ["top", "--admin", &admin];
    let denied = run(&top);
    assert_eq!((denied.code, &*denied.stdout), (Some(1), ""));
    assert!(
        denied
            .stderr
            .contains("send the content of ADMIN_TOKEN_FILE"),
        "{}",
        denied.stderr
    );
    run(&[&top[..], &["--admin-token-file", path]].concat()).expect_stdout();
    start(&top, &[("ALIM_ADMIN_TOKEN", TOKEN)])
        .wait()
        .expect_stdout();
}

#[test]
fn top_says_what_it_can_not_read() {
    let nobody = refused_url();
    let ended = run(&["top", "--once", "--admin", &nobody]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("it does not answer"),
        "{}",
        ended.stderr
    );
    for args in [
        ["--admin", "user:secret@host"],
        ["--admin", "ftp://host"],
        ["--interval", "1ms"],
    ] {
        let ended = run(&[&["top"][..], &args].concat());
        assert_eq!(ended.code, Some(64), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    }
}

#[test]
fn at_a_terminal_top_refreshes_and_gives_the_screen_back_at_ctrl_c() {
    let (_bridge, address, admin) = serve(&[]);
    let command = command(&["top", "--interval", "100ms", "--admin", &admin]);
    let timeout = u64::try_from(Duration::from_secs(60).as_millis()).expect("short");
    let mut terminal = spawn_command(command, Some(timeout)).expect("a terminal");
    terminal
        .exp_string("\u{1b}[?1049h")
        .expect("the other screen");
    terminal.exp_string("failed 0").expect("a frame");
    run(&["invoke", "--address", &address, QUESTION]);
    terminal.exp_string("failed 1").expect("a later frame");
    terminal.send_control('c').expect("open");
    terminal
        .exp_string("\u{1b}[?1049l")
        .expect("the old screen");
    terminal.exp_eof().expect("the end");
}
