//! Bytes as they are on a connection: what no HTTP library would send, and what it would hide of the answer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// One connection.
pub struct Raw {
    stream: TcpStream,
    left: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// False when the connection ended before the body's announced end.
    pub complete: bool,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Raw {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, left: Vec::new() }
    }

    /// Sends bytes and reads everything until the peer closes.
    pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let mut raw = Self::connect(address);
        raw.send(bytes);
        raw.rest()
    }

    /// Sends bytes and reads one answer.
    pub fn ask(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Answer {
        let mut raw = Self::connect(address);
        raw.send(bytes);
        raw.answer()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
    }

    /// The same when the peer may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// No more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shut down");
    }

    /// Everything until the peer closes or resets.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.left)
    }

    /// The next answer; interim ones (1xx) count too.
    pub fn answer(&mut self) -> Answer {
        self.try_answer().unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&self.left)))
    }

    /// The next answer, or none when the peer closes before its head.
    pub fn try_answer(&mut self) -> Option<Answer> {
        let end = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.take(end)).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new(), complete: true };
        if status < 200 || matches!(status, 204 | 304) {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            (answer.body, answer.complete) = self.chunks();
        } else if let Some(length) =
            answer.header("content-length").and_then(|text| text.parse::<usize>().ok())
        {
            while self.left.len() < length && self.more() {}
            answer.complete = self.left.len() >= length;
            answer.body = self.take(length.min(self.left.len()));
        } else {
            answer.body = self.rest();
        }
        Some(answer)
    }

    /// Reads until `wanted` was seen, and drops everything up to its end: true, or false when the peer closed before.
    pub fn saw(&mut self, wanted: &[u8]) -> bool {
        self.until(wanted).is_some_and(|end| !self.take(end).is_empty())
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(end) = self.until(b"\r\n") else { return (body, false) };
            let line = self.take(end);
            let text = String::from_utf8_lossy(&line);
            let size = text.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).expect("a chunk's size");
            if size == 0 {
                let complete = self.until(b"\r\n").is_some_and(|end| !self.take(end).is_empty());
                return (body, complete);
            }
            while self.left.len() < size + 2 && self.more() {}
            if self.left.len() < size + 2 {
                body.append(&mut self.left);
                return (body, false);
            }
            body.extend(self.take(size));
            self.take(2);
        }
    }

    fn until(&mut self, wanted: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.left.windows(wanted.len()).position(|window| window == wanted) {
                return Some(at + wanted.len());
            }
            if !self.more() {
                return None;
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.left.drain(..count).collect()
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.left.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came for 20 s after {:?}", String::from_utf8_lossy(&self.left))
            }
            Err(_) => false,
        }
    }
}
