//! The programs that are compared, each started on free ports and ended by its drop.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::measure::Target;

const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        Self(command.spawn().unwrap_or_else(|error| panic!("{program} is needed: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        drop(Command::new("kill").arg(pid).status());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// Waits until the port is listened on.
fn listening(port: u16) {
    let until = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "nothing listens on {port}");
        std::thread::yield_now();
    }
}

fn nginx(dir: &Path, name: &str, server: &str) -> (Process, u16) {
    let port = free_port();
    let file = dir.join(format!("{name}.conf"));
    let server = server.replace("PORT", &port.to_string());
    let text = format!(
        "daemon off; worker_processes auto; pid {0}/{name}.pid; error_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/{name}.body;\n\
         proxy_temp_path {0}/{name}.proxy; fastcgi_temp_path {0}/{name}.f; uwsgi_temp_path {0}/{name}.u;\n\
         scgi_temp_path {0}/{name}.s;\n{server}\n}}\n",
        dir.display()
    );
    std::fs::write(&file, text).expect("a file");
    let process = Process::start(Command::new("nginx").arg("-c").arg(&file).arg("-p").arg(dir));
    listening(port);
    (process, port)
}

/// What all forward to: nginx answering 512 bytes.
pub struct Upstream {
    _process: Process,
    port: u16,
}

impl Upstream {
    pub fn start(dir: &Path) -> Self {
        let body = "x".repeat(512);
        let server = format!("server {{ listen 127.0.0.1:PORT; location / {{ return 200 \"{body}\"; }} }}");
        let (_process, port) = nginx(dir, "upstream", &server);
        Self { _process, port }
    }
}

/// nginx as a plain proxy with keep-alive to the upstream.
pub struct Nginx {
    process: Process,
    port: u16,
}

impl Nginx {
    pub fn proxy(dir: &Path, upstream: &Upstream) -> Self {
        let server = format!(
            "upstream up {{ server 127.0.0.1:{}; keepalive 64; keepalive_requests 1000000000; }}\n\
             server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; }} }}",
            upstream.port
        );
        let (process, port) = nginx(dir, "proxy", &server);
        Self { process, port }
    }

    pub fn target(&self) -> Target {
        let url = format!("http://127.0.0.1:{}/orders/7", self.port);
        Target { url, headers: Vec::new(), pid: self.process.0.id() }
    }
}

/// HAProxy that verifies the same ES256 tokens at each request.
pub struct Haproxy {
    process: Process,
    port: u16,
    token: String,
}

impl Haproxy {
    /// `jwks` and token of a node.
    pub fn start(dir: &Path, upstream: &Upstream, (jwks, token): &(Value, String)) -> Self {
        let coordinate = |name: &str| {
            let text = jwks["keys"][0][name].as_str().expect("a coordinate");
            URL_SAFE_NO_PAD.decode(text).expect("base64url")
        };
        // RFC 5480: SubjectPublicKeyInfo of a P-256 key, and the uncompressed point.
        let mut key = hex::decode("3059301306072a8648ce3d020106082a8648ce3d03010703420004").expect("hex");
        key.extend(coordinate("x"));
        key.extend(coordinate("y"));
        let pem = dir.join("es256.pem");
        let text =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(key));
        std::fs::write(&pem, text).expect("a file");
        let port = free_port();
        let file = dir.join("haproxy.cfg");
        let text = format!(
            "global\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n\
             \x20 timeout server 60s\nfrontend public\n  bind 127.0.0.1:{port}\n\
             \x20 http-request set-var(txn.bearer) http_auth_bearer\n\
             \x20 http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')\n\
             \x20 http-request deny unless {{ var(txn.alg) -m str ES256 }}\n\
             \x20 http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{}\") -m int 1 }}\n\
             \x20 default_backend up\nbackend up\n  http-reuse always\n  server one 127.0.0.1:{}\n",
            pem.display(),
            upstream.port
        );
        std::fs::write(&file, text).expect("a file");
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file));
        listening(port);
        Self { process, port, token: token.clone() }
    }

    pub fn target(&self) -> Target {
        let url = format!("http://127.0.0.1:{}/orders/7", self.port);
        Target {
            url,
            headers: vec![format!("Authorization: Bearer {}", self.token)],
            pid: self.process.0.id(),
        }
    }
}

/// A Redis that keeps nothing on disk.
pub struct Redis {
    _process: Process,
    port: u16,
}

impl Redis {
    pub fn start(dir: &Path) -> Self {
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir);
        let _process = Process::start(command.stdout(Stdio::null()));
        listening(port);
        Self { _process, port }
    }
}

/// A node with the shipped policies, `audit.durability = "written"`.
pub struct Node {
    process: Process,
    file: PathBuf,
    public: String,
    admin: String,
    admin_token: String,
    token: String,
}

impl Node {
    pub fn start(dir: &Path, upstream: &Upstream, name: &str, redis: Option<&Redis>) -> Self {
        let store = redis.map_or("kind = \"embedded\"".to_owned(), |redis| {
            format!("kind = \"redis\"\n[store.redis]\nurls = [\"redis://127.0.0.1:{}\"]", redis.port)
        });
        let folder = dir.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let file = folder.join("portcullis.toml");
        let text = format!(
            "[node]\nname = \"{name}\"\n[listen]\naddress = \"127.0.0.1:0\"\npublic_url = \"http://localhost\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n[policy]\ndirectory = \"{}/policies\"\n\
             [tokens]\naccess_ttl = \"1h\"\n[store]\n{store}\n\
             [[upstream]]\nname = \"orders\"\nservers = [\"http://127.0.0.1:{}\"]\n\
             [[route]]\nname = \"orders\"\npath = \"/orders/{{rest*}}\"\nupstream = \"orders\"\n",
            env!("CARGO_MANIFEST_DIR"),
            upstream.port
        );
        std::fs::write(&file, text).expect("a file");
        let (process, public, admin, admin_token) = serve(&file);
        let mut node = Self { process, file, public, admin, admin_token, token: String::new() };
        node.add("bob");
        node.token = node.sign_in("bob");
        node
    }

    fn add(&self, name: &str) {
        let mut child = Command::new(PORTCULLIS)
            .args(["--admin-url", &self.admin, "user", "add", name, "--role", "reader", "--password-stdin"])
            .env("PORTCULLIS_ADMIN_TOKEN", &self.admin_token)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the program");
        child.stdin.take().expect("piped").write_all(b"tidy-otter-41-lamp\n").expect("written");
        assert!(child.wait().expect("ended").success(), "user add");
    }

    fn sign_in(&self, name: &str) -> String {
        let body = serde_json::json!({"username": name, "password": "tidy-otter-41-lamp"});
        let client = reqwest::blocking::Client::new();
        let answer =
            client.post(format!("{}/auth/login", self.public)).json(&body).send().expect("an answer");
        let answer: Value = answer.json().expect("JSON");
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The public keys, and a token that they verify.
    pub fn jwks(&self) -> (Value, String) {
        let url = format!("{}/.well-known/jwks.json", self.public);
        let keys = reqwest::blocking::get(url).expect("an answer").json().expect("JSON");
        (keys, self.token.clone())
    }

    pub fn target(&self) -> Target {
        let headers = vec![format!("Authorization: Bearer {}", self.token)];
        Target { url: format!("{}/orders/7", self.public), headers, pid: self.process.0.id() }
    }

    /// A node with so many users: milliseconds from its start to its first ready answer, the middle of five, and its
    /// resident memory then, in MB (10^6 bytes).
    pub fn idle(dir: &Path, upstream: &Upstream, users: usize) -> (f64, f64) {
        let node = Self::start(dir, upstream, "ready", None);
        for number in 0..users {
            node.add(&format!("user-{number}"));
        }
        let file = node.file.clone();
        drop(node);
        let client = reqwest::blocking::Client::new();
        let mut memory = 0.0;
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let begun = Instant::now();
                let (process, _, admin, _) = serve(&file);
                while !client.get(format!("{admin}/readyz")).send().is_ok_and(|answer| answer.status() == 200)
                {
                    std::thread::yield_now();
                }
                let took = begun.elapsed().as_secs_f64() * 1000.0;
                memory = resident(process.0.id());
                took
            })
            .collect();
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], memory)
    }
}

fn resident(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib * 1024.0 / 1e6
}

/// Runs a node; its public URL, its operators' URL and their token.
fn serve(file: &Path) -> (Process, String, String, String) {
    let mut command = Command::new(PORTCULLIS);
    command.arg("--config").arg(file).args(["-o", "json", "serve"]);
    let mut process = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut line = String::new();
    let stdout = process.0.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let text = |key: &str| ready[key].as_str().unwrap_or_else(|| panic!("no {key} in {line}")).to_owned();
    (process, text("public"), text("admin"), text("admin_token"))
}
