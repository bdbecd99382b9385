//! The commands `completions` and `man`.

use std::process::Command;

use crate::support::running::run;

/// Calls the function that completes the last of these words, as bash does.
const COMPLETE: &str = r#"
function=$(complete -p alim-bridge) function=${function#*-F } function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" alim-bridge "${@: -1}" "${@: -2:1}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// What bash suggests for the last word, after `alim-bridge`.
fn suggested_by_bash(words: &[&str]) -> Vec<String> {
    let script = run(&["completions", "bash"]).expect_stdout() + COMPLETE;
    let mut bash = Command::new("bash");
    bash.args(["-c", &script, "bash", "alim-bridge"])
        .args(words);
    let text = String::from_utf8(bash.output().expect("bash").stdout).expect("UTF-8");
    text.lines().map(String::from).collect()
}

#[test]
fn bash_completes_commands_and_flags() {
    assert_eq!(suggested_by_bash(&["s"]), ["serve", "stream"]);
    let flags = suggested_by_bash(&["serve", "--upstream-q"]);
    assert_eq!(flags, ["--upstream-quota"]);
}

#[test]
fn zsh_and_fish_get_completions_and_other_shells_an_error() {
    let zsh = run(&["completions", "zsh"]).expect_stdout();
    assert!(zsh.starts_with("#compdef alim-bridge\n"), "{zsh}");
    let fish = run(&["completions", "fish"]).expect_stdout();
    assert!(fish.contains("complete -c alim-bridge "), "{fish}");
    assert_eq!(run(&["completions", "cmd"]).code, Some(64));
}

#[test]
fn each_command_has_a_man_page_with_its_flags() {
    let first = run(&["man"]).expect_stdout();
    assert!(first.contains(".TH alim-bridge 1"), "{first}");
    assert!(first.contains("alim\\-bridge\\-serve(1)"), "{first}");
    let serve = run(&["man", "serve"]).expect_stdout();
    assert!(serve.contains(".TH alim-bridge-serve 1"), "{serve}");
    assert!(serve.contains("\\-\\-upstream\\-url"), "{serve}");
    assert_eq!(run(&["man", "nothing"]).code, Some(64));
}
