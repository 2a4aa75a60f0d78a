//! The demo does the main job: sign in, be allowed, be refused, see both in the audit.

use serde_json::Value;

use crate::support::{Demo, Navigator, client, eventually};

#[test]
fn bob_reads_orders_and_alice_does_everything() {
    let demo = Demo::start();
    let (bob, alice) = (demo.token("bob"), demo.token("alice"));
    let ask = |token: &str, method: &str, path: &str| {
        let method = method.parse().expect("a method");
        client()
            .request(method, demo.url(path))
            .bearer_auth(token)
            .send()
            .expect("an answer")
            .status()
            .as_u16()
    };
    assert_eq!(ask(&bob, "GET", "/orders/7"), 200);
    assert_eq!(ask(&bob, "DELETE", "/orders/7"), 403);
    assert_eq!(ask(&bob, "GET", "/reports/engineering"), 403);
    assert_eq!(ask(&bob, "GET", "/reports/sales"), 200);
    assert_eq!(ask(&alice, "GET", "/orders"), 200);
    assert_eq!(ask(&alice, "DELETE", "/orders/7"), 200);
    assert_eq!(ask(&alice, "GET", "/reports/engineering"), 200);
}

#[test]
fn without_credentials_only_the_public_page_answers() {
    let demo = Demo::start();
    let get = |path: &str| client().get(demo.url(path)).send().expect("an answer");
    assert_eq!(get("/public/hello").status(), 200);
    let refused = get("/orders");
    assert_eq!(refused.status(), 401);
    assert!(refused.headers()["www-authenticate"].to_str().expect("text").starts_with("Bearer"));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let id = refused.headers()["x-request-id"].to_str().expect("text").to_owned();
    let problem: Value = refused.json().expect("JSON");
    assert_eq!(problem["type"], "urn:portcullis:problem:unauthenticated");
    assert_eq!(problem["request_id"], id.as_str());
    assert_eq!(get("/nowhere").status(), 404);
}

/// Who opens the printed address in a browser is greeted, and told how to go on.
#[test]
fn the_first_page_is_for_everyone_and_says_who_the_gateway_says_you_are() {
    let demo = Demo::start();
    let stranger = client().get(demo.url("/")).header("portcullis-user", "alice").send().expect("an answer");
    assert_eq!(stranger.status(), 200);
    let stranger = stranger.text().expect("text");
    assert!(stranger.contains("You are not signed in") && !stranger.contains("alice</strong>"), "{stranger}");

    let address = demo.url("").trim_start_matches("http://").replace("localhost", "127.0.0.1");
    let mut browser = Navigator::new(&[("localhost", address.parse().expect("an address"))]);
    let (at, page) = browser.follow(&demo.url("/auth/login?return_to=/"));
    let answer = browser.sign_in(&at, page, "bob", &demo.password("bob"));
    assert_eq!(answer.status(), 303);
    let bob = browser.open(&demo.url("/")).text().expect("text");
    assert!(bob.contains("you are <strong>bob</strong> (reader)"), "{bob}");
}

#[test]
fn forged_identity_headers_do_not_reach_the_upstream() {
    let demo = Demo::start();
    let echo: Value = client()
        .get(demo.url("/echo"))
        .bearer_auth(demo.token("bob"))
        .header("Portcullis-User", "alice")
        .header("Portcullis_Roles", "admin")
        .header("X-Forwarded-User", "alice")
        .header("Remote.User", "alice")
        .send()
        .expect("an answer")
        .json()
        .expect("JSON");
    let headers = echo["headers"].as_object().expect("headers");
    assert_eq!(headers["portcullis-user"], serde_json::json!(["bob"]));
    assert!(headers["portcullis-roles"][0].as_str().expect("text").split(',').any(|role| role == "reader"));
    for name in ["portcullis_roles", "x-forwarded-user", "remote.user", "authorization"] {
        assert!(!headers.contains_key(name), "{name} reached the upstream: {echo}");
    }
}

#[test]
fn both_verdicts_are_in_the_audit_and_its_chain_verifies() {
    let demo = Demo::start();
    let bob = demo.token("bob");
    for method in ["GET", "DELETE"] {
        let method = method.parse().expect("a method");
        drop(client().request(method, demo.url("/orders/7")).bearer_auth(&bob).send().expect("an answer"));
    }
    let seen = eventually("both verdicts are in the audit", || {
        let (code, out, _) = demo.cli(&["-o", "json", "audit", "query", "--since", "1h", "--sub", "bob"]);
        let events: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let decisions: Vec<_> =
            events.iter().filter(|e| e["kind"] == "access").map(|e| e["decision"].clone()).collect();
        (code == 0 && decisions.len() == 2).then_some(decisions)
    });
    assert_eq!(seen, ["allow", "deny"]);
    let (code, out, err) = demo.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn ctrl_c_ends_the_demo_with_0_and_leaves_nothing_behind() {
    let demo = Demo::start();
    let directory = demo.text("data_dir").to_owned();
    assert!(std::path::Path::new(&directory).exists());
    assert_eq!(demo.interrupt(), 0);
    assert!(!std::path::Path::new(&directory).exists());
}
