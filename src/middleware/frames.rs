//! Tracks message boundaries in a request body (gRPC over HTTP/2, Length-Prefixed-Message).

/// Bytes of a message's prefix: the compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// The position in the current message.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    missing: usize,
    announced: usize,
    started: usize,
}

impl Frames {
    /// The length from the most recent prefix.
    pub(crate) fn announced(&self) -> usize {
        self.announced
    }

    /// The number of messages so far, the current one included.
    pub(crate) fn started(&self) -> usize {
        self.started
    }

    /// Advances by `bytes`; true if they end in the middle of a message.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.prefix_bytes == 0 {
                self.started += 1;
            }
            self.prefix[self.prefix_bytes] = *first;
            self.prefix_bytes += 1;
            bytes = rest;
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length) as usize;
                self.announced = self.missing;
                self.prefix_bytes = 0;
            }
        }
        self.missing > 0 || self.prefix_bytes > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ends_are_found_for_any_chunking() {
        let body = [0, 0, 0, 0, 2, 7, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
        let ends = [7, 12, 18];
        let mut bytewise = Frames::default();
        for (byte, count) in body.iter().zip(1..) {
            let is_partial = bytewise.advance(&[*byte]);
            assert_eq!(is_partial, !ends.contains(&count), "after {count}");
            assert_eq!(Frames::default().advance(&body[..count]), is_partial);
            let announced = [0, 2, 0, 1][[5, 12, 17].iter().filter(|at| count >= **at).count()];
            assert_eq!(bytewise.announced(), announced, "after {count}");
            let started = [0, 7, 12].iter().filter(|at| count > **at).count();
            assert_eq!(bytewise.started(), started, "after {count}");
        }
    }
}
