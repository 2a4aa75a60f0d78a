//! From nothing to a first node: `portcullis init`, then what it says comes next.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{PORTCULLIS, Reply, Served, Upstream, client, free_port};

fn init(directory: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(PORTCULLIS)
        .current_dir(directory)
        .args(arguments)
        .env_remove("PORTCULLIS_ADMIN_URL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
    child.wait_with_output().expect("output")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_init_writes_starts_serves_and_knows_its_administrator() {
    let upstream = Upstream::start(|_| Reply::ok("behind the gate"));
    let directory = tempfile::tempdir().expect("a directory");
    let (port, admin) = (free_port(), format!("127.0.0.1:{}", free_port()));
    let public = format!("http://localhost:{port}");
    let (behind, json) = (upstream.url(), ["-o", "json", "init", "gate", "--upstream"]);
    let more = [behind.as_str(), "--public-url", &public, "--admin-address", &admin];
    let done = init(directory.path(), &[&json[..], &more[..]].concat(), "");
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout).expect("one document");
    assert_eq!((&said["ok"], &said["problems"]), (&true.into(), &Value::Array(Vec::new())));
    let (name, password) =
        (said["user"]["name"].as_str().expect("a name"), said["user"]["password"].as_str().expect("one"));
    assert_eq!(said["user"]["roles"], serde_json::json!(["admin", "portcullis:administrator"]));

    let served = Served::start(&directory.path().join("gate/portcullis.toml"));
    let body = serde_json::json!({"username": name, "password": password});
    let answer = client().post(format!("{public}/auth/login")).json(&body).send().expect("an answer");
    let token = answer.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned();
    let answer = client().get(format!("{public}/x")).bearer_auth(&token).send().expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.text().expect("text").as_str()), (200, "behind the gate"));
    assert_eq!(client().get(format!("{public}/x")).send().expect("an answer").status(), 401);
    let users = client().get(format!("http://{admin}/api/v1/users")).bearer_auth(&token).send();
    assert_eq!(users.expect("an answer").status(), 200, "the administrator is an operator");
    drop(served);
}

#[test]
fn an_https_gateway_of_init_is_trusted_by_its_development_authority() {
    let upstream = Upstream::start(|_| Reply::ok(""));
    let directory = tempfile::tempdir().expect("a directory");
    let (port, admin) = (free_port(), format!("127.0.0.1:{}", free_port()));
    let public = format!("https://localhost:{port}");
    let behind = upstream.url();
    let arguments = ["init", "--upstream", &behind, "--public-url", &public, "--admin-address", &admin];
    let password = ["--password-stdin", "--admin", "root"];
    let done = init(directory.path(), &[&arguments[..], &password[..]].concat(), "my own pass phrase\n");
    assert!(done.status.success(), "{}", text(&done.stderr));
    let out = text(&done.stdout);
    assert!(!out.contains("my own pass phrase") && out.contains("no mistakes"), "{out}");
    assert!(out.contains("portcullis -c ./portcullis.toml serve"), "{out}");

    let _served = Served::start(&directory.path().join("portcullis.toml"));
    let ca = std::fs::read(directory.path().join("tls/ca.pem")).expect("a certificate");
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let trusting = reqwest::blocking::Client::builder()
        .add_root_certificate(reqwest::Certificate::from_pem(&ca).expect("PEM"))
        .build()
        .expect("a client");
    let body = serde_json::json!({"username": "root", "password": "my own pass phrase"});
    let answer = trusting.post(format!("{public}/auth/login")).json(&body).send().expect("TLS and an answer");
    assert_eq!(answer.status(), 200);
    use std::os::unix::fs::PermissionsExt as _;
    for secret in ["tls/ca.key", "tls/server.key", "data/master.key"] {
        let mode = std::fs::metadata(directory.path().join(secret)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn init_writes_nothing_over_and_leaves_nothing_when_it_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = ["init", "new", "--upstream", "http://127.0.0.1:9000", "--public-url"];
    for (more, says) in [
        (vec!["http://gate.example"], "https"),
        (vec!["https://u@gate.example"], "nothing else"),
        (vec!["https://gate.example/path"], "nothing else"),
        (vec!["http://localhost:8080", "--admin", "admin"], "role"),
        (vec!["http://localhost:8080", "--admin", "a b"], "account name"),
        (vec!["http://localhost:8080", "--admin-address", "0.0.0.0:9080"], "[admin.tls]"),
    ] {
        let done = init(directory.path(), &[&base[..], &more[..]].concat(), "");
        assert_eq!(done.status.code(), Some(2), "{more:?}");
        assert!(text(&done.stderr).contains(says), "{more:?}: {}", text(&done.stderr));
        assert!(!directory.path().join("new").exists(), "{more:?}");
    }
    std::fs::create_dir(directory.path().join("new")).expect("a directory");
    std::fs::write(directory.path().join("new/portcullis.toml"), "mine").expect("a file");
    let done = init(directory.path(), &[&base[..], &["http://localhost:8080"]].concat(), "");
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("portcullis.toml"), "{}", text(&done.stderr));
    let kept = std::fs::read_to_string(directory.path().join("new/portcullis.toml")).expect("a file");
    assert_eq!(kept, "mine");
    assert_eq!(std::fs::read_dir(directory.path().join("new")).expect("a directory").count(), 1);
}
