//! Other proxies ask, and get the gateway's own verdict: every door against the proxy itself, request by request.

use std::net::IpAddr;

use serde_json::Value;

use crate::support::{Answer, Builder, Node, Raw, Reply, Upstream, client, client_builder, eventually};

const HOST: &str = "app.localhost";

fn node(callers: &str) -> Builder {
    Node::with().config(&format!("[forward_auth]\ncallers = [{callers}]\n"))
}

/// Both ways to the same application: through the gateway, and as routes that only doors ask about.
fn routes(upstream: &Upstream) -> String {
    format!(
        "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
         [[route]]\nname = \"app\"\nhosts = [\"{HOST}\"]\npath = \"/{{rest*}}\"\nupstream = \"main\"\n\
         [[route]]\nname = \"tokens\"\nhosts = [\"{HOST}\"]\npath = \"/api/{{rest*}}\"\nupstream = \"main\"\n\
         authenticate = [\"bearer\"]\nmethods = [\"GET\", \"PUT\"]\n\
         [[route]]\nname = \"open\"\nhosts = [\"{HOST}\"]\npath = \"/open/{{rest*}}\"\nupstream = \"main\"\n\
         authenticate = [\"bearer\", \"none\"]\n\
         [[route]]\nname = \"strong\"\nhosts = [\"{HOST}\"]\npath = \"/strong\"\nupstream = \"main\"\n\
         require_acr = \"urn:portcullis:acr:2\"\n\
         [[route]]\nname = \"slashes\"\nhosts = [\"{HOST}\"]\npath = \"/slashes/{{rest*}}\"\nupstream = \"main\"\n\
         allow_encoded = [\"slash\"]\n",
        upstream.url()
    )
}

/// One request of an original client.
#[derive(Clone, Copy, Debug)]
struct Original<'a> {
    method: &'a str,
    host: &'a str,
    path: &'a str,
    headers: &'a str,
}

impl Original<'_> {
    fn through_the_gateway(&self, node: &Node) -> Answer {
        let Self { method, host, path, headers } = self;
        Raw::ask(
            node.address(),
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"),
        )
    }

    fn through(&self, node: &Node, door: &str) -> Answer {
        let Self { method, host, path, headers } = self;
        let (asked, own) = match door {
            "nginx" => (
                "GET /auth/verify/nginx".to_owned(),
                format!(
                    "host: {HOST}\r\nx-original-method: {method}\r\nx-original-url: http://{host}{path}\r\n"
                ),
            ),
            "forward" => (
                "GET /auth/verify/forward".to_owned(),
                format!(
                    "host: {HOST}\r\nx-forwarded-method: {method}\r\nx-forwarded-proto: http\r\n\
                     x-forwarded-host: {host}\r\nx-forwarded-uri: {path}\r\n"
                ),
            ),
            _ => (
                format!("{method} /auth/verify/envoy{path}"),
                format!("host: {host}\r\nx-forwarded-proto: http\r\n"),
            ),
        };
        Raw::ask(node.address(), format!("{asked} HTTP/1.1\r\n{own}connection: close\r\n{headers}\r\n"))
    }

    fn as_json(&self, node: &Node) -> Value {
        let mut headers = serde_json::Map::new();
        for (name, value) in self.headers.lines().filter_map(|line| line.split_once(": ")) {
            headers.insert(name.to_owned(), value.into());
        }
        let question = serde_json::json!({"method": self.method, "host": self.host, "path": self.path, "headers": headers});
        let text = question.to_string();
        let answer = Raw::ask(
            node.address(),
            format!(
                "POST /auth/verify HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{text}",
                text.len()
            ),
        );
        assert_eq!(answer.status, 200, "{self:?}: {}", answer.text());
        serde_json::from_str(&answer.text()).expect("JSON")
    }
}

#[test]
fn every_door_gives_the_verdict_of_the_gateway() {
    let upstream = Upstream::start(|_| Reply::ok("through"));
    let node = node("\"127.0.0.1/32\"")
        .config(&routes(&upstream))
        .policy("p, *, /open/*, GET|HEAD, allow\np, reader, /*, GET|HEAD, allow\np, admin, /*, .*, allow")
        .start();
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let (alice, bob) = (bearer(&node.token("alice")), bearer(&node.token("bob")));
    let page = "accept: text/html\r\n";
    let bob_page = format!("{bob}{page}");
    let twice = format!("{bob}{alice}");
    let session = format!("cookie: {}\r\n", node.session("alice"));
    let no = bearer("not.a.token");
    let mut originals = Vec::new();
    for headers in ["", page, &alice, &bob, &bob_page, &no, &session] {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/x/y?z=1"),
            ("DELETE", "/x"),
            ("POST", "/x"),
            ("HEAD", "/x"),
            ("GET", "/api/x"),
            ("DELETE", "/api/x"),
            ("PUT", "/api/x"),
            ("GET", "/open/x"),
            ("POST", "/open/x"),
            ("GET", "/strong"),
            ("OPTIONS", "/x"),
            ("BREW", "/x"),
        ] {
            originals.push(Original { method, host: HOST, path, headers });
        }
    }
    originals.push(Original { method: "GET", host: HOST, path: "/x", headers: &twice });
    for path in [
        "/x/../y",
        "/x/%2e%2e/y",
        "/x//y",
        "//x",
        "/x/./y",
        "/x%2Fy",
        "/slashes/a%2Fb",
        "/slashes/a%2fb",
        "/x%5cy",
        "/x\\y",
        "/x%00",
        "/x%",
        "/x%zz",
        "/x%252e",
        "/x/..;/y",
        "/x;a=b/y",
        "/%78",
        "/x%20y",
        "/x%c3%a9",
        "/x%C3%A9",
        "/x%FF",
        "/x?y=../../%2F",
        "/x?",
        "/x/",
        "/x*y",
        "/api%2Fx",
        "/api/../x",
    ] {
        originals.push(Original { method: "GET", host: HOST, path, headers: &alice });
    }
    for host in ["APP.localhost", "app.localhost.", "app.localhost:80", "other.localhost"] {
        originals.push(Original { method: "GET", host, path: "/x", headers: &alice });
    }
    let mut allowed = 0;
    for original in &originals {
        let direct = original.through_the_gateway(&node);
        // What the gateway cleans, a door refuses: the other proxy would send its own text on.
        let sent_as_it_came = direct.status != 200 || upstream.last().target == original.path;
        let expected = if sent_as_it_came { direct.status } else { 400 };
        for door in ["nginx", "forward", "envoy"] {
            // Envoy's check comes to the host that it asks about, and for an unknown host that is no endpoint.
            if door == "envoy" && original.host == "other.localhost" {
                continue;
            }
            let said = original.through(&node, door);
            let wanted = match (door, expected) {
                ("nginx", 401 | 302) => 401,
                ("nginx", 400..=499) => 403,
                (_, 402..=499) => 403,
                (_, same) => same,
            };
            // HEAD and methods that hyper reads otherwise come to envoy's door as they are.
            assert_eq!(said.status, wanted, "{door} {original:?} {}: {said:?}", direct.status);
            if expected == 302 {
                assert_eq!(said.header("location"), direct.header("location"), "{door} {original:?}");
            }
            if expected == 200 {
                for name in
                    ["portcullis-user", "portcullis-roles", "portcullis-email", "portcullis-assertion"]
                {
                    let own = said.header(name);
                    assert!(own.is_some(), "{door} {original:?}: no {name}");
                    if name != "portcullis-assertion" {
                        assert_eq!(own, Some(upstream.last().header(name)), "{door} {original:?}");
                    }
                }
            } else {
                assert_eq!(said.header("portcullis-user"), None, "{door} {original:?}");
                // A path that no reading of Envoy's check has is refused before anyone knows that it is one.
                let unread = door == "envoy" && said.status == 400;
                assert!(unread || said.header("portcullis-reason").is_some(), "{door} {original:?}");
            }
        }
        if original.headers == twice {
            continue;
        }
        let said = original.as_json(&node);
        let decision = if expected == 200 { "allow" } else { "deny" };
        let status = if expected == 302 { 401 } else { expected };
        let forbidden_page = said["status"] == 403 && expected == 302;
        assert_eq!(said["decision"], decision, "{original:?}: {said}");
        assert!(said["status"] == status || forbidden_page, "{original:?} {expected}: {said}");
        allowed += usize::from(expected == 200);
    }
    assert!(allowed > 20, "the table allows something ({allowed})");
}

#[test]
fn only_listed_callers_are_answered() {
    let node = node("\"127.0.0.2/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let question =
        Original { method: "GET", host: HOST, path: "/x", headers: "x-forwarded-for: 127.0.0.2\r\n" };
    for door in ["nginx", "forward", "envoy"] {
        assert_eq!(question.through(&node, door).status, 404, "{door}");
    }
    eventually("the log names the setting", || node.log().contains("[forward_auth] callers").then_some(()));
    let listed = client_builder().local_address("127.0.0.2".parse::<IpAddr>().expect("an address")).build();
    let answer = listed
        .expect("a client")
        .get(format!("http://127.0.0.1:{}/auth/verify/nginx", node.port()))
        .header("host", HOST)
        .header("x-original-method", "GET")
        .header("x-original-url", format!("http://{HOST}/x"))
        .send()
        .expect("an answer");
    assert_eq!(answer.status(), 401);
}

/// A proxy has its own name for this gateway: Traefik sends the host of the address that it was given.
#[test]
fn callers_are_answered_under_whatever_name_they_have_for_the_gateway() {
    let routes = routes(&Upstream::start(|_| Reply::ok("")));
    let ask = |node: &Node, path: &str, host: &str| {
        let request = client().post(node.url(path)).header("host", host).bearer_auth(node.token("alice"));
        let request = request.header("x-forwarded-method", "GET").header("x-forwarded-uri", "/x");
        let request = request.header("x-forwarded-proto", "http").header("x-forwarded-host", HOST);
        request
            .json(&serde_json::json!({"method": "GET", "host": HOST, "path": "/open/x"}))
            .send()
            .expect("an answer")
    };
    let listed = node("\"127.0.0.1/32\"").config(&routes).start();
    for path in ["/auth/verify", "/auth/verify/forward"] {
        assert_eq!(ask(&listed, path, "portcullis.internal:8080").status(), 200, "{path}");
    }
    for path in ["/auth/login", "/auth/verifying", "/auth/verify%2Fforward"] {
        assert_ne!(ask(&listed, path, "portcullis.internal:8080").status(), 200, "{path}");
    }
    let other = node("\"127.0.0.2/32\"").config(&routes).start();
    for path in ["/auth/verify", "/auth/verify/forward"] {
        assert_eq!(ask(&other, path, "portcullis.internal:8080").status(), 404, "{path}");
    }
}

#[test]
fn an_original_request_that_is_not_there_once_is_refused() {
    let node = node("\"127.0.0.1/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let alice = node.token("alice");
    let ask = |path: &str, headers: &str| {
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\nauthorization: Bearer {alice}\r\n"
        );
        Raw::ask(node.address(), format!("{head}{headers}\r\n")).status
    };
    let url = format!("x-original-url: http://{HOST}/x\r\n");
    let method = "x-original-method: GET\r\n";
    assert_eq!(ask("/auth/verify/nginx", &format!("{method}{url}")), 200);
    for headers in [
        String::new(),
        method.to_owned(),
        url.clone(),
        format!("{method}{url}{url}"),
        format!("{method}{method}{url}"),
        format!("{method}x-original-url: /x\r\n"),
        format!("{method}x-original-url: ftp://{HOST}/x\r\n"),
        format!("{method}x-original-url: http://{HOST}\r\n"),
        format!("{method}x-original-url: http://a@{HOST}/x\r\n"),
        format!("{method}x-original-url: http://{HOST}/x#y\r\n"),
        format!("{method}x-original-url: http:///x\r\n"),
        format!("x-original-method: G T\r\n{url}"),
    ] {
        assert_eq!(ask("/auth/verify/nginx", &headers), 403, "{headers:?}");
    }
    let all = [
        "x-forwarded-method: GET\r\n".to_owned(),
        "x-forwarded-proto: http\r\n".to_owned(),
        format!("x-forwarded-host: {HOST}\r\n"),
        "x-forwarded-uri: /x\r\n".to_owned(),
    ];
    assert_eq!(ask("/auth/verify/forward", &all.concat()), 200);
    for left_out in 0..all.len() {
        let rest: String =
            all.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, line)| line.as_str()).collect();
        assert_eq!(ask("/auth/verify/forward", &rest), 400, "without {}", all[left_out]);
        assert_eq!(
            ask("/auth/verify/forward", &(all.concat() + all[left_out].as_str())),
            400,
            "twice {}",
            all[left_out]
        );
    }
}

#[test]
fn a_question_that_cannot_be_read_is_a_decision_too() {
    let node = node("\"127.0.0.1/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let ask = |path: &str, kind: &str, body: &str| {
        client()
            .post(node.url(path))
            .header("content-type", kind)
            .body(body.to_owned())
            .send()
            .expect("an answer")
    };
    let large = "x".repeat(70_000);
    for (kind, body, status, reason) in [
        ("application/json", "{", 400, "bad-request"),
        ("application/json", r#"{"method":"GET"}"#, 400, "bad-request"),
        ("application/json", large.as_str(), 413, "too-large"),
        ("text/plain", "{}", 415, "unsupported-media-type"),
    ] {
        let answer = ask("/auth/verify", kind, body);
        assert_eq!(answer.status().as_u16(), status, "{body:.20}");
        let event = node.event(answer.headers()["x-request-id"].to_str().expect("text"));
        assert_eq!((&event["decision"], &event["reason"]), (&"deny".into(), &reason.into()));
        assert_eq!((&event["status"], &event["path"]), (&status.into(), &Value::Null));
    }
    let answer = client().get(node.url("/auth/verify/nginx")).send().expect("an answer");
    assert_eq!(answer.status(), 403);
    assert_eq!(node.event(answer.headers()["x-request-id"].to_str().expect("text"))["decision"], "deny");
}

#[test]
fn observing_lets_pass_says_the_verdict_and_records_it_as_shadow() {
    let node = node("\"127.0.0.1/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let bob = node.token("bob");
    for (method, path, would) in [("GET", "/x", "allow"), ("DELETE", "/x", "deny"), ("GET", "/x//y", "deny")]
    {
        let head = format!(
            "GET /auth/verify/nginx?mode=observe HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\
             authorization: Bearer {bob}\r\nx-original-method: {method}\r\nx-original-url: http://{HOST}{path}\r\n\r\n"
        );
        let answer = Raw::ask(node.address(), head);
        assert_eq!((answer.status, answer.header("portcullis-decision")), (200, Some(would)));
        assert_eq!(answer.header("portcullis-user"), None);
        let event = node.event(answer.header("x-request-id").expect("an id"));
        assert_eq!((&event["shadow"], &event["status"]), (&Value::from(would), &Value::from(200)));
    }
}

#[test]
fn the_audit_has_the_browsers_address_and_the_original_request() {
    let node = node("\"127.0.0.1/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let headers = "x-forwarded-for: 203.0.113.9, 192.0.2.7\r\nuser-agent: browser\r\n";
    let question = Original { method: "DELETE", host: HOST, path: "/api/x?secret=1", headers };
    let answer = question.through(&node, "nginx");
    let event = node.event(answer.header("x-request-id").expect("an id"));
    assert_eq!(event["client"], serde_json::json!({"ip": "192.0.2.7", "user_agent": "browser"}));
    assert_eq!(
        (&event["method"], &event["host"], &event["path"]),
        (&"DELETE".into(), &HOST.into(), &"/api/x".into())
    );
}

#[test]
fn a_refusal_says_what_each_caller_needs() {
    let node = node("\"127.0.0.1/32\"").config(&routes(&Upstream::start(|_| Reply::ok("")))).start();
    let bob = format!("authorization: Bearer {}\r\n", node.token("bob"));
    let ask = |method, path, headers| Original { method, host: HOST, path, headers };
    // nginx decides itself whom it sends to the login page; the others pass our answer on.
    let refused = ask("POST", "/x", "").through(&node, "nginx");
    let login = refused.header("location").expect("the login page");
    assert_eq!(refused.status, 401);
    assert!(login.starts_with(&node.url("/auth/login?return_to=")), "{login}");
    assert_eq!(ask("GET", "/api/x", "").through(&node, "nginx").header("location"), None, "tokens alone");
    for door in ["forward", "envoy"] {
        let refused = ask("GET", "/x", "").through(&node, door);
        assert_eq!((refused.status, refused.header("location")), (401, None), "{door}");
    }
    let said = ask("DELETE", "/x", &bob).as_json(&node);
    assert_eq!((&said["status"], &said["reason"]), (&403.into(), &"forbidden".into()));
    assert_eq!((&said["subject"], &said["roles"]), (&"bob".into(), &serde_json::json!(["reader"])));
    assert_eq!(said["headers"], serde_json::json!({}));
    // Envoy's check has the scheme only where it is configured.
    for (headers, status) in [("", 200), ("x-forwarded-proto: ftp\r\n", 400)] {
        let head = format!(
            "GET /auth/verify/envoy/x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{bob}{headers}\r\n"
        );
        assert_eq!(Raw::ask(node.address(), head).status, status, "{headers}");
    }
}
