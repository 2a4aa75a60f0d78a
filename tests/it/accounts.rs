//! Accounts in a file under version control: what it may say, and what it may not contradict.

use crate::support::{Node, PASSWORD, Reply, Upstream, client, eventually};

const ARGON2ID: &str =
    "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$WXQdUMzhxr2SbKoEVm4LFvWzKa9pXqPCKVpC9gRDN0o";

fn with_hash(hash: &str) -> (i32, String, String) {
    Node::with().account_with("alice", &[], &format!("password_hash = '{hash}'")).refused()
}

#[test]
fn a_mistake_in_the_accounts_file_has_its_line_and_keeps_the_node_from_starting() {
    for (hash, said) in [
        (ARGON2ID.replace("argon2id", "argon2i"), "is a hash by argon2i; only argon2id counts here"),
        (
            "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW".to_owned(),
            "is not an Argon2id hash",
        ),
        ("correct horse battery staple".to_owned(), "is not an Argon2id hash"),
        (ARGON2ID.replace("m=1024", "m=5000000"), "costs more than 4GiB"),
        (ARGON2ID.rsplit_once('$').expect("a hash").0.to_owned(), "is not an Argon2id hash"),
    ] {
        let (code, _, errors) = with_hash(&hash);
        assert_eq!(code, 2, "{hash}: {errors}");
        assert!(errors.contains("users.toml:") && errors.contains(said), "{hash}: {errors}");
        assert!(!errors.contains("horse"), "a password is never repeated: {errors}");
    }
    for (first, second, said) in [
        ("alice", "alice", "two accounts `alice`"),
        ("alice", "ALICE", "differ in case alone"),
        ("alice", "client:pep", "is not an account name"),
        ("alice", "\u{430}lice", "is not an account name"),
        ("alice", "anonymous", "reserved"),
    ] {
        let (code, _, errors) = Node::with().account(first, &[]).account(second, &[]).refused();
        assert_eq!(code, 2, "{second}: {errors}");
        assert!(errors.contains("users.toml:") && errors.contains(said), "{second}: {errors}");
    }
    for (role, said) in [("bob", "has the name of an existing principal"), ("a,b", "is not a role name")] {
        let (code, _, errors) = Node::with().account("alice", &[role]).account("bob", &[]).refused();
        assert_eq!(code, 2, "{role}: {errors}");
        assert!(errors.contains("users.toml:") && errors.contains(said), "{role}: {errors}");
    }
}

#[test]
fn names_and_roles_of_file_and_store_do_not_contradict_each_other() {
    let node = Node::with().account("alice", &["admin"]).start();
    let add = |name: &str, role: &str| {
        let (code, out, errors) =
            node.cli_with(&["user", "add", name, "--role", role, "--password-stdin"], "a long password\n");
        (code, format!("{out}{errors}"))
    };
    assert_eq!(add("carol", "ops").0, 0);
    for (name, role, said) in [
        ("alice", "x", "exists already"),
        ("Alice", "x", "differs from the account `alice` in case alone"),
        ("CAROL", "x", "differs from the account `carol` in case alone"),
        ("admin", "x", "is used as a role"),
        ("ops", "x", "is used as a role"),
        ("dave", "alice", "has the name of an existing principal"),
        ("dave", "carol", "has the name of an existing principal"),
    ] {
        let (code, text) = add(name, role);
        assert!(code != 0 && text.contains(said), "{name} {role}: {code} {text}");
    }
    let file = |name: &str, role: &str| {
        format!(
            "[[user]]\nname = \"alice\"\nroles = [\"admin\"]\n\
             [[user]]\nname = \"{name}\"\nroles = [\"{role}\"]\n"
        )
    };
    let refusals = |node: &Node| {
        let events = node.audit(&["--since", "1h"]);
        events.iter().filter(|event| event["reason"] == "configuration_refused").count()
    };
    for (number, (name, role, said)) in
        [("ops", "x", "`ops` is used as a role"), ("dave", "carol", "role `carol` has the name")]
            .into_iter()
            .enumerate()
    {
        node.write("users.toml", file(name, role));
        eventually("the file is refused", || (refusals(&node) > number).then_some(()));
        assert!(node.log().contains(said), "{said}");
        let (code, out, _) = node.cli(&["-o", "json", "user", "show", name]);
        assert_ne!(code, 0, "nothing of it counts: {out}");
    }
    node.write("users.toml", file("dave", "ops"));
    eventually("the file counts", || (node.cli(&["user", "show", "dave"]).0 == 0).then_some(()));
}

#[test]
fn an_account_of_the_file_cannot_take_a_role_of_the_policies() {
    let node =
        Node::with().account("alice", &["admin"]).policy("p, admin, /*, .*, allow\ng, admin, reader").start();
    node.write("users.toml", "[[user]]\nname = \"reader\"\n");
    eventually("the file is refused", || {
        let events = node.audit(&["--since", "1h"]);
        events.iter().any(|event| event["reason"] == "configuration_refused").then_some(())
    });
    assert!(node.log().contains("reader has the name of a role of the policies"), "{}", node.log());
    // The other way: a policy that makes a role of a principal's name.
    node.write("policies/policy.csv", "p, admin, /*, .*, allow\np, admin, /x, GET, allow\ng, bob, alice\n");
    eventually("the policy is refused", || {
        let events = node.audit(&["--since", "1h"]);
        events.iter().any(|event| event["reason"] == "policy_refused").then_some(())
    });
    assert!(node.log().contains("`alice` is the name of a principal"), "{}", node.log());
}

#[test]
fn a_change_of_the_file_ends_what_the_account_holds() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = Node::with().upstream(&upstream.url()).start();
    let status = |node: &Node, cookie: &str, token: &str| {
        let session = client().get(node.url("/x")).header("cookie", cookie).send().expect("an answer");
        (session.status().as_u16(), node.ask("GET", "/x", token).status().as_u16())
    };
    let refresh = |node: &Node, token: &str| {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        client().post(node.url("/auth/token")).form(&form).send().expect("an answer").status().as_u16()
    };
    let (alice, bob) = (node.session("alice"), node.session("bob"));
    let (alices, bobs) = (node.token("alice"), node.token("bob"));
    let signed_in: serde_json::Value =
        serde_json::from_str(&node.sign_in("bob", PASSWORD).text().expect("a body")).expect("JSON");
    let renewal = signed_in["refresh_token"].as_str().expect("a refresh token");
    assert_eq!((status(&node, &alice, &alices), status(&node, &bob, &bobs)), ((200, 200), (200, 200)));

    // Bob is no longer a reader.
    let file = std::fs::read_to_string(node.directory().join("users.toml")).expect("the file");
    node.write("users.toml", file.replace("reader", "guest"));
    eventually("bob's credentials end", || (status(&node, &bob, &bobs) == (401, 401)).then_some(()));
    assert_eq!(refresh(&node, renewal), 400);
    assert_eq!(status(&node, &alice, &alices), (200, 200), "alice has not changed");

    // Alice leaves while no node runs.
    assert_eq!(node.stop(), 0);
    let mut table: toml::Table = file.parse().expect("TOML");
    let users = table["user"].as_array_mut().expect("a list");
    users.retain(|user| user["name"].as_str() != Some("alice"));
    node.write("users.toml", table.to_string());
    node.start_again();
    assert_eq!(status(&node, &alice, &alices).0, 401, "a session outlives no account");
}

#[test]
fn a_right_password_whose_claims_fit_in_no_token_is_refused_with_an_event_and_says_what_to_do() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let roles: Vec<String> = (0..400).map(|number| format!("{number:064}")).collect();
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    let node = Node::with().upstream(&upstream.url()).account("dora", &roles).start();
    let answer = node.sign_in("dora", PASSWORD);
    assert_eq!(answer.status(), 403);
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let event = node.events(&id, "login", 1).remove(0);
    assert_eq!((&event["decision"], &event["reason"]), (&"deny".into(), &"forbidden".into()));
    assert_eq!(event["principal"]["name"], "dora");
    eventually("the log names the account", || node.log().contains("attributes of `dora`").then_some(()));
}
