//! What an event says, on both stores: every member of every kind, one event for each request, and nothing in it that does
//! not belong there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{Builder, Node, PASSWORD, Redis, Reply, Upstream, client, eventually};

const MEMBERS: [&str; 26] = [
    "auth",
    "client",
    "client_request_id",
    "count",
    "decision",
    "duration_us",
    "epoch",
    "hash",
    "host",
    "id",
    "kind",
    "method",
    "node",
    "path",
    "policy",
    "prev",
    "principal",
    "reason",
    "request_id",
    "route",
    "rule",
    "seq",
    "shadow",
    "status",
    "time",
    "trace_id",
];

fn gate(upstream: &Upstream) -> Builder {
    Node::with()
        .upstream(&upstream.url())
        .config(
            "[forward_auth]\ncallers = [\"127.0.0.1/32\"]\n\
             [[upstream]]\nname = \"dead\"\nservers = [\"http://127.0.0.1:1\"]\n\
             [[route]]\nname = \"dead\"\npath = \"/dead\"\nupstream = \"dead\"\nmethods = [\"GET\"]\n\
             [[route]]\nname = \"reset\"\npath = \"/reset/{token}\"\nupstream = \"main\"\n\
             mask = [\"/reset/{token}\"]\nauthenticate = [\"none\"]\n",
        )
        .policy("p, admin, /*, .*, allow\np, reader, /*, GET|HEAD, allow\np, anonymous, /reset/:token, GET, allow\n")
}

fn settled(node: &Node) -> Vec<Value> {
    eventually("everything is shipped", || {
        let metrics = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
        metrics.contains("portcullis_audit_pending 0").then_some(())
    });
    let (code, out, errors) = node.cli(&["audit", "export"]);
    assert_eq!(code, 0, "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

/// Sends a request; its id, and the answer's status.
fn ask(node: &Node, method: &str, path: &str, headers: &[(&str, &str)]) -> (String, u16) {
    let mut asked = client().request(method.parse().expect("a method"), node.url(path));
    for (name, value) in headers {
        asked = asked.header(*name, *value);
    }
    let answer = asked.send().expect("an answer");
    (answer.headers()["x-request-id"].to_str().expect("text").to_owned(), answer.status().as_u16())
}

fn every_sentence(node: &Node) {
    let signed_in: Value = node.sign_in("bob", PASSWORD).json().expect("JSON");
    let text = |member: &str| signed_in[member].as_str().expect("a text");
    let bearer = format!("Bearer {}", text("access_token"));
    let me = ("authorization", bearer.as_str());
    assert_eq!(node.sign_in("bob", "a wrong password").status(), 401);
    assert_eq!(node.sign_in("hunter2-typed-as-a-name", "x").status(), 401);
    let form = [("grant_type", "refresh_token"), ("refresh_token", text("refresh_token"))];
    assert_eq!(client().post(node.url("/auth/token")).form(&form).send().expect("an answer").status(), 200);
    drop(node.session("bob"));
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let of = |uri| {
        [
            me,
            ("x-forwarded-method", "GET"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-uri", uri),
        ]
    };
    let rule = |line: u64| json!({"file": "policy.csv", "line": line});
    let bob = json!({"name": "bob", "kind": "user", "roles": ["reader"]});
    let nobody = json!({"name": "anonymous", "kind": "anonymous", "roles": []});
    let cases = [
        (
            ask(
                node,
                "GET",
                "/x/1?secret=query-text",
                &[me, ("traceparent", &parent), ("x-request-id", "mine-7"), ("user-agent", "ua/1")],
            ),
            json!([200, "allow", null, "/x/1", "all", rule(2), bob, "bearer", "mine-7", trace]),
        ),
        (
            ask(node, "DELETE", "/x/1", &[me]),
            json!([403, "deny", "forbidden", "/x/1", "all", null, bob, "bearer", null, null]),
        ),
        (
            ask(node, "GET", "/x", &[]),
            json!([401, "deny", "unauthenticated", "/x", "all", null, null, null, null, null]),
        ),
        (
            ask(node, "GET", "/x", &[("authorization", "Bearer credential-text")]),
            json!([401, "deny", "invalid-token", "/x", "all", null, null, null, null, null]),
        ),
        (
            ask(node, "GET", "/dead", &[me]),
            json!([502, "allow", "upstream-failed", "/dead", "dead", rule(2), bob, "bearer", null, null]),
        ),
        (
            ask(node, "POST", "/dead", &[me]),
            json!([405, "deny", "method-not-allowed", "/dead", null, null, null, null, null, null]),
        ),
        (
            ask(node, "GET", "/a%2541", &[me]),
            json!([400, "deny", "not-canonical", null, "all", null, null, null, null, null]),
        ),
        (
            ask(node, "GET", "/reset/masked-text", &[]),
            json!([200, "allow", null, "/reset/{token}", "reset", rule(3), nobody, "none", null, null]),
        ),
        (
            ask(node, "GET", "/auth/verify/forward", &of("/x/9?secret=query-text")),
            json!([200, "allow", null, "/x/9", "all", rule(2), bob, "bearer", null, null]),
        ),
        (
            ask(node, "GET", "/auth/verify/forward", &of("/a/../b")),
            json!([400, "deny", "not-canonical", null, null, null, null, null, null, null]),
        ),
    ];
    for path in ["/auth/login", "/.well-known/jwks.json", "/.well-known/openid-configuration"] {
        assert_eq!(ask(node, "GET", path, &[]).1, 200, "{path}");
    }
    assert_eq!(node.cli(&["key", "rotate"]).0, 0);
    assert_eq!(node.cli(&["policy", "explain", "--sub", "bob", "--obj", "/x", "--act", "GET"]).2, "");
    node.signal(rustix::process::Signal::HUP);
    let events = eventually("the reload is recorded", || {
        let events = settled(node);
        events.iter().any(|event| event["reason"] == "configuration_loaded").then_some(events)
    });
    let of_request: Vec<&Value> = events.iter().filter(|event| event["kind"] == "access").collect();
    assert_eq!(of_request.len(), cases.len(), "one for each request, none for pages and documents");
    for ((id, status), expected) in &cases {
        let found: Vec<_> = of_request.iter().filter(|event| event["request_id"] == id.as_str()).collect();
        assert_eq!(found.len(), 1, "{expected}");
        let e = found[0];
        let said = json!([
            e["status"],
            e["decision"],
            e["reason"],
            e["path"],
            e["route"],
            e["rule"],
            e["principal"],
            e["auth"],
            e["client_request_id"],
            e["trace_id"]
        ]);
        assert_eq!((&said, e["status"].as_u64()), (expected, Some(u64::from(*status))), "{e}");
        assert!(e["duration_us"].is_u64() && e["count"].is_null() && e["shadow"].is_null(), "{e}");
        assert_eq!(e["client"]["ip"], "127.0.0.1");
        assert_eq!(e["policy"].is_string(), !e["principal"].is_null(), "{e}");
    }
    assert_eq!(of_request[0]["client"]["user_agent"], "ua/1");
    assert_eq!(of_request[0]["host"], "localhost");
    let (mut kinds, mut prev) = (BTreeMap::<&str, BTreeSet<&str>>::new(), "0".repeat(64));
    for (at, event) in events.iter().enumerate() {
        let members: Vec<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(members, MEMBERS);
        assert_eq!((&event["seq"], &event["node"]), (&json!(at + 1), &json!("gate-1")));
        assert_eq!(event["prev"], prev.as_str());
        prev = event["hash"].as_str().expect("a hash").to_owned();
        assert!(prev.len() == 64 && prev.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{prev}");
        let time = event["time"].as_str().expect("a time");
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
        assert!(event["client"].as_object().is_some_and(|client| client.keys().eq(["ip", "user_agent"])));
        kinds
            .entry(event["kind"].as_str().expect("a kind"))
            .or_default()
            .insert(event["decision"].as_str().expect("a decision"));
        if event["kind"] == "login" {
            assert_eq!(
                (&event["host"], &event["path"], &event["route"]),
                (&json!("localhost"), &json!("/auth/login"), &Value::Null)
            );
        }
    }
    assert_eq!(kinds["login"], BTreeSet::from(["allow", "deny"]), "{kinds:?}");
    for kind in ["access", "login", "token", "key", "admin", "node"] {
        assert!(kinds.contains_key(kind), "{kind}: {kinds:?}");
    }
    let all = events.iter().map(Value::to_string).collect::<String>();
    for secret in [
        "query-text",
        "masked-text",
        "credential-text",
        "hunter2",
        PASSWORD,
        text("refresh_token"),
        &bearer[7..],
    ] {
        assert!(!all.contains(secret), "{secret}");
    }
    queried(node, &cases[1].0.0);
}

fn queried(node: &Node, denied: &str) {
    let paths = |options: &[&str]| {
        let events = node.audit(options);
        let access = events.iter().filter(|event| event["kind"] == "access");
        access.map(|event| format!("{} {}", event["method"], event["path"])).collect::<Vec<_>>()
    };
    assert_eq!(
        paths(&["--since", "1h", "--sub", "bob", "--decision", "deny", "--path", "/x/*"]),
        ["\"DELETE\" \"/x/1\""]
    );
    assert_eq!(paths(&["--request", denied]).len(), 1);
    assert!(paths(&["--since", "1h", "--sub", "eve"]).is_empty());
    assert!(paths(&["--since", "1h", "--decision", "error"]).is_empty());
    let (code, out, errors) = node.cli(&["why", denied]);
    assert!(code == 0 && out.contains("bob") && out.contains("forbidden"), "{out}{errors}");
    assert_eq!(node.cli(&["why", "01J8Z300000000000000000000"]).0, 1, "an id that nobody had");
    assert_eq!(node.cli(&["audit", "query", "--decision", "perhaps"]).0, 2);
    assert_eq!(node.cli(&["audit", "verify", "--node", "gate-1"]).0, 0);
}

#[test]
fn every_member_of_every_event_is_as_documented_on_the_embedded_store() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    every_sentence(&gate(&upstream).start());
}

#[test]
fn and_on_redis() {
    let (upstream, redis) = (Upstream::start(|_| Reply::ok("hello")), Redis::start());
    let store = format!("[store]\nkind = \"redis\"\n[store.redis]\nurls = [\"{}\"]", redis.url());
    every_sentence(&gate(&upstream).config(&store).start());
    let keys = redis.cli(&["KEYS", "portcullis:audit:*"]);
    assert_eq!(keys.trim_matches('"'), "portcullis:audit:{gate-1}", "nothing else has the prefix");
}

#[test]
fn a_flood_of_strangers_is_a_few_events_whose_counts_are_every_refusal() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = gate(&upstream).start();
    let token = node.token("bob");
    let (strangers, own) = (1_200, 150);
    let client = client();
    for number in 0..strangers {
        assert_eq!(client.get(node.url("/flood")).send().expect("an answer").status(), 401);
        if number % 8 == 0 {
            let answer = client.delete(node.url("/flood")).bearer_auth(&token).send().expect("an answer");
            assert_eq!(answer.status(), 403);
        }
    }
    // What is merged is written when its second has passed.
    let counted = eventually("every refusal is counted", || {
        let events = settled(&node);
        let refused = events.into_iter().filter(|event| event["status"] == 401).collect::<Vec<_>>();
        let sum: u64 = refused.iter().map(|event| event["count"].as_u64().unwrap_or(1)).sum();
        (sum == strangers).then_some(refused)
    });
    for event in &counted {
        assert_eq!(event["count"].is_u64(), event["request_id"].is_null(), "{event}");
        assert_eq!(event["client"]["ip"], "127.0.0.1");
    }
    let events = settled(&node);
    let own_events = events.iter().filter(|event| event["status"] == 403 && event["count"].is_null());
    assert_eq!(own_events.count(), own, "who is known is never merged");
}

#[test]
fn the_trace_of_a_sign_in_is_in_its_event() {
    let node = Node::with().start();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let sign_in = |password: &str, traceparent: &str| {
        let body = json!({"username": "bob", "password": password});
        let request = client().post(node.url("/auth/login")).header("traceparent", traceparent).json(&body);
        let answer = request.send().expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        node.events(&id, "login", 1).remove(0)["trace_id"].clone()
    };
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    assert_eq!(sign_in(PASSWORD, &parent), trace);
    assert_eq!(sign_in("wrong", &parent), trace);
    for none in ["rubbish", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        assert_eq!(sign_in("wrong", none), Value::Null, "{none}");
    }
}
