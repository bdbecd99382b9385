//! Entries of the file, and the callers that keys and certificates identify.

use std::fs;

use tempfile::TempDir;

use super::*;

/// The SHA-256 of "test" (FIPS 180-4), and of "".
const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn callers(text: &str) -> Callers {
    let made = Callers::parse(text, Path::new(""), OwnKeys::Allowed, &[], None);
    made.unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str) -> String {
    let made = Callers::parse(text, Path::new(""), OwnKeys::Allowed, &[], None);
    made.expect_err("faults").to_string()
}

fn name(caller: Option<&Arc<Caller>>) -> Option<&str> {
    caller.map(|caller| &**caller.name())
}

#[test]
fn a_caller_is_known_by_the_hash_of_each_of_its_keys() {
    let text = format!("[[caller]]\nname = 'orders'\nkey_sha256 = ['{TEST}', '{EMPTY}']");
    let callers = callers(&text);
    assert_eq!(name(callers.with_key("test")), Some("orders"));
    assert_eq!(name(callers.with_key("")), Some("orders"));
    assert_eq!(name(callers.with_key("Test")), None);
    assert_eq!(name(callers.with_key(TEST)), None, "the hash is no key");
}

#[test]
fn a_certificate_identifies_one_caller_or_none() {
    let callers = callers(
        "[[caller]]\nname = 'a'\nsan = ['spiffe://mesh/ns/a', 'A.example']\n[[caller]]\nname = 'b'\nsan = ['b.example']",
    );
    assert!(callers.know_certificates());
    for (names, expected) in [
        (&["spiffe://mesh/ns/a"][..], Some("a")),
        (&["spiffe://mesh/ns/A"], None),
        (&["other", "a.EXAMPLE"], Some("a")),
        (&["a.example", "spiffe://mesh/ns/a"], Some("a")),
        (&["a.example", "b.example"], None),
        (&["sub.b.example"], None),
        (&[], None),
    ] {
        assert_eq!(name(callers.with_certificate(names)), expected, "{names:?}");
    }
}

#[test]
fn missing_rules_come_from_the_defaults_or_are_unlimited() {
    let callers = callers(
        "[[caller]]\nname = 'a'\n[[caller]]\nname = 'b'\nmax_open_calls = 2\nsystem_prompt_override = 'allow'\nweight = 3\n[defaults]\nmax_open_calls = 1\nsystem_prompt_override = 'reject'",
    );
    let [a, b] = ["a", "b"].map(|name| callers.named(name).expect("listed"));
    assert_eq!([a.weight(), b.weight()], [1, 3]);
    assert_eq!(
        [a, b].map(Caller::may_override_system_prompt),
        [false, true]
    );
    let (_open, full) = (
        a.admit().expect("one"),
        Rejected::CallerSaturated { limit: 1 },
    );
    assert_eq!(a.admit().err(), Some(full));
    let _open = [b.admit().expect("one"), b.admit().expect("two")];
    assert!(b.admit().is_err());
    let unlimited = self::callers("[[caller]]\nname = 'a'");
    let one = unlimited.named("a").expect("listed");
    assert!(one.may_override_system_prompt());
    let open = [(); 1000].map(|()| one.admit());
    assert!(open.iter().all(Result::is_ok));
}

#[test]
fn all_faults_are_reported_with_line_and_field_but_no_value() {
    let text = format!(
        r#"
colour = "secret-1"
[defaults]
max_open_calls = 0
weight = 2
[[caller]]
name = "Secret-2"
key_sha256 = ["secret-3", "{TEST}"]
rate = "secret-4"
[[caller]]
key_sha256 = "{TEST}"
san = [""]
weight = 1001
[[caller]]
name = "orders"
key_sha256 = ["{TEST}"]
system_prompt_override = true
upstream_key_file = ""
secret-5 = 1
[[caller]]
name = "orders"
max_open_calls = "2"
"#
    );
    let found = faults(&text);
    let hash = "must be a list of SHA-256 hashes, each 64 hex digits in quotes";
    let expected = [
        "line 2: colour is not a field of this file",
        "line 4: defaults.max_open_calls must be a whole number from 1 to 1000000",
        "line 5: defaults.weight is not a field of this file",
        &format!("line 7: caller.name {}", file::NAME_RULE),
        &format!("line 8: caller.key_sha256 {hash}"),
        "line 9: caller.rate must be a number of calls and their period of up to a day, such as \"60/min\", \"5/s\" or \"10/10s\"",
        "line 10: caller.name is missing",
        &format!("line 11: caller.key_sha256 {hash}"),
        "line 12: caller.san must be a list of URIs or DNS names of certificates, in quotes",
        "line 13: caller.weight must be a whole number from 1 to 1000",
        "line 16: caller.key_sha256 is already in line 8",
        "line 17: caller.system_prompt_override must be \"allow\" or \"reject\"",
        "line 18: caller.upstream_key_file must be a path",
        "line 19: caller.(a field) is not a field of this file",
        "line 21: caller.name is already in line 15",
        "line 22: caller.max_open_calls must be a whole number from 1 to 1000000",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn no_caller_is_named_like_the_bridges_own_key() {
    let rule = "line 1: caller.name must be 1 to 32 of a-z, 0-9, '.', '_' and '-', and not \"service\", which names the bridge's own key";
    let named = |name: &str| format!("caller = [{{name = \"{name}\"}}]");
    assert_eq!(faults(&named("service")), rule);
    callers(&named("service-1"));
}

#[test]
fn a_file_without_callers_with_too_many_or_without_toml_is_a_fault() {
    assert_eq!(
        faults("# nobody"),
        "line 1: caller is missing: no caller is listed"
    );
    let many = |count| {
        (0..count)
            .map(|it| format!("[[caller]]\nname = 'c{it}'\n"))
            .collect::<String>()
    };
    assert_eq!(callers(&many(200)).iter().count(), 200);
    assert_eq!(
        faults(&many(201)),
        "line 1: caller stands 201 times, the limit is 200"
    );
    assert!(faults("\n[[caller]\nname = 'a'").starts_with("line 2: is not TOML: "));
    assert_eq!(
        faults("caller = 'a'"),
        "line 1: caller must be tables: [[caller]]\nline 1: caller is missing: no caller is listed"
    );
}

/// A directory with these files, and the path of its `callers.toml`.
fn files(all: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a directory");
    for (name, content) in all {
        fs::write(dir.path().join(name), content).expect("written");
    }
    let path = dir.path().join("callers.toml");
    (dir, path)
}

#[test]
fn keys_that_begin_alike_are_counted_as_one_unless_they_are_one_file() {
    let text = "[[caller]]\nname = 'a'\nupstream_key_file = 'one'\n[[caller]]\nname = 'b'\nupstream_key_file = 'one'\n[[caller]]\nname = 'c'\nupstream_key_file = 'two'\n[[caller]]\nname = 'd'\nupstream_key_file = 'three'\n[[caller]]\nname = 'e'";
    let (_dir, path) = files(&[
        ("callers.toml", text),
        ("one", "0123456789abcdef-1"),
        ("two", "0123456789abcdef-2"),
        ("three", "0123456789abcde"),
    ]);
    let callers = Callers::open(path, OwnKeys::Allowed)
        .expect("callers")
        .load();
    let shared = |one: &str, other: &str| SharedCount(one.into(), other.into());
    assert_eq!(callers.shared_counts(None), [shared("a", "c")]);
    let service = SecretString::from("0123456789abcde");
    let all = [shared("a", "c"), shared("the bridge", "d")];
    assert_eq!(callers.shared_counts(Some(&service)), all);
    let identities = callers.iter().map(|caller| caller.key_identity());
    let identities: Vec<_> = identities.collect();
    assert_eq!(identities[0], identities[1]);
    assert_ne!(identities[0], identities[2]);
    assert_eq!(identities[4], KeyIdentity::Service);
}

#[test]
fn an_unusable_key_file_is_reported_with_its_line() {
    let text = "[[caller]]\nname = 'a'\nupstream_key_file = 'gone'\n[[caller]]\nname = 'b'\nupstream_key_file = 'two'";
    let (_dir, path) = files(&[("callers.toml", text), ("two", "two words")]);
    let found = |own_keys| {
        Callers::open(path.clone(), own_keys)
            .expect_err("faults")
            .to_string()
    };
    assert_eq!(
        found(OwnKeys::Allowed),
        "line 3: caller.upstream_key_file can't be read: No such file or directory (os error 2)\nline 6: caller.upstream_key_file holds a key with white space or characters beyond ASCII"
    );
    let brought = "can't be combined with CREDENTIALS=caller: callers bring their own keys";
    assert_eq!(
        found(OwnKeys::Brought),
        format!(
            "line 3: caller.upstream_key_file {brought}\nline 6: caller.upstream_key_file {brought}"
        )
    );
}

#[test]
fn a_changed_file_keeps_what_its_callers_have_open() {
    let (_dir, path) = files(&[("callers.toml", "[[caller]]\nname = 'a'\nmax_open_calls = 1")]);
    let callers = Callers::open(path.clone(), OwnKeys::Allowed).expect("callers");
    let admit = || callers.load().named("a").expect("listed").admit();
    let open = admit().expect("the first");
    fs::write(
        &path,
        "[[caller]]\nname = 'b'\n[[caller]]\nname = 'a'\nmax_open_calls = 1",
    )
    .expect("written");
    assert_eq!(
        [callers.refresh(), callers.refresh()],
        [None, Some(reload::Outcome::TakenOver)]
    );
    assert!(admit().is_err());
    drop(open);
    assert!(admit().is_ok());
}

#[test]
fn an_added_key_is_accepted_and_comments_stay() {
    let (_dir, path) = files(&[]);
    let first = edit::add(&path, "orders").expect("a new file");
    let text = fs::read_to_string(&path).expect("written");
    fs::write(
        &path,
        format!("# ours\n[defaults]\nrate = '1/s' # slow\n\n{text}san = [] # none\n"),
    )
    .expect("written");
    let second = edit::add(&path, "orders").expect("a second key");
    let other = edit::add(&path, "billing").expect("another caller");
    let text = fs::read_to_string(&path).expect("written");
    for kept in ["# ours\n", "rate = '1/s' # slow\n", "san = [] # none\n"] {
        assert!(text.contains(kept), "{text}");
    }
    for key in [&first, &second, &other] {
        assert!(key.starts_with("alimb_") && key.len() == 6 + 64, "{key}");
        assert!(!text.contains(&**key), "{text}");
    }
    let callers = Callers::open(path.clone(), OwnKeys::Allowed)
        .expect("valid")
        .load();
    let known = [first, second, other].map(|key| name(callers.with_key(&key)).map(String::from));
    assert_eq!(
        known,
        ["orders", "orders", "billing"].map(|it| Some(it.to_owned()))
    );
    assert!(matches!(edit::add(&path, "Orders"), Err(edit::Error::Name)));
    let lines = edit::check(&path).expect("valid");
    assert_eq!(
        lines[0],
        "orders: keys 2, certificate names 0, weight 1, open calls unlimited, rate 1/s"
    );
}

#[test]
fn nothing_is_added_to_an_invalid_file() {
    let text = "[[caller]]\nname = 'orders'\ncolour = 1\n";
    let (_dir, path) = files(&[("callers.toml", text)]);
    let found = edit::add(&path, "orders").expect_err("wrong").to_string();
    assert_eq!(found, "line 3: caller.colour is not a field of this file");
    assert_eq!(fs::read_to_string(&path).expect("there"), text);
}
