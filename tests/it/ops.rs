//! Operators at work on a running node: accounts, sign-ins, tokens, keys; and what they may not.

use serde_json::{Value, json};

use crate::support::{Node, PASSWORD, Reply, Upstream, client, eventually};

fn node() -> (Node, Upstream) {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let client = "[[client]]\nid = \"dash\"\nsecret = \"s\"\ngrant_types = [\"client_credentials\"]\n";
    (Node::with().upstream(&upstream.url()).config(client).start(), upstream)
}

fn document(node: &Node, arguments: &[&str]) -> Value {
    let (code, out, err) = node.cli(&[&["-o", "json"], arguments].concat());
    assert_eq!(code, 0, "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out:?}"))
}

fn failure(node: &Node, arguments: &[&str]) -> (i32, String, String) {
    let (code, _, err) = node.cli(&[&["-o", "json"], arguments].concat());
    let error: Value = serde_json::from_str(&err).unwrap_or_else(|error| panic!("{error}: {err:?}"));
    let text = |name: &str| error["error"][name].as_str().expect("a text").to_owned();
    (code, text("code"), text("message"))
}

#[test]
fn a_sign_in_that_is_ended_is_refused_at_once() {
    let (node, _upstream) = node();
    let token = node.token("bob");
    let sessions = document(&node, &["session", "list", "--sub", "bob"]);
    let session = &sessions[0];
    assert_eq!((session["subject"].as_str(), session["kind"].as_str()), (Some("bob"), Some("token")));
    let sid = session["sid"].as_str().expect("a sid");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    assert_eq!(document(&node, &["session", "revoke", sid])["revoked"], true);
    assert_eq!(node.ask("GET", "/a", &token).status(), 401);
    assert_eq!(document(&node, &["session", "list"]), json!([]));
    let (code, name, _) = failure(&node, &["session", "revoke", "unknown"]);
    assert_eq!((code, name.as_str()), (1, "not-found"));

    let (one, two) = (node.token("bob"), node.token("bob"));
    assert_eq!(document(&node, &["session", "revoke", "--sub", "bob"])["sessions"], 2);
    for token in [one, two] {
        assert_eq!(node.ask("GET", "/a", &token).status(), 401);
    }
    assert_eq!(failure(&node, &["session", "revoke", "--sub", "nobody"]).0, 1);
}

#[test]
fn inspecting_a_token_says_what_a_request_would_find() {
    let (node, _upstream) = node();
    let token = node.token("bob");
    let inspected = document(&node, &["token", "inspect", &token]);
    assert_eq!((inspected["signature"].as_str(), &inspected["problems"]), (Some("valid"), &json!([])));
    assert_eq!((&inspected["claims"]["sub"], &inspected["header"]["typ"]), (&json!("bob"), &json!("at+jwt")));

    let jwks = document(&node, &["key", "jwks"]);
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(1));
    let file = node.directory().join("jwks.json");
    std::fs::write(&file, jwks.to_string()).expect("a file");
    let file = file.to_str().expect("UTF-8").to_owned();
    let url = node.url("/.well-known/jwks.json");
    for place in [&file, &url] {
        let inspected = document(&node, &["token", "inspect", "--jwks", place, &token]);
        assert_eq!((inspected["signature"].as_str(), &inspected["problems"]), (Some("valid"), &json!([])));
    }
    let (code, out, _) = node.cli_with(&["-o", "json", "token", "inspect", "--jwks", &file], &token);
    assert_eq!(code, 0, "{out}");
    let other = ["-o", "json", "token", "inspect", "--jwks", &file, "--audience", "other", &token];
    let (code, out, _) = node.cli(&other);
    assert_eq!((code, out.contains("`aud` is not this audience")), (1, true), "{out}");

    let (head, signature) = token.rsplit_once('.').expect("a JWT");
    let mut changed: Vec<char> = signature.chars().collect();
    changed[5] = if changed[5] == 'A' { 'B' } else { 'A' };
    let forged = format!("{head}.{}", changed.into_iter().collect::<String>());
    for arguments in [vec!["token", "inspect", &forged], vec!["token", "inspect", "--jwks", &file, &forged]] {
        let (code, out, _) = node.cli(&[&["-o", "json"], &arguments[..]].concat());
        let inspected: Value = serde_json::from_str(&out).expect("one document");
        assert_eq!((code, inspected["signature"].as_str()), (1, Some("invalid")));
    }
    let stranger = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"x","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    node.write("other.json", stranger);
    let other = node.directory().join("other.json");
    let (code, out, _) =
        node.cli(&["-o", "json", "token", "inspect", "--jwks", other.to_str().expect("UTF-8"), &token]);
    assert_eq!((code, out.contains(r#""signature":"no-key""#)), (1, true), "{out}");
    assert_eq!(node.cli(&["token", "inspect", "--jwks", "/nowhere", &token]).0, 2);

    assert_eq!(document(&node, &["token", "revoke", &token])["subject"], "bob");
    assert_eq!(node.ask("GET", "/a", &token).status(), 401);
    let (code, out, _) = node.cli(&["-o", "json", "token", "inspect", &token]);
    assert_eq!((code, out.contains("revoked")), (1, true), "{out}");
    assert_eq!(failure(&node, &["token", "revoke", "not-a-token"]).0, 1);
}

#[test]
fn an_issued_token_works_and_claims_no_proof() {
    let (node, _upstream) = node();
    let issued = document(&node, &["token", "issue", "bob"]);
    let token = issued["access_token"].as_str().expect("a token");
    assert_eq!(node.ask("GET", "/a", token).status(), 200);
    assert_eq!(node.ask("DELETE", "/a", token).status(), 403);
    let claims = document(&node, &["token", "inspect", token])["claims"].clone();
    assert_eq!((&claims["amr"], claims.get("auth_time")), (&json!([]), None));
    assert_eq!(failure(&node, &["token", "issue", "nobody"]).0, 1);
    let (_, plain, _) = node.cli(&["token", "issue", "bob"]);
    assert_eq!(plain.trim_end().split('.').count(), 3, "text output is the token alone");
}

#[test]
fn a_key_that_is_retired_counts_nowhere_and_the_last_one_stays() {
    let (node, _upstream) = node();
    let token = node.token("bob");
    let keys = document(&node, &["key", "list"]);
    let kid = keys[0]["kid"].as_str().expect("a kid");
    assert_eq!(keys[0]["state"], "signing");
    let (code, name, message) = failure(&node, &["key", "retire", kid]);
    assert_eq!((code, name.as_str(), message.contains("rotate first")), (1, "conflict", true), "{message}");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    let next = document(&node, &["key", "rotate"]);
    assert_eq!(next["state"], "published");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    assert_eq!(document(&node, &["key", "retire", kid])["state"], "withdrawn");
    assert_eq!(node.ask("GET", "/a", &token).status(), 401);
    let token = node.token("bob");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    let jwks: Value =
        client().get(node.url("/.well-known/jwks.json")).send().expect("one").json().expect("JSON");
    assert_eq!(jwks["keys"].as_array().map(Vec::len), Some(1));
    assert_eq!(jwks["keys"][0]["kid"], next["kid"]);
    assert_eq!(failure(&node, &["key", "retire", "unknown"]).0, 1);
    let kinds: Vec<_> = node.audit(&[]).into_iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "key").count(), 2);
}

#[test]
fn an_account_is_changed_member_by_member_and_unlocked() {
    let (node, _upstream) = node();
    let add = ["user", "add", "carol", "--role", "reader", "--attr", "level=3", "--password-stdin"];
    assert_eq!(node.cli_with(&add, &format!("{PASSWORD}\n")).0, 0);
    let set = ["user", "set", "carol", "--email", "carol@example.com", "--tenant", "acme"];
    let account = document(&node, &set);
    assert_eq!(
        (&account["email"], &account["email_verified"], &account["tenant"], &account["attributes"]),
        (&json!("carol@example.com"), &json!(true), &json!("acme"), &json!({"level": 3}))
    );
    let account = document(&node, &["user", "set", "carol", "--clear", "tenant", "--clear", "attrs"]);
    assert_eq!((&account["tenant"], &account["attributes"]), (&Value::Null, &json!({})));
    assert_eq!(account["roles"], json!(["reader"]));
    for wrong in [
        vec!["user", "set", "carol"],
        vec!["user", "set", "carol", "--email", "no address"],
        vec!["user", "set", "carol", "--tenant", "a\u{1b}[31m"],
        vec!["user", "set", "carol", "--role", "x,admin"],
        vec!["user", "set", "carol", "--attr", "novalue"],
        vec!["user", "set", "carol", "--role", "admin", "--clear", "roles"],
        vec!["user", "add", "a:b"],
        vec!["user", "add", "reader"],
    ] {
        assert_eq!(failure(&node, &wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(failure(&node, &["user", "set", "bob", "--tenant", "x"]).0, 2, "bob is in the file");

    for _ in 0..10 {
        assert_eq!(node.sign_in("carol", "wrong password").status(), 401);
    }
    assert_eq!(node.sign_in("carol", PASSWORD).status(), 429);
    document(&node, &["user", "unlock", "carol"]);
    assert_eq!(node.sign_in("carol", PASSWORD).status(), 200);
    let token = node.token("carol");
    document(&node, &["user", "disable", "carol"]);
    assert_eq!(node.ask("GET", "/a", &token).status(), 401);
    assert_eq!(node.sign_in("carol", PASSWORD).status(), 401);
    document(&node, &["user", "enable", "carol"]);
    assert_eq!(node.sign_in("carol", PASSWORD).status(), 200);
    assert_eq!(document(&node, &["user", "delete", "carol"]), json!({"name": "carol", "deleted": true}));
    assert_eq!(node.sign_in("carol", PASSWORD).status(), 401);
}

#[test]
fn operators_do_what_their_rank_allows_and_the_role_admin_means_nothing() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .upstream(&upstream.url())
        .account("vera", &["portcullis:viewer"])
        .account("otto", &["portcullis:operator"])
        .account("ada", &["portcullis:administrator"])
        .account("alice", &["admin"])
        .start();
    let ask = |name: &str, method: &str, path: &str, body: Option<Value>| {
        let method = method.parse().expect("a method");
        let request = client().request(method, node.admin(path)).bearer_auth(node.token(name));
        let request = body.into_iter().fold(request, |request, body| request.json(&body));
        request.send().expect("an answer").status().as_u16()
    };
    let new = || Some(json!({"name": "new"}));
    assert_eq!(ask("alice", "GET", "/api/v1/users", None), 403);
    assert_eq!(ask("vera", "GET", "/api/v1/users", None), 200);
    assert_eq!(ask("vera", "DELETE", "/api/v1/sessions?subject=alice", None), 403);
    assert_eq!(ask("vera", "POST", "/api/v1/tokens/inspect", Some(json!({"token": "x"}))), 200);
    assert_eq!(ask("otto", "DELETE", "/api/v1/sessions?subject=alice", None), 200);
    assert_eq!(ask("otto", "POST", "/api/v1/policy/reload", None), 200);
    assert_eq!(ask("otto", "POST", "/api/v1/users", new()), 403);
    assert_eq!(ask("otto", "POST", "/api/v1/keys/rotate", None), 403);
    assert_eq!(ask("ada", "POST", "/api/v1/users", new()), 201);
    assert_eq!(ask("ada", "DELETE", "/api/v1/users/new", None), 204);
    let admin: Vec<_> = node
        .audit(&[])
        .into_iter()
        .filter(|event| event["kind"] == "admin")
        .map(|event| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            (text(&event["principal"]["name"]), text(&event["decision"]), text(&event["path"]))
        })
        .collect();
    let expected = [
        ("vera", "deny", "/api/v1/sessions"),
        ("otto", "allow", "/api/v1/sessions/of/alice"),
        ("otto", "allow", "/api/v1/policy/reload"),
        ("otto", "deny", "/api/v1/users"),
        ("otto", "deny", "/api/v1/keys/rotate"),
        ("ada", "allow", "/api/v1/users/new"),
        ("ada", "allow", "/api/v1/users/new"),
    ];
    let expected = expected.map(|(name, decision, path)| (name.into(), decision.into(), path.into()));
    assert_eq!(admin, expected);
}

#[test]
fn clients_are_shown_without_their_secret_and_completions_name_every_command() {
    let (node, _upstream) = node();
    let clients = document(&node, &["client", "list"]);
    assert_eq!(clients[0]["id"], "dash");
    assert!(clients[0].get("secret").is_none());
    assert_eq!(document(&node, &["client", "show", "dash"])["id"], "dash");
    assert_eq!(failure(&node, &["client", "show", "other"]).0, 1);
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = node.cli(&["completions", shell]);
        assert_eq!(code, 0);
        for word in ["session", "retire", "inspect", "healthcheck"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
    assert_eq!(node.cli(&["healthcheck"]).0, 0);
    assert_eq!(failure(&node, &["user", "sett"]).0, 2);
    assert_eq!(node.cli(&["--help"]).0, 0);
}

#[test]
fn the_metrics_of_dashboards_are_there_from_the_start_and_say_which_server_is_down() {
    let upstream = Upstream::start(|_| Reply::ok("hello").header("connection", "close"));
    let (address, url) = (upstream.address(), upstream.url());
    let node = Node::with().upstream(&url).start();
    let metrics = || {
        let text = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
        move |series: &str| {
            text.lines().find_map(|line| line.strip_prefix(series).map(|rest| rest.trim().to_owned()))
        }
    };
    let first = metrics();
    for name in ["request_duration_seconds", "decision_duration_seconds"] {
        assert_eq!(first(&format!("portcullis_{name}_count")).as_deref(), Some("0"), "{name}");
    }
    for series in [
        "requests_total{route=\"all\",decision=\"allow\",status_class=\"2xx\"}",
        "requests_total{route=\"-\",decision=\"deny\",status_class=\"4xx\"}",
        "logins_total{method=\"password\",result=\"ok\"}",
        "policy_reloads_total",
        "policy_reload_failures_total",
    ] {
        assert_eq!(first(&format!("portcullis_{series}")).as_deref(), Some("0"), "{series}");
    }
    for series in [
        "audit_pending ",
        "audit_oldest_pending_seconds ",
        "policy_info{digest=",
        "nodes 1",
        "revocation_lag_seconds ",
    ] {
        assert!(first(&format!("portcullis_{series}")).is_some(), "{series}");
    }
    let up = || metrics()(&format!("portcullis_upstream_up{{upstream=\"main\",server=\"{url}\"}}"));
    assert_eq!(up().as_deref(), Some("1"));
    let token = node.token("bob");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    drop(upstream);
    eventually("nothing answers", || (node.ask("GET", "/a", &token).status() == 502).then_some(()));
    assert_eq!(up().as_deref(), Some("0"));
    let listener = std::net::TcpListener::bind(address).expect("the port again");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    eventually("it is up again", || {
        node.ask("GET", "/a", &token);
        (up().as_deref() == Some("1")).then_some(())
    });
}
