//! Follows the bytes of an HTTP/1 connection to see requests whose end has more than one reading.
//!
//! The HTTP library takes `Transfer-Encoding` and drops a `Content-Length` beside it, which RFC 9112 §6.1 allows, and ends
//! lines at a bare line feed, which §2.2 allows; a proxy before us may have done the opposite. `socket` feeds what it reads:
//! it spoils such a head, so that the library answers 400 and closes, and breaks off such a body. A further reason is a line
//! in [`Framing::line_ends`].

/// What has more than one reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Ambiguous {
    /// A head; with the offset of the line feed at which it was seen.
    #[error("the request's head is ambiguous")]
    Head(usize),
    /// The framing of a body.
    #[error("the framing of the request's body is ambiguous")]
    Body,
}

/// Where in the stream the next byte is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In a head: the fields so far.
    Head { length: Option<u64>, lengths: u32, encodings: u32 },
    /// In a body of known length, this many bytes before its end.
    Body(u64),
    /// In the line before a chunk.
    ChunkSize,
    /// In a chunk and its line end.
    Chunk(u64),
    /// In the fields after the last chunk.
    Trailers,
    /// Refused: nothing that comes is a request any more.
    Refused,
}

const HEAD: At = At::Head { length: None, lengths: 0, encodings: 0 };

/// The longest beginning of a line that is kept: enough for the names and values that count.
const LINE: usize = 128;

/// The reader of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    at: At,
    /// The beginning of the line, without its end.
    line: Vec<u8>,
    /// The line is longer than what is kept.
    cut: bool,
    /// The newest byte of the line is a carriage return.
    returned: bool,
    /// The head's first line has been read.
    begun: bool,
}

impl Framing {
    pub(super) const fn new() -> Self {
        Self { at: HEAD, line: Vec::new(), cut: false, returned: false, begun: false }
    }

    /// True when the end of the present request has not been read.
    pub(super) const fn in_body(&self) -> bool {
        matches!(self.at, At::Body(_) | At::ChunkSize | At::Chunk(_) | At::Trailers)
    }

    /// Reads on.
    ///
    /// # Errors
    /// [`Ambiguous`] when a line ends that makes the request's end ambiguous. Nothing is read after that.
    pub(super) fn feed(&mut self, all: &[u8]) -> Result<(), Ambiguous> {
        let mut bytes = all;
        while !bytes.is_empty() {
            match &mut self.at {
                At::Refused => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= u64::try_from(take).unwrap_or(*left);
                    bytes = bytes.get(take..).unwrap_or_default();
                    if *left == 0 {
                        self.at = if matches!(self.at, At::Body(_)) { HEAD } else { At::ChunkSize };
                    }
                }
                At::Head { .. } | At::ChunkSize | At::Trailers => {
                    let head = matches!(self.at, At::Head { .. });
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (part, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
                    self.keep(part.strip_suffix(b"\n").unwrap_or(part));
                    bytes = rest;
                    if end.is_none() {
                        return Ok(());
                    }
                    let clear = self.returned && self.line_ends().is_some();
                    self.line.clear();
                    (self.cut, self.returned) = (false, false);
                    if !clear {
                        self.at = At::Refused;
                        return Err(match head {
                            true => Ambiguous::Head(all.len().saturating_sub(rest.len() + 1)),
                            false => Ambiguous::Body,
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a part of a line, which has no line feed.
    fn keep(&mut self, part: &[u8]) {
        let room = LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        self.cut |= part.len() > room;
        if let Some(last) = part.last() {
            self.returned = *last == b'\r';
        }
    }

    /// `None` when a line ended that is ambiguous. It ended with a carriage return.
    fn line_ends(&mut self) -> Option<()> {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        match &mut self.at {
            At::Head { .. } if line.is_empty() && !self.begun => {}
            At::Head { length, lengths, encodings } if line.is_empty() => {
                self.begun = false;
                self.at = match (*encodings, *lengths, *length) {
                    (0, 0, _) | (0, 1, Some(0)) => HEAD,
                    (0, 1, Some(length)) => At::Body(length),
                    (1, 0, _) => At::ChunkSize,
                    _ => return None,
                };
            }
            At::Head { length, lengths, encodings } => {
                self.begun = true;
                if let Some(value) = field(line, b"content-length") {
                    *lengths += 1;
                    *length = Some(number(value, 10).filter(|_| !self.cut)?);
                } else if let Some(value) = field(line, b"transfer-encoding") {
                    *encodings += 1;
                    if self.cut || !value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                }
            }
            At::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                let (size, after) = line.split_at_checked(digits)?;
                if digits == LINE || !(after.is_empty() || after.trim_ascii_start().starts_with(b";")) {
                    return None;
                }
                let size = number(size, 16)?;
                self.at = if size == 0 { At::Trailers } else { At::Chunk(size.checked_add(2)?) };
            }
            At::Trailers if line.is_empty() => self.at = HEAD,
            _ => {}
        }
        Some(())
    }
}

/// The value of a field line with this name.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (key, value) = line.split_at(colon);
    key.trim_ascii().eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

/// A number of digits alone.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    u64::from_str_radix(text, radix).ok().filter(|_| digits)
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
        if let Err(Ambiguous::Head(at)) = together {
            assert_eq!(Some(at), one_by_one);
        }
        assert_eq!(together.is_err(), one_by_one.is_some());
        together.map(|()| whole.at)
    }

    #[test]
    fn two_lengths_are_seen() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\ncontent-length:0",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            assert_eq!(feed(&text), Err(Ambiguous::Head(text.len() - 1)), "{fields}");
        }
    }

    #[test]
    fn other_encodings_lengths_and_line_ends_are_refused() {
        let long = " ".repeat(200);
        for fields in [
            "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
            "Transfer-Encoding: chunked, chunked\r\n".to_owned(),
            "Transfer-Encoding: xchunked\r\n".to_owned(),
            "Transfer-Encoding:\r\n".to_owned(),
            format!("Transfer-Encoding:{long}chunked\r\n"),
            format!("Content-Length:{long}5\r\n"),
            "Content-Length: +5\r\n".to_owned(),
            "Content-Length: 5, 5\r\n".to_owned(),
            "Content-Length: 0x5\r\n".to_owned(),
            "Content-Length:\r\n".to_owned(),
            "Content-Length: 18446744073709551616\r\n".to_owned(),
            "X: y\nZ: z\r\n".to_owned(),
            "X: y\n".to_owned(),
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}");
            assert!(matches!(feed(&text), Err(Ambiguous::Head(_))), "{fields}");
        }
        assert!(matches!(feed("GET / HTTP/1.1\nHost: a\r\n"), Err(Ambiguous::Head(14))));
        assert!(matches!(feed("\nGET / HTTP/1.1\r\n"), Err(Ambiguous::Head(0))));
        assert!(matches!(feed("GET / HTTP/1.1\r\nHost: a\r\n\n"), Err(Ambiguous::Head(25))));
        let long_value = format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n");
        assert_eq!(feed(&long_value), Ok(HEAD));
    }

    #[test]
    fn chunks_with_two_readings_are_refused() {
        for body in [
            "\n",
            "5\nhello\r\n",
            "5;x\nhello\r\n",
            "\r\n",
            "g\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5 5\r\n",
            "5 \r\n",
            "10000000000000005\r\n",
            "ffffffffffffffff\r\n",
            "5\r\nhello\r\n0\r\nX: y\n\r\n",
            "0\r\n\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert_eq!(feed(&text), Err(Ambiguous::Body), "{body:?}");
        }
        let zeros = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{}5\r\n", "0".repeat(200));
        assert_eq!(feed(&zeros), Err(Ambiguous::Body));
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
