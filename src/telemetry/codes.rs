//! gRPC's status codes by number: as two worlds spell them, and which a method can end with.

use super::Method;

/// Canceled: what a call ends with when its caller leaves before any status.
pub(super) const CANCELLED: i32 = 1;
/// DeadlineExceeded.
pub(super) const DEADLINE_EXCEEDED: i32 = 4;

/// In Go's spelling, which public dashboards expect, and in the protocol's, which traces do.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// Codes that the bridge or tonic gives by itself, whatever the method. `status::mapping` maps no failure to UNKNOWN,
/// ALREADY_EXISTS, OUT_OF_RANGE or DATA_LOSS, and replaces tonic's own.
const OF_ANY: [i32; 11] = [0, 1, 3, 4, 5, 7, 8, 12, 13, 14, 16];
/// FAILED_PRECONDITION and ABORTED come of an answer of the upstream's alone.
const OF_THE_UPSTREAM: [i32; 2] = [9, 10];

/// The codes that a call of this method can end with: a series for each is there from the first scrape.
pub(super) fn of(method: Method) -> impl Iterator<Item = i32> {
    let can_end_with = move |code: &i32| match method {
        Method::HealthCheck | Method::HealthWatch => *code != 16, // probes need no key
        Method::Unknown => !matches!(*code, 0 | 5),               // nobody answers
        _ => true,
    };
    let upstreams = OF_THE_UPSTREAM
        .into_iter()
        .filter(move |_| method.is_ours());
    OF_ANY.into_iter().filter(can_end_with).chain(upstreams)
}

fn names(code: i32) -> (&'static str, &'static str) {
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    NAMES.get(index).copied().unwrap_or(NAMES[2])
}

/// As Go spells it.
pub(super) fn in_go(code: i32) -> &'static str {
    names(code).0
}

/// As the protocol spells it.
pub(super) fn in_protocol(code: i32) -> &'static str {
    names(code).1
}

/// Whether a server span of this code is an error (OpenTelemetry, semantic conventions for gRPC): the
/// others are the caller's doing.
pub(super) fn is_servers_fault(code: i32) -> bool {
    matches!(code, 2 | 4 | 12..=15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelt_as_go_and_as_the_protocol_spell_them() {
        assert_eq!((in_go(1), in_protocol(1)), ("Canceled", "CANCELLED"));
        assert_eq!(in_go(16), "Unauthenticated");
        assert_eq!((in_go(99), in_go(-1)), ("Unknown", "Unknown"));
    }
}
