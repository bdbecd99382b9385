//! Layout rules of `src/`: a file uses only modules above its own, libraries are used only in listed files,
//! tasks are spawned only where a reason is given, and every file has a doc comment and stays short.
//!
//! The rules do not see code that a macro generates, or a renamed module (`use crate as other`).

mod rules;
mod source;

use std::{fs, path::Path};

use rules::File;
use source::{code, words};

/// The files that spawn tasks or threads, and why they do not await the work instead.
const SPAWNS: [(&str, &str); 10] = [
    (
        "client/demo.rs",
        "the upstream, the bridge and its caller run concurrently in one process",
    ),
    (
        "main.rs",
        "signals are handled while a command runs, and sending the last spans blocks",
    ),
    (
        "reload.rs",
        "a file on a dead mount must block no call, only its own thread",
    ),
    (
        "server/accept.rs",
        "a slow TLS handshake must not keep others from being accepted",
    ),
    (
        "server/connection/mod.rs",
        "each HTTP/2 stream is a task, so that it can be aborted",
    ),
    (
        "server/overload.rs",
        "the allocator returns memory in a thread that no call waits for",
    ),
    (
        "server/files.rs",
        "each set of files is checked on its own, and connections get time to close",
    ),
    (
        "server/mod.rs",
        "the admin port, probes, the watchdog and the accept loop run concurrently",
    ),
    (
        "telemetry/logs.rs",
        "the exit waits for the last lines, but not if their reader has stalled",
    ),
    (
        "upstream/sse/mod.rs",
        "a caller does not wait for the body's end, which returns the connection to the pool",
    ),
];

/// All files of `src/`.
fn source_files() -> Vec<File> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, "", &mut files);
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn collect(folder: &Path, path: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry").path();
        let name = entry.file_name().and_then(|name| name.to_str());
        let path = format!("{path}{}", name.expect("UTF-8"));
        if entry.is_dir() {
            collect(&entry, &format!("{path}/"), files);
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(&entry).expect("UTF-8");
            files.push(File { path, text });
        }
    }
}

/// The modules of `lib.rs`, in order.
fn modules(files: &[File]) -> Vec<String> {
    let lib = files.iter().find(|file| file.path == "lib.rs");
    let code = code(&lib.expect("src/lib.rs").text);
    let words = words(&code);
    let declared = words.windows(2).filter(|pair| pair[0].text == "mod");
    declared.map(|pair| pair[1].text.to_owned()).collect()
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_file_uses_only_modules_declared_above_its_own() {
    let files = source_files();
    let modules = modules(&files);
    assert_none(
        files
            .iter()
            .flat_map(|file| file.check_order(&modules))
            .collect(),
    );
}

#[test]
fn each_library_is_used_only_on_its_side() {
    assert_none(
        source_files()
            .iter()
            .flat_map(File::check_libraries)
            .collect(),
    );
}

#[test]
fn tasks_are_spawned_only_where_a_reason_is_given() {
    let listed = |file: &File| SPAWNS.iter().any(|(path, _)| *path == file.path);
    let files = source_files();
    let (listed, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| listed(file));
    assert_none(others.into_iter().flat_map(File::check_tasks).collect());
    let needed = listed.iter().filter(|file| !file.check_tasks().is_empty());
    assert_eq!(
        needed.count(),
        SPAWNS.len(),
        "a row of SPAWNS is no longer needed"
    );
}

#[test]
fn every_file_has_a_doc_comment_and_is_short_and_finished() {
    assert_none(source_files().iter().flat_map(File::check_shape).collect());
}

/// The violations of one file, in a crate of three modules.
fn violations(path: &str, text: &str) -> Vec<String> {
    let file = File {
        path: path.into(),
        text: format!("//! Its purpose.\n{text}"),
    };
    let modules = ["low", "upstream", "high"].map(String::from);
    let violations = [
        file.check_order(&modules),
        file.check_libraries(),
        file.check_tasks(),
        file.check_shape(),
    ];
    violations.concat()
}

#[test]
fn what_the_rules_allow_is_not_reported() {
    for (path, text) in [
        ("high.rs", "use crate::{low::{A, b::C}, upstream, high::D};"),
        (
            "high/mod.rs",
            "fn f() { crate::low::g(); super::low::g(); }",
        ),
        ("high/part.rs", "use super::anything;"),
        (
            "low.rs",
            "// crate::high reqwest\nconst A: &str = \"crate::high \\\" tonic\";",
        ),
        (
            "low.rs",
            "/* std::env */ const A: &str = r#\"crate::high\" spawn\"#; const Q: char = '\"';",
        ),
        (
            "low.rs",
            "#[cfg(test)]\nmod tests { use crate::high; fn f() { g().unwrap() } }",
        ),
        (
            "low.rs",
            "fn f<'a>(a: &'a str) -> &'a str { a.get().unwrap_or_default() }",
        ),
        (
            "upstream/mod.rs",
            "use eventsource_stream::Eventsource; use reqwest::{Client, redirect};",
        ),
        (
            "main.rs",
            "use std::{env, io}; fn main() { crate::high::f() }",
        ),
    ] {
        assert_eq!(violations(path, text), [""; 0], "{text}");
    }
}

#[test]
fn every_violation_is_reported_with_its_line() {
    for (path, text, violation) in [
        (
            "low.rs",
            "use crate::high::A;",
            "crate::high is declared below",
        ),
        (
            "low.rs",
            "use crate::{low, high};",
            "crate::high is declared below",
        ),
        (
            "low/part.rs",
            "use crate::{low::{self, A}, high::B};",
            "crate::high is declared below",
        ),
        (
            "low/part.rs",
            "fn f() { super::super::high::g() }",
            "crate::high is declared below",
        ),
        (
            "low.rs",
            "type A<'a> = B<'a, crate::high::C>;",
            "crate::high is declared below",
        ),
        (
            "low.rs",
            "#[cfg(test)] use a::b; const A: char = '\\''; use crate::high;",
            "crate::high is declared below",
        ),
        (
            "low.rs",
            "use crate::other;",
            "crate::other is not a module",
        ),
        (
            "low.rs",
            "use tonic::Status;",
            "tonic is used only in pb.rs",
        ),
        (
            "high.rs",
            "fn f() -> reqwest::Error {}",
            "reqwest is used only in upstream/",
        ),
        ("low.rs", "use std::{io, env};", "std::env is used only"),
        (
            "low.rs",
            "fn f() { tokio::spawn(g()); }",
            "tasks are spawned only",
        ),
        (
            "low.rs",
            "fn f() { set.spawn(g()); }",
            "tasks are spawned only",
        ),
        (
            "low.rs",
            "fn f() { g().unwrap(); }",
            "use expect with a reason",
        ),
        ("low.rs", "// FIXME", "no TODO or FIXME"),
    ] {
        let found = violations(path, text);
        let expected = format!("src/{path}:2: {violation}");
        assert!(
            found.len() == 1 && found[0].starts_with(&expected),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn a_file_without_a_doc_comment_or_with_401_lines_is_reported() {
    let shape = |text: String| {
        File {
            path: "low.rs".into(),
            text,
        }
        .check_shape()
    };
    assert_eq!(shape("//! Its purpose.\n".repeat(400)), [""; 0]);
    assert!(shape("//! Its purpose.\n".repeat(401))[0].starts_with("src/low.rs:401: "));
    assert!(shape("/// Its purpose.\n".into())[0].starts_with("src/low.rs:1: "));
}
