//! Why was I refused: what an operator sees of recorded decisions, and of commands that ask the wrong place.

use serde_json::{Value, json};

use crate::support::{Node, Reply, Upstream, client, eventually};

const POLICY: &str = "p, reader, /orders/:id, GET|HEAD, allow\n\
                      p, admin, /orders/:id, .*, allow\n\
                      p, reader, /reports/:department, GET, allow\n\
                      g, bob, auditor\n";

fn node() -> (Node, Upstream) {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let routes = "[[route]]\nname = \"reset\"\npath = \"/reset/{key}\"\nupstream = \"main\"\nmask = [\"/reset/{key}\"]\n";
    let account = "attributes = { department = \"sales\" }";
    let node = Node::with().upstream(&upstream.url()).config(routes).policy(POLICY);
    (node.account_with("bob", &["reader"], account).account("alice", &["admin"]).start(), upstream)
}

/// The request id of the answer to bob.
fn asked(node: &Node, method: &str, path: &str) -> String {
    let answer = node.ask(method, path, &node.token("bob"));
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    node.event(&id);
    id
}

/// What a command prints, with its code.
fn said(node: &Node, arguments: &[&str], code: i32) -> String {
    let (ended, out, err) = node.cli(arguments);
    assert_eq!(ended, code, "{arguments:?}: {out}{err}");
    assert_eq!(err, "", "{arguments:?}");
    out
}

fn live(node: &Node) -> String {
    let answer = client().get(node.admin("/api/v1/policy")).bearer_auth(node.admin_token()).send();
    let policy: Value = answer.expect("an answer").json().expect("JSON");
    policy["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn why_names_the_nearest_rows_and_the_term_that_failed() {
    let (node, _upstream) = node();
    let refused = asked(&node, "DELETE", "/orders/7");
    let text = said(&node, &["why", &refused], 0);
    assert!(text.starts_with("DENY  bob DELETE /orders/7   403 forbidden\n"), "{text}");
    for part in [
        "no rule allows it. Nearest:\n  policy.csv:2   p, admin, /orders/:id, .*, allow\n",
        "✗ sub   bob has roles auditor (policy.csv:4 g, bob, auditor), reader, needs admin\n",
        "✓ obj   /orders/7 matches /orders/:id\n",
        "  policy.csv:1   p, reader, /orders/:id, GET|HEAD, allow\n",
        "✗ act   DELETE is not GET or HEAD\n",
        "the live one",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(said(&node, &["why", &refused.to_lowercase()], 0), text, "an id in the other case");
    let document: Value =
        serde_json::from_str(&said(&node, &["-o", "json", "why", &refused], 0)).expect("JSON");
    assert_eq!(document["request_id"], refused.as_str());
    assert_eq!(document["now"]["near"][0]["terms"][0]["holds"], false);
    assert_eq!(
        (&document["rule"], &document["now"]["near"][0]["file"]),
        (&Value::Null, &json!("policy.csv"))
    );
    assert_eq!(document["live_policy"], document["policy"]);

    let allowed = said(&node, &["why", &asked(&node, "GET", "/orders/7")], 0);
    assert!(
        allowed.contains("allowed by policy.csv:1   p, reader, /orders/:id, GET|HEAD, allow"),
        "{allowed}"
    );
    let attribute = said(&node, &["why", &asked(&node, "GET", "/reports/engineering")], 0);
    assert!(attribute.contains("department is \"sales\""), "{attribute}");
    assert!(
        attribute.contains("the audit keeps no attributes: department is what bob has today"),
        "{attribute}"
    );
    let masked = said(&node, &["why", &asked(&node, "GET", "/reset/secret")], 0);
    assert!(masked.contains("mask") && !masked.contains("secret"), "{masked}");
    let stranger =
        client().get(node.url("/orders/7")).header("x-request-id", "mine-7").send().expect("an answer");
    assert_eq!(stranger.status(), 401);
    let own = eventually("the client's id is known", || {
        let (code, out, _) = node.cli(&["why", "mine-7"]);
        (code == 0).then_some(out)
    });
    assert!(own.contains("401 unauthenticated") && own.contains("it brought no credential"), "{own}");
    for unknown in ["01J8Z300000000000000000000", "perhaps", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"] {
        let (code, _, err) = node.cli(&["why", unknown]);
        assert!(code == 1 && err.contains("no event of request"), "{err}");
    }
}

#[test]
fn a_decision_of_another_policy_is_told_as_then_and_now() {
    let (node, _upstream) = node();
    let (refused, then) = (asked(&node, "DELETE", "/orders/7"), live(&node));
    let allowed = asked(&node, "GET", "/orders/7");
    let explain = |code, more: &[&str]| {
        said(&node, &[&["-o", "json", "policy", "explain", "--request", &refused], more].concat(), code)
    };
    let same: Value = serde_json::from_str(&explain(1, &[])).expect("JSON");
    assert_eq!((&same["decision"], &same["then"]["decision"]), (&json!("deny"), &json!("deny")));
    assert_eq!((&same["digest"], &same["then"]["digest"]), (&json!(then), &json!(then)));
    assert_eq!(same["then"]["roles"], json!(["auditor", "reader"]));

    // What the files gave then is not carried: a folder without that link does not have it.
    let folder = tempfile::tempdir().expect("a folder");
    let model = node.directory().join("policies/model.conf");
    std::fs::copy(model, folder.path().join("model.conf")).expect("copied");
    std::fs::write(folder.path().join("policy.csv"), "p, auditor, /orders/:id, .*, allow\n")
        .expect("written");
    let directory = folder.path().display().to_string();
    let without: Value = serde_json::from_str(&explain(1, &[&directory])).expect("JSON");
    assert_eq!(without["roles"], json!(["reader"]));

    node.write("policies/policy.csv", POLICY.replace("GET|HEAD", "GET|DELETE"));
    let now = eventually("the change is live", || Some(live(&node)).filter(|now| *now != then));
    let text = said(&node, &["why", &refused], 0);
    for part in [
        format!("then, by policy {then}: deny, no rule\n  now, by policy {now}: allow\n"),
        "allowed by policy.csv:1".to_owned(),
        format!("{then}, live now is {now}"),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let text = said(&node, &["policy", "explain", "--request", &refused], 0);
    assert!(text.starts_with("ALLOW  bob DELETE /orders/7"), "{text}");
    assert!(text.contains(&format!("then    deny, no rule, by policy {then} (other files)")), "{text}");
    let hints = said(&node, &["audit", "query", "--request", &refused], 0);
    assert!(hints.contains("no rule") && !hints.contains("nearest"), "of another policy: {hints}");
    let line = said(&node, &["audit", "query", "--request", &allowed], 0);
    assert!(
        line.contains("policy.csv:1") && !line.contains("p, reader"),
        "the row has another text now: {line}"
    );

    node.write("policies/policy.csv", "p, reader\n");
    eventually("the mistake is told", || {
        said(&node, &["why", &refused], 0).contains("the last good ones decide: ").then_some(())
    });
    let lost = client().get(node.url("/orders/7")).send().expect("an answer");
    let id = lost.headers()["x-request-id"].to_str().expect("text").to_owned();
    node.event(&id);
    let (code, _, err) = node.cli(&["policy", "explain", "--request", &id, &directory]);
    assert!(code == 1 && err.contains("the policy was not asked"), "{err}");
}

#[test]
fn lines_say_which_row_or_what_the_nearest_lacks_and_documents_stay_as_recorded() {
    let (node, _upstream) = node();
    let ids = [asked(&node, "GET", "/orders/7"), asked(&node, "DELETE", "/orders/7")];
    let lines = said(&node, &["audit", "query", "--kind", "access"], 0);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0]
            .contains(" allow  bob  GET    /orders/7  policy.csv:1  p, reader, /orders/:id, GET|HEAD, allow")
    );
    assert!(
        lines[1]
            .contains(" deny   bob  DELETE /orders/7  no rule       nearest: policy.csv:2 needs role admin")
    );
    assert!(lines.iter().zip(&ids).all(|(line, id)| line.ends_with(id.as_str())), "{lines:?}");
    assert_eq!(lines[0].find("/orders"), lines[1].find("/orders"), "aligned");
    assert_eq!(lines[0].find(&ids[0]), lines[1].find(&ids[1]), "aligned");
    let tail = |more: &[&str]| said(&node, &[&["audit", "tail"], more].concat(), 0);
    let denied = tail(&["--decision", "deny"]);
    assert!(
        denied.lines().count() == 1 && denied.contains("nearest: policy.csv:2 needs role admin"),
        "{denied}"
    );
    assert_eq!(tail(&["-n", "1", "--sub", "bob", "--kind", "access"]).lines().count(), 1);
    assert_eq!(tail(&["--reason", "forbidden"]).lines().count(), 1);
    assert_eq!(node.audit(&["--until", "1h"]).len(), 0);
    assert_eq!(node.audit(&["--since", "2020-01-05T10:00:00Z", "--kind", "access"]).len(), 2);
    for wrong in [["--kind", "other"], ["--since", "1x"], ["--until", "yesterday"]] {
        assert_eq!(node.cli(&["audit", "query", wrong[0], wrong[1]]).0, 2, "{wrong:?}");
    }
    let (code, out, err) = node.cli(&["audit", "query", "--sub", "nobody"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", "no event matches\n"));
    let recorded = said(&node, &["audit", "export"], 0);
    assert!(
        !recorded.contains("\"hint\"")
            && !said(&node, &["-o", "json", "audit", "tail"], 0).contains("\"hint\"")
    );
    said(&node, &["audit", "verify"], 0);
}

#[test]
fn a_command_that_asks_the_wrong_place_says_where_to_ask() {
    let (node, _upstream) = node();
    let refused = |arguments: &[&str]| {
        let (code, out, err) = node.cli(arguments);
        assert_eq!(out, "", "{arguments:?}");
        (code, err)
    };
    let public = node.url("");
    let (code, err) = refused(&["--admin-url", &public, "user", "list"]);
    assert!(code == 3 && err.contains("not a node's operators' listener"), "{code} {err}");
    let (code, err) = refused(&["--admin-url", &public, "healthcheck"]);
    assert!(code == 1 && err.contains("not a node's operators' listener"), "{code} {err}");
    let (code, err) = refused(&["session", "revoke"]);
    assert!(code == 2 && err.contains("--sub"), "{err}");
    let asked = |token: Option<&str>, arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.current_dir(std::env::temp_dir()).env("PORTCULLIS_ADMIN_URL", node.admin(""));
        match token {
            Some(token) => command.env("PORTCULLIS_ADMIN_TOKEN", token),
            None => command.env_remove("PORTCULLIS_ADMIN_TOKEN"),
        };
        let output = command.args(arguments).output().expect("the program runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, err) = asked(Some("wrong"), &["user", "list"]);
    assert!(
        code == Some(2) && err.contains("does not take the admin token of PORTCULLIS_ADMIN_TOKEN"),
        "{err}"
    );
    let (code, err) = asked(None, &["user", "list"]);
    assert!(code == Some(2) && err.contains("set PORTCULLIS_ADMIN_TOKEN"), "{err}");
    node.write("broken.toml", "[listen]\nadress = \"x\"\n");
    let broken = node.directory().join("broken.toml").display().to_string();
    let policies = node.directory().join("policies").display().to_string();
    for (arguments, part) in [
        (vec!["-c", "nowhere.toml", "policy", "check"], "--config"),
        (vec!["-c", &broken, "policy", "check", &policies], "adress"),
    ] {
        let (code, err) = asked(None, &arguments);
        assert!(code == Some(2) && err.contains(part), "a named configuration counts: {err}");
    }
}
