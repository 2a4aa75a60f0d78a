//! What happens once happens once, however many ask at the same time.

use std::collections::HashMap;
use std::sync::Barrier;

use serde_json::Value;

use crate::support::{Node, PASSWORD, Reply, Upstream, client};

/// Status and body of a refresh.
fn refresh(client: &reqwest::blocking::Client, node: &Node, token: &str) -> (u16, Value) {
    let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
    let answer = client.post(node.url("/auth/token")).form(&form).send().expect("an answer");
    (answer.status().as_u16(), answer.json().expect("JSON"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name}: {value}"))
}

/// The same call from so many threads at once.
fn at_once<T: Send>(count: usize, call: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (barrier, call) = (&barrier, &call);
                scope.spawn(move || {
                    barrier.wait();
                    call(number)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    })
}

#[test]
fn two_hundred_refreshes_at_once_make_one_successor_and_one_family() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).start();
    let login: Value = node.sign_in("alice", PASSWORD).json().expect("JSON");
    let first = text(&login, "refresh_token");
    let client = client();
    let answers = at_once(200, |_| refresh(&client, &node, first));
    let mut successors: HashMap<&str, usize> = HashMap::new();
    for (status, body) in &answers {
        assert_eq!(*status, 200, "{body}");
        *successors.entry(text(body, "refresh_token")).or_default() += 1;
    }
    assert_eq!(successors.len(), 1, "{successors:?}");
    let (status, next) = refresh(&client, &node, text(&answers[0].1, "refresh_token"));
    assert_eq!(status, 200, "the one successor counts: {next}");
    for (_, body) in answers.iter().step_by(40) {
        assert_eq!(node.ask("GET", "/a", text(body, "access_token")).status(), 200);
    }
    // The successor has been used: the first one is stolen now, and ends the family with its access tokens.
    let (status, error) = refresh(&client, &node, first);
    assert_eq!((status, text(&error, "error")), (400, "invalid_grant"));
    let (status, error) = refresh(&client, &node, text(&next, "refresh_token"));
    assert_eq!((status, text(&error, "error")), (400, "invalid_grant"));
    let seen = upstream.recorded().len();
    assert_eq!(node.ask("GET", "/a", text(&next, "access_token")).status(), 401);
    assert_eq!(node.ask("GET", "/a", text(&login, "access_token")).status(), 401);
    assert_eq!(upstream.recorded().len(), seen);
}

#[test]
fn without_grace_one_of_many_refreshes_wins_and_the_family_ends() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).config("[tokens]\nrefresh_grace = \"0s\"\n").start();
    let login: Value = node.sign_in("alice", PASSWORD).json().expect("JSON");
    let client = client();
    let answers = at_once(50, |_| refresh(&client, &node, text(&login, "refresh_token")));
    let won: Vec<_> = answers.iter().filter(|(status, _)| *status == 200).collect();
    assert!(won.len() <= 1, "{won:?}");
    assert!(answers.iter().all(|(status, _)| matches!(status, 200 | 400)), "{answers:?}");
    for (_, body) in won {
        assert_eq!(refresh(&client, &node, text(body, "refresh_token")).0, 400);
    }
}

#[test]
fn a_revocation_among_two_hundred_requests_ends_all_that_come_after_it() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).start();
    let token = node.token("alice");
    let client = client();
    let url = node.url("/a");
    let get = || client.get(&url).bearer_auth(&token).send().expect("an answer").status().as_u16();
    let statuses = at_once(40, |number| {
        if number == 20 {
            let form = [("token", token.as_str())];
            let answer = client.post(node.url("/auth/revoke")).bearer_auth(&token).form(&form).send();
            assert_eq!(answer.expect("an answer").status(), 200);
            // After the answer of the revocation nothing passes.
            return (0..10).map(|_| get()).collect::<Vec<_>>();
        }
        (0..5).map(|_| get()).collect::<Vec<_>>()
    });
    assert_eq!(statuses[20], [401; 10]);
    for of in &statuses {
        assert!(of.iter().all(|status| matches!(status, 200 | 401)), "{of:?}");
        let refused = of.iter().position(|status| *status == 401).unwrap_or(of.len());
        assert!(of[refused..].iter().all(|status| *status == 401), "it counts again: {of:?}");
    }
}

#[test]
fn accounts_of_one_name_added_at_once_are_one() {
    let node = Node::with().start();
    let codes = at_once(8, |_| {
        let arguments = ["user", "add", "carol", "--role", "reader", "--password-stdin"];
        node.cli_with(&arguments, "a long enough passphrase\n").0
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 0 | 1)), "{codes:?}");
}
