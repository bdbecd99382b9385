//! The rules, each a function of one file that gives its breaches: `src/file.rs:line: rule`.

use super::source::{code, paths, words};

/// Which libraries are named only where; a place that ends with `/` is all files below it.
const SIDES: [(&[&str], &[&str]); 5] = [
    (
        &[
            "tonic",
            "tonic_health",
            "tonic_prost",
            "tonic_reflection",
            "tonic_web",
        ],
        &[
            "pb.rs",
            "pb/",
            "middleware/",
            "service/",
            "status/",
            "server/",
            "client/",
        ],
    ),
    // opentelemetry_otlp calls its own tonic so.
    (
        &["tonic_types"],
        &[
            "pb.rs",
            "middleware/",
            "service/",
            "status/",
            "server/",
            "client/",
            "telemetry/traces.rs",
        ],
    ),
    (
        &["opentelemetry_otlp", "opentelemetry_sdk"],
        &["telemetry/traces.rs"],
    ),
    (&["reqwest", "eventsource_stream"], &["upstream/"]),
    (&["rustyline"], &["client/prompt.rs"]),
];

/// The process's environment is read here; all else is handed what it needs, so tests never touch it.
const ENVIRONMENT: &str = "main.rs";

const MAX_LINES: usize = 400;

/// A file of `src/`, under its path from there.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// It names only modules that stand above its own in `lib.rs`, whose order `modules` is. `lib.rs`
    /// declares them and `main.rs` stands below them all.
    pub(super) fn against_order(&self, modules: &[String]) -> Vec<String> {
        let place = |name: &str| modules.iter().position(|module| module == name);
        let first = self.path.split('/').next().unwrap_or_default();
        let own = match first.trim_end_matches(".rs") {
            "main" | "lib" => Some(modules.len()),
            module => place(module),
        };
        let code = code(&self.text);
        let used = paths(&words(&code), self.depth()).into_iter();
        let used = used.filter(|path| path.root == "crate");
        let wrong = used.filter_map(|path| match place(path.name) {
            used @ Some(_) if used <= own => None,
            Some(_) => Some((path, "stands below this file's module in lib.rs")),
            None => Some((path, "is no module of lib.rs")),
        });
        wrong
            .map(|(path, why)| self.told(path.line, &format!("crate::{} {why}", path.name)))
            .collect()
    }

    /// It names a library, or the environment, only where that belongs.
    pub(super) fn against_sides(&self) -> Vec<String> {
        let code = code(&self.text);
        let words = words(&code);
        let mut told = Vec::new();
        for (names, places) in SIDES {
            let named = words.iter().filter(|word| names.contains(&word.text));
            for word in named.filter(|_| !self.is_in(places)) {
                let rule = format!("{} is named only in {}", word.text, places.join(", "));
                told.push(self.told(word.line, &rule));
            }
        }
        let paths = paths(&words, self.depth()).into_iter();
        let reads = paths.filter(|path| (path.root, path.name) == ("std", "env"));
        for path in reads.filter(|_| !self.is_in(&[ENVIRONMENT])) {
            let rule = format!("std::env is named only in {ENVIRONMENT}");
            told.push(self.told(path.line, &rule));
        }
        told
    }

    /// It begins no tasks and no threads.
    pub(super) fn against_tasks(&self) -> Vec<String> {
        let code = code(&self.text);
        let words = words(&code).into_iter();
        let spawns = words.filter(|word| word.text.starts_with("spawn"));
        spawns
            .map(|word| self.told(word.line, "tasks begin only where SPAWNS says why"))
            .collect()
    }

    /// It says its job first, is short, unwraps nothing and leaves nothing to do.
    pub(super) fn against_shape(&self) -> Vec<String> {
        let mut told = Vec::new();
        if !self.text.starts_with("//! ") {
            told.push(self.told(1, "a file opens with //! and its one job"));
        }
        if self.text.lines().count() > MAX_LINES {
            told.push(self.told(MAX_LINES + 1, "a file has at most 400 lines"));
        }
        let code = code(&self.text);
        let pairs = words(&code);
        let pairs = pairs.windows(2);
        for unwrap in pairs.filter(|pair| (pair[0].text, pair[1].text) == ("unwrap", "(")) {
            told.push(self.told(unwrap[0].line, "expect says why, unwrap does not"));
        }
        let is_note = |line: &str| line.contains("TODO") || line.contains("FIXME");
        for (_, line) in self.text.lines().zip(1..).filter(|(text, _)| is_note(text)) {
            told.push(self.told(line, "what is left to do has no place in the code"));
        }
        told
    }

    fn told(&self, line: usize, rule: &str) -> String {
        format!("src/{}:{line}: {rule}", self.path)
    }

    fn is_in(&self, places: &[&str]) -> bool {
        let is_here = |place: &&str| match place.ends_with('/') {
            true => self.path.starts_with(*place),
            false => self.path == *place,
        };
        places.iter().any(is_here)
    }

    /// How many modules deep it is; those of `lib.rs` are 1.
    fn depth(&self) -> usize {
        self.path.trim_end_matches("/mod.rs").split('/').count()
    }
}
