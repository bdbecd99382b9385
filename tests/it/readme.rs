//! Checks README and SECURITY against the code: they list every reason, and every promise names an existing
//! test.

use std::{collections::BTreeSet, fs, path::Path};

use alim_bridge::call::reason::Reason;

const README: &str = include_str!("../../README.md");
const SECURITY: &str = include_str!("../../SECURITY.md");
const REASONS: &str = include_str!("../../src/call/reason.rs");

/// The code spans in the rows of tables.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|row| row.split('`').skip(1).step_by(2))
}

fn section(page: &'static str, title: &str) -> &'static str {
    let (_, rest) = page.split_once(title).expect("the section exists");
    rest.split("\n## ").next().expect("text")
}

fn is_reason(word: &str) -> bool {
    word.contains('_')
        && word
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

#[test]
fn the_table_of_statuses_lists_exactly_the_reasons() {
    let coded = REASONS.split('"').filter(|word| is_reason(word));
    let coded: BTreeSet<_> = coded.filter(|word| *word != "UPSTREAM_").collect();
    let listed: BTreeSet<_> = spans(section(README, "\n## Statuses"))
        .filter(|word| is_reason(word))
        .collect();
    let listed: BTreeSet<_> = listed
        .into_iter()
        .filter(|word| *word != "MAX_CALLS")
        .collect();
    assert_eq!(listed, coded);
    assert_eq!(listed, Reason::ALL.map(Reason::name).into());
}

#[test]
fn every_row_of_how_it_fails_names_an_existing_test() {
    assert_last_cells_are_tests(section(README, "\n## How it fails"));
}

#[test]
fn every_answer_to_an_attack_names_an_existing_test() {
    assert_last_cells_are_tests(section(SECURITY, "\n## What comes in"));
}

/// Checks that the last code span in each row of the section's table names a test.
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
