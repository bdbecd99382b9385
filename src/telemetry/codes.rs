//! gRPC's status codes: their two spellings, and the codes that a method can end with.

use super::Method;

/// Canceled: the code of a call whose caller leaves before any status.
pub(super) const CANCELLED: i32 = 1;
/// DeadlineExceeded.
pub(super) const DEADLINE_EXCEEDED: i32 = 4;

/// In Go's spelling, which public dashboards use, and in the protocol's, which traces use.
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

/// Codes that the bridge or tonic returns, for any method. `status::mapping` maps no failure to UNKNOWN, ALREADY_EXISTS,
/// OUT_OF_RANGE or DATA_LOSS, and replaces tonic's own.
const ANY_METHOD: [i32; 11] = [0, 1, 3, 4, 5, 7, 8, 12, 13, 14, 16];
/// FAILED_PRECONDITION and ABORTED result only from a response of the upstream.
const FROM_UPSTREAM: [i32; 2] = [9, 10];

/// The codes that a call of this method can end with. Each has a series from the first scrape.
pub(super) fn possible_for(method: Method) -> impl Iterator<Item = i32> {
    let can_end_with = move |code: &i32| match method {
        Method::HealthCheck | Method::HealthWatch => *code != 16, // probes need no key
        Method::Unknown => !matches!(*code, 0 | 5),               // no service handles it
        _ => true,
    };
    let upstreams = FROM_UPSTREAM.into_iter().filter(move |_| method.is_ours());
    ANY_METHOD.into_iter().filter(can_end_with).chain(upstreams)
}

/// The number of codes.
pub(super) const COUNT: usize = NAMES.len();

/// The index of a code. Numbers that are no codes count as UNKNOWN.
pub(super) fn index(code: i32) -> usize {
    let index = usize::try_from(code).ok();
    index.filter(|index| *index < COUNT).unwrap_or(2)
}

fn names(code: i32) -> (&'static str, &'static str) {
    NAMES[index(code)]
}

/// In Go's spelling.
pub(super) fn go_name(code: i32) -> &'static str {
    names(code).0
}

/// In the protocol's spelling.
pub(super) fn protocol_name(code: i32) -> &'static str {
    names(code).1
}

/// Whether a server span with this code is an error (OpenTelemetry, semantic conventions for gRPC). The caller causes
/// the others.
pub(super) fn is_server_error(code: i32) -> bool {
    matches!(code, 2 | 4 | 12..=15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_name_in_go_and_one_in_the_protocol() {
        assert_eq!((go_name(1), protocol_name(1)), ("Canceled", "CANCELLED"));
        assert_eq!(go_name(16), "Unauthenticated");
        assert_eq!((go_name(99), go_name(-1)), ("Unknown", "Unknown"));
    }
}
