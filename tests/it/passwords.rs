//! Signing in with a password: one answer for every wrong one, limits that lock no owner out, and a bounded cost.

use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{Builder, Node, PASSWORD, Reply, Upstream, client};

/// A node that believes the tests' `X-Forwarded-For`.
fn behind_a_proxy() -> Builder {
    Node::with().config("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]")
}

fn sign_in(node: &Node, name: &str, password: &str, from: &str) -> Response {
    sign_in_with(node, name, password, from, "")
}

fn sign_in_with(node: &Node, name: &str, password: &str, from: &str, cookie: &str) -> Response {
    client()
        .post(node.url("/auth/login"))
        .header("x-forwarded-for", from)
        .header("cookie", cookie)
        .json(&json!({"username": name, "password": password}))
        .send()
        .expect("an answer")
}

/// What the client sees, without what differs in every answer.
fn seen(answer: Response) -> (u16, Vec<String>, Value) {
    let status = answer.status().as_u16();
    let mut names: Vec<String> = answer.headers().keys().map(ToString::to_string).collect();
    names.sort();
    let mut body: Value = answer.json().expect("JSON");
    body.as_object_mut().expect("an object").remove("request_id");
    (status, names, body)
}

#[test]
fn a_known_and_an_unknown_name_get_the_same_answers_up_to_the_limit_and_beyond() {
    let node = behind_a_proxy().account("alice", &[]).account_with("off", &[], "disabled = true").start();
    let mut answers = Vec::new();
    for (name, from) in [("alice", "192.0.2.1"), ("nobody", "192.0.2.2"), ("off", "192.0.2.3")] {
        let wrong: Vec<_> = (0..10).map(|_| seen(sign_in(&node, name, "wrong", from))).collect();
        assert!(wrong.iter().all(|answer| answer.0 == 401), "{wrong:?}");
        let limited = sign_in(&node, name, PASSWORD, from);
        let seconds: u32 =
            limited.headers()["retry-after"].to_str().expect("text").parse().expect("a number");
        assert!((1..=300).contains(&seconds));
        let limited = seen(limited);
        assert_eq!(limited.0, 429);
        answers.push((wrong, limited));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    // From a new address the account is limited as well.
    assert_eq!(sign_in(&node, "alice", PASSWORD, "192.0.2.9").status(), 429);
    let events = node.audit(&["--since", "1h"]);
    let limited = events.iter().filter(|event| event["kind"] == "login" && event["reason"] == "rate-limited");
    assert_eq!(limited.count(), 4);
    let metrics = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
    let counted = |result: &str| {
        let line = metrics.lines().find(|line| {
            line.starts_with("portcullis_logins_total{") && line.contains("password") && line.contains(result)
        });
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, count)| count.to_owned()).expect("the series")
    };
    assert_eq!((counted("wrong").as_str(), counted("limited").as_str()), ("30", "4"));
}

#[test]
fn a_device_that_signed_in_before_is_not_locked_out_by_guesses_from_elsewhere() {
    let node = behind_a_proxy().account("alice", &[]).start();
    let (home, attacker, hotel) = ("192.0.2.1", "198.51.100.1", "203.0.113.5");
    assert_eq!(sign_in(&node, "alice", PASSWORD, home).status(), 200);
    let cookie = browser_sign_in(&node, hotel);
    for _ in 0..10 {
        assert_eq!(sign_in(&node, "alice", "guess", attacker).status(), 401);
    }
    assert_eq!(sign_in(&node, "alice", PASSWORD, attacker).status(), 429);
    assert_eq!(sign_in(&node, "alice", PASSWORD, "192.0.2.77").status(), 429);
    assert_eq!(sign_in(&node, "alice", PASSWORD, home).status(), 200);
    assert_eq!(sign_in_with(&node, "alice", PASSWORD, "203.0.113.99", &cookie).status(), 200);
    let made_up = format!("portcullis-device={}", "A".repeat(65));
    assert_eq!(sign_in_with(&node, "alice", PASSWORD, "203.0.113.99", &made_up).status(), 429);
}

/// Signs alice in with the page's form; the cookie that says so later.
fn browser_sign_in(node: &Node, from: &str) -> String {
    let page = client().get(node.url("/auth/login")).header("x-forwarded-for", from).send().expect("a page");
    let before = cookie(&page, "portcullis-before");
    let text = page.text().expect("text");
    let (_, rest) = text.split_once("name=\"csrf\"").expect("the field");
    let csrf = rest.split_once("value=\"").and_then(|(_, rest)| rest.split_once('"')).expect("its value").0;
    let answer = client()
        .post(node.url("/auth/login"))
        .header("x-forwarded-for", from)
        .header("cookie", before)
        .header("origin", node.url(""))
        .form(&[("username", "alice"), ("password", PASSWORD), ("csrf", csrf)])
        .send()
        .expect("an answer");
    assert_eq!(answer.status(), 303);
    cookie(&answer, "portcullis-device")
}

fn cookie(answer: &Response, name: &str) -> String {
    let set = answer.headers().get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let found =
        set.filter(|text| text.starts_with(&format!("{name}="))).find_map(|text| text.split(';').next());
    found.unwrap_or_else(|| panic!("no cookie {name}")).to_owned()
}

#[test]
fn one_address_that_tries_many_names_is_stopped_and_no_other() {
    let node = behind_a_proxy().account("alice", &[]).start();
    for number in 0..100 {
        assert_eq!(sign_in(&node, &format!("user{number}"), "wrong", "2001:db8::1").status(), 401);
    }
    // The same subscriber's network, then another's.
    assert_eq!(sign_in(&node, "alice", PASSWORD, "2001:db8::2:3").status(), 429);
    assert_eq!(sign_in(&node, "alice", PASSWORD, "2001:db8:0:1::1").status(), 200);
}

#[test]
fn a_clients_secret_cannot_be_guessed_on() {
    let node = behind_a_proxy()
        .config("[[client]]\nid = \"pep\"\nsecret = \"a-secret-of-some-length\"\ngrant_types = [\"client_credentials\"]")
        .start();
    let ask = |secret: &str, from: &str| {
        client()
            .post(node.url("/auth/token"))
            .header("x-forwarded-for", from)
            .basic_auth("pep", Some(secret))
            .form(&[("grant_type", "client_credentials")])
            .send()
            .expect("an answer")
    };
    for _ in 0..10 {
        let answer = ask("guess", "198.51.100.1");
        assert_eq!(
            (answer.status().as_u16(), answer.json::<Value>().expect("JSON")["error"].clone()),
            (401, json!("invalid_client"))
        );
    }
    let answer = ask("a-secret-of-some-length", "198.51.100.1");
    assert_eq!(answer.status(), 429);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(ask("a-secret-of-some-length", "192.0.2.1").status(), 200);
}

#[test]
fn a_flood_of_sign_ins_is_turned_away_and_everyone_else_is_served() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .upstream(&upstream.url())
        .config("[passwords.hashing]\nmemory = \"1MiB\"\npasses = 200\nthreads = 1\nqueue = 2")
        .account_with("alice", &["reader"], "")
        .start();
    let token = node.token("alice");
    let flood: Vec<_> = (0..30)
        .map(|number| {
            let url = node.url("/auth/login");
            std::thread::spawn(move || {
                let body = json!({"username": format!("u{number}"), "password": "x"});
                let answer = client().post(url).json(&body).send().expect("an answer");
                let after = answer.headers().contains_key("retry-after");
                (answer.status().as_u16(), after)
            })
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(node.ask("GET", "/", &token).status(), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let answers: Vec<_> = flood.into_iter().map(|one| one.join().expect("an answer")).collect();
    assert!(answers.iter().any(|(status, _)| *status == 401), "{answers:?}");
    assert!(answers.contains(&(503, true)), "{answers:?}");
    assert!(
        answers.iter().all(|(status, after)| *status == 401 || (*status == 503 && *after)),
        "{answers:?}"
    );
}

#[test]
fn a_sign_in_renews_a_hash_that_costs_less_than_is_asked_for_now() {
    let mut node = Node::with().account("alice", &[]).start();
    let (code, out, errors) =
        node.cli_with(&["user", "add", "carol", "--password-stdin"], "a long password\n");
    assert_eq!(code, 0, "{out}{errors}");
    assert_eq!(node.sign_in("carol", "a long password").status(), 200);
    let config = std::fs::read_to_string(node.directory().join("portcullis.toml")).expect("it is there");
    node.stop();
    node.write("portcullis.toml", config.replace("passes = 1", "passes = 3"));
    node.start_again();
    assert_eq!(node.sign_in("carol", "a long password").status(), 200);
    node.stop();
    let holds = |text: &str| {
        let mut files = data_files(node.directory());
        files.any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    assert!(holds("$argon2id$v=19$m=1024,t=3,p=1$"), "the new hash is in the store");
    node.start_again();
    assert_eq!(node.sign_in("carol", "a long password").status(), 200);
}

fn data_files(directory: &std::path::Path) -> impl Iterator<Item = Vec<u8>> {
    let entries = std::fs::read_dir(directory.join("data")).expect("a directory").flatten();
    entries.filter_map(|entry| std::fs::read(entry.path()).ok())
}
