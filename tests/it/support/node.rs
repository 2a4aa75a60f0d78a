//! A node of the real program with its own configuration, policies, accounts and data, on free ports.
//!
//! ```ignore
//! let upstream = Upstream::start(|_| Reply::ok("hello"));
//! let node = Node::with()
//!     .config(&format!("[[upstream]]\nname = \"api\"\nservers = [\"{}\"]", upstream.url()))
//!     .config("[[route]]\nname = \"all\"\npath = \"/{rest*}\"\nupstream = \"api\"")
//!     .policy("p, reader, /*, GET, allow")
//!     .account("carol", &["reader"])
//!     .start();
//! let token = node.token("carol");
//! ```

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use argon2::password_hash::PasswordHasher as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::{PORTCULLIS, client, eventually};

/// The password of every account that [`Builder::account`] makes.
pub const PASSWORD: &str = "correct horse battery staple";

/// The model of a node that is given none: the repository's.
const MODEL: &str = include_str!("../../../policies/model.conf");
/// The rows of a node that is given none.
const POLICY: &str = "p, admin, /*, .*, allow\np, reader, /*, GET|HEAD, allow\n";

/// A port that nobody else gets while this is held; the node binds it too (`SO_REUSEPORT`).
struct Port(Socket, u16);

impl Port {
    fn reserve() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        socket.set_reuse_address(true).expect("SO_REUSEADDR");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let port = socket.local_addr().expect("an address").as_socket().expect("IP").port();
        Self(socket, port)
    }
}

/// A port that was free a moment ago, for programs that cannot pick one themselves.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// What a node will be started with.
pub struct Builder {
    config: toml::Table,
    model: String,
    rows: Vec<String>,
    accounts: Vec<toml::Value>,
    files: Vec<(String, Vec<u8>, u32)>,
    environment: Vec<(String, String)>,
    tls: bool,
    disk: Option<String>,
}

impl Builder {
    /// Merges a fragment of configuration: tables key by key, arrays of tables one after the other. Paths in it are
    /// relative to the node's directory.
    pub fn config(mut self, fragment: &str) -> Self {
        let table: toml::Table = fragment.parse().unwrap_or_else(|error| panic!("{error}\n{fragment}"));
        merge(&mut self.config, table);
        self
    }

    /// An upstream `main` and a route `all` that sends everything to it, for bearer tokens and sessions.
    pub fn upstream(self, url: &str) -> Self {
        self.config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{url}\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\n"
        ))
    }

    /// The casbin model; without it, the repository's.
    pub fn model(mut self, text: &str) -> Self {
        text.clone_into(&mut self.model);
        self
    }

    /// One row or several lines of `policies/policy.csv`. Without any: admins do everything, readers read.
    pub fn policy(mut self, rows: &str) -> Self {
        self.rows.push(rows.to_owned());
        self
    }

    /// An account of the accounts file, with [`PASSWORD`]. Without any: `alice` (admin, department engineering) and
    /// `bob` (reader, department sales).
    pub fn account(self, name: &str, roles: &[&str]) -> Self {
        self.account_with(name, roles, "")
    }

    /// The same with more of its keys (`[[user]]` of the accounts file), as TOML.
    pub fn account_with(mut self, name: &str, roles: &[&str], more: &str) -> Self {
        let mut account: toml::Table = more.parse().unwrap_or_else(|error| panic!("{error}\n{more}"));
        account.insert("name".to_owned(), name.into());
        account.entry("password_hash").or_insert_with(|| hash(PASSWORD).into());
        let roles: toml::value::Array = roles.iter().map(|role| toml::Value::from(*role)).collect();
        account.insert("roles".to_owned(), roles.into());
        self.accounts.push(account.into());
        self
    }

    /// A file in the node's directory.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_mode(name, content, 0o644)
    }

    /// A file in the node's directory that only its owner reads.
    pub fn secret_file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_mode(name, content, 0o600)
    }

    fn file_mode(mut self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> Self {
        self.files.push((name.to_owned(), content.as_ref().to_vec(), mode));
        self
    }

    /// A variable of the node's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A server certificate and key (PEM) for `localhost` and the default of every other name; `public_url` is https.
    pub fn tls(mut self, certificate: &str, key: &str) -> Self {
        self.tls = true;
        self.file("tls/server.pem", certificate).secret_file("tls/server.key", key).config(
            "[[listen.tls.certificate]]\nnames = [\"localhost\"]\n\
             certificate = \"tls/server.pem\"\nkey = \"tls/server.key\"\n",
        )
    }

    /// The node's data is on a disk of its own of this size, which is gone when the node ends. Needs root.
    pub fn on_a_small_disk(mut self, size: &str) -> Self {
        self.disk = Some(size.to_owned());
        self
    }

    /// Writes everything and starts the node.
    pub fn start(self) -> Node {
        let mut node = self.write();
        node.start_again();
        node
    }

    /// Writes everything and starts the program, which must end by itself: its exit code, output and errors.
    pub fn refused(self) -> (i32, String, String) {
        let node = self.write();
        let mut command = node.command(&["serve"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        eventually("the node refuses to start", || {
            let ended = child.try_wait().expect("a status").is_some();
            let serves = fs::read_to_string(node.directory().join("data/admin.token")).is_ok();
            if serves && !ended {
                drop(child.kill());
                panic!("the node started");
            }
            ended.then_some(())
        });
        texts(child.wait_with_output().expect("output"))
    }

    /// Writes everything; nothing runs. For commands that work without a node, and for a start that comes later.
    pub fn write(mut self) -> Node {
        let directory = tempfile::Builder::new().prefix("portcullis-it-").tempdir().expect("a directory");
        let (port, tls) = (Port::reserve(), self.tls);
        let scheme = if tls { "https" } else { "http" };
        let mut config: toml::Table = format!(
            "[node]\nname = \"gate-1\"\ndata_dir = \"data\"\n\
             [listen]\naddress = \"127.0.0.1:{port}\"\npublic_url = \"{scheme}://localhost:{port}\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [passwords.hashing]\nmemory = \"1MiB\"\npasses = 1\n\
             [accounts]\nfile = \"users.toml\"\n[policy]\ndirectory = \"policies\"\n",
            port = port.1
        )
        .parse()
        .expect("TOML");
        merge(&mut config, std::mem::take(&mut self.config));
        if self.accounts.is_empty() {
            self = self
                .account_with("alice", &["admin"], "attributes = { department = \"engineering\" }")
                .account_with("bob", &["reader"], "attributes = { department = \"sales\" }");
        }
        if self.rows.is_empty() {
            self.rows.push(POLICY.to_owned());
        }
        let mut accounts = toml::Table::new();
        accounts.insert("user".to_owned(), self.accounts.into());
        let node = Node {
            config: directory.path().join("portcullis.toml"),
            directory,
            port,
            tls,
            environment: self.environment,
            disk: self.disk,
            child: None,
            ready: Value::Null,
        };
        node.write("portcullis.toml", config.to_string());
        node.write("users.toml", accounts.to_string());
        node.write("policies/model.conf", self.model);
        node.write("policies/policy.csv", self.rows.join("\n") + "\n");
        for (name, content, mode) in self.files {
            use std::os::unix::fs::PermissionsExt as _;
            node.write(&name, content);
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(node.directory().join(&name), permissions).expect("permissions");
        }
        node
    }
}

/// A node; killed by its drop, its directory removed.
pub struct Node {
    directory: tempfile::TempDir,
    config: PathBuf,
    port: Port,
    tls: bool,
    environment: Vec<(String, String)>,
    disk: Option<String>,
    child: Option<Child>,
    ready: Value,
}

impl Node {
    /// A builder with nothing in it.
    pub fn with() -> Builder {
        Builder {
            config: toml::Table::new(),
            model: MODEL.to_owned(),
            rows: Vec::new(),
            accounts: Vec::new(),
            files: Vec::new(),
            environment: Vec::new(),
            tls: false,
            disk: None,
        }
    }

    /// Starts the program on the node's files and waits for its ready line.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log");
        let mut command = match &self.disk {
            None => self.command(&["-o", "json", "serve"]),
            Some(size) => self.command_on_disk(size),
        };
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        self.child = Some(child);
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads to the end, so that the program never waits for a reader.
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(send.send(line)));
        });
        let line = lines.recv_timeout(Duration::from_secs(30));
        let line = line.unwrap_or_else(|_| panic!("the node does not get ready:\n{}", self.log()));
        self.ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    }

    /// `serve` in a mount namespace of its own, under the same process id.
    fn command_on_disk(&self, size: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs -o size=\"$1\",mode=700 tmpfs data && shift && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh", size, PORTCULLIS, "--config"]);
        command.arg(&self.config).args(["-o", "json", "serve"]);
        fs::create_dir_all(self.directory().join("data")).expect("a directory");
        self.in_place(command)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PORTCULLIS);
        command.arg("--config").arg(&self.config).args(arguments);
        self.in_place(command)
    }

    fn in_place(&self, mut command: Command) -> Command {
        command.current_dir(self.directory.path());
        command.env_remove("PORTCULLIS_ADMIN_URL").env_remove("PORTCULLIS_ADMIN_TOKEN");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file of the node's directory, whole: beside it, then renamed over it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.directory().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        let beside = path.with_extension("new");
        fs::write(&beside, content).expect("written");
        fs::rename(beside, path).expect("renamed");
    }

    /// The public URL as browsers see it, with a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", if self.tls { "https" } else { "http" }, self.port.1)
    }

    /// The public listener's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.1
    }

    /// The public listener's address.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port.1))
    }

    /// The `Host` of a request to it.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port.1)
    }

    /// The operators' listener, with a path.
    pub fn admin(&self, path: &str) -> String {
        format!("{}{path}", self.ready["admin"].as_str().expect("the ready line has it"))
    }

    /// The admin token of this start.
    pub fn admin_token(&self) -> &str {
        self.ready["admin_token"].as_str().expect("the ready line has it")
    }

    /// The process, for signals and measuring.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("node.log")
    }

    /// What it logged so far, of every start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// An access token of an account with [`PASSWORD`]; plain HTTP only.
    pub fn token(&self, name: &str) -> String {
        let answer = self.sign_in(name, PASSWORD);
        assert_eq!(answer.status(), 200, "{}", self.log());
        answer.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned()
    }

    /// The answer of `POST /auth/login`.
    pub fn sign_in(&self, name: &str, password: &str) -> reqwest::blocking::Response {
        let body = serde_json::json!({"username": name, "password": password});
        client().post(self.url("/auth/login")).json(&body).send().expect("an answer")
    }

    /// The session cookie (`name=value`) of an account with [`PASSWORD`] on the host of the public URL.
    pub fn session(&self, name: &str) -> String {
        super::navigator::session(&self.url("/auth/login"), name)
    }

    /// Sends a request with a bearer token and no body.
    pub fn ask(&self, method: &str, path: &str, token: &str) -> reqwest::blocking::Response {
        let method = method.parse().expect("a method");
        client().request(method, self.url(path)).bearer_auth(token).send().expect("an answer")
    }

    /// Runs a command against this node: exit code, output, errors.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        self.cli_with(arguments, "")
    }

    /// The same with something on standard input.
    pub fn cli_with(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(arguments);
        if self.child.is_some() {
            command.env("PORTCULLIS_ADMIN_URL", self.admin(""));
            command.env("PORTCULLIS_ADMIN_TOKEN", self.admin_token());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        // A command that does not read ends the pipe early.
        drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
        texts(child.wait_with_output().expect("output"))
    }

    /// The events that `audit query` finds with these options.
    pub fn audit(&self, options: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["-o", "json", "audit", "query"];
        arguments.extend(options);
        let (code, out, err) = self.cli(&arguments);
        assert_eq!(code, 0, "{out}{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    /// The events of one request of this kind, waited for until there are `count`.
    pub fn events(&self, request_id: &str, kind: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} {kind} events of {request_id}"), || {
            let mut events = self.audit(&["--request", request_id]);
            events.retain(|event| event["kind"] == kind);
            (events.len() >= count).then_some(events)
        })
    }

    /// The access event of an answer's `X-Request-Id`; there is exactly one.
    pub fn event(&self, request_id: &str) -> Value {
        let mut events = self.events(request_id, "access", 1);
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().expect("the node runs"));
        kill_process(pid, signal).expect("a signal");
    }

    /// Ends it as a service manager does (SIGTERM) and waits; its exit code.
    pub fn stop(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits for its end; its exit code.
    pub fn wait(&mut self) -> i32 {
        let mut child = self.child.take().expect("the node runs");
        let status = eventually("the node ends", || child.try_wait().expect("a status"));
        status.code().unwrap_or(-1)
    }

    /// Ends it with SIGKILL and waits.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _held = &self.port.0;
        if std::thread::panicking() {
            eprintln!("--- log of the node\n{}", self.log());
        }
    }
}

fn texts(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (Some(toml::Value::Array(into)), toml::Value::Array(from))
                if into.iter().chain(&from).all(toml::Value::is_table) =>
            {
                into.extend(from);
            }
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

/// A cheap Argon2id hash, made once.
fn hash(password: &str) -> String {
    let parameters = argon2::Params::new(1024, 1, 1, None).expect("parameters");
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters);
    argon.hash_password(password.as_bytes()).expect("a hash").to_string()
}

/// `serve` on a configuration that a test did not write itself; killed by its drop.
pub struct Served(Child);

impl Served {
    /// Starts the program and waits for its ready line.
    pub fn start(config: &Path) -> Self {
        let mut child = Command::new(PORTCULLIS)
            .args(["-o", "json", "-c"])
            .arg(config)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let served = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a ready line");
        assert!(line.contains("admin_token"), "the node does not get ready: {line:?}");
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
