//! Starting the real program, and talking to it: [`Demo`] and [`Node`], an [`Upstream`] that remembers what it got,
//! [`Raw`] bytes on a connection, and a real [`Browser`].

pub mod authority;
mod curl;
pub mod h2;
mod httpbin;
mod navigator;
mod node;
mod raw;
mod redis;
pub mod signer;
mod upstream;
mod webdriver;

pub use curl::curl;
pub use httpbin::{Httpbin, VENV};
pub use navigator::{Navigator, location};
pub use node::{Builder, Node, PASSWORD, Served, free_port};
pub use raw::{Answer, Raw};
pub use redis::{Redis, Wire};
pub use upstream::{Recorded, Reply, Upstream, read_head, read_request};
pub use webdriver::Browser;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub const PORTCULLIS: &str = env!("CARGO_BIN_EXE_portcullis");

/// A running demo; ended by its drop.
pub struct Demo {
    child: Child,
    pub ready: Value,
}

impl Demo {
    pub fn start() -> Self {
        let mut child = Command::new(PORTCULLIS)
            .args(["--output", "json", "demo", "--port", "0", "--admin-port", "0"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a first line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, ready }
    }

    pub fn text(&self, key: &str) -> &str {
        self.ready[key].as_str().unwrap_or_else(|| panic!("no {key} in {}", self.ready))
    }

    pub fn password(&self, name: &str) -> String {
        let users = self.ready["users"].as_array().expect("users");
        let user = users.iter().find(|user| user["name"] == name).expect("the user");
        user["password"].as_str().expect("a password").to_owned()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.text("public_url"))
    }

    /// An access token of one of the users.
    pub fn token(&self, name: &str) -> String {
        let body = serde_json::json!({"username": name, "password": self.password(name)});
        let answer = client().post(self.url("/auth/login")).json(&body).send().expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned()
    }

    /// Ends the demo as Ctrl-C does; its exit code.
    pub fn interrupt(mut self) -> i32 {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < until, "the demo does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs the program against this demo's operators' listener.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(PORTCULLIS)
            .args(["--admin-url", self.text("admin_url")])
            .args(arguments)
            .env("PORTCULLIS_ADMIN_TOKEN", self.text("admin_token"))
            .output()
            .expect("the program runs");
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(directory) = self.ready["data_dir"].as_str()
            && directory.contains("portcullis-demo-")
        {
            drop(std::fs::remove_dir_all(Path::new(directory)));
        }
    }
}

/// An HTTP client that follows no redirects.
pub fn client() -> reqwest::blocking::Client {
    client_builder().build().expect("a client")
}

/// The same, to be changed before it is built.
pub fn client_builder() -> reqwest::blocking::ClientBuilder {
    // An error means that another test installed it already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    reqwest::blocking::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30))
}

/// Tries until the condition holds.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
