//! Where a request body stands among its length-prefixed messages (gRPC over HTTP/2, Length-Prefixed-Message).

/// Bytes of a message's prefix: a flag, and its length.
const PREFIX: usize = 5;

/// The bytes that the current message still needs.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    prefix: [u8; PREFIX],
    prefix_bytes: usize,
    missing: usize,
    announced: usize,
}

impl Frames {
    /// Bytes of the message whose prefix came last.
    pub(crate) fn announced(&self) -> usize {
        self.announced
    }

    /// Reads on; true where the body now ends within a message.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.prefix[self.prefix_bytes] = *first;
            self.prefix_bytes += 1;
            bytes = rest;
            if self.prefix_bytes == PREFIX {
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
    fn the_end_of_each_message_is_found_however_the_bytes_come() {
        let body = [0, 0, 0, 0, 2, 7, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
        let ends = [7, 12, 18];
        let mut bytewise = Frames::default();
        for (byte, count) in body.iter().zip(1..) {
            let is_partial = bytewise.read(&[*byte]);
            assert_eq!(is_partial, !ends.contains(&count), "after {count}");
            assert_eq!(Frames::default().read(&body[..count]), is_partial);
            let announced = [0, 2, 0, 1][[5, 12, 17].iter().filter(|at| count >= **at).count()];
            assert_eq!(bytewise.announced(), announced, "after {count}");
        }
    }
}
