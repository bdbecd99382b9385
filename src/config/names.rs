//! Variables with the settings' prefix that are not settings: those of Kubernetes, and typing errors.

use super::SETTINGS;

/// Whether Kubernetes sets this variable in every pod, for a Service whose name begins with the prefix. These are
/// `SERVICE_HOST`, `SERVICE_PORT` and Docker's links, each after the rest of the Service's name.
pub(super) fn is_injected(rest: &str, value: &str) -> bool {
    let is_link = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|it| value.starts_with(it));
    let ends = |name: &str| rest == name || rest.ends_with(&format!("_{name}"));
    ends("SERVICE_HOST")
        || ends("SERVICE_PORT")
        || after(rest, "SERVICE_PORT_").is_some_and(|name| !name.is_empty())
        || (ends("PORT") && is_link)
        || after(rest, "PORT_").is_some_and(is_port_link)
}

/// The text after `part`, if `part` is at the beginning or after a `_`.
fn after<'a>(rest: &'a str, part: &str) -> Option<&'a str> {
    let (before, after) = rest.rsplit_once(part)?;
    (before.is_empty() || before.ends_with('_')).then_some(after)
}

/// Whether the text is `50051_TCP`, or that with `_PROTO`, `_PORT` or `_ADDR`.
fn is_port_link(text: &str) -> bool {
    let words: Vec<_> = text.split('_').collect();
    let (port, protocol, rest) = match words[..] {
        [port, protocol] => (port, protocol, ""),
        [port, protocol, rest] => (port, protocol, rest),
        _ => return false,
    };
    port.parse::<u16>().is_ok()
        && matches!(protocol, "TCP" | "UDP" | "SCTP")
        && matches!(rest, "" | "PROTO" | "PORT" | "ADDR")
}

/// The setting with the most similar name, if it is similar enough.
pub(super) fn closest(rest: &str) -> Option<&'static str> {
    let typed = rest.to_ascii_uppercase();
    let names = SETTINGS.iter().map(|setting| setting.name);
    let closest = names.min_by_key(|name| distance(&typed, name))?;
    (distance(&typed, closest) <= closest.len() / 4).then_some(closest)
}

/// The Levenshtein distance: how many characters must be inserted, deleted or replaced.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, byte) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, it) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte != it);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
