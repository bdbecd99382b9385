//! The house's rules: a file uses only what stands above it, each library is named in one place only,
//! tasks begin where it says why, and every file says what it is for and stays short.
//!
//! What the rules can't see: what a macro writes, and a module that is renamed on the way
//! (`use crate as house`).

mod rules;
mod source;

use std::{fs, path::Path};

use rules::File;
use source::{code, words};

/// Where tasks and threads begin, and why the work can't be awaited where it stands.
const SPAWNS: [(&str, &str); 10] = [
    (
        "client/demo.rs",
        "the upstream, the bridge and its caller run at once in one process",
    ),
    (
        "main.rs",
        "signals are heard whatever the command does, and sending the last spans blocks",
    ),
    (
        "reload.rs",
        "a file on a dead mount blocks a thread of its own, and no call",
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
        "the allocator gives memory back in a thread that no call waits for",
    ),
    (
        "server/files.rs",
        "each set of files is looked at by itself, and connections are given time to leave",
    ),
    (
        "server/mod.rs",
        "the admin port, probes, the watchdog and accepting go on at once",
    ),
    (
        "telemetry/logs.rs",
        "the last lines are waited for, but not when their reader has stalled",
    ),
    (
        "upstream/sse/mod.rs",
        "a caller does not wait for the body's end, which gives the connection back",
    ),
];

/// All of `src/`.
fn house() -> Vec<File> {
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

/// The modules that `lib.rs` declares, in its order.
fn modules(files: &[File]) -> Vec<String> {
    let lib = files.iter().find(|file| file.path == "lib.rs");
    let code = code(&lib.expect("src/lib.rs").text);
    let words = words(&code);
    let declared = words.windows(2).filter(|pair| pair[0].text == "mod");
    declared.map(|pair| pair[1].text.to_owned()).collect()
}

fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_file_uses_only_modules_that_stand_above_its_own() {
    let files = house();
    let modules = modules(&files);
    assert_none(
        files
            .iter()
            .flat_map(|file| file.against_order(&modules))
            .collect(),
    );
}

#[test]
fn each_library_is_named_in_its_own_bank_only() {
    assert_none(house().iter().flat_map(File::against_sides).collect());
}

#[test]
fn tasks_begin_only_where_a_reason_is_given() {
    let listed = |file: &File| SPAWNS.iter().any(|(path, _)| *path == file.path);
    let files = house();
    let (listed, others): (Vec<_>, Vec<_>) = files.iter().partition(|file| listed(file));
    assert_none(others.into_iter().flat_map(File::against_tasks).collect());
    let needed = listed
        .iter()
        .filter(|file| !file.against_tasks().is_empty());
    assert_eq!(
        needed.count(),
        SPAWNS.len(),
        "a row of SPAWNS is no longer needed"
    );
}

#[test]
fn every_file_says_what_it_is_for_and_is_short_and_finished() {
    assert_none(house().iter().flat_map(File::against_shape).collect());
}

/// All that the rules say of one file, in a house of three modules.
fn told(path: &str, text: &str) -> Vec<String> {
    let file = File {
        path: path.into(),
        text: format!("//! Its job.\n{text}"),
    };
    let modules = ["low", "upstream", "high"].map(String::from);
    let faults = [
        file.against_order(&modules),
        file.against_sides(),
        file.against_tasks(),
        file.against_shape(),
    ];
    faults.concat()
}

#[test]
fn what_the_rules_allow_is_not_told() {
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
        assert_eq!(told(path, text), [""; 0], "{text}");
    }
}

#[test]
fn every_breach_of_a_rule_is_told_with_its_line() {
    for (path, text, fault) in [
        ("low.rs", "use crate::high::A;", "crate::high stands below"),
        (
            "low.rs",
            "use crate::{low, high};",
            "crate::high stands below",
        ),
        (
            "low/part.rs",
            "use crate::{low::{self, A}, high::B};",
            "crate::high stands below",
        ),
        (
            "low/part.rs",
            "fn f() { super::super::high::g() }",
            "crate::high stands below",
        ),
        (
            "low.rs",
            "type A<'a> = B<'a, crate::high::C>;",
            "crate::high stands below",
        ),
        (
            "low.rs",
            "#[cfg(test)] use a::b; const A: char = '\\''; use crate::high;",
            "crate::high stands below",
        ),
        ("low.rs", "use crate::other;", "crate::other is no module"),
        (
            "low.rs",
            "use tonic::Status;",
            "tonic is named only in pb.rs",
        ),
        (
            "high.rs",
            "fn f() -> reqwest::Error {}",
            "reqwest is named only in upstream/",
        ),
        ("low.rs", "use std::{io, env};", "std::env is named only"),
        (
            "low.rs",
            "fn f() { tokio::spawn(g()); }",
            "tasks begin only",
        ),
        ("low.rs", "fn f() { set.spawn(g()); }", "tasks begin only"),
        ("low.rs", "fn f() { g().unwrap(); }", "expect says why"),
        ("low.rs", "// FIXME", "what is left to do"),
    ] {
        let told = told(path, text);
        let expected = format!("src/{path}:2: {fault}");
        assert!(
            told.len() == 1 && told[0].starts_with(&expected),
            "{text}: {told:?}"
        );
    }
}

#[test]
fn a_file_without_a_word_on_its_job_or_with_401_lines_is_told() {
    let shape = |text: String| {
        File {
            path: "low.rs".into(),
            text,
        }
        .against_shape()
    };
    assert_eq!(shape("//! Its job.\n".repeat(400)), [""; 0]);
    assert!(shape("//! Its job.\n".repeat(401))[0].starts_with("src/low.rs:401: "));
    assert!(shape("/// Its job.\n".into())[0].starts_with("src/low.rs:1: "));
}
