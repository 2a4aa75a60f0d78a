//! When nothing can be recorded any more nothing is allowed any more, through any door, until it can be again.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Node, Raw, Reply, Upstream, client, eventually, free_port};

/// A Redis with a directory of its own, so that it comes back with what it had.
struct Redis {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().expect("a directory"));
        let child = Self::spawn(port, &directory);
        Self { child, port, directory }
    }

    fn spawn(port: u16, directory: &tempfile::TempDir) -> Child {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (tests/run does it)");
        eventually("redis listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        child
    }

    fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(self.port, &self.directory);
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_full_log_denies_says_so_and_recovers() {
    let upstream = Upstream::start(|_| Reply::ok("through"));
    let mut redis = Redis::start();
    let node = Node::with()
        .upstream(&upstream.url())
        .config(&format!(
            "[node]\nworkers = 1\n[audit]\nlog_size = \"1MiB\"\n[store]\nkind = \"redis\"\n\
             [store.redis]\nurls = [\"redis://127.0.0.1:{}\"]\n[forward_auth]\ncallers = [\"127.0.0.1/32\"]\n\
             [[route]]\nname = \"open\"\npath = \"/open/{{rest*}}\"\nupstream = \"main\"\nauthenticate = [\"none\"]\n",
            redis.port
        ))
        .policy("p, *, /open/*, GET, allow")
        .start();
    let host = node.host();
    let path = format!("/open/{}", "x".repeat(2000));
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(Raw::ask(node.address(), &request).status, 200);
    redis.kill();
    let mut connection = Raw::connect(node.address());
    let mut allowed = 0;
    let refused = loop {
        connection.send(&request);
        let answer = connection.answer();
        if answer.status != 200 {
            break answer;
        }
        allowed += 1;
        assert!(allowed < 5000, "a log of 1 MiB took {allowed} events of 2 kB");
    };
    assert!(allowed > 100, "{allowed} events fit");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let problem: Value = serde_json::from_str(&refused.text()).expect("a problem");
    assert_eq!(problem["type"], "urn:portcullis:problem:audit-unavailable");
    assert_eq!(upstream.recorded().len(), allowed + 1, "nothing went upstream unrecorded");
    for (endpoint, headers) in [
        ("nginx", format!("x-original-method: GET\r\nx-original-url: http://{host}{path}\r\n")),
        (
            "forward",
            format!(
                "x-forwarded-method: GET\r\nx-forwarded-proto: http\r\nx-forwarded-host: {host}\r\nx-forwarded-uri: {path}\r\n"
            ),
        ),
    ] {
        let ask = format!(
            "GET /auth/verify/{endpoint} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"
        );
        let answer = Raw::ask(node.address(), ask);
        assert_eq!(
            (answer.status, answer.header("portcullis-reason")),
            (503, Some("audit-unavailable")),
            "{endpoint}"
        );
        assert_eq!(answer.header("portcullis-user"), None);
    }
    let json = "content-type: application/json\r\n";
    for (line, headers, body) in [
        ("GET /x", "", ""),
        ("GET /auth/verify/nginx", "", ""),
        ("POST /auth/verify", json, "{"),
        ("POST /auth/login", json, r#"{"username":"nobody","password":"x"}"#),
        ("POST /auth/login", json, "{"),
    ] {
        let length = body.len();
        let ask =
            format!("{line} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n{body}");
        // What is left of the log is smaller than those before, and takes a few of these.
        let refused = (0..20).any(|_| Raw::ask(node.address(), &ask).status == 503);
        assert!(refused, "{line} {body} is answered although that cannot be recorded");
    }
    let ready = client().get(node.admin("/readyz")).send().expect("an answer");
    assert_eq!(ready.status(), 503);
    redis.start_again();
    eventually("the log empties into the store", || {
        (Raw::ask(node.address(), &request).status == 200).then_some(())
    });
    let recorded = eventually("every decision is in the audit", || {
        let events = node.audit(&["--path", &path, "--decision", "allow", "--limit", "10000"]);
        (events.len() >= allowed + 2).then_some(events.len())
    });
    assert_eq!(recorded, upstream.recorded().len(), "each once");
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}
