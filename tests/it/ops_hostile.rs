//! The operators' listener against what it should not obey; and its OpenAPI document.

use serde_json::{Value, json};

use crate::support::{Node, Raw, client};

fn raw(node: &Node, head: &str, body: &str) -> (u16, Value) {
    let address = node.admin("").trim_start_matches("http://").parse().expect("an address");
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let answer = Raw::ask(address, format!("{head}{length}connection: close\r\n\r\n{body}"));
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

fn kind(answer: &Value) -> &str {
    answer["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

#[test]
fn another_host_is_not_answered_except_for_health() {
    let node = Node::with().start();
    let token = node.admin_token();
    for host in ["evil.example", "localhost.evil.example:9080", "127.0.0.2", "localhost\r\nhost: localhost"] {
        for path in ["/api/v1/users", "/", "/api/v1/openapi.json"] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n");
            let (status, answer) = raw(&node, &head, "");
            assert!(status == 421 || status == 400, "{host} {path}: {status} {answer}");
        }
        if !host.contains('\r') {
            let (status, _) = raw(&node, &format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n"), "");
            assert_eq!(status, 200, "{host}");
        }
    }
    let head = "GET http://evil.example/api/v1/users HTTP/1.1\r\nhost: localhost\r\n";
    let (status, _) = raw(&node, &format!("{head}authorization: Bearer {token}\r\n"), "");
    assert_eq!(status, 421, "the target's own host counts too");
    for host in ["localhost", "127.0.0.1:1", "[::1]:9080", "LOCALHOST:80"] {
        let head = format!("GET /api/v1/users HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n");
        assert_eq!(raw(&node, &head, "").0, 200, "{host}");
    }
}

#[test]
fn every_answer_has_its_request_id_and_health_takes_get_and_head_alone() {
    let node = Node::with().start();
    let ask = |method: &str, path: &str| {
        let request = client().request(method.parse().expect("a method"), node.admin(path));
        request.bearer_auth(node.admin_token()).send().expect("an answer")
    };
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("HEAD", "/metrics", 200),
        ("POST", "/healthz", 405),
        ("DELETE", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/api/v1/users", 200),
        ("GET", "/api/v1/users/nobody", 404),
        ("PUT", "/api/v1/users", 405),
        ("POST", "/api/v1/users", 415),
    ] {
        let answer = ask(method, path);
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let id = header("x-request-id").expect("a request id").to_owned();
        assert_eq!(header("cache-control"), Some("no-store"), "{method} {path}");
        assert_eq!(header("x-content-type-options"), Some("nosniff"), "{method} {path}");
        assert_eq!(header("allow").is_some(), status == 405, "{method} {path}");
        assert_eq!(answer.status(), status, "{method} {path}");
        if status >= 400 {
            let problem: Value = answer.json().expect("JSON");
            assert_eq!(
                (&problem["request_id"], &problem["status"]),
                (&id.into(), &status.into()),
                "{method} {path}"
            );
        }
    }
    let (status, problem) = raw(&node, "GET / HTTP/1.1\r\nhost: evil.example\r\n", "");
    assert!(status == 421 && problem["request_id"].is_string(), "{problem}");
}

#[test]
fn another_sites_change_is_refused_before_anything_else() {
    let node = Node::with().start();
    let post = "POST /api/v1/users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let body = r#"{"name":"mallory"}"#;
    for origin in
        ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n", ""]
    {
        let (status, answer) = raw(&node, &format!("{post}{origin}"), body);
        assert_eq!((status, kind(&answer)), (403, "cross-site"), "{origin}");
    }
    let (status, answer) = raw(&node, &format!("{post}origin: http://localhost\r\n"), body);
    assert_eq!((status, kind(&answer)), (401, "unauthenticated"));
    let (status, _) = raw(&node, &format!("{post}authorization: Bearer {}\r\n", node.admin_token()), body);
    assert_eq!(status, 201);
}

#[test]
fn a_wrong_token_a_wrong_body_and_a_wrong_method_say_what_to_do() {
    let node = Node::with().start();
    let url = node.admin("/api/v1/users");
    for token in ["pa_wrong", "x", "", "a.b.c"] {
        let answer = client().get(&url).bearer_auth(token).send().expect("an answer");
        assert_eq!(answer.status(), 401, "{token}");
        assert!(answer.headers()["www-authenticate"].to_str().expect("text").starts_with("Bearer"));
        assert!(answer.headers().contains_key("x-request-id"));
    }
    let ask = |content_type: &str, body: Vec<u8>| {
        let request =
            client().post(&url).bearer_auth(node.admin_token()).header("content-type", content_type);
        let answer = request.body(body).send().expect("an answer");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let status = answer.status().as_u16();
        let problem: Value = answer.json().expect("JSON");
        (status, problem["detail"].as_str().expect("a detail").to_owned())
    };
    let json = "application/json";
    let (status, detail) = ask("text/plain", br#"{"name":"x"}"#.to_vec());
    assert_eq!((status, detail.contains("application/json")), (415, true), "{detail}");
    let (status, detail) = ask(json, br#"{"name":"x","admin":true}"#.to_vec());
    assert_eq!((status, detail.contains("unknown field `admin`")), (400, true), "{detail}");
    assert_eq!(ask(json, b"{".to_vec()).0, 400);
    assert_eq!(ask(json, br#"{"name":7}"#.to_vec()).0, 400);
    assert_eq!(ask(json, vec![b' '; 100_000]).0, 413);
    assert_eq!(ask(json, br#"{"name":"x","password":"short"}"#.to_vec()).0, 400);
    assert_eq!(ask(json, r#"{"name":"a\u001b[31m"}"#.as_bytes().to_vec()).0, 400);
    assert_eq!(ask(json, br#"{"name":"x","email":"a@b@c"}"#.to_vec()).0, 400);
    assert_eq!(ask(json, br#"{"name":"x","email_verified":true}"#.to_vec()).0, 400);
    let many: serde_json::Map<_, _> = (0..65).map(|n| (format!("k{n}"), json!(n))).collect();
    assert_eq!(ask(json, json!({"name": "x", "attributes": many}).to_string().into_bytes()).0, 400);

    let token = node.admin_token();
    let answer = client().put(&url).bearer_auth(token).send().expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"GET, POST".parse().expect("one"))
    );
    let get = |path: &str| client().get(node.admin(path)).bearer_auth(token).send().expect("an answer");
    assert_eq!(get("/api/v1/nothing").status(), 404);
    assert_eq!(get("/nothing").status(), 404);
    assert_eq!(get("/api/v1/audit?sinec=1").status(), 400);
    assert_eq!(get("/api/v1/audit?decision=maybe").status(), 400);
    assert_eq!(get("/api/v1/audit?limit=-1").status(), 400);
    assert_eq!(get("/api/v1/users/%1b%5B31m").status(), 404);
    let two = format!(
        "GET /api/v1/users HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nauthorization: Bearer {token}\r\n"
    );
    assert_eq!(raw(&node, &two, "").0, 401);
    assert_eq!(node.audit(&[]).iter().filter(|event| event["kind"] == "admin").count(), 0);
    assert_eq!(get("/api/v1/users/x").status(), 404, "nothing of it was added");
}

#[test]
fn control_characters_never_reach_a_terminal() {
    let node = Node::with().start();
    for name in ["a\u{1b}[31mred", "b\u{202e}dlrow", "c\nline"] {
        let (code, out, err) = node.cli(&["user", "show", name]);
        assert_eq!(code, 1, "{out}{err}");
        let hidden = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!out.contains(hidden) && !err.contains(hidden), "{err:?}");
        node.cli(&["session", "revoke", name]);
    }
    let (_, out, _) = node.cli(&["audit", "tail"]);
    assert!(
        out.contains("/api/v1/sessions/") && !out.contains('\u{1b}') && !out.contains('\u{202e}'),
        "{out:?}"
    );
}

#[test]
fn the_served_document_is_the_kept_one_and_every_path_of_it_needs_an_operator() {
    let node = Node::with().start();
    let answer = client().get(node.admin("/api/v1/openapi.json")).bearer_auth(node.admin_token()).send();
    let document: Value = answer.expect("an answer").json().expect("JSON");
    let kept = include_str!("../../docs/openapi.json");
    assert_eq!(document, serde_json::from_str::<Value>(kept).expect("JSON"));
    assert_eq!(document["openapi"], "3.1.0");
    let mut calls = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            let path = path.replace(['{', '}'], "");
            let verb = method.to_ascii_uppercase().parse().expect("a method");
            let request = client().request(verb, node.admin(&path)).header("origin", node.admin(""));
            assert_eq!(request.send().expect("an answer").status(), 401, "{method} {path}");
            calls += 1;
        }
    }
    assert!(calls > 20, "{calls}");
}

#[test]
fn nothing_of_the_operators_is_reachable_through_the_public_listener() {
    let node = Node::with().start();
    for path in ["/api/v1/users", "/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"] {
        let answer = client().get(node.url(path)).bearer_auth(node.admin_token()).send().expect("an answer");
        assert_eq!(answer.status(), 404, "{path}");
    }
}
