//! The client commands against a server that accepts connections and says nothing, or answers with little.

use std::{
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use crate::support::running::{Exited, run};

/// A server that keeps its connections open. It answers the first bytes of each with `answer`, if there is one.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for mut connection in listener.incoming().flatten() {
            if !answer.is_empty() {
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(answer.as_bytes());
            }
            kept.push(connection);
        }
    });
    address
}

fn assert_failed(args: &[&str], code: i32, message: &str) {
    let Exited {
        code: actual,
        stderr,
        ..
    } = run(args);
    assert_eq!(actual, Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: {stderr}");
}

#[test]
fn no_command_waits_without_end_for_a_bridge_that_says_nothing() {
    let address = server("");
    let with_tls = format!("https://{address}");
    thread::scope(|all| {
        all.spawn(|| {
            let args = ["health", "--address", &address];
            assert_failed(&args, 64 + 4, "no answer within --timeout");
        });
        all.spawn(|| {
            let args = ["invoke", "--insecure", "--address", &with_tls, "Salam!"];
            assert_failed(&args, 64 + 14, "it does not answer");
        });
        all.spawn(|| {
            let args = ["stream", "--address", &with_tls, "Salam!"];
            assert_failed(&args, 64 + 14, "it does not answer");
        });
    });
}

#[test]
fn top_reports_a_status_that_has_no_body() {
    let address = server("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
    assert_failed(
        &["top", "--once", "--admin", &address],
        1,
        "it answered 302",
    );
}
