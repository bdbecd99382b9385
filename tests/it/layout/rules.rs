//! The rules. Each is a function that returns the violations of one file: `src/file.rs:line: rule`.

use super::source::{code, paths, words};

/// Libraries, and the files that can use them. A path that ends with `/` is all files below it.
const LIBRARIES: [(&[&str], &[&str]); 6] = [
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
            "quota/service/",
            "telemetry/otlp/",
            "middleware/",
            "service/",
            "status/",
            "server/",
            "client/",
        ],
    ),
    // opentelemetry_otlp re-exports its own tonic with this name.
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
        &[
            "telemetry/resource.rs",
            "telemetry/spans.rs",
            "telemetry/traces.rs",
        ],
    ),
    (&["opentelemetry_proto"], &["telemetry/otlp/"]),
    (&["reqwest", "eventsource_stream"], &["upstream/"]),
    (&["rustyline"], &["client/prompt.rs"]),
];

/// The only file that reads the process's environment. Others get values as arguments, so tests need none.
const ENVIRONMENT: &str = "main.rs";

const MAX_LINES: usize = 400;

/// A file of `src/`, with its path from there.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Checks that it uses only modules above its own. `modules` is the order in `lib.rs`. `main.rs` is below
    /// all of them.
    pub(super) fn check_order(&self, modules: &[String]) -> Vec<String> {
        let position = |name: &str| modules.iter().position(|module| module == name);
        let first = self.path.split('/').next().unwrap_or_default();
        let own = match first.trim_end_matches(".rs") {
            "main" | "lib" => Some(modules.len()),
            module => position(module),
        };
        let code = code(&self.text);
        let used = paths(&words(&code), self.depth()).into_iter();
        let used = used.filter(|path| path.root == "crate");
        let wrong = used.filter_map(|path| match position(path.name) {
            used @ Some(_) if used <= own => None,
            Some(_) => Some((path, "is declared below this file's module in lib.rs")),
            None => Some((path, "is not a module of lib.rs")),
        });
        wrong
            .map(|(path, why)| self.violation(path.line, &format!("crate::{} {why}", path.name)))
            .collect()
    }

    /// Checks that it uses libraries and the environment only if it is listed for them.
    pub(super) fn check_libraries(&self) -> Vec<String> {
        let code = code(&self.text);
        let words = words(&code);
        let mut violations = Vec::new();
        for (names, files) in LIBRARIES {
            let used = words.iter().filter(|word| names.contains(&word.text));
            for word in used.filter(|_| !self.is_in(files)) {
                let rule = format!("{} is used only in {}", word.text, files.join(", "));
                violations.push(self.violation(word.line, &rule));
            }
        }
        let paths = paths(&words, self.depth()).into_iter();
        let reads = paths.filter(|path| (path.root, path.name) == ("std", "env"));
        for path in reads.filter(|_| !self.is_in(&[ENVIRONMENT])) {
            let rule = format!("std::env is used only in {ENVIRONMENT}");
            violations.push(self.violation(path.line, &rule));
        }
        violations
    }

    /// Checks that it spawns no tasks or threads.
    pub(super) fn check_tasks(&self) -> Vec<String> {
        let code = code(&self.text);
        let words = words(&code).into_iter();
        let spawns = words.filter(|word| word.text.starts_with("spawn"));
        spawns
            .map(|word| {
                self.violation(
                    word.line,
                    "tasks are spawned only where SPAWNS gives a reason",
                )
            })
            .collect()
    }

    /// Checks that it starts with a doc comment, is short, and has no unwrap or TODO.
    pub(super) fn check_shape(&self) -> Vec<String> {
        let mut violations = Vec::new();
        if !self.text.starts_with("//! ") {
            violations.push(self.violation(1, "a file starts with //! and its purpose"));
        }
        if self.text.lines().count() > MAX_LINES {
            violations.push(self.violation(MAX_LINES + 1, "a file has at most 400 lines"));
        }
        let code = code(&self.text);
        let pairs = words(&code);
        let pairs = pairs.windows(2);
        for unwrap in pairs.filter(|pair| (pair[0].text, pair[1].text) == ("unwrap", "(")) {
            violations.push(self.violation(unwrap[0].line, "use expect with a reason, not unwrap"));
        }
        let is_note = |line: &str| line.contains("TODO") || line.contains("FIXME");
        for (_, line) in self.text.lines().zip(1..).filter(|(text, _)| is_note(text)) {
            violations.push(self.violation(line, "no TODO or FIXME in the code"));
        }
        violations
    }

    fn violation(&self, line: usize, rule: &str) -> String {
        format!("src/{}:{line}: {rule}", self.path)
    }

    fn is_in(&self, files: &[&str]) -> bool {
        let is_here = |file: &&str| match file.ends_with('/') {
            true => self.path.starts_with(*file),
            false => self.path == *file,
        };
        files.iter().any(is_here)
    }

    /// The depth of its module. Those of `lib.rs` have depth 1.
    fn depth(&self) -> usize {
        self.path.trim_end_matches("/mod.rs").split('/').count()
    }
}
