//! The decision API: the verdict is the gateway's own, callers need their scope, every decision is an event, and nothing
//! that a caller sends is more than an answer or a refusal.

use std::process::Command;

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{Builder, Node, Raw, Reply, Upstream, client};

const SECRET: &str = "a-secret-of-some-length";
const ROWS: &str = "p, reader, /orders, GET|HEAD, allow\np, reader, /orders/*, GET|HEAD, allow\n\
                    p, admin, /*, .*, allow\np, reader, document:handbook, read, allow";

fn gate() -> Builder {
    let client = |id: &str, scopes: &str| {
        format!(
            "[[client]]\nid = \"{id}\"\nsecret = \"{SECRET}\"\ngrant_types = [\"client_credentials\"]\n\
             scopes = [{scopes}]\n"
        )
    };
    let (pep, other) = (client("pep", "\"authzen\""), client("other", "\"orders\""));
    Node::with().policy(ROWS).config(&format!("[authzen]\nenabled = true\n{pep}{other}"))
}

fn token(node: &Node, id: &str) -> String {
    let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", SECRET)];
    let answer = client().post(node.url("/auth/token")).form(&form).send().expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned()
}

struct Pep<'a> {
    node: &'a Node,
    token: String,
}

impl<'a> Pep<'a> {
    fn of(node: &'a Node) -> Self {
        Self { node, token: token(node, "pep") }
    }

    fn send(&self, path: &str, body: &Value) -> Response {
        let url = self.node.url(&format!("/access/v1/{path}"));
        client().post(url).bearer_auth(&self.token).json(body).send().expect("an answer")
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let answer = self.send(path, body);
        assert_eq!(answer.status(), 200, "{body}");
        answer.json().expect("JSON")
    }

    fn refused(&self, path: &str, body: &Value) {
        let answer = self.send(path, body);
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.json::<Value>().expect("JSON")["type"], "urn:portcullis:problem:bad-request");
    }

    fn decides(&self, body: &Value) -> bool {
        self.ask("evaluation", body)["decision"].as_bool().expect("a decision")
    }
}

fn question(subject: &str, action: &str, path: &str) -> Value {
    json!({
        "subject": {"type": "identity", "id": subject}, "action": {"name": action},
        "resource": {"type": "route", "id": path}
    })
}

fn id(answer: &Response) -> String {
    answer.headers()["x-request-id"].to_str().expect("text").to_owned()
}

#[test]
fn a_decision_is_what_the_gateway_would_say_of_a_request() {
    let upstream = Upstream::start(|_| Reply::ok("through"));
    let node = gate().upstream(&upstream.url()).start();
    let pep = Pep::of(&node);
    for name in ["alice", "bob"] {
        let own = node.token(name);
        for (method, path) in [
            ("GET", "/orders"),
            ("GET", "/orders/7"),
            ("DELETE", "/orders/7"),
            ("GET", "/admin"),
            ("GET", "/orders/7?next=/admin"),
            ("POST", "/"),
        ] {
            let through = node.ask(method, path, &own).status().as_u16();
            let decision = pep.decides(&question(name, method, path));
            assert_eq!(decision, through == 200, "{name} {method} {path}: {through}");
        }
    }
    assert!(!pep.decides(&question("nobody", "GET", "/orders")));
    assert!(!pep.decides(&question("anonymous", "GET", "/orders")));
    let handbook = json!({
        "subject": {"type": "identity", "id": "bob"}, "action": {"name": "read", "more": 1},
        "resource": {"type": "document", "id": "handbook", "properties": {"a": 1}}, "unknown": [1, 2],
    });
    assert!(pep.decides(&handbook));
}

#[test]
fn properties_are_roles_and_attributes_and_a_role_is_nobody() {
    let node = gate().start();
    let pep = Pep::of(&node);
    let with = |id: &str, properties: Value| {
        let mut body = question(id, "DELETE", "/orders/7");
        body["subject"]["properties"] = properties;
        pep.decides(&body)
    };
    assert!(with("corp:1", json!({"roles": ["admin"]})));
    assert!(with("alice", json!({})));
    assert!(!with("alice", json!({"roles": ["reader"]})), "what the caller says replaces what is known");
    assert!(!with("bob", json!({})));
    assert!(!with("admin", json!({})), "a role's name has the role's rows, and is nobody");
    assert!(!with("reader", json!({})));
    let client = json!({
        "subject": {"type": "client", "id": "pep", "properties": {"roles": ["reader"]}},
        "action": {"name": "GET"}, "resource": {"type": "route", "id": "/orders"}
    });
    let answer = pep.send("evaluation", &client);
    let event = node.event(&id(&answer));
    assert_eq!(event["principal"]["name"], "client:pep");
    assert_eq!(answer.json::<Value>().expect("JSON"), json!({"decision": true}));
}

#[test]
fn a_disabled_account_may_do_nothing() {
    let node = gate().start();
    let (code, out, err) = node.cli_with(
        &["user", "add", "carol", "--role", "admin", "--password-stdin"],
        "correct horse battery staple\n",
    );
    assert_eq!(code, 0, "{out}{err}");
    let pep = Pep::of(&node);
    let search = json!({
        "subject": {"type": "identity"}, "action": {"name": "DELETE"},
        "resource": {"type": "route", "id": "/orders/7"}
    });
    let found = |name: &str| {
        let results = pep.ask("search/subject", &search)["results"].clone();
        results.as_array().expect("a list").iter().any(|result| result["id"] == name)
    };
    assert!(pep.decides(&question("carol", "DELETE", "/orders/7")) && found("carol"));
    assert_eq!(node.cli(&["user", "disable", "carol"]).0, 0);
    assert!(!pep.decides(&question("carol", "DELETE", "/orders/7")) && !found("carol"));
}

#[test]
fn each_semantic_ends_where_it_should_and_a_wrong_item_is_a_deny() {
    let node = gate().start();
    let pep = Pep::of(&node);
    let body = |actions: &[&str], semantic: Value| {
        let items: Vec<Value> = actions.iter().map(|action| json!({"action": {"name": action}})).collect();
        let mut body = question("bob", "GET", "/orders/7");
        body["evaluations"] = items.into();
        if !semantic.is_null() {
            body["options"] = json!({"evaluations_semantic": semantic});
        }
        body
    };
    let decisions = |body: &Value| -> Vec<bool> {
        let answer = pep.ask("evaluations", body);
        let list = answer["evaluations"].as_array().expect("a list");
        list.iter().map(|item| item["decision"].as_bool().expect("a decision")).collect()
    };
    let three = ["GET", "DELETE", "HEAD"];
    assert_eq!(decisions(&body(&three, Value::Null)), [true, false, true]);
    assert_eq!(decisions(&body(&three, json!("execute_all"))), [true, false, true]);
    assert_eq!(decisions(&body(&three, json!("deny_on_first_deny"))), [true, false]);
    assert_eq!(decisions(&body(&three, json!("permit_on_first_permit"))), [true]);
    assert_eq!(decisions(&body(&["PUT", "GET", "GET"], json!("permit_on_first_permit"))), [false, true]);
    for wrong in [json!("all"), json!(1), json!(null)] {
        let mut asked = body(&three, json!("x"));
        asked["options"]["evaluations_semantic"] = wrong;
        pep.refused("evaluations", &asked);
    }
    let mut mixed = body(&["GET", "GET", "GET", "GET"], Value::Null);
    mixed["evaluations"][1] = json!({"subject": {"type": "identity"}});
    mixed["evaluations"][2] = json!(7);
    mixed["evaluations"][3]["subject"] = json!({"type": "identity", "id": "nobody"});
    let answer = pep.send("evaluations", &mixed);
    let request = id(&answer);
    let list = answer.json::<Value>().expect("JSON")["evaluations"].clone();
    assert_eq!((&list[0], &list[3]), (&json!({"decision": true}), &json!({"decision": false})));
    for wrong in [&list[1], &list[2]] {
        assert_eq!(wrong["decision"], false);
        assert_eq!(wrong["context"]["reason"], "bad-request");
    }
    let events = node.events(&request, "access", 4);
    let of = |event: &Value| (event["decision"].clone(), event["reason"].clone());
    let told: Vec<_> = events.iter().map(of).collect();
    assert_eq!(events.len(), 4);
    for expected in [
        (json!("allow"), json!(null)),
        (json!("deny"), json!("bad-request")),
        (json!("deny"), json!("forbidden")),
    ] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
    // Without items it is one question.
    for none in [json!([]), Value::Null] {
        let mut single = question("bob", "GET", "/orders");
        if !none.is_null() {
            single["evaluations"] = none;
        }
        assert_eq!(pep.ask("evaluations", &single), json!({"decision": true}));
    }
    for list in [json!({}), json!("x"), json!(vec![json!({}); 1001])] {
        let mut wrong = question("bob", "GET", "/orders");
        wrong["evaluations"] = list;
        pep.refused("evaluations", &wrong);
    }
    let mut mistyped = body(&["GET"], Value::Null);
    mistyped["subject"] = json!("bob");
    pep.refused("evaluations", &mistyped);
}

#[test]
fn a_decision_is_one_event_of_the_subject() {
    let node = gate().start();
    let pep = Pep::of(&node);
    let answer = pep.send("evaluation", &question("bob", "GET", "/orders/7?secret=1"));
    let allowed = node.event(&id(&answer));
    assert_eq!(
        json!([allowed["decision"], allowed["reason"], allowed["principal"]["name"], allowed["auth"]]),
        json!(["allow", null, "bob", "authzen"])
    );
    assert_eq!(json!([allowed["method"], allowed["path"]]), json!(["GET", "/orders/7"]));
    assert!(allowed["rule"]["line"].is_u64() && allowed["policy"].is_string());
    assert!(!allowed.to_string().contains("secret"));
    let denied = node.event(&id(&pep.send("evaluation", &question("bob", "can delete", "/orders/7"))));
    assert_eq!(
        json!([denied["decision"], denied["reason"], denied["method"]]),
        json!(["deny", "forbidden", "can delete"])
    );
    // A search, and a call that cannot be read, is the client's own.
    let search =
        json!({"subject": {"type": "identity", "id": "bob"}, "resource": {"type": "route", "id": "/orders"}});
    let searched = node.event(&id(&pep.send("search/action", &search)));
    assert_eq!(
        json!([searched["decision"], searched["principal"]["name"], searched["path"]]),
        json!(["allow", "client:pep", "/access/v1/search/action"])
    );
    let unread = node.event(&id(&pep.send("evaluation", &json!({}))));
    assert_eq!(
        json!([unread["decision"], unread["reason"], unread["principal"]["name"]]),
        json!(["deny", "bad-request", "client:pep"])
    );
}

#[test]
fn callers_need_a_client_with_the_scope() {
    let node = gate().start();
    let body = question("bob", "GET", "/orders");
    let (code, scoped, err) = node.cli(&["token", "issue", "alice", "--scope", "authzen"]);
    assert_eq!(code, 0, "{err}");
    let ask = |token: &str| {
        let request = client().post(node.url("/access/v1/evaluation")).json(&body);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        request.send().expect("an answer")
    };
    for (token, status, reason) in [
        (String::new(), 401, "unauthenticated"),
        ("not.a.token".to_owned(), 401, "invalid-token"),
        (token(&node, "other"), 403, "forbidden"),
        (node.token("alice"), 403, "forbidden"),
        (scoped.trim().to_owned(), 403, "forbidden"),
    ] {
        let answer = ask(&token);
        assert_eq!(answer.status(), status, "{token}");
        let challenge = answer.headers()["www-authenticate"].to_str().expect("text").to_owned();
        assert_eq!(challenge.contains("insufficient_scope"), status == 403, "{challenge}");
        let event = node.event(&id(&answer));
        assert_eq!((&event["decision"], &event["reason"]), (&json!("deny"), &json!(reason)));
        let kind = answer.json::<Value>().expect("JSON")["type"].clone();
        assert_eq!(kind, format!("urn:portcullis:problem:{reason}"));
    }
    let basic = client()
        .post(node.url("/access/v1/evaluation"))
        .basic_auth("pep", Some(SECRET))
        .json(&body)
        .send()
        .expect("an answer");
    assert_eq!(basic.status(), 401);
    let pep = Pep::of(&node);
    assert!(pep.decides(&body));
    let withdrawn = node.cli(&["token", "revoke", &pep.token]);
    assert_eq!(withdrawn.0, 0, "{withdrawn:?}");
    assert_eq!(pep.send("evaluation", &body).status(), 401, "a revoked token");
}

#[test]
fn hostile_questions_get_an_answer_or_a_refusal() {
    let node = gate().start();
    let pep = Pep::of(&node);
    let good = question("bob", "GET", "/orders");
    for (pointer, values) in [
        ("/subject", vec![json!(null), json!("bob"), json!([]), json!({}), json!({"type": "identity"})]),
        ("/subject/id", vec![json!(1), json!(""), json!("a\nb"), json!("x".repeat(5000))]),
        ("/subject/type", vec![json!(null), json!(""), json!("\u{1b}[31m")]),
        (
            "/action",
            vec![json!("GET"), json!({}), json!({"name": 1}), json!({"name": "GET", "properties": 1})],
        ),
        ("/resource", vec![json!("/orders"), json!({"type": "route"}), json!({"id": "/orders"})]),
    ] {
        for value in values {
            let mut body = good.clone();
            *body.pointer_mut(pointer).expect("a member") = value;
            pep.refused("evaluation", &body);
        }
    }
    for context in [json!(1), json!({"ip": "10.0.0"}), json!({"host": "a/b"}), json!({"secure": 1})] {
        let mut body = good.clone();
        body["context"] = context;
        pep.refused("evaluation", &body);
    }
    // Two readings of a path are a deny, for whoever it is.
    for path in [
        "/public/../orders",
        "/orders/%2e%2e/admin",
        "/orders%2F7",
        "//orders",
        "/orders#x",
        "orders",
        "/é",
        "/a%00",
        "http://elsewhere/orders",
        "*",
    ] {
        let answer = pep.send("evaluation", &question("alice", "GET", path));
        assert_eq!(answer.status(), 200, "{path}");
        let event = node.event(&id(&answer));
        assert_eq!((&event["reason"], &event["path"]), (&json!("not-canonical"), &Value::Null), "{path}");
        let told = answer.json::<Value>().expect("JSON");
        assert_eq!(told, json!({"decision": false, "context": {"reason": "not-canonical"}}), "{path}");
    }
    // Names that mean something to patterns and interpreters.
    for name in ["*", ".*", "r.sub", "bob, admin", "\"", "'; true", "ａdmin", "client:", ":"] {
        assert!(!pep.decides(&question(name, "DELETE", "/orders/7")), "{name}");
        assert!(!pep.decides(&question("bob", name, "/orders/7")), "{name}");
    }
    let raw = |kind: &str, body: &str| {
        let head = format!(
            "POST /access/v1/evaluation HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             {kind}content-length: {}\r\n\r\n{body}",
            node.host(),
            pep.token,
            body.len()
        );
        Raw::ask(node.address(), head).status
    };
    let text = good.to_string();
    let json = "content-type: application/json\r\n";
    assert_eq!(raw("content-type: application/json; charset=utf-8\r\n", &text), 200);
    for (kind, body) in [
        ("", text.as_str()),
        ("content-type: text/plain\r\n", &text),
        ("content-type: application/x-www-form-urlencoded\r\n", &text),
        (json, ""),
        (json, "{"),
        (json, "null"),
        (json, "[]"),
        (json, "\"x\""),
        (json, &text.replacen('{', "{\"subject\":{\"type\":\"identity\",\"id\":\"alice\"},", 1)),
        (json, &format!("{}{}", "[".repeat(20_000), "]".repeat(20_000))),
        (json, &format!("{{\"context\":{}1{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000))),
    ] {
        assert_eq!(raw(kind, body), 400, "{kind}{}", &body[..body.len().min(60)]);
    }
    let mut long = good.clone();
    long["context"] = json!({"more": "x".repeat(70_000)});
    assert_eq!(pep.send("evaluation", &long).status(), 413);
    let get = client().get(node.url("/access/v1/evaluation")).send().expect("an answer");
    assert_eq!((get.status().as_u16(), &get.headers()["allow"]), (405, &"POST".parse().expect("a value")));
    assert_eq!(client().get(node.url("/access/v1/other")).send().expect("an answer").status(), 404);
    assert!(pep.decides(&good));
}

#[test]
fn the_callers_request_id_comes_back() {
    let node = gate().start();
    let pep = Pep::of(&node);
    for (body, status) in [(question("bob", "GET", "/orders"), 200), (json!({}), 400)] {
        let answer = client()
            .post(node.url("/access/v1/evaluation"))
            .bearer_auth(&pep.token)
            .header("X-Request-ID", format!("mine-{status}"))
            .json(&body)
            .send()
            .expect("an answer");
        assert_eq!((answer.status().as_u16(), id(&answer)), (status, format!("mine-{status}")));
        let events = node.audit(&["--since", "1h"]);
        let own = events.iter().filter(|event| event["client_request_id"] == format!("mine-{status}"));
        assert_eq!(own.count(), 1);
    }
    assert_ne!(id(&pep.send("evaluation", &question("bob", "GET", "/orders"))), "");
}

#[test]
fn every_search_result_is_a_decision_that_allows_and_pages_join() {
    let mut builder = gate().account("alice", &["admin"]);
    for at in 0..23 {
        builder =
            builder.account(&format!("user-{at:02}"), &[if at % 2 == 0 { "reader" } else { "nothing" }]);
    }
    let node = builder.policy("p, admin, /papers/1, GET, allow\ng, corp:7, reader").start();
    let pep = Pep::of(&node);
    let resource = json!({"type": "route", "id": "/orders"});
    let mut search =
        json!({"subject": {"type": "identity"}, "action": {"name": "GET"}, "resource": resource});
    let whole = pep.ask("search/subject", &search);
    let names: Vec<String> = whole["results"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|result| result["id"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(whole["page"], json!({"next_token": "", "count": 14}));
    assert!(names.contains(&"corp:7".to_owned()) && names.contains(&"user-00".to_owned()), "{names:?}");
    for name in &names {
        assert!(pep.decides(&question(name, "GET", "/orders")), "{name}");
    }
    for name in ["reader", "user-01", "client:other"] {
        assert!(!names.iter().any(|known| known == name), "{name}");
    }
    let (mut joined, mut pages) = (Vec::new(), 0);
    search["page"] = json!({"limit": 5});
    loop {
        let page = pep.ask("search/subject", &search);
        let results = page["results"].as_array().expect("a list").clone();
        assert!(results.len() <= 5);
        joined.extend(results.iter().map(|result| result["id"].as_str().expect("a name").to_owned()));
        pages += 1;
        match page["page"]["next_token"].as_str().expect("a token") {
            "" => break,
            token => search["page"]["token"] = token.into(),
        }
    }
    assert_eq!((joined, pages), (names, 3));
    for wrong in [json!({"limit": 0}), json!({"limit": "5"}), json!({"token": "AAAA"}), json!([])] {
        search["page"] = wrong;
        pep.refused("search/subject", &search);
    }
    let resources = json!({
        "subject": {"type": "identity", "id": "alice"}, "action": {"name": "GET"}, "resource": {"type": "route"}
    });
    let found = pep.ask("search/resource", &resources)["results"].clone();
    for path in ["/orders", "/papers/1"] {
        assert!(found.as_array().expect("a list").contains(&json!({"type": "route", "id": path})), "{found}");
    }
    for result in found.as_array().expect("a list") {
        assert!(pep.decides(&question("alice", "GET", result["id"].as_str().expect("a path"))), "{result}");
    }
    // What nobody knows is an empty list.
    for (path, body) in [
        (
            "search/subject",
            json!({"subject": {"type": "robot"}, "action": {"name": "GET"}, "resource": resource}),
        ),
        (
            "search/resource",
            json!({"subject": {"type": "identity", "id": "nobody"}, "action": {"name": "GET"},
                "resource": {"type": "route"}}),
        ),
        (
            "search/resource",
            json!({"subject": {"type": "identity", "id": "alice"}, "action": {"name": "GET"},
                "resource": {"type": "planet"}}),
        ),
        (
            "search/action",
            json!({"subject": {"type": "identity", "id": "nobody"}, "resource": {"type": "route", "id": "/orders"}}),
        ),
    ] {
        let answer = pep.ask(path, &body);
        assert_eq!(answer["results"], json!([]), "{path} {body}");
        assert_eq!(answer["page"]["next_token"], "");
    }
    pep.refused("search/subject", &json!({"action": {"name": "GET"}, "resource": resource}));
    pep.refused("search/action", &json!({"resource": resource}));
}

#[test]
fn the_configuration_document_names_what_answers_and_off_is_off() {
    let node = gate().start();
    let document = client().get(node.url("/.well-known/authzen-configuration")).send().expect("an answer");
    assert_eq!(
        (document.status().as_u16(), &document.headers()["content-type"]),
        (200, &"application/json".parse().expect("a value"))
    );
    let document: Value = document.json().expect("JSON");
    assert_eq!(document["policy_decision_point"], node.url("").trim_end_matches('/'));
    assert!(document["capabilities"].is_array());
    let pep = Pep::of(&node);
    for (member, path) in [
        ("access_evaluation_endpoint", "evaluation"),
        ("access_evaluations_endpoint", "evaluations"),
        ("search_subject_endpoint", "search/subject"),
        ("search_resource_endpoint", "search/resource"),
        ("search_action_endpoint", "search/action"),
    ] {
        assert_eq!(document[member], node.url(&format!("/access/v1/{path}")));
        pep.refused(path, &json!({}));
    }
    // Off, the paths are anybody's.
    let upstream = Upstream::start(|_| Reply::ok("through"));
    let node = Node::with().upstream(&upstream.url()).start();
    assert_eq!(node.ask("GET", "/access/v1/evaluation", &node.token("alice")).status(), 200);
    let none = client().get(node.url("/.well-known/authzen-configuration")).send().expect("an answer");
    assert_eq!(none.status(), 404);
    let route = "[[route]]\nname = \"mine\"\npath = \"/access/v1/{rest*}\"\n";
    let (code, _, told) = gate().config(route).refused();
    assert!(code == 2 && told.contains("this gateway's own"), "{told}");
}

/// The shell lines of the guide, each with the JSON that stands below it.
#[test]
fn the_guides_examples_answer_as_they_stand_in_the_text() {
    let page = include_str!("../../docs/authzen.md");
    let blocks: Vec<&str> = page.split("\n```").collect();
    let of = |kind: &str| {
        let kind = kind.to_owned();
        blocks.iter().filter_map(move |block| block.strip_prefix(&format!("{kind}\n")))
    };
    let rows = of("csv").next().expect("rows");
    let config = of("toml").next().expect("a configuration");
    let node = Node::with().policy(rows).config(config).secret_file("pep.secret", SECRET).start();
    let mut lines = of("sh");
    let token = lines.next().expect("the token");
    let mut answers = of("json");
    let mut run = 0;
    for line in lines {
        let expected: Value = serde_json::from_str(answers.next().expect("an answer")).expect("JSON");
        let output = Command::new("sh")
            .args(["-c", &format!("{token}\n{line}")])
            .env("GATE", node.url("").trim_end_matches('/'))
            .env("SECRET", SECRET)
            .output()
            .expect("sh");
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(told, expected, "{line}");
        run += 1;
    }
    assert_eq!((run, answers.next()), (5, None));
}
