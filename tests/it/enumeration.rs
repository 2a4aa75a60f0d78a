//! Nobody learns from a failed sign-in which names exist: the same answer, and the same work.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Node, client};

/// Accounts, each tried fewer times than the limit of failures.
const ACCOUNTS: usize = 6;
const TRIES: usize = 7;

/// Costly enough that the hash is what takes the time.
const HASHING: &str = "[passwords.hashing]\nmemory = \"19MiB\"\npasses = 2\nthreads = 1\n";

struct Tried {
    took: Duration,
    status: u16,
    headers: Vec<String>,
    body: Value,
}

fn attempt(node: &Node, client: &reqwest::blocking::Client, name: &str) -> Tried {
    let body = serde_json::json!({"username": name, "password": "not the password of anyone"});
    let began = Instant::now();
    let answer = client.post(node.url("/auth/login")).json(&body).send().expect("an answer");
    let took = began.elapsed();
    let status = answer.status().as_u16();
    let mut headers: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
    headers.sort();
    let mut body: Value = answer.json().expect("JSON");
    body["request_id"] = Value::Null;
    Tried { took, status, headers, body }
}

fn median(tried: &[Tried]) -> Duration {
    let mut times: Vec<_> = tried.iter().map(|tried| tried.took).collect();
    times.sort();
    times[times.len() / 2]
}

/// Tries both kinds of name by turns, so that whatever else the machine does falls on both.
fn compare(known: impl Fn(usize) -> String, node: &Node) -> (Vec<Tried>, Vec<Tried>) {
    let client = client();
    attempt(node, &client, "warm-up");
    let (mut exist, mut do_not) = (Vec::new(), Vec::new());
    for round in 0..ACCOUNTS * TRIES {
        exist.push(attempt(node, &client, &known(round % ACCOUNTS)));
        do_not.push(attempt(node, &client, &format!("nobody-{}", round % ACCOUNTS)));
    }
    (exist, do_not)
}

/// Measures on a node of its own each time: one measurement may fall on a busy machine, not each of four.
fn check(mut measure: impl FnMut() -> (Vec<Tried>, Vec<Tried>)) {
    let mut seen = Vec::new();
    for _ in 0..4 {
        let (known, unknown) = measure();
        match compared(&known, &unknown) {
            Ok(()) => return,
            Err(differ) => seen.push(differ),
        }
    }
    panic!("{}", seen.join("\n"));
}

fn compared(known: &[Tried], unknown: &[Tried]) -> Result<(), String> {
    for tried in known.iter().chain(unknown) {
        assert_eq!(tried.status, 401);
        assert_eq!((&tried.headers, &tried.body), (&known[0].headers, &known[0].body));
    }
    // The answer is the same to the letter; the medians of interleaved tries differ by far less than the hash costs.
    let (one, other) = (median(known), median(unknown));
    let ratio = one.as_secs_f64() / other.as_secs_f64();
    if (0.6..1.6).contains(&ratio) { Ok(()) } else { Err(format!("known {one:?}, unknown {other:?}")) }
}

#[test]
fn a_wrong_password_of_an_account_and_a_name_that_does_not_exist_look_and_cost_the_same() {
    check(|| {
        let mut builder = Node::with().config(HASHING);
        for number in 0..ACCOUNTS {
            // Made with a cheaper hash than is configured now: it must not be told by its speed.
            builder = builder.account(&format!("known-{number}"), &["reader"]);
        }
        compare(|number| format!("known-{number}"), &builder.start())
    });
}

#[test]
fn a_disabled_account_and_a_name_that_is_none_cost_the_same_as_any() {
    let start = || {
        let mut builder = Node::with().config(HASHING);
        for number in 0..ACCOUNTS {
            builder = builder.account_with(&format!("gone-{number}"), &["reader"], "disabled = true");
        }
        builder.start()
    };
    check(|| compare(|number| format!("gone-{number}"), &start()));
    let names = ["a:b", "", "../etc", "admin", "gone-0", "gone-1"];
    let node = start();
    let client = client();
    for name in names {
        let tried = attempt(&node, &client, name);
        assert!(matches!(tried.status, 401 | 429), "{name:?}: {}", tried.status);
        assert!(
            tried.took > Duration::from_millis(2) || tried.status == 429,
            "{name:?} cost {:?}",
            tried.took
        );
    }
}

#[test]
fn a_locked_account_and_a_locked_name_that_does_not_exist_look_the_same() {
    let node = Node::with().account("known", &["reader"]).start();
    let client = client();
    let tries = |name: &str| -> Vec<_> {
        let all = (0..12).map(|_| attempt(&node, &client, name));
        all.map(|tried| (tried.status, tried.headers, tried.body)).collect()
    };
    let (known, unknown) = (tries("known"), tries("unknown"));
    assert_eq!(known, unknown);
    assert_eq!(known.last().expect("tries").0, 429);
    assert!(known.last().expect("tries").1.contains(&"retry-after".to_owned()));
}
