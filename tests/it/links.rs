//! Checks that every relative link in the repository's documents leads to a file, and every anchor to a heading or a row;
//! and that each log target that they name is a module's.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders without documents of ours.
const SKIPPED: [&str; 4] = [".git", "target", "node_modules", ".venv"];

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Markdown files.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() && !path.is_symlink() && !SKIPPED.contains(&name.expect("UTF-8")) {
            documents(&path, found);
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
}

/// The text without code blocks and comments.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The targets of links and pictures: `](target)`, `src="target"`, `srcset="target"`.
fn targets(text: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for (start, end) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')] {
        let parts = text.split(start).skip(1);
        targets.extend(parts.filter_map(|part| Some(part.split_once(end)?.0.to_owned())));
    }
    targets
}

/// Each heading as GitHub makes an anchor of it.
fn anchors(text: &str) -> BTreeSet<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text.chars().filter_map(|char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            char if char.is_alphanumeric() => Some(char),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// Why the link can't be followed.
fn broken(document: &Path, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match file {
        "" => document.to_owned(),
        file => document.parent().expect("a folder").join(file),
    };
    if !path.exists() {
        return Some(format!("{}: {target}: no such file", document.display()));
    }
    if anchor.is_empty() || path.extension().is_none_or(|it| it != "md") {
        return None;
    }
    let text = fs::read_to_string(&path).expect("UTF-8");
    (!anchors(&text).contains(anchor))
        .then(|| format!("{}: {target}: no such heading", document.display()))
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut found = Vec::new();
    documents(package(), &mut found);
    assert!(found.len() >= 20, "{found:?}");
    let mut links = 0;
    let mut wrong = Vec::new();
    for document in found {
        let text = prose(&fs::read_to_string(&document).expect("UTF-8"));
        for target in targets(&text) {
            if target.contains("://") {
                continue;
            }
            links += 1;
            wrong.extend(broken(&document, &target));
        }
    }
    assert!(links >= 100, "{links}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A filter for a module that does not exist is valid, and shows nothing.
#[test]
fn every_log_target_in_a_document_is_a_module() {
    let mut found = Vec::new();
    documents(package(), &mut found);
    let mut targets = BTreeSet::new();
    for document in found {
        let text = fs::read_to_string(&document).expect("UTF-8");
        for rest in text.split("alim_bridge::").skip(1) {
            let end = rest.find(|char: char| !char.is_ascii_lowercase() && char != '_');
            let module = rest[..end.unwrap_or(rest.len())].to_owned();
            targets.insert((module, document.clone()));
        }
    }
    assert!(targets.len() >= 3, "{targets:?}");
    let source = package().join("src");
    let is_module =
        |name: &str| source.join(format!("{name}.rs")).exists() || source.join(name).is_dir();
    targets.retain(|(module, _)| !is_module(module));
    assert!(targets.is_empty(), "{targets:?}");
}

#[test]
fn a_missing_file_and_a_missing_heading_are_reported() {
    let readme = package().join("README.md");
    for target in ["docs/nowhere.md", "#nowhere", "docs/errors.md#nowhere"] {
        assert!(broken(&readme, target).is_some(), "{target}");
    }
    for target in ["docs/errors.md#when-to-ask-again", "#why", "src/lib.rs"] {
        assert_eq!(broken(&readme, target), None);
    }
    assert_eq!(
        targets(r#"[a](b) <img src="c"> <source srcset="d">"#),
        ["b", "c", "d"]
    );
    assert!(anchors("# One key, 30 calls a minute\n").contains("one-key-30-calls-a-minute"));
}

#[test]
fn the_light_and_the_dark_diagram_differ_in_their_colours_alone() {
    let diagram = |theme: &str| {
        let path = package().join(format!("docs/images/diagram-{theme}.svg"));
        let text = fs::read_to_string(path).expect("a picture");
        let mut parts = text.split("=\"#");
        let first = parts.next().expect("text").to_owned();
        let rest = parts.map(|part| part.split_once('"').expect("a colour's end").1);
        [vec![first], rest.map(String::from).collect()].concat()
    };
    let light = diagram("light");
    assert!(light.len() > 10);
    assert_eq!(light, diagram("dark"));
}
