//! Redis goes away, hangs, loses what it had; a node is killed; a disk is full. What was answered is in the audit once, and
//! what cannot be known is refused.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::redis::{node, upstream};
use crate::support::{Node, PASSWORD, Raw, Redis, Upstream, Wire, client, eventually, read_head};

/// Request ids of what was answered, with the status.
#[derive(Default)]
struct Answers(Vec<(String, u16)>);

impl Answers {
    fn ask(&mut self, node: &Node, token: &str) -> u16 {
        let answer = node.ask("GET", "/orders", token);
        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
        let status = answer.status().as_u16();
        if status == 503 {
            assert!(answer.headers().contains_key("retry-after"));
            // Beyond 100 a second, refusals of strangers are one event with a count.
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.push((id, status));
        status
    }

    /// Each is in the audit exactly once with its status, and every chain verifies.
    fn all_recorded(&self, node: &Node) {
        eventually("the audit is shipped", || {
            let metrics =
                client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
            metrics.contains("portcullis_audit_pending 0").then_some(())
        });
        let events = export(node);
        for (id, status) in &self.0 {
            let found: Vec<&Value> =
                events.iter().filter(|event| event["request_id"] == id.as_str()).collect();
            assert_eq!(found.len(), 1, "{id} {status}: {found:?}");
            assert_eq!(found[0]["status"], *status, "{found:?}");
        }
        verified(node);
    }
}

fn export(node: &Node) -> Vec<Value> {
    let (code, out, err) = node.cli(&["audit", "export"]);
    assert_eq!(code, 0, "{err}");
    out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

fn verified(node: &Node) {
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

fn problem(node: &Node, path: &str, token: &str) -> String {
    let answer = node.ask("GET", path, token);
    let body: Value = answer.json().expect("a problem");
    body["type"].as_str().expect("a type").to_owned()
}

/// Why the node says that it is not ready.
fn reasons(node: &Node) -> BTreeSet<String> {
    let answer = client().get(node.admin("/readyz")).send().expect("an answer");
    let ready = answer.status() == 200;
    let body: Value = answer.json().expect("JSON");
    let reasons = body["reasons"].as_array().expect("reasons");
    assert_eq!((body["ready"].as_bool(), reasons.is_empty()), (Some(ready), ready));
    reasons.iter().map(|reason| reason["code"].as_str().expect("a code").to_owned()).collect()
}

/// Redis is away by `go`, and everything says so; back by `come`, and everything is well.
fn outage(node: &Node, go: impl FnOnce(), come: impl FnOnce()) {
    let (token, mut answers) = (node.token("bob"), Answers::default());
    assert_eq!(answers.ask(node, &token), 200);
    go();
    let gone = Instant::now();
    eventually("requests are refused", || (answers.ask(node, &token) == 503).then_some(()));
    assert!(gone.elapsed() < Duration::from_secs(4), "it went on too long: {:?}", gone.elapsed());
    assert_eq!(problem(node, "/orders", &token), "urn:portcullis:problem:store-unavailable");
    assert_eq!(node.sign_in("bob", PASSWORD).status(), 503);
    eventually("it is not ready and says why", || {
        let reasons = reasons(node);
        (reasons.contains("store-unavailable") && reasons.contains("revocations-unknown")).then_some(())
    });
    come();
    eventually("requests are allowed again", || (answers.ask(node, &token) == 200).then_some(()));
    eventually("it is ready again", || reasons(node).is_empty().then_some(()));
    assert_eq!(node.sign_in("bob", PASSWORD).status(), 200);
    answers.all_recorded(node);
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn a_redis_that_is_stopped_and_started_again() {
    let (upstream, mut redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    let cell = std::cell::RefCell::new(&mut redis);
    for _ in 0..2 {
        outage(&node, || cell.borrow_mut().stop(), || cell.borrow_mut().start_again());
    }
}

#[test]
fn a_redis_that_is_killed_and_started_again() {
    let (upstream, mut redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    let cell = std::cell::RefCell::new(&mut redis);
    outage(&node, || cell.borrow_mut().kill(), || cell.borrow_mut().start_again());
}

#[test]
fn a_redis_that_hangs_and_goes_on() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    outage(&node, || redis.pause(), || redis.resume());
}

#[test]
fn a_network_that_is_cut_and_one_that_loses_every_answer() {
    let (upstream, redis) = (upstream(), Redis::start());
    let wire = Wire::to(redis.port);
    let node = node(&upstream, &wire.url(), "").start();
    outage(&node, || wire.cut(), || wire.reset());
    outage(&node, || wire.mute(), || wire.reset());
}

#[test]
fn connections_that_are_reset_are_made_again_without_a_refusal() {
    let (upstream, redis) = (upstream(), Redis::start());
    let wire = Wire::to(redis.port);
    let node = node(&upstream, &wire.url(), "").start();
    let (token, mut answers) = (node.token("bob"), Answers::default());
    for _ in 0..10 {
        wire.reset();
        for _ in 0..5 {
            assert_eq!(answers.ask(&node, &token), 200);
        }
    }
    answers.all_recorded(&node);
}

#[test]
fn a_slow_redis_is_slow_and_nothing_else() {
    let (upstream, redis) = (upstream(), Redis::start());
    let wire = Wire::to(redis.port);
    let node = node(&upstream, &wire.url(), "").start();
    let (token, mut answers) = (node.token("bob"), Answers::default());
    wire.slow(Duration::from_millis(100));
    for _ in 0..20 {
        assert_eq!(answers.ask(&node, &token), 200);
    }
    assert_eq!(node.sign_in("bob", PASSWORD).status(), 200);
    assert!(reasons(&node).is_empty());
    wire.slow(Duration::ZERO);
    answers.all_recorded(&node);
}

#[test]
fn an_answer_that_is_lost_doubles_nothing() {
    for entry in ["event", "batch"] {
        let (upstream, redis) = (upstream(), Redis::start());
        let wire = Wire::to(redis.port);
        let builder = node(&upstream, &wire.url(), "").config(&format!("[audit]\nentry = \"{entry}\""));
        let node = builder.start();
        let (token, mut answers) = (node.token("bob"), Answers::default());
        let length = || redis.cli(&["XLEN", "portcullis:audit:{gate-1}"]).parse::<u64>().expect("a number");
        for _ in 0..5 {
            let before = eventually("all is shipped", || {
                let before = length();
                let pending = client().get(node.admin("/metrics")).send().expect("an answer").text();
                pending.expect("text").contains("portcullis_audit_pending 0").then_some(before)
            });
            wire.mute_from("XADD");
            assert_eq!(answers.ask(&node, &token), 200);
            eventually("the events arrive and the answer does not", || {
                (length() > before && wire.muted() > 0).then_some(())
            });
            wire.reset();
            eventually("requests are allowed again", || (answers.ask(&node, &token) == 200).then_some(()));
        }
        answers.all_recorded(&node);
    }
}

#[test]
fn a_redis_that_lost_everything_gets_the_audit_again_and_revocations_too() {
    let (upstream, mut redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    let (bob, alice, mut answers) = (node.token("bob"), node.token("alice"), Answers::default());
    for _ in 0..10 {
        assert_eq!(answers.ask(&node, &bob), 200);
    }
    let form = [("token", alice.as_str())];
    let revoke = client().post(node.url("/auth/revoke")).bearer_auth(&alice).form(&form).send();
    assert_eq!(revoke.expect("an answer").status(), 200);
    assert_eq!(node.ask("GET", "/orders", &alice).status(), 401);
    let before = export(&node);

    redis.kill();
    redis.lose_data();
    redis.start_again();
    eventually("requests are allowed again", || (answers.ask(&node, &bob) == 200).then_some(()));
    assert_eq!(node.ask("GET", "/orders", &alice).status(), 401, "what was revoked stays revoked");
    let after = eventually("the audit is whole again", || {
        let after = export(&node);
        (after.len() > before.len() && after[..before.len()] == before[..]).then_some(after)
    });
    assert!(after.len() > before.len());
    answers.all_recorded(&node);
    assert!(node.log().contains("the audit store lost events"), "{}", node.log());
}

#[test]
fn a_flush_while_the_node_runs_is_noticed() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    let (bob, mut answers) = (node.token("bob"), Answers::default());
    assert_eq!(answers.ask(&node, &bob), 200);
    redis.cli(&["FLUSHALL"]);
    eventually("the node does not trust the emptied log", || (answers.ask(&node, &bob) == 503).then_some(()));
    eventually("and trusts it again", || (answers.ask(&node, &bob) == 200).then_some(()));
    answers.all_recorded(&node);
}

#[test]
fn known_tokens_pass_where_the_route_says_so_and_the_audit_marks_them() {
    let (upstream, redis) = (upstream(), Redis::start());
    let wire = Wire::to(redis.port);
    let route = "[[route]]\nname = \"known\"\npath = \"/known\"\nupstream = \"main\"\n\
                 when_store_is_down = \"allow_known\"\nallow_known_for = \"8s\"\n";
    let node = node(&upstream, &wire.url(), "").config(route).start();
    let (known, unknown, revoked) = (node.token("bob"), node.token("bob"), node.token("alice"));
    let status = |path: &str, token: &str| node.ask("GET", path, token).status().as_u16();
    assert_eq!((status("/known", &known), status("/orders", &known)), (200, 200));
    assert_eq!(status("/known", &revoked), 200);
    let form = [("token", revoked.as_str())];
    let revoke = client().post(node.url("/auth/revoke")).bearer_auth(&revoked).form(&form).send();
    assert_eq!(revoke.expect("an answer").status(), 200);

    wire.cut();
    eventually("other routes refuse", || (status("/orders", &known) == 503).then_some(()));
    let passed = node.ask("GET", "/known", &known);
    assert_eq!(passed.status(), 200);
    let id = passed.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(status("/known", &unknown), 503, "never verified on this node");
    assert_eq!(status("/known", &revoked), 401, "known to be revoked");
    assert_eq!(node.ask("DELETE", "/known", &known).status(), 403, "the policy still decides");
    eventually("it ends after allow_known_for", || (status("/known", &known) == 503).then_some(()));

    wire.reset();
    eventually("all is well again", || (status("/orders", &known) == 200).then_some(()));
    let event = node.event(&id);
    assert_eq!((&event["decision"], &event["reason"]), (&"allow".into(), &"store-unavailable".into()));
    let fresh = node.ask("GET", "/known", &known);
    let id = fresh.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.event(&id)["reason"], Value::Null);
    verified(&node);
}

#[test]
fn a_stream_that_goes_on_without_the_store_is_marked_when_it_ends() {
    let upstream = Upstream::raw(|mut stream, _| {
        let mut reader = std::io::BufReader::new(stream.try_clone().expect("a handle"));
        if read_head(&mut reader).is_none() {
            return;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        drop(stream.write_all(head.as_bytes()));
        // Goes on until nobody listens.
        while stream.write_all(b"8\r\ndata: 1\n\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let redis = Redis::start();
    let wire = Wire::to(redis.port);
    let route = "[[route]]\nname = \"known\"\npath = \"/known\"\nupstream = \"main\"\n\
                 when_store_is_down = \"allow_known\"\n";
    let node = node(&upstream, &wire.url(), "").config(route).start();
    let bob = node.token("bob");
    let listen = |path: &str| {
        let mut connection = Raw::connect(node.address());
        let host = node.host();
        connection
            .send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {bob}\r\n\r\n"));
        assert!(connection.saw(b"data: 1"));
        connection
    };
    let ended = |path: &str| {
        eventually("the end of the stream is recorded", || {
            let events = node.audit(&["--sub", "bob"]);
            events.into_iter().find(|event| event["kind"] == "stream" && event["path"] == path)
        })
    };
    let (mut goes_on, before) = (listen("/known"), listen("/other"));
    drop(before);
    assert_eq!(ended("/other")["reason"], "interrupted");
    wire.cut();
    eventually("other routes refuse", || (node.ask("GET", "/other", &bob).status() == 503).then_some(()));
    for _ in 0..50 {
        assert!(goes_on.saw(b"data: 1"), "it goes on");
    }
    wire.reset();
    eventually("all is well again", || (node.ask("GET", "/other", &bob).status() == 200).then_some(()));
    drop(goes_on);
    let event = ended("/known");
    assert_eq!((&event["decision"], &event["reason"]), (&"allow".into(), &"store-unavailable".into()));
    assert_eq!(node.event(event["request_id"].as_str().expect("an id"))["reason"], Value::Null);
}

/// Several clients ask until `done`; what they were answered.
fn under_load(node: &Node, token: &str, clients: usize, work: impl FnOnce()) -> Vec<(String, u16)> {
    /// Also when `work` panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let done = AtomicBool::new(false);
    let url = node.url("/orders");
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let (client, mut answers) = (client(), Vec::new());
                    while !done.load(Ordering::SeqCst) {
                        if let Ok(answer) = client.get(&url).bearer_auth(token).send() {
                            let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
                            answers.push((id, answer.status().as_u16()));
                        }
                    }
                    answers
                })
            })
            .collect();
        let ends = Done(&done);
        work();
        drop(ends);
        asking.into_iter().flat_map(|asking| asking.join().expect("no panic")).collect()
    })
}

#[test]
fn a_node_that_is_killed_under_load_loses_and_doubles_nothing() {
    for entry in ["event", "batch"] {
        let (upstream, redis) = (upstream(), Redis::start());
        let builder = node(&upstream, &redis.url(), "").config(&format!("[audit]\nentry = \"{entry}\""));
        let mut node = builder.start();
        let mut answers = Answers::default();
        for round in 1..=3_u64 {
            let token = node.token("bob");
            let length =
                || redis.cli(&["XLEN", "portcullis:audit:{gate-1}"]).parse::<u64>().expect("a number");
            let before = length();
            let pid = node.pid();
            let asked = under_load(&node, &token, 4, || {
                // Some of it is shipped, some of it is not.
                eventually("events are shipped", || (length() >= before + 3 * round).then_some(()));
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
            });
            assert!(asked.len() > 10);
            answers.0.extend(asked);
            node.kill();
            node.start_again();
        }
        let token = node.token("bob");
        assert_eq!(answers.ask(&node, &token), 200);
        answers.all_recorded(&node);
        let (code, out, err) = node.cli(&["audit", "verify", "--node", "gate-1"]);
        assert_eq!(code, 0, "{out}{err}");
    }
}

#[test]
fn a_node_that_is_stopped_under_load_finishes_and_records_everything() {
    let (upstream, redis) = (upstream(), Redis::start());
    let mut node = node(&upstream, &redis.url(), "").start();
    let token = node.token("bob");
    let asked = under_load(&node, &token, 4, || {
        eventually("events are shipped", || {
            let length = redis.cli(&["XLEN", "portcullis:audit:{gate-1}"]).parse::<u64>().expect("a number");
            (length > 50).then_some(())
        });
        node.signal(rustix::process::Signal::TERM);
        let pid = node.pid();
        // A process that ended waits for its parent: its command line is empty.
        eventually("the node ends", || {
            std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty()).then_some(())
        });
    });
    assert_eq!(node.wait(), 0, "{}", node.log());
    assert!(asked.iter().all(|(_, status)| *status == 200));
    // Everything is in the stream before it ends.
    let events = redis.cli(&["XRANGE", "portcullis:audit:{gate-1}", "-", "+"]);
    for (id, _) in &asked {
        assert_eq!(events.matches(&format!("\"request_id\":\"{id}\"")).count(), 1, "{id}");
    }
    node.start_again();
    verified(&node);
}

#[test]
fn a_redis_that_cannot_write_to_its_disk_loses_nothing() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    let (token, mut answers) = (node.token("bob"), Answers::default());
    assert_eq!(answers.ask(&node, &token), 200);
    // What Redis answers when its memory is full is what it answers when its disk is: it takes no writes.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    eventually("sign-ins are refused", || (node.sign_in("bob", PASSWORD).status() == 503).then_some(()));
    for _ in 0..20 {
        answers.ask(&node, &token);
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("requests are allowed again", || (answers.ask(&node, &token) == 200).then_some(()));
    eventually("sign-ins work again", || (node.sign_in("bob", PASSWORD).status() == 200).then_some(()));
    answers.all_recorded(&node);
}

#[test]
fn a_full_disk_refuses_requests_and_room_lets_them_pass_again() {
    let upstream = upstream();
    // The embedded store on a small disk of its own.
    let mut node = Node::with()
        .upstream(&upstream.url())
        .config("[audit]\nlog_size = \"1MiB\"")
        .on_a_small_disk("24m")
        .start();
    let (token, mut answers) = (node.token("bob"), Answers::default());
    assert_eq!(answers.ask(&node, &token), 200);
    let filler = format!("/proc/{}/root{}/data/filler", node.pid(), node.directory().display());
    let mut file = std::fs::File::create(&filler).expect("a file on the small disk");
    let block = vec![1_u8; 65_536];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);
    let asked = under_load(&node, &token, 4, || {
        eventually("the audit log is full", || reasons(&node).contains("audit-unavailable").then_some(()));
    });
    answers.0.extend(asked);
    assert_eq!(problem(&node, "/orders", &token), "urn:portcullis:problem:audit-unavailable");
    std::fs::remove_file(&filler).expect("removed");
    eventually("requests are allowed again", || (answers.ask(&node, &token) == 200).then_some(()));
    eventually("it is ready again", || reasons(&node).is_empty().then_some(()));
    // A refusal for want of a log is the one thing that cannot be in it.
    answers.0.retain(|(_, status)| *status != 503);
    answers.all_recorded(&node);
    assert_eq!(node.stop(), 0);
}
