//! gRPC's status codes by number, as two worlds spell them.

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
