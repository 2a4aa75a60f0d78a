//! One reading of a request: the tables of `docs/canonical-requests.md`, sent to a running gateway byte for byte.

use serde_json::Value;

use crate::random::{Random, cases};
use crate::support::{Answer, Node, Raw, Reply, Upstream, eventually};

const DOCUMENT: &str = include_str!("../../docs/canonical-requests.md");

/// The rows of the table below the heading, cell by cell, without their backticks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<String>> = rows
        .map(|row| {
            let cells = row.trim_matches('|').split(" | ").map(str::trim);
            cells.map(|cell| cell.trim_matches('`').to_owned()).collect()
        })
        .collect();
    assert!(rows.len() > 8, "{heading}: {} rows", rows.len());
    rows
}

struct Gate {
    upstream: Upstream,
    node: Node,
}

impl Gate {
    /// Open routes: `plain.example` takes nothing encoded, `opted.example` both, every other host nothing encoded.
    fn start() -> Self {
        let upstream = Upstream::start(|_| Reply::ok("reached"));
        let node = Node::with()
            .config(&format!(
                r#"
                [[upstream]]
                name = "main"
                servers = ["{}"]
                [[route]]
                name = "all"
                path = "/{{rest*}}"
                upstream = "main"
                authenticate = ["none"]
                [[route]]
                name = "opted"
                hosts = ["opted.example"]
                path = "/{{rest*}}"
                upstream = "main"
                authenticate = ["none"]
                allow_encoded = ["slash", "percent"]
                "#,
                upstream.url()
            ))
            .policy("p, anonymous, /*, .*, allow")
            .start();
        Self { upstream, node }
    }

    fn ask(&self, head: &str) -> Answer {
        Raw::ask(self.node.address(), format!("{head}Connection: close\r\n\r\n"))
    }

    /// The answer and what the upstream saw.
    fn reached(&self, head: &str) -> (Answer, Option<crate::support::Recorded>) {
        let before = self.upstream.recorded().len();
        let answer = self.ask(head);
        (answer, self.upstream.recorded().get(before).cloned())
    }
}

/// A problem of ours with this name.
fn is_problem(answer: &Answer, status: u16, name: &str) -> bool {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    answer.status == status
        && answer.header("content-type") == Some("application/problem+json")
        && problem["type"] == format!("urn:portcullis:problem:{name}")
        && problem["request_id"].as_str() == answer.header("x-request-id")
}

/// Bare (the HTTP library's own) or a problem: a refusal either way.
fn is_refused(answer: &Answer) -> bool {
    answer.status == 400 && (answer.body.is_empty() || is_problem(answer, 400, "not-canonical"))
}

#[test]
fn every_path_of_the_document_is_read_as_it_says() {
    let gate = Gate::start();
    let mut wrong = Vec::new();
    for row in table("The path") {
        for (host, expected) in [("plain.example", &row[1]), ("opted.example", &row[2])] {
            let sent = &row[0];
            let (answer, seen) = gate.reached(&format!("GET {sent} HTTP/1.1\r\nHost: {host}\r\n"));
            let right = match (expected.as_str(), &seen) {
                ("400", None) => is_refused(&answer),
                (path, Some(seen)) => answer.status == 200 && seen.target == path,
                _ => false,
            };
            if !right {
                wrong.push(format!("{sent} on {host}: expected {expected}, got {} {seen:?}", answer.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_audit_and_the_policy_see_the_text_that_went_upstream() {
    let gate = Gate::start();
    for row in table("The path").iter().filter(|row| row[1] != "400") {
        let (answer, seen) = gate.reached(&format!("GET {} HTTP/1.1\r\nHost: a\r\n", row[0]));
        let path = seen.expect("it is forwarded").target.split('?').next().unwrap_or_default().to_owned();
        let event = gate.node.event(answer.header("x-request-id").expect("an id"));
        assert_eq!(event["path"], path.as_str(), "{}", row[0]);
    }
}

#[test]
fn a_path_that_is_not_canonical_is_in_the_audit_without_its_text() {
    let gate = Gate::start();
    for path in ["/a/../b", "/a%2Fb", "/100%25", "/a%252fb"] {
        let (answer, seen) = gate.reached(&format!("GET {path} HTTP/1.1\r\nHost: plain.example\r\n"));
        assert!(is_problem(&answer, 400, "not-canonical") && seen.is_none(), "{path}: {answer:?}");
        let event = gate.node.event(answer.header("x-request-id").expect("an id"));
        assert_eq!(event["path"], Value::Null, "{path}");
        assert_eq!((&event["decision"], &event["reason"]), (&"deny".into(), &"not-canonical".into()));
        assert_eq!((&event["kind"], &event["status"]), (&"access".into(), &400.into()));
    }
}

#[test]
fn an_encoded_slash_is_refused_on_own_endpoints_and_where_nothing_is_routed() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with()
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"one\"\npath = \"/one\"\nmethods = [\"POST\"]\nupstream = \"main\"\n",
            upstream.url()
        ))
        .start();
    for path in ["/auth%2Flogin", "/auth/log%2Fin", "/auth/account%25", "/nowhere%2F1", "/one%2F", "/one%25"]
    {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.host());
        let answer = Raw::ask(node.address(), request);
        assert!(is_problem(&answer, 400, "not-canonical"), "{path}: {answer:?}");
    }
    assert_eq!(upstream.recorded().len(), 0);
}

#[test]
fn every_form_of_target_is_answered_as_the_document_says() {
    let gate = Gate::start();
    for row in table("The target's form") {
        let target = row[0].replace("HOST", "gate.example:8080");
        let (answer, seen) = gate.reached(&format!("{target} HTTP/1.1\r\nHost: gate.example:8080\r\n"));
        assert_eq!(answer.status.to_string(), row[1], "{target}: {answer:?}");
        assert_eq!(seen.is_some(), row[1] == "200", "{target}: {seen:?}");
        assert!(answer.status != 400 || is_refused(&answer), "{target}: {answer:?}");
    }
}

#[test]
fn every_host_of_the_document_is_read_as_it_says() {
    let gate = Gate::start();
    let mut wrong = Vec::new();
    for row in table("The host") {
        let (answer, seen) = gate.reached(&format!("GET /a HTTP/1.1\r\nHost: {}\r\n", row[0]));
        let right = match (row[1].as_str(), &seen) {
            ("400", None) => is_refused(&answer),
            (host, Some(seen)) => {
                answer.status == 200 && seen.header("host") == host && seen.header("x-forwarded-host") == host
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{:?}: expected {}, got {} {seen:?}", row[0], row[1], answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_host_is_required_once() {
    let gate = Gate::start();
    for (head, why) in [
        ("GET /a HTTP/1.1\r\n", "none"),
        ("GET /a HTTP/1.0\r\n", "none in HTTP/1.0"),
        ("GET http://a/a HTTP/1.1\r\n", "none beside the absolute form"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "two equal ones"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nhost: b\r\n", "two"),
        ("GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\nHOST:\r\n", "an empty one more"),
    ] {
        let (answer, seen) = gate.reached(head);
        assert!(is_problem(&answer, 400, "not-canonical"), "{why}: {answer:?}");
        assert!(seen.is_none(), "{why}");
        assert_eq!(answer.header("connection"), Some("close"), "{why}");
    }
    let (answer, seen) = gate.reached("GET /a HTTP/1.0\r\nHost: a\r\n");
    assert_eq!((answer.status, seen.is_some()), (200, true), "HTTP/1.0 with a host");
}

/// `authority` and `host` as HTTP/2 sends them, on a plain connection.
#[test]
fn the_authority_of_http_2_equals_its_host() {
    let gate = Gate::start();
    let address = gate.node.address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let ask = |authority: &str, host: Option<&str>| {
        let mut request = http::Request::get(format!("http://{authority}/a"));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).expect("a request");
        runtime.block_on(async move {
            let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, io).await.expect("HTTP/2");
            let running = tokio::spawn(connection);
            let status = sender.send_request(request).await.map(|answer| answer.status().as_u16());
            running.abort();
            status.unwrap_or(0)
        })
    };
    assert_eq!(ask("gate.example", None), 200);
    assert_eq!(ask("gate.example", Some("GATE.example.:80")), 200);
    let before = gate.upstream.recorded().len();
    assert_eq!(ask("gate.example", Some("other.example")), 400);
    assert_eq!(ask("gate.example", Some("gate.example:8080")), 400);
    assert_eq!(gate.upstream.recorded().len(), before);
}

/// Deterministic: the same targets at each run. `PORTCULLIS_CASES` says how many.
#[test]
fn random_targets_reach_the_upstream_as_the_policy_saw_them_or_not_at_all() {
    const PIECES: &[&str] = &[
        "/", "/", "/", "a", "b", ".", "..", ";", "%2e", "%2E", "%2f", "%5c", "%25", "%00", "%c3%a9", "%61",
        "%", "\\", "*", "//", "?", "#", "%252e", "%zz", "é", ":", "@", "&", "=", "+", "~", "%7e", "%3b",
        "%20", "|",
    ];
    let cases = cases(1_500);
    let gate = Gate::start();
    let mut random = Random::new(0);
    let mut connection = Raw::connect(gate.node.address());
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..cases {
        let target: String = (0..=random.below(8)).map(|_| random.pick(PIECES)).collect();
        let host = random.pick(&["plain.example", "opted.example"]);
        let before = gate.upstream.recorded().len();
        if !connection.try_send(format!("GET /{target} HTTP/1.1\r\nHost: {host}\r\n\r\n")) {
            connection = Raw::connect(gate.node.address());
            connection.send(format!("GET /{target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
        let answer = connection.try_answer();
        let closed = answer.as_ref().is_none_or(|answer| {
            answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
        });
        if closed {
            connection = Raw::connect(gate.node.address());
        }
        let answer = answer.expect("an answer");
        let seen = gate.upstream.recorded().get(before).cloned();
        match (answer.status, seen) {
            (200, Some(seen)) => {
                let path = seen.target.split('?').next().unwrap_or_default().to_owned();
                let decoded: Vec<u8> = percent_encoding::percent_decode_str(&path).collect();
                let decoded = String::from_utf8(decoded).expect("UTF-8");
                assert!(!decoded.contains("//") && !decoded.contains('\\'), "{target}: {path}");
                let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
                assert!(!decoded.split('/').any(dots), "{target}: {path}");
                if allowed % 50 == 0 {
                    let event = gate.node.event(answer.header("x-request-id").expect("an id"));
                    assert_eq!(event["path"], path.as_str(), "{target}");
                }
                allowed += 1;
            }
            (400, None) if is_refused(&answer) => refused += 1,
            (status, seen) => panic!("{target} on {host}: {status}, {seen:?}"),
        }
    }
    assert!(allowed > cases / 20 && refused > cases / 4, "{allowed} allowed, {refused} refused");
}

#[test]
fn malformed_requests_are_counted() {
    let gate = Gate::start();
    let count = || {
        let metrics = crate::support::client().get(gate.node.admin("/metrics")).send().expect("an answer");
        let text = metrics.text().expect("text");
        let line = text.lines().find(|line| line.starts_with("portcullis_malformed_requests_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("the series")
    };
    let before = count();
    for bytes in ["GET  / HTTP/1.1\r\n\r\n", "rubbish\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\n"] {
        Raw::exchange(gate.node.address(), bytes);
    }
    eventually("the three are counted", || (count() == before + 3).then_some(()));
}
