//! Policies of a running node: what becomes live, what does not, and what rules can see; and the commands around them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

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
fn what_the_api_loads_is_in_the_audit_and_frees_the_names_that_accounts_wait_for() {
    let rows = format!("{ROWS}g, bob, staff\n");
    let node = Node::with().policy(&rows).start();
    let users = std::fs::read_to_string(node.directory().join("users.toml")).expect("accounts");
    let refusals = || metric(&node, "portcullis_config_reload_failures_total");
    node.write("users.toml", format!("{users}\n[[user]]\nname = \"staff\"\n"));
    eventually("a role of the policies is no account", || (refusals() == 1).then_some(()));
    node.write("policies/policy.csv", "p, reader, /a, GET, allow\n");
    eventually("it is held", || readyz(&node).1["reasons"].get(0).map(drop));
    let reload = || {
        let answer =
            client().post(node.admin("/api/v1/policy/reload")).bearer_auth(node.admin_token()).send();
        let answer = answer.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().expect("JSON"))
    };
    let (status, answer) = reload();
    assert_eq!((status, &answer["rows"]), (200, &Value::from(1)), "{answer}");
    assert_eq!(readyz(&node).1["policy"], answer["digest"]);
    assert_eq!(metric(&node, "portcullis_config_reloads_total"), 1, "the accounts file is taken at once");
    let (code, out, errors) = node.cli(&["user", "show", "staff"]);
    assert_eq!(code, 0, "{out}{errors}");
    assert_eq!(reload().0, 200, "nothing changed, and nothing is recorded of it");
    let reasons = eventually("the reloads are in the audit", || {
        Some(policy_events(&node)).filter(|events| events.len() >= 2)
    });
    assert_eq!(reasons, ["policy_refused", "policy_loaded"]);
    node.write("policies/policy.csv", "p, reader\n");
    let (status, answer) = reload();
    assert_eq!(status, 400);
    assert!(answer["detail"].as_str().is_some_and(|said| said.contains("policy.csv:1: ")), "{answer}");
    let refused = || policy_events(&node).iter().filter(|reason| *reason == "policy_refused").count();
    eventually("the refusal is in the audit", || (refused() > 1).then_some(()));
}

#[test]
fn a_policy_file_makes_nobody_an_operator() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let rows = "p, reader, /a, GET, allow\np, portcullis:viewer, /b, GET, allow\n\
                g, bob, portcullis:viewer\ng, reader, portcullis:administrator\n";
    let node = Node::with().upstream(&upstream.url()).policy(rows).start();
    let bob = node.token("bob");
    assert_eq!(node.ask("GET", "/b", &bob).status(), 403);
    assert_eq!(node.ask("GET", "/a", &bob).status(), 200);
    assert_eq!(upstream.last().header("portcullis-roles"), "reader");
    let answer = client().get(node.admin("/api/v1/users")).bearer_auth(&bob).send().expect("an answer");
    assert_eq!(answer.status(), 403);
    let directory = node.directory().join("policies").display().to_string();
    let (code, out, _) = policy(&["policy", "check", &directory]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("policy.csv:3: warning: `portcullis:viewer` is an operator's"), "{out}");
}

#[test]
fn a_set_that_matches_its_manifest_at_last_is_loaded_whatever_arrived_last() {
    let node =
        Node::with().policy(ROWS).file("policies/nodes/other/a.csv", "p, reader, /c, GET, allow\n").start();
    let live = readyz(&node).1["policy"].clone();
    let (model, rows, other) =
        ("policies/model.conf", "p, reader, /a, GET, allow\n", "p, reader, /d, GET, allow\n");
    let model = std::fs::read(node.directory().join(model)).expect("a model");
    let sum = |bytes: &[u8], name: &str| format!("{}  ./{name}\n", hex::encode(Sha256::digest(bytes)));
    let listed =
        [(&*model, "model.conf"), (rows.as_bytes(), "policy.csv"), (other.as_bytes(), "nodes/other/a.csv")];
    node.write("policies/MANIFEST", listed.map(|(bytes, name)| sum(bytes, name)).concat());
    node.write("policies/policy.csv", rows);
    let said = |what: &str| {
        let said = readyz(&node).1["reasons"][0]["message"].as_str().unwrap_or_default().to_owned();
        (said.contains(what) && said.contains("MANIFEST:3")).then_some(())
    };
    eventually("the file of another node is missed", || said("`nodes/other/a.csv` has other contents"));
    assert_eq!(readyz(&node).1["policy"], live);
    node.write("policies/nodes/other/a.csv", other);
    eventually("the set is loaded", || (readyz(&node).1["policy"] != live).then_some(()));
    assert_eq!(readyz(&node).1["reasons"], Value::Array(Vec::new()), "most rows went, as the manifest says");
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
    assert_eq!(answer["near"][0]["terms"][0]["why"], "bob has role reader, needs admin");
    assert_eq!(answer["near"][1]["terms"][2]["why"], "DELETE is not GET or HEAD");
    assert_eq!((&answer["near"][1]["file"], &answer["near"][1]["line"]), (&"policy.csv".into(), &3.into()));
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
    let (_, out, _) = explain(&["--user", "zoe", "--tenant", "t1", "--thing", "/orders/7", "--verb", "PUT"]);
    let near = &serde_json::from_str::<Value>(&out).expect("JSON")["near"][0]["terms"];
    assert_eq!(near[3]["why"], "PUT does not match GET", "{near}");
    let (code, _, errors) = explain(&["--usr", "zoe", "--thing", "/orders/7", "--verb", "GET"]);
    assert!(code == 2 && errors.contains("--usr"), "{errors}");
}

#[test]
fn a_plan_says_how_the_matcher_is_answered() {
    let (code, out, errors) = policy(&["-o", "json", "policy", "plan", "policies"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let plans: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(plans.as_array().map(Vec::len), Some(1));
    assert_eq!(plans[0]["by"], "index");
    assert!(plans[0]["matcher"].as_str().is_some_and(|matcher| matcher.contains("keyMatch2(")), "{plans}");
    assert!(
        plans[0]["why"].as_str().is_some_and(|why| why.starts_with("rows are found by p.sub")),
        "{plans}"
    );
    let (code, out, _) = policy(&["policy", "plan", "policies"]);
    assert_eq!(code, 0);
    assert!(out.contains("\n  index: rows are found by p.sub"), "{out}");
    let (code, _, errors) = policy(&["policy", "plan", "no-such-directory"]);
    assert_eq!(code, 2);
    assert!(errors.contains("model.conf"), "{errors}");
}

#[test]
fn a_bench_measures_decisions_and_holds_a_sample_against_casbin() {
    let (code, out, errors) = policy(&["-o", "json", "policy", "bench", "policies"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{out}");
    let measured: Value = serde_json::from_str(&out).expect("JSON");
    let members: Vec<&str> = measured.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected = vec![
        "rows",
        "load_ms",
        "memory_bytes",
        "decisions",
        "per_second",
        "p50_ns",
        "p99_ns",
        "hit_ratio",
        "casbin_p50_ns",
    ];
    expected.sort_unstable();
    let mut sorted = members.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    let number = |name: &str| measured[name].as_f64().unwrap_or_else(|| panic!("{name}: {measured}"));
    assert_eq!(number("rows") as usize, 10, "p and g rows of policies/");
    assert!(number("decisions") >= 100_000.0);
    assert!(number("load_ms") > 0.0 && number("per_second") > 0.0);
    assert!(number("p50_ns") > 0.0 && number("p50_ns") <= number("p99_ns"), "{measured}");
    assert!(number("casbin_p50_ns") > 0.0);
    assert!((0.2..0.9).contains(&number("hit_ratio")), "hits and misses are drawn: {measured}");
    let (code, _, errors) = policy(&["policy", "bench", "no-such-directory"]);
    assert_eq!(code, 2, "{errors}");
}

/// A directory with a test that fails and one that passes.
fn with_a_failing_test() -> tempfile::TempDir {
    let files = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(files.path().join(name), text).expect("written");
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/model.conf");
    std::fs::copy(shipped, files.path().join("model.conf")).expect("copied");
    std::fs::create_dir(files.path().join("tests")).expect("a folder");
    write("policy.csv", "p, reader, /a, GET, allow\n");
    write(
        "tests/a.yaml",
        "subjects: {bob: {roles: [reader]}}\ntests:\n  - {name: reads, sub: bob, obj: /a, allow: [GET]}\n  - {name: '<writes> & \"more\"', sub: bob, obj: /a, allow: [GET, PUT]}\n",
    );
    files
}

#[test]
fn tests_are_reported_as_junit_for_build_servers() {
    let files = with_a_failing_test();
    let directory = files.path().display().to_string();
    let (code, out, errors) = policy(&["policy", "test", &directory, "--output", "junit"]);
    assert_eq!((code, errors.as_str()), (1, ""), "{out}");
    assert!(out.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n"), "{out}");
    let suite = format!(
        "<testsuite name=\"{directory}/tests/a.yaml\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"0."
    );
    assert!(out.contains(&suite), "{out}");
    assert!(out.contains("<testcase name=\"&lt;writes&gt; &amp; &quot;more&quot;\""), "{out}");
    assert_eq!(
        out.matches("<failure message=\"bob may not PUT /a, expected to be allowed").count(),
        1,
        "{out}"
    );
    assert_eq!((out.matches("<testcase ").count(), out.matches("</testsuites>").count()), (2, 1));
    let (code, out, _) = policy(&["-o", "junit", "policy", "test", &directory, "--filter", "reads"]);
    assert_eq!(
        (code, out.matches("<testcase ").count(), out.matches("<failure").count()),
        (0, 1, 0),
        "{out}"
    );
    std::fs::write(files.path().join("policy.csv"), "p, reader\n").expect("written");
    let (code, out, _) = policy(&["-o", "junit", "policy", "test", &directory]);
    assert_eq!(code, 2);
    assert!(
        out.contains("errors=\"1\"") && out.contains("policy.csv:1\" classname=\"columns\"><error "),
        "{out}"
    );
    let (code, _, errors) = policy(&["-o", "junit", "policy", "check", &directory]);
    assert_eq!(code, 2);
    assert!(errors.contains("only `policy test` prints JUnit's XML"), "{errors}");
}

#[test]
fn watched_tests_run_again_when_a_file_changes() {
    let files = with_a_failing_test();
    let mut watching = Command::new(PORTCULLIS)
        .args(["--config", "none.toml", "-o", "json", "policy", "test", "--watch"])
        .arg(files.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut reports = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        let line = reports.next().expect("a report").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(next()["ok"], false);
    std::fs::write(files.path().join("policy.csv"), "p, reader, /a, GET|PUT, allow\n").expect("written");
    let second = next();
    assert_eq!(second["problems"].as_array().map(Vec::len), Some(1), "now `reads` fails: {second}");
    assert_eq!(second["cases"][0]["ok"], false);
    std::fs::write(files.path().join("policy.csv"), "p, reader\n").expect("written");
    assert_eq!(next()["problems"][0]["code"], "columns");
    watching.kill().expect("it ran until now");
    watching.wait().expect("ended");
}
