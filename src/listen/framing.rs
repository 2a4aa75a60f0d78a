//! Follows the bytes of an HTTP/1 connection to see heads that name their length twice.
//!
//! The HTTP library takes `Transfer-Encoding` and drops a `Content-Length` beside it, which RFC 9112 §6.1 allows; a proxy
//! before us may have done the opposite. `socket` feeds what it reads, and spoils a head that has both, so that the
//! library refuses it and closes the connection.

/// A head ended that has more than one reading of where its request ends; the offset is that of its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ambiguous(pub(super) usize);

/// Where in the stream the next byte is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In a head: the fields so far.
    Head { length: Option<u64>, lengths: u32, encodings: u32, chunked: bool },
    /// In a body of known length, this many bytes before its end.
    Body(u64),
    /// In the line before a chunk.
    ChunkSize,
    /// In a chunk and its line end.
    Chunk(u64),
    /// In the fields after the last chunk.
    Trailers,
    /// Not HTTP/1 messages any more (an upgrade), or not told by this reader: the library decides alone.
    Opaque,
}

const HEAD: At = At::Head { length: None, lengths: 0, encodings: 0, chunked: false };

/// The longest beginning of a line that is kept: enough for the names and values that count.
const LINE: usize = 128;

/// The reader of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    at: At,
    line: Vec<u8>,
    /// The head's first line has been read.
    begun: bool,
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self { at: HEAD, line: Vec::new(), begun: false }
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Ambiguous`] when a head ends that has both lengths, or one of them more than once.
    pub(super) fn feed(&mut self, all: &[u8]) -> Result<(), Ambiguous> {
        let mut bytes = all;
        while !bytes.is_empty() {
            match &mut self.at {
                At::Opaque => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= u64::try_from(take).unwrap_or(*left);
                    bytes = bytes.get(take..).unwrap_or_default();
                    if *left == 0 {
                        self.at = if matches!(self.at, At::Body(_)) { HEAD } else { At::ChunkSize };
                    }
                }
                At::Head { .. } | At::ChunkSize | At::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    let room = LINE.saturating_sub(self.line.len());
                    let kept = part.strip_suffix(b"\n").unwrap_or(part);
                    self.line.extend_from_slice(kept.get(..room.min(kept.len())).unwrap_or_default());
                    bytes = rest;
                    if end.is_some() {
                        let clear = self.line_ends();
                        self.line.clear();
                        if !clear {
                            self.at = At::Opaque;
                            return Err(Ambiguous(all.len().saturating_sub(rest.len() + 1)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// False when a head ends that is ambiguous.
    fn line_ends(&mut self) -> bool {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        match &mut self.at {
            At::Head { length, lengths, encodings, chunked } => {
                if line.is_empty() && !self.begun {
                    return true;
                }
                if line.is_empty() {
                    self.begun = false;
                    if (*lengths > 0 && *encodings > 0) || *lengths > 1 || *encodings > 1 {
                        return false;
                    }
                    self.at = match (*encodings, *chunked, *lengths, *length) {
                        (0, _, 0, _) => HEAD,
                        (0, _, _, Some(0)) => HEAD,
                        (0, _, _, Some(length)) => At::Body(length),
                        (1, true, ..) => At::ChunkSize,
                        _ => At::Opaque,
                    };
                    return true;
                }
                self.begun = true;
                if let Some(value) = field(line, b"content-length") {
                    *lengths += 1;
                    *length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                } else if let Some(value) = field(line, b"transfer-encoding") {
                    *encodings += 1;
                    *chunked = value.eq_ignore_ascii_case(b"chunked");
                }
            }
            At::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let size = line.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
                self.at = match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                    Some(0) => At::Trailers,
                    Some(size) => At::Chunk(size.saturating_add(2)),
                    None => At::Opaque,
                };
            }
            At::Trailers if line.is_empty() => self.at = HEAD,
            _ => {}
        }
        true
    }
}

/// The value of a field line with this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (key, value) = line.split_at(colon);
    key.trim_ascii().eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(text: &str) -> Result<At, Ambiguous> {
        let mut whole = Framing::new();
        let together = whole.feed(text.as_bytes());
        let mut framing = Framing::new();
        let one_by_one = text.as_bytes().chunks(1).position(|byte| framing.feed(byte).is_err());
        assert_eq!(together.err().map(|error| error.0), one_by_one);
        together.map(|()| whole.at)
    }

    #[test]
    fn two_lengths_are_seen() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\ncontent-length:0",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Content-Length: 5\r\nContent-Length: 5",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            assert_eq!(feed(&text), Err(Ambiguous(text.len() - 1)), "{fields}");
        }
    }

    #[test]
    fn the_second_request_is_found_behind_any_body() {
        let both = "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        for first in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n\r\n\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        ] {
            assert_eq!(feed(first), Ok(HEAD), "{first}");
            assert!(feed(&format!("{first}{both}")).is_err(), "{first}");
        }
    }

    #[test]
    fn a_body_is_not_a_head() {
        let body = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert_eq!(feed(&text), Ok(HEAD));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, text in "(POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n)?[0-9a-f\r\n]{0,40}") {
            let _ = Framing::new().feed(&bytes);
            let _ = Framing::new().feed(text.as_bytes());
        }
    }
}
