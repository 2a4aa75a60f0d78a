//! Policies of a running node: what becomes live, what does not, and what rules can see; and the commands around them.

use std::process::Command;

use serde_json::Value;

use crate::support::{Node, PORTCULLIS, Reply, Upstream, client, eventually};

const ROWS: &str = "p, admin, /*, .*, allow\np, reader, /a, GET, allow\np, reader, /b, GET, allow\n";

fn readyz(node: &Node) -> (u16, Value) {
    let answer = client().get(node.admin("/readyz")).send().expect("an answer");
    (answer.status().as_u16(), answer.json().expect("JSON"))
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
    line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect("a number")
}

fn policy_events(node: &Node) -> Vec<String> {
    let events = node.audit(&["--since", "1h"]);
    let policy = events.iter().filter(|event| event["kind"] == "policy");
    policy.map(|event| event["reason"].as_str().expect("a reason").to_owned()).collect()
}

#[test]
fn a_policy_that_cannot_be_used_never_goes_live_and_everyone_is_told() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .upstream(&upstream.url())
        .policy(ROWS)
        .file(
            "policies/tests/a.yaml",
            "subjects: {bob: {roles: [reader]}}\ntests:\n  - {sub: bob, obj: /a, allow: [GET]}\n",
        )
        .start();
    let bob = node.token("bob");
    let ask = |path: &str| node.ask("GET", path, &bob).status().as_u16();
    assert_eq!((ask("/a"), ask("/b"), ask("/c")), (200, 200, 403));
    assert_eq!(readyz(&node).1["reasons"].as_array().map(Vec::len), Some(0));
    let half = ROWS.trim_end().rsplit_once(',').expect("a row").0.as_bytes();
    let mistakes: [(&[u8], &str); 5] = [
        (half, "columns"),
        (b"p, reader, /a, (GET, allow\n", "is not a regular expression"),
        (b"p, reader, /a, GET, allow\np, reader, /\xff, GET, allow\n", "UTF-8"),
        (b"p, admin, /*, .*, allow\np, reader, /b, GET, allow\n", "bob may not GET /a"),
        (b"\n", "bob may not GET /a"),
    ];
    for (number, (broken, said)) in (1..).zip(mistakes) {
        node.write("policies/policy.csv", broken);
        eventually("the failure is counted", || {
            (metric(&node, "portcullis_policy_reload_failures_total") == number).then_some(())
        });
        let (status, answer) = readyz(&node);
        assert_eq!((status, &answer["ready"]), (200, &Value::Bool(true)), "the last good one decides");
        assert_eq!(answer["reasons"][0]["code"], "policy-refused");
        let message = answer["reasons"][0]["message"].as_str().expect("text");
        assert!(message.contains(said) && message.contains("policies/"), "{message}");
        assert_eq!((ask("/a"), ask("/b"), ask("/c")), (200, 200, 403), "{said}");
    }
    node.write("policies/policy.csv", format!("{ROWS}p, reader, /c, GET, allow\n"));
    eventually("the mended policy is live", || (ask("/c") == 200).then_some(()));
    assert_eq!(readyz(&node).1["reasons"].as_array().map(Vec::len), Some(0));
    assert_eq!(metric(&node, "portcullis_policy_reloads_total"), 1);
    let events = eventually("the reloads are in the audit", || {
        Some(policy_events(&node)).filter(|events| events.iter().any(|reason| reason == "policy_loaded"))
    });
    assert_eq!(events.iter().filter(|reason| *reason == "policy_refused").count(), 5, "{events:?}");
}

#[test]
fn taking_most_rows_away_waits_until_someone_confirms_it() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with().upstream(&upstream.url()).policy(ROWS).start();
    let bob = node.token("bob");
    node.write("policies/policy.csv", "p, reader, /a, GET, allow\n");
    eventually("it is held", || {
        let message = readyz(&node).1["reasons"][0]["message"].as_str().unwrap_or_default().to_owned();
        message.contains("2 of 3 live rows would vanish").then_some(())
    });
    assert_eq!(node.ask("GET", "/b", &bob).status(), 200);
    node.signal(rustix::process::Signal::HUP);
    eventually("it is live", || (node.ask("GET", "/b", &bob).status() == 403).then_some(()));
    assert_eq!(node.ask("GET", "/a", &bob).status(), 200);
}

#[test]
fn nothing_of_the_rules_is_in_a_refusal() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .config(&format!(
            "[[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[route]]\nname = \"a\"\npath = \"/a/{{rest*}}\"\nupstream = \"main\"\n",
            upstream.url()
        ))
        .policy("p, admin, /a/secret-vault/*, GET, allow")
        .start();
    let bob = node.token("bob");
    let refused = node.ask("GET", "/a/secret-vault/1", &bob);
    assert_eq!(refused.status(), 403);
    let body: Value = refused.json().expect("JSON");
    let members: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["type", "title", "status", "request_id"]);
    assert_eq!(body["type"], "urn:portcullis:problem:forbidden");
    assert_eq!(node.ask("GET", "/a/never/heard/of", &bob).status(), 403);
    assert_eq!(node.ask("GET", "/b", &bob).status(), 404);
    assert_eq!(node.ask("GET", "/a/secret-vault/1", &node.token("alice")).status(), 200);
}

#[test]
fn rules_see_department_level_location_time_and_address() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let model = "[request_definition]\nr = sub, obj, act, env\n[policy_definition]\np = rule, obj, act\n\
                 [policy_effect]\ne = some(where (p.eft == allow))\n\
                 [matchers]\nm = keyMatch2(r.obj, p.obj) && r.act == p.act && eval(p.rule)\n";
    let rows = "p, r.sub.department == \"engineering\", /department, GET\n\
                p, r.sub.level >= 3, /level, GET\n\
                p, r.sub.location == \"lisbon\" && r.sub.remote == false, /location, GET\n\
                p, r.env.time >= 0 && r.env.time < 1440 && r.env.weekday >= 1 && r.env.weekday <= 7, /now, GET\n\
                p, r.env.time >= 1440 || r.env.weekday > 7, /never, GET\n\
                p, r.env.host == \"localhost\" && r.env.node == \"gate-1\", /here, GET\n\
                p, r.sub.kind == \"user\" && r.sub.name == \"eve\", /named, GET\n";
    let node = Node::with()
        .config("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]")
        .upstream(&upstream.url())
        .model(model)
        .policy(rows)
        .account_with(
            "eve",
            &[],
            "attributes = { department = \"engineering\", level = 3, location = \"lisbon\", remote = false }",
        )
        .account_with(
            "sam",
            &[],
            "attributes = { department = \"sales\", level = 2, location = \"lisbon\", remote = true }",
        )
        .account("bare", &[])
        .start();
    for (name, allowed) in [
        ("eve", ["/department", "/level", "/location", "/now", "/here", "/named"].as_slice()),
        ("sam", &["/now", "/here"]),
        ("bare", &["/now", "/here"]),
    ] {
        let token = node.token(name);
        for path in ["/department", "/level", "/location", "/now", "/never", "/here", "/named"] {
            let expected = if allowed.contains(&path) { 200 } else { 403 };
            assert_eq!(node.ask("GET", path, &token).status(), expected, "{name} {path}");
        }
    }
    let model = "[request_definition]\nr = env, obj, act\n[policy_definition]\np = net, obj, act\n\
                 [policy_effect]\ne = some(where (p.eft == allow))\n\
                 [matchers]\nm = ipMatch(r.env.ip, p.net) && r.obj == p.obj && r.act == p.act\n";
    let node = Node::with()
        .config("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]")
        .upstream(&upstream.url())
        .model(model)
        .policy("p, 192.0.2.0/24, /a, GET")
        .start();
    let token = node.token("bob");
    for (from, expected) in [("192.0.2.7", 200), ("198.51.100.7", 403), ("2001:db8::1", 403)] {
        let asked = client().get(node.url("/a")).header("x-forwarded-for", from).bearer_auth(&token);
        assert_eq!(asked.send().expect("an answer").status(), expected, "{from}");
    }
}

/// Runs a policy command in the repository, without a node.
fn policy(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(PORTCULLIS)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("--config")
        .arg("none.toml")
        .args(arguments)
        .output()
        .expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_shipped_policies_pass_and_their_verdicts_are_explained() {
    let (code, out, errors) = policy(&["-o", "json", "policy", "check", "policies"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    assert_eq!(
        serde_json::from_str::<Value>(&out).expect("JSON"),
        serde_json::json!({"ok": true, "problems": []})
    );
    let (code, out, _) = policy(&["-o", "json", "policy", "test", "policies", "--coverage"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report["ok"], &report["uncovered"]), (0, &Value::Bool(true), &serde_json::json!([])));
    let names: Vec<&str> =
        report["cases"].as_array().expect("cases").iter().filter_map(|case| case["name"].as_str()).collect();
    assert!(names.iter().any(|name| name.starts_with("the node gate-1: ")), "{names:?}");
    let explain = |more: &[&str]| {
        let mut arguments = vec!["-o", "json", "policy", "explain", "policies", "--sub", "bob"];
        arguments.extend(more);
        let (code, out, _) = policy(&arguments);
        (code, serde_json::from_str::<Value>(&out).expect("JSON"))
    };
    let (code, answer) = explain(&["--role", "reader", "--obj", "/orders/7", "--act", "GET"]);
    assert_eq!((code, &answer["decision"], &answer["rule"]["line"]), (0, &"allow".into(), &3.into()));
    let (code, answer) = explain(&["--role", "reader", "--obj", "/orders/7", "--act", "DELETE"]);
    assert_eq!((code, &answer["decision"], &answer["rule"]), (1, &"deny".into(), &Value::Null));
    assert_eq!(answer["near"][0]["terms"][2]["why"], "DELETE is not GET or HEAD");
    let asked =
        ["--role", "reader", "--attr", "department=sales", "--obj", "/reports/engineering", "--act", "GET"];
    let (code, answer) = explain(&asked);
    assert_eq!(code, 1);
    let why = answer["near"][0]["terms"][3]["why"].as_str().expect("text");
    assert!(why.contains("department is \"sales\""), "{why}");
}

#[test]
fn mistakes_have_their_place_also_in_the_rows_of_one_node_and_print_nothing_else() {
    let files = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("written");
    };
    let model = include_str!("../../policies/model.conf");
    write("model.conf", model);
    write("policy.csv", ROWS);
    write("nodes/gate-7/more.csv", "p, reader, /c, GET, maybe\n");
    let directory = files.path().display().to_string();
    let (code, out, errors) = policy(&["policy", "check", &directory]);
    assert_eq!((code, errors.as_str()), (2, ""), "{out}");
    assert!(out.contains("nodes/gate-7/more.csv:1: `maybe` is not an effect"), "{out}");
    write("nodes/gate-7/more.csv", "p, reader, /c, GET, allow\n");
    write("tests/a.yaml", "subjects: {bob: {roles: [reader]}}\ntests:\n  - {sub: bob, obj: /a, allow: []}\n");
    let (code, out, _) = policy(&["policy", "test", &directory]);
    assert_eq!(code, 1);
    assert!(out.contains("tests/a.yaml:3: bob may GET /a, expected to be refused (policy.csv:2)"), "{out}");
    assert_eq!(policy(&["policy", "check", &directory]).0, 2, "a failing test is a mistake for `check`");
    // What makes the interpreter panic is a refusal, with no more noise than that.
    write("model.conf", &model.replace("keyMatch2(r.obj, p.obj)", "1 / 0 == 1 && keyMatch2(r.obj, p.obj)"));
    let (code, out, errors) = policy(&[
        "policy", "explain", &directory, "--sub", "bob", "--role", "reader", "--obj", "/a", "--act", "GET",
    ]);
    assert_eq!((code, errors.as_str()), (1, ""), "{out}");
    assert!(out.contains("the evaluation failed, which denies"), "{out}");
}

#[test]
fn explain_has_an_option_for_each_token_of_the_request_whatever_its_name() {
    let node = Node::with()
        .config("[policy.bind]\nuser = \"sub\"\ntenant = \"dom\"\nthing = \"obj\"\nverb = \"act\"")
        .model(
            "[request_definition]\nr = user, tenant, thing, verb\n[policy_definition]\np = sub, dom, obj, act\n\
             [role_definition]\ng = _, _, _\n[policy_effect]\ne = some(where (p.eft == allow))\n[matchers]\n\
             m = g(r.user, p.sub, r.tenant) && r.tenant == p.dom && keyMatch2(r.thing, p.obj) && r.verb == p.act\n",
        )
        .policy("p, staff, t1, /orders/:id, GET\ng, zoe, staff, t1")
        .write();
    let explain = |more: &[&str]| node.cli(&[&["-o", "json", "policy", "explain"], more].concat());
    let (code, out, errors) =
        explain(&["--user", "zoe", "--tenant=t1", "--thing", "/orders/7", "--verb", "GET"]);
    let answer: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &answer["decision"], &answer["rule"]["line"]),
        (0, &"allow".into(), &1.into()),
        "{errors}"
    );
    let denied = explain(&["--user", "zoe", "--tenant", "t2", "--thing", "/orders/7", "--verb", "GET"]);
    assert_eq!(denied.0, 1, "{denied:?}");
    let (code, _, errors) = explain(&["--usr", "zoe", "--thing", "/orders/7", "--verb", "GET"]);
    assert!(code == 2 && errors.contains("--usr"), "{errors}");
}
