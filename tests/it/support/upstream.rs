//! Servers behind the gateway: one that speaks HTTP/1.1 and remembers what it got, and one that does what a test says
//! with the bare connection.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub method: String,
    /// The target, byte for byte.
    pub target: String,
    /// In order, names as they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Recorded {
    /// All values of this header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of this header; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let all = self.all(name);
        assert!(all.len() < 2, "{name}: {all:?}");
        all.first().copied().unwrap_or_default()
    }
}

/// What the server answers.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        Self::new(200, body)
    }

    pub fn new(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server on a free port; ended by its drop.
pub struct Upstream {
    address: SocketAddr,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Upstream {
    /// A server that answers each request with what `handle` says.
    pub fn start(handle: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) -> Self {
        let recorded: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let all = Arc::clone(&recorded);
        let serve = move |stream: TcpStream, connection: usize| {
            let mut reader = BufReader::new(stream.try_clone().expect("a handle"));
            let mut stream = stream;
            while let Some(mut request) = read_request(&mut reader) {
                request.connection = connection;
                let reply = handle(&request);
                let head = request.method == "HEAD";
                all.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                if stream.write_all(&encoded(&reply, head)).is_err() {
                    return;
                }
            }
        };
        Self::listen(recorded, serve)
    }

    /// A server that does with each connection what `serve` says; the number counts connections from 0.
    pub fn raw(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::listen(Arc::default(), serve)
    }

    fn listen(
        recorded: Arc<Mutex<Vec<Recorded>>>,
        serve: impl Fn(TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (ended, connections) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (end, counter) = (Arc::clone(&ended), Arc::clone(&connections));
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (serve, number) = (Arc::clone(&serve), counter.fetch_add(1, Ordering::SeqCst));
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Self { address, recorded, connections, ended }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that arrived so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest request.
    pub fn last(&self) -> Recorded {
        self.recorded().pop().expect("nothing reached the upstream")
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

/// Reads one request, also for servers that answer by hand; none at the connection's end.
pub fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Recorded> {
    let mut request = read_head(reader)?;
    if request.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
            let mut chunk = vec![0; size];
            reader.read_exact(&mut chunk).ok()?;
            request.body.append(&mut chunk);
            let mut end = String::new();
            reader.read_line(&mut end).ok()?;
            if size == 0 {
                break;
            }
        }
    } else if let Ok(length) = request.header("content-length").parse() {
        request.body = vec![0; length];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

/// Reads a request's head only.
pub fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Recorded> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|count| *count > 0)?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split_whitespace();
    let mut request = Recorded {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        ..Recorded::default()
    };
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok().filter(|count| *count > 0)?;
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let Some((name, value)) = line.split_once(':') else { return Some(request) };
        request.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn encoded(reply: &Reply, head: bool) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {} Status\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let framed = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !framed && reply.status >= 200 && !matches!(reply.status, 204 | 304) {
        text.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    if !head {
        bytes.extend_from_slice(&reply.body);
    }
    bytes
}
