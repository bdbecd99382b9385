//! README and SECURITY against the code: every reason is listed, and every promise names a test that
//! there is.

use std::{collections::BTreeSet, fs, path::Path};

use alim_bridge::call::reason::Reason;

const README: &str = include_str!("../../README.md");
const SECURITY: &str = include_str!("../../SECURITY.md");
const REASONS: &str = include_str!("../../src/call/reason.rs");

/// The code spans of the lines that are rows of a table.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
}

fn section(page: &'static str, title: &str) -> &'static str {
    let (_, rest) = page.split_once(title).expect("the section is there");
    rest.split("\n## ").next().expect("text")
}

fn is_reason(word: &str) -> bool {
    word.contains('_')
        && word
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

#[test]
fn the_table_of_statuses_lists_every_reason_and_no_other() {
    let coded = REASONS.split('"').filter(|word| is_reason(word));
    let coded: BTreeSet<_> = coded.filter(|word| *word != "UPSTREAM_").collect();
    let told: BTreeSet<_> = spans(section(README, "\n## Statuses"))
        .filter(|word| is_reason(word))
        .collect();
    let told: BTreeSet<_> = told
        .into_iter()
        .filter(|word| *word != "MAX_CALLS")
        .collect();
    assert_eq!(told, coded);
    assert_eq!(told, Reason::ALL.map(Reason::name).into());
}

#[test]
fn every_promise_of_how_it_fails_names_a_test_that_there_is() {
    assert_last_cells_are_tests(section(README, "\n## How it fails"));
}

#[test]
fn every_answer_to_an_attack_names_a_test_that_there_is() {
    assert_last_cells_are_tests(section(SECURITY, "\n## What comes in"));
}

/// The last code span of each row of the section's table names a test.
fn assert_last_cells_are_tests(section: &str) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = sources(&package.join("tests/it")) + &sources(&package.join("src"));
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let promises = rows
        .skip(1)
        .map(|row| row.rsplit('`').nth(1).expect("a test's name"));
    let promises: Vec<_> = promises.collect();
    assert!(promises.len() >= 10, "{promises:?}");
    for name in promises {
        assert!(
            tests.contains(&format!("fn {name}(")),
            "no test is named {name}"
        );
    }
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let texts = paths.map(|path| match path.is_dir() {
        true => sources(&path),
        false => fs::read_to_string(path).expect("text"),
    });
    texts.collect()
}
