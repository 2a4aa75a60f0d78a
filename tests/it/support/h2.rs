//! HTTP/2 frame by frame (RFC 9113 §4), on a plain connection: what no library would send.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block of literals that stay out of the dynamic table (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(text.len(), 7, 0, &mut bytes);
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// An integer with a prefix of so many bits (RFC 7541 §5.1).
pub fn integer(value: usize, prefix: u32, mark: u8, bytes: &mut Vec<u8>) {
    let most = (1_usize << prefix) - 1;
    let byte = |value: usize| u8::try_from(value).expect("a byte");
    if value < most {
        return bytes.push(mark | byte(value));
    }
    bytes.push(mark | byte(most));
    let mut left = value - most;
    while left >= 128 {
        bytes.push(byte(left % 128) | 128);
        left /= 128;
    }
    bytes.push(byte(left));
}

/// How a connection or stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// HEADERS came, with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, or the connection closed.
    Gone,
}

/// One connection.
pub struct H2(TcpStream);

impl H2 {
    /// Sends the preface and empty settings.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        let mut connection = Self(stream);
        assert!(connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(connection.send(&frame(SETTINGS, 0, 0, &[])));
        connection
    }

    /// False when the peer has closed or takes nothing more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Sends without waiting; false when the peer closed, and the bytes that fit otherwise.
    pub fn give_up_after(&self, timeout: Duration) {
        self.0.set_write_timeout(Some(timeout)).expect("a timeout");
    }

    /// The next frame; none when the connection is closed.
    pub fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// How this stream ends.
    pub fn end_of(&mut self, stream: u32) -> End {
        let until = Instant::now() + Duration::from_secs(20);
        while let Some(frame) = self.next() {
            assert!(Instant::now() < until, "the stream does not end");
            let code = |at: usize| {
                let bytes = frame.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_be_bytes)
            };
            match frame.kind {
                HEADERS if frame.stream == stream => return End::Status(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return End::Reset(code(0)),
                GOAWAY if code(4) != 0 => return End::Gone,
                _ => {}
            }
        }
        End::Gone
    }
}

/// `:status` of a header block as servers begin it: an entry of the static table, or a literal with its name.
fn status(block: &[u8]) -> u16 {
    // A change of the dynamic table's size may come first (RFC 7541 §6.3).
    let block = match block {
        [size, rest @ ..] if size & 0xe0 == 0x20 => rest,
        block => block,
    };
    match block {
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // With incremental indexing or without, name 8, then a plain or Huffman text of three digits.
        [0x48 | 0x08 | 0x18, length, text @ ..] => {
            let bytes = &text[..usize::from(length & 0x7f)];
            if length & 0x80 == 0 {
                return String::from_utf8_lossy(bytes).parse().expect("a status");
            }
            digits(bytes)
        }
        other => panic!("no status: {other:?}"),
    }
}

/// Digits in the Huffman code of RFC 7541, appendix B: 0 to 2 have five bits, 3 to 9 six.
fn digits(bytes: &[u8]) -> u16 {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let mut left = bits.as_str();
    let mut number = 0;
    for _ in 0..3 {
        let (digit, length) = match u8::from_str_radix(&left[..5], 2).expect("bits") {
            small @ 0..=2 => (small, 5),
            _ => (u8::from_str_radix(&left[..6], 2).expect("bits") - 0b01_1001 + 3, 6),
        };
        number = number * 10 + u16::from(digit);
        left = &left[length..];
    }
    number
}
