//! What a new user does first: the demo's lines pasted into a shell, the shipped configuration checked.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{PORTCULLIS, client, eventually};

/// A demo as a person starts it, in a temporary folder of its own; ended by its drop.
struct Shown {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    temporary: tempfile::TempDir,
}

impl Shown {
    fn start() -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(PORTCULLIS)
            .args(["demo", "--port", "0", "--admin-port", "0"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let out = Some(BufReader::new(child.stdout.take().expect("piped")));
        Self { child, out, temporary }
    }

    /// The next lines, up to one that begins with this.
    fn until(&mut self, beginning: &str) -> Vec<String> {
        let out = self.out.as_mut().expect("a reader");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert_ne!(out.read_line(&mut line).expect("a line"), 0, "the demo ended after {lines:?}");
            let last = line.trim_start().starts_with(beginning);
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
        eventually("the demo ends", || self.child.try_wait().expect("a status")).code()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn run(arguments: &[&str], directory: &Path) -> Output {
    Command::new(PORTCULLIS)
        .args(arguments)
        .current_dir(directory)
        .env_remove("PORTCULLIS_ADMIN_URL")
        .output()
        .expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_lines_that_the_demo_prints_work_when_pasted() {
    let mut demo = Shown::start();
    let printed = demo.until("PORTCULLIS_ADMIN_TOKEN=");
    let from = printed.iter().position(|line| line.starts_with("Try it")).expect("the lines to paste");
    let script = printed[from + 1..].concat();
    // Another terminal may be anywhere.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let pasted = Command::new("sh").args(["-e", "-c", &script]).current_dir(elsewhere.path()).output();
    let pasted = pasted.expect("sh runs");
    let out = text(&pasted.stdout);
    assert!(pasted.status.success(), "{script}\n{out}{}", text(&pasted.stderr));
    assert!(out.contains(r#"{"id":"7""#), "bob reads an order: {out}");
    assert!(out.contains("urn:portcullis:problem:forbidden"), "bob deletes none: {out}");
    for (verdict, method) in [("allow", "GET"), ("deny", "DELETE")] {
        let recorded = |line: &str| line.contains(verdict) && line.contains("bob") && line.contains(method);
        assert!(out.lines().any(recorded), "{method} is in the audit: {out}");
    }
    // The demo says the same as it happens.
    let seen = loop {
        let lines = demo.until("");
        if let Some(line) = lines.into_iter().find(|line| line.contains("DELETE")) {
            break line;
        }
    };
    assert!(seen.contains("deny") && seen.contains("bob"), "{seen}");
    assert_eq!(demo.end(Signal::INT), Some(0));
    assert_eq!(std::fs::read_dir(demo.temporary.path()).expect("a directory").count(), 0);
}

#[test]
fn a_demo_whose_reader_goes_away_goes_on_and_cleans_up() {
    let mut demo = Shown::start();
    let printed = demo.until("PORTCULLIS_ADMIN_TOKEN=").concat();
    let gateway = printed.lines().find_map(|line| line.trim_start().strip_prefix("gateway")).expect("a line");
    let url = gateway.split_whitespace().next().expect("a URL").to_owned();
    drop(demo.out.take());
    let ask = || client().get(format!("{url}/public/hello")).send().map(|answer| answer.status().as_u16());
    for _ in 0..3 {
        assert_eq!(ask().expect("an answer"), 200);
    }
    assert_eq!(demo.end(Signal::TERM), Some(0));
    assert_eq!(std::fs::read_dir(demo.temporary.path()).expect("a directory").count(), 0);
}

#[test]
fn a_port_that_somebody_listens_on_is_refused_even_when_it_could_be_shared() {
    let shared = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    shared.set_reuse_port(true).expect("SO_REUSEPORT");
    shared.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a port");
    shared.listen(1).expect("it listens");
    let port = TcpListener::from(shared.try_clone().expect("a socket")).local_addr().expect("one").port();
    let done = run(&["demo", "--port", &port.to_string(), "--admin-port", "0"], Path::new("/"));
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains(&format!("port {port}")), "{}", text(&done.stderr));

    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("model.conf"), include_str!("../../policies/model.conf"))
        .expect("a file");
    std::fs::write(directory.path().join("policy.csv"), "p, admin, /*, .*, allow\n").expect("a file");
    let file = directory.path().join("portcullis.toml");
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\n[admin]\naddress = \"127.0.0.1:0\"\n[policy]\ndirectory = \".\"\n"
    );
    std::fs::write(&file, config).expect("a file");
    let done = run(&["-c", &file.display().to_string(), "serve"], directory.path());
    assert_eq!(done.status.code(), Some(2), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("cannot listen"), "{}", text(&done.stderr));
}

#[test]
fn the_shipped_configuration_has_no_mistake_and_names_no_command_that_is_missing() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = run(&["check"], here);
    assert_eq!((done.status.code(), text(&done.stdout).trim()), (Some(0), "no mistakes"));
    let shown = run(&["-o", "json", "config", "show"], here);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("one document");
    let address = &shown["listen.address"];
    assert_eq!(address["value"], "127.0.0.1:8080");
    assert!(
        address["from"].as_str().is_some_and(|from| from.starts_with("config/portcullis.toml:")),
        "{address}"
    );
    assert_eq!(shown["listen.limits.fields"], serde_json::json!({"value": 96, "from": "default"}));

    let guides =
        std::fs::read_dir(here.join("docs")).expect("a directory").map(|entry| entry.expect("one").path());
    let files = guides.chain([here.join("README.md"), here.join("config/portcullis.toml")]);
    for file in files.filter(|file| file.extension().is_some_and(|kind| kind != "json")) {
        for line in std::fs::read_to_string(&file).expect("text").lines() {
            for named in line.split('`').skip(1).step_by(2) {
                let Some(command) = named.strip_prefix("portcullis ") else { continue };
                let words = command.split_whitespace().take_while(|word| {
                    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
                        && !word.starts_with('-')
                });
                let Some(first) = words.into_iter().next() else { continue };
                let help = run(&[first, "--help"], here);
                assert!(help.status.success(), "{}: `{named}` is no command", file.display());
            }
        }
    }
}

#[test]
fn check_finds_the_mistakes_of_configuration_and_policies_in_one_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("a file");
    write("portcullis.toml", "[listen]\nadress = \"127.0.0.1:8080\"\n[policy]\ndirectory = \".\"\n");
    write("model.conf", include_str!("../../policies/model.conf"));
    write("policy.csv", "p, admin, /*, .*, allow\np, reader, /*\n");
    let done = run(&["-o", "json", "-c", "portcullis.toml", "check"], directory.path());
    assert_eq!(done.status.code(), Some(2));
    let said: Value = serde_json::from_slice(&done.stdout).expect("one document");
    let places: Vec<_> =
        said["problems"].as_array().expect("problems").iter().map(|p| (&p["file"], &p["line"])).collect();
    assert_eq!(places.len(), 2, "{said}");
    assert!(places[0].0.as_str().is_some_and(|file| file.ends_with("portcullis.toml")), "{said}");
    assert_eq!((places[0].1, places[1].1), (&Value::from(2), &Value::from(2)));
    assert!(places[1].0.as_str().is_some_and(|file| file.ends_with("policy.csv")), "{said}");
}

#[test]
fn a_reader_that_wants_only_the_first_line_gets_it_and_no_panic() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [&["policy", "test", "--coverage"][..], &["config", "show"], &["completions", "bash"]] {
        let mut child = Command::new(PORTCULLIS)
            .args(arguments)
            .current_dir(here)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert_eq!((child.wait().expect("a status").code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
