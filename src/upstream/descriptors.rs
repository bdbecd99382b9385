//! Distinguishes a missing file descriptor of this process from an upstream that can't be reached.

use std::{error::Error, fs::File, io};

/// Whether a connection failed because no file descriptor was free. A failed lookup of a name does not say so. Then a test
/// decides: whether a file can be opened.
pub(super) fn are_exhausted(error: Option<&(dyn Error + 'static)>) -> bool {
    let causes = std::iter::successors(error, |&error| error.source());
    let mut causes = causes.filter_map(|cause| cause.downcast_ref());
    causes.any(is_exhausted) || File::open("/dev/null").is_err_and(|error| is_exhausted(&error))
}

fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Inner);

    #[test]
    fn a_cause_at_any_depth_is_found() {
        for (code, is_exhausted) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ECONNREFUSED, false),
        ] {
            let outer = Outer(Inner(io::Error::from_raw_os_error(code)));
            assert_eq!(are_exhausted(Some(&outer)), is_exhausted, "{outer}");
        }
    }
}
