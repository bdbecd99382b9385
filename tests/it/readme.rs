//! Checks the documents against the code: every promise names an existing test, the runbook and the page of errors agree, and
//! README's figures are those of `docs/performance.md`.

use std::{collections::BTreeSet, fs, path::Path};

use alim_bridge::status::catalog::{CATALOG, Fault};

use crate::support::page;

const BEHAVIOUR: &str = include_str!("../../docs/behaviour.md");
const SECURITY: &str = include_str!("../../SECURITY.md");
const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const PERFORMANCE: &str = include_str!("../../docs/performance.md");

/// The rows of `docs/performance.md` that README shows.
const FIGURES: [&str; 7] = [
    "CPU-µs per Invoke, saturated",
    "Invoke alone, p50 µs",
    "time to first token alone, p50 µs",
    "CPU-s per million tokens, paced",
    "tokens/s, burst",
    "MiB without streams",
    "KiB per idle stream, 10,000",
];

fn section(page: &'static str, title: &str) -> &'static str {
    let (_, rest) = page.split_once(title).expect("the section exists");
    rest.split("\n## ").next().expect("text")
}

#[test]
fn every_promise_of_how_it_behaves_names_an_existing_test() {
    assert_last_cells_are_tests(BEHAVIOUR);
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
        .filter(|row| !row.ends_with("| test |"))
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

#[test]
fn the_runbook_and_the_page_of_errors_blame_the_same() {
    let tables = section(RUNBOOK, "\n## Reasons");
    for (fault, title) in Fault::ALL {
        let (_, table) = tables
            .split_once(&format!("\n### {title}\n"))
            .expect("a table");
        let table = table.split("\n### ").next().expect("text");
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `"));
        let rows: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
        let entries = CATALOG.iter().filter(|entry| entry.fault == fault);
        let reasons: BTreeSet<_> = entries.map(|entry| entry.reason.name()).collect();
        assert_eq!(rows, reasons, "{title}");
    }
}

#[test]
fn the_figures_of_the_readme_are_those_that_were_measured() {
    let mut table = String::from("| | alim-bridge | 60 lines | Envoy |\n|---|--:|--:|--:|\n");
    for name in FIGURES {
        let start = format!("| {name} |");
        let row = PERFORMANCE.lines().find(|line| line.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row {name}"));
        let figure = |column: usize| {
            let cell = row.split('|').nth(column).expect("a cell").trim();
            cell.split(' ').next().expect("a figure")
        };
        let (bridge, naive, envoy) = (figure(2), figure(4), figure(5)); // after name and limit
        table += &format!("| {name} | {bridge} | {naive} | {envoy} |\n");
    }
    let head = PERFORMANCE
        .lines()
        .find(|line| line.starts_with("|  | bridge"));
    assert!(head.is_some_and(|head| head.starts_with("|  | bridge | limit | naive | envoy |")));
    page::check("README.md", "figures", &table);
}
