//! The real httpbin behind the gateway, called with the real curl and python-requests.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::authority::Authority;
use crate::support::{Httpbin, Node, PASSWORD, VENV, curl};

#[test]
fn requests_sees_httpbin_as_it_is() {
    let httpbin = Httpbin::start();
    let node = Node::with().upstream(&httpbin.url()).start();
    let output = Command::new(PathBuf::from(VENV).join("bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/httpbin_client.py"))
        .env("BASE", node.url(""))
        .env("TOKEN", node.token("alice"))
        .env("READER", node.token("bob"))
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 8, "every check ran: {text}");
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn curl_reaches_httpbin_over_both_versions_and_with_a_certificate() {
    let httpbin = Httpbin::start();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let (own, machine) = (servers.server(&["localhost"]), clients.client("machine"));
    let node = Node::with()
        .tls(&own.certificate, &own.key)
        .file("ca.pem", servers.pem())
        .file("clients.pem", clients.pem())
        .file("me.pem", &machine.certificate)
        .secret_file("me.key", &machine.key)
        .file("upload", vec![b'u'; 2 << 20])
        .config(&format!(
            "[[upstream]]\nname = \"httpbin\"\nservers = [\"{}\"]\n\
             [[listen.tls.client]]\nhosts = [\"*\"]\nauth = \"optional\"\nca = \"clients.pem\"\n\
             [[certificate_principal]]\nmatches = \"cn:machine\"\nname = \"machine\"\nroles = [\"admin\"]\n\
             [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"httpbin\"\n\
             authenticate = [\"bearer\", \"certificate\"]\n",
            httpbin.url()
        ))
        .start();
    let credentials = serde_json::json!({"username": "alice", "password": PASSWORD}).to_string();
    let login = curl(
        &node,
        "localhost",
        "/auth/login",
        &["-H", "content-type: application/json", "-d", &credentials],
    );
    assert_eq!(login.status, "200 2", "{login:?}");
    let tokens: Value = serde_json::from_str(&login.body).expect("JSON");
    let bearer = format!("authorization: Bearer {}", tokens["access_token"].as_str().expect("a token"));
    let as_alice = ["-H", &bearer];
    let as_machine = ["--cert", "me.pem", "--key", "me.key"];
    for (version, name) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for (who, credential) in [("alice", &as_alice[..]), ("machine", &as_machine[..])] {
            let ask = |path: &str, options: &[&str]| {
                let mut all = vec![version];
                all.extend(credential);
                all.extend(options);
                curl(&node, "localhost", path, &all)
            };
            let echo = ask("/anything/x?show_env=1", &[]);
            assert_eq!(echo.status, format!("200 {name}"), "{who}: {echo:?}");
            let echo: Value = serde_json::from_str(&echo.body).expect("JSON");
            assert_eq!(echo["headers"]["Portcullis-User"], who);
            assert_eq!(echo["headers"]["X-Forwarded-Proto"], "https");
            // Over a megabyte curl asks first (Expect: 100-continue, HTTP/1.1).
            for body in
                [&["--data-binary", "@upload"][..], &["-T", "upload", "-H", "transfer-encoding: chunked"]]
            {
                let length = ask("/anything", &[body, &["-o", "answer"][..]].concat());
                assert_eq!(length.status, format!("200 {name}"), "{who} {body:?} {length:?}");
                let answer = std::fs::read(node.directory().join("answer")).expect("an answer");
                let answer: Value = serde_json::from_slice(&answer).expect("JSON");
                assert_eq!(
                    answer["data"].as_str().map(str::len).max(form_length(&answer)),
                    Some(2 << 20),
                    "{who} {body:?}"
                );
            }
            for (path, options, status) in [
                ("/gzip", &["--compressed"][..], 200),
                ("/stream/5", &[], 200),
                ("/bytes/10", &["-I"], 200),
                ("/status/204", &[], 204),
                ("/status/503", &[], 503),
                ("/redirect/2", &["-L"], 200),
            ] {
                let answer = ask(path, options);
                assert_eq!(
                    (answer.code, answer.status.as_str()),
                    (0, format!("{status} {name}").as_str()),
                    "{who} {path} {answer:?}"
                );
            }
        }
    }
    assert_eq!(curl(&node, "localhost", "/get", &[]).status, "401 2");
}

/// httpbin takes curl's `--data-binary` for a form of one key.
fn form_length(answer: &Value) -> Option<usize> {
    answer["form"].as_object()?.keys().map(String::len).max()
}
