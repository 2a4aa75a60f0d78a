//! Two nodes on one Redis: what one ends, the other refuses within a second; each has its own audit chain.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::redis::{node, upstream};
use crate::support::{Builder, Node, PASSWORD, Redis, Upstream, client, eventually};

/// The promise, and what a busy machine needs to notice.
const SOON: Duration = Duration::from_millis(1500);

/// Two nodes that share a server and a master key.
fn two(upstream: &Upstream, redis: &Redis, second: impl FnOnce(Builder) -> Builder) -> (Node, Node) {
    let first = node(upstream, &redis.url(), "").start();
    let key = std::fs::read(first.directory().join("data/master.key")).expect("the master key");
    let builder = node(upstream, &redis.url(), "").config("[node]\nname = \"gate-2\"");
    (first, second(builder.secret_file("data/master.key", key)).start())
}

fn status(node: &Node, token: &str) -> u16 {
    node.ask("GET", "/orders", token).status().as_u16()
}

/// The other node refuses soon what this did.
fn refused_soon(other: &Node, token: &str, end: impl FnOnce()) {
    assert_eq!(status(other, token), 200);
    end();
    let ended = Instant::now();
    eventually("the other node refuses it", || (status(other, token) == 401).then_some(()));
    assert!(ended.elapsed() < SOON, "{:?}", ended.elapsed());
}

#[test]
fn what_one_node_ends_the_other_refuses() {
    let (upstream, redis) = (upstream(), Redis::start());
    let (one, two) = two(&upstream, &redis, |builder| builder);
    let added = one
        .cli_with(&["user", "add", "carol", "--role", "reader", "--password-stdin"], "long enough words\n");
    assert_eq!(added.0, 0, "{added:?}");
    let carol = || {
        let answer = two.sign_in("carol", "long enough words");
        let body: Value = answer.json().expect("JSON");
        body["access_token"].as_str().expect("a token").to_owned()
    };

    // A token made by one is good at the other, until it is revoked, signed out, or its account is disabled.
    let token = one.token("bob");
    let form = [("token", token.as_str())];
    refused_soon(&two, &token, || {
        let revoked = client().post(one.url("/auth/revoke")).bearer_auth(&token).form(&form).send();
        assert_eq!(revoked.expect("an answer").status(), 200);
    });
    let token = two.token("bob");
    refused_soon(&one, &token, || {
        let out = client().post(two.url("/auth/logout")).bearer_auth(&token).send().expect("an answer");
        assert!(out.status().is_success());
    });
    let token = carol();
    refused_soon(&two, &token, || assert_eq!(one.cli(&["user", "disable", "carol"]).0, 0));
    assert_eq!(two.sign_in("carol", "long enough words").status(), 401);
    assert_eq!(two.cli(&["user", "enable", "carol"]).0, 0);
    assert_eq!(one.sign_in("carol", "long enough words").status(), 200);
    let token = carol();
    refused_soon(&one, &token, || assert_eq!(two.cli(&["user", "delete", "carol"]).0, 0));

    for node in [&one, &two] {
        let (code, out, err) = node.cli(&["audit", "verify"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("gate-1: ") && out.contains("gate-2: "), "{out}");
    }
}

#[test]
fn a_refresh_token_has_one_successor_whichever_node_is_asked() {
    let (upstream, redis) = (upstream(), Redis::start());
    let (one, two) = two(&upstream, &redis, |builder| builder);
    let tokens: Value = one.sign_in("bob", PASSWORD).json().expect("JSON");
    let refresh = tokens["refresh_token"].as_str().expect("a token").to_owned();
    let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.as_str())];
    let successors: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = [&one, &two, &one, &two, &one, &two, &one, &two]
            .map(|node| scope.spawn(move || client().post(node.url("/auth/token")).form(&form).send()))
            .into_iter()
            .collect();
        let answers = asking.into_iter().map(|asking| asking.join().expect("no panic").expect("an answer"));
        let bodies = answers.map(|answer| answer.json::<Value>().expect("JSON"));
        bodies.map(|body| body["refresh_token"].as_str().expect("a token").to_owned()).collect()
    });
    assert_eq!(successors.len(), 1);
    assert!(!successors.contains(&refresh));
}

#[test]
fn a_key_that_one_node_makes_is_published_and_taken_by_the_other() {
    let (upstream, redis) = (upstream(), Redis::start());
    let algorithms = |node: &Node| {
        let set: Value =
            client().get(node.url("/.well-known/jwks.json")).send().expect("an answer").json().expect("JSON");
        let keys = set["keys"].as_array().expect("keys").clone();
        keys.iter().map(|key| key["alg"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    // A node that is configured for another algorithm rotates the ring that all share.
    let settings = "[tokens]\nalgorithm = \"EdDSA\"\naccess_ttl = \"2s\"";
    let (one, two) = two(&upstream, &redis, |builder| builder.config(settings));
    let started = Instant::now();
    eventually("the other node publishes the new key", || {
        algorithms(&one).contains(&"EdDSA".to_owned()).then_some(())
    });
    assert!(started.elapsed() < SOON);
    assert_eq!(algorithms(&two).len(), 2, "the key before still verifies");
    let token = eventually("the new key signs at the other node", || {
        let token = one.token("bob");
        let header = token.split('.').next().expect("a header");
        let header = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
        String::from_utf8(header.expect("base64url")).expect("text").contains("EdDSA").then_some(token)
    });
    assert_eq!((status(&one, &token), status(&two, &token)), (200, 200));
}

#[test]
fn each_node_knows_who_lives_and_no_name_is_used_twice() {
    let (upstream, redis) = (upstream(), Redis::start());
    let (one, mut two) = two(&upstream, &redis, |builder| builder);
    let nodes = |node: &Node, count: u32| {
        eventually("the nodes are counted", || {
            let metrics =
                client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
            metrics.contains(&format!("portcullis_nodes {count}\n")).then_some(())
        });
    };
    nodes(&one, 2);
    nodes(&two, 2);
    let key = std::fs::read(one.directory().join("data/master.key")).expect("the master key");
    let (code, _, err) = node(&upstream, &redis.url(), "").secret_file("data/master.key", key).refused();
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("`gate-1` lives already") && err.contains("[node] name"), "{err}");
    assert_eq!(two.stop(), 0);
    nodes(&one, 1);
    two.start_again();
    two.kill();
    two.start_again();
    nodes(&one, 2);
}

#[test]
fn another_master_key_is_told() {
    let (upstream, redis) = (upstream(), Redis::start());
    let _one = node(&upstream, &redis.url(), "").start();
    let (code, _, err) = node(&upstream, &redis.url(), "").config("[node]\nname = \"gate-2\"").refused();
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("master key"), "{err}");
}
