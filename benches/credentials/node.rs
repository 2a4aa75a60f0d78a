//! Sign-ins of a real node: their rate beside bare Argon2id, and bearer requests meanwhile.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use serde_json::Value;

/// Bearer requests per second while latencies are measured.
const PACE: u64 = 500;
/// Connections that sign in at once, over and over.
const SIGNING_IN: usize = 4;

const NAME: &str = "bob";
const PASSWORD: &str = "tidy-otter-41-lamp";

struct Node {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Node {
    fn start(upstream: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let argon2 = Argon2::default();
        let hash =
            argon2::PasswordHasher::hash_password(&argon2, PASSWORD.as_bytes()).expect("a hash").to_string();
        let users =
            format!("[[user]]\nname = \"{NAME}\"\nroles = [\"reader\"]\npassword_hash = \"{hash}\"\n");
        std::fs::write(dir.path().join("users.toml"), users).expect("a file");
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\npublic_url = \"http://localhost\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [policy]\ndirectory = \"{}/policies\"\n[accounts]\nfile = \"users.toml\"\n[tokens]\naccess_ttl = \"1h\"\n\
             [[upstream]]\nname = \"orders\"\nservers = [\"http://{upstream}\"]\n\
             [[route]]\nname = \"orders\"\npath = \"/orders/{{rest*}}\"\nupstream = \"orders\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        let file = dir.path().join("portcullis.toml");
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg("--config").arg(&file).args(["-o", "json", "serve"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let url: url::Url = ready["public"].as_str().expect("the ready line has it").parse().expect("a URL");
        let address = SocketAddr::from(([127, 0, 0, 1], url.port().expect("a port")));
        Self { child, address, _dir: dir }
    }
}

/// One connection that sends requests and reads whole answers.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self(BufReader::new(stream))
    }

    /// The status and the body.
    fn send(&mut self, request: &str) -> (u16, Vec<u8>) {
        self.0.get_mut().write_all(request.as_bytes()).expect("sent");
        let (mut line, mut length, mut status) = (String::new(), 0, 0);
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).expect("a line") > 0, "the answer ends early");
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.get(..3).and_then(|code| code.parse().ok()).expect("a status");
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (status, body)
    }

    fn sign_in(&mut self) -> Vec<u8> {
        let body = serde_json::json!({"username": NAME, "password": PASSWORD}).to_string();
        let (status, answer) = self.send(&format!(
            "POST /auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        answer
    }
}

/// An upstream that answers everything with two bytes.
fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if line == "\r\n" {
                        let answer =
                            reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                        if answer.is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// Bearer requests at a fixed pace, from when each was due: their 99th percentile in milliseconds.
fn bearer_p99(address: SocketAddr, token: &str, length: Duration) -> f64 {
    let mut connection = Connection::open(address);
    let request =
        format!("GET /orders/7 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let (begun, step) = (Instant::now(), Duration::from_nanos(1_000_000_000 / PACE));
    let mut times = Vec::new();
    let mut due = begun;
    while begun.elapsed() < length {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        assert_eq!(connection.send(&request).0, 200);
        times.push(due.elapsed().as_secs_f64() * 1e3);
        due += step;
    }
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// Runs `work` on so many threads while bearer requests are measured: runs per second, and their p99.
fn beside(
    address: SocketAddr,
    token: &str,
    length: Duration,
    threads: usize,
    work: impl Fn(&AtomicBool, &AtomicU64) + Send + Sync + 'static,
) -> (f64, f64) {
    let (done, count, work) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(work));
    let all: Vec<_> = (0..threads)
        .map(|_| {
            let (done, count, work) = (Arc::clone(&done), Arc::clone(&count), Arc::clone(&work));
            std::thread::spawn(move || work(&done, &count))
        })
        .collect();
    let begun = Instant::now();
    let p99 = bearer_p99(address, token, length);
    let rate = count.load(Ordering::SeqCst) as f64 / begun.elapsed().as_secs_f64();
    done.store(true, Ordering::SeqCst);
    all.into_iter().for_each(|thread| thread.join().expect("it ends"));
    (rate, p99)
}

fn bare(done: &AtomicBool, count: &AtomicU64) {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default());
    while !done.load(Ordering::SeqCst) {
        let mut out = [0; 32];
        argon2.hash_password_into(PASSWORD.as_bytes(), b"sixteen bytes ok", &mut out).expect("a hash");
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Prints the figures.
pub fn sign_ins() {
    let setting = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let (rounds, length) = (setting("ROUNDS", 3), Duration::from_secs(setting("SECONDS", 4)));
    let node = Node::start(upstream());
    let address = node.address;
    let answer: Value = serde_json::from_slice(&Connection::open(address).sign_in()).expect("JSON");
    let token = answer["access_token"].as_str().expect("a token").to_owned();
    bearer_p99(address, &token, Duration::from_secs(1));
    let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
    let (mut quiet, mut bare_rates, mut rates, mut busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        quiet.push(bearer_p99(address, &token, length));
        bare_rates.push(beside(address, &token, length, threads, bare).0);
        let (rate, p99) = beside(address, &token, length, SIGNING_IN, move |done, count| {
            let mut connection = Connection::open(address);
            while !done.load(Ordering::SeqCst) {
                connection.sign_in();
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        rates.push(rate);
        busy.push(p99);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (quiet, bare, rate, busy) = (median(quiet), median(bare_rates), median(rates), median(busy));
    println!(
        "\nsign-ins ({SIGNING_IN} connections, {PACE} bearer requests per second beside them, {threads} password threads)"
    );
    println!("  Argon2id alone    {bare:>7.1} /s");
    println!("  sign-ins          {rate:>7.1} /s   {:.2} of it        (target ≥ 0.9)", rate / bare);
    println!(
        "  bearer p99        {quiet:>7.2} ms  {busy:.2} ms meanwhile, {:.2} times   (target ≤ 2)",
        busy / quiet
    );
}
