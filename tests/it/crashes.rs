//! A node of the embedded store that is killed at any moment: what was answered is there at the next start, which is
//! quick and small however large the store is.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Node, PASSWORD, Reply, Upstream, client, client_builder, eventually};

/// What a process holds in memory, in KiB, by a line of its status.
fn memory(node: &Node, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("a process");
    let found = status.lines().find_map(|text| text.strip_prefix(line)).expect("the line");
    found.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn exported(node: &Node) -> Vec<Value> {
    let (code, out, errors) = node.cli(&["audit", "export"]);
    assert_eq!(code, 0, "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

#[test]
fn killed_twenty_times_under_load_it_loses_and_doubles_nothing() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = Node::with().upstream(&upstream.url()).start();
    let answered: Mutex<HashMap<String, u16>> = Mutex::default();
    let mut families: Vec<String> = Vec::new();
    for round in 0..20_u64 {
        let token = node.token("bob");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..3 {
                let (answered, ended, node, token) = (&answered, &ended, &node, &token);
                scope.spawn(move || {
                    let client = client_builder().timeout(Duration::from_secs(5)).build().expect("a client");
                    while !ended.load(Ordering::Relaxed) {
                        let method = if number == 0 { reqwest::Method::DELETE } else { reqwest::Method::GET };
                        let asked = client.request(method, node.url("/load")).bearer_auth(token).send();
                        // An answer that broke off was not given.
                        let Ok(answer) = asked else { continue };
                        let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
                        answered.lock().expect("a lock").insert(id, answer.status().as_u16());
                    }
                });
            }
            // Sign-ins write the store while the log is shipped into it.
            let until = Instant::now() + Duration::from_millis(40 + round * 13 % 170);
            while Instant::now() < until {
                let body: Value = node.sign_in("alice", PASSWORD).json().expect("JSON");
                families.push(body["refresh_token"].as_str().expect("a token").to_owned());
            }
            node.signal(Signal::KILL);
            ended.store(true, Ordering::Relaxed);
        });
        node.kill();
        node.start_again();
    }
    let answered = answered.into_inner().expect("a lock");
    assert!(answered.len() > 200, "{}", answered.len());
    eventually("everything is shipped", || {
        let metrics = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
        metrics.contains("portcullis_audit_pending 0").then_some(())
    });
    let events = exported(&node);
    let mut seen: HashMap<&str, Vec<&Value>> = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], at as u64 + 1, "no gap");
        if let Some(id) = event["request_id"].as_str().filter(|_| event["kind"] == "access") {
            seen.entry(id).or_default().push(event);
        }
    }
    for (id, status) in &answered {
        let found = seen.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        assert!(found.len() == 1 && found[0]["status"] == *status, "{id} {status}: {found:?}");
    }
    for (id, found) in &seen {
        assert_eq!(found.len(), 1, "{id}");
        let cut = found[0]["status"].is_null();
        assert_eq!(cut, found[0]["reason"] == "interrupted", "{found:?}");
    }
    let epochs: Vec<u64> = events.iter().filter_map(|event| event["epoch"].as_u64()).collect();
    assert!(epochs.is_sorted());
    let (code, out, errors) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{errors}");
    // Every refresh token that was handed out counts.
    for token in families {
        let form = [("grant_type", "refresh_token"), ("refresh_token", &token)];
        let answer = client().post(node.url("/auth/token")).form(&form).send().expect("an answer");
        assert_eq!(answer.status(), 200);
    }
}

#[test]
fn after_a_kill_a_large_store_is_open_in_little_memory() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = Node::with().upstream(&upstream.url()).start();
    assert_eq!(node.stop(), 0);
    // The store as it is after a year: written by the store's own library, killed before it was closed.
    let file = node.directory().join("data/store.redb");
    let table: redb::TableDefinition<'_, (&str, u64), (u64, &str, &[u8])> =
        redb::TableDefinition::new("audit");
    let text = "x".repeat(60_000);
    {
        let database = redb::Database::open(&file).expect("a store");
        for part in 0..8_u64 {
            let transaction = database.begin_write().expect("a transaction");
            let mut events = transaction.open_table(table).expect("a table");
            for seq in 1..=1_000 {
                let seq = part * 1_000 + seq;
                events.insert(("another", seq), (seq, "event", text.as_bytes())).expect("written");
            }
            drop(events);
            transaction.commit().expect("committed");
        }
    }
    assert!(std::fs::metadata(&file).expect("a file").len() > 400 << 20);
    node.start_again();
    let token = node.token("bob");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    for _ in 0..3 {
        assert_eq!(node.sign_in("bob", PASSWORD).status(), 200, "a write before the kill");
        node.kill();
        node.start_again();
    }
    assert!(memory(&node, "VmHWM:") < 150 << 10, "{} KiB", memory(&node, "VmHWM:"));
}

#[test]
fn the_memory_of_a_password_hash_is_given_back() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let node = Node::with()
        .config("[passwords.hashing]\nmemory = \"19MiB\"\nthreads = 2")
        .upstream(&upstream.url())
        .start();
    let (code, out, errors) =
        node.cli_with(&["user", "add", "carol", "--password-stdin"], "a long password\n");
    assert_eq!(code, 0, "{out}{errors}");
    assert_eq!(node.sign_in("carol", "a long password").status(), 200);
    let before = memory(&node, "VmHWM:");
    assert!(before > 19 << 10, "a hash takes 19 MiB");
    eventually("it is given back", || (memory(&node, "VmRSS:") + (15 << 10) < before).then_some(()));
}

#[test]
fn a_signal_right_after_the_ready_line_is_followed() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = Node::with().upstream(&upstream.url()).write();
    for _ in 0..8 {
        node.start_again();
        node.signal(Signal::HUP);
        assert_eq!(node.stop(), 0, "{}", node.log());
    }
}

#[test]
fn a_crash_leaves_no_memory_on_the_disk() {
    let node = Node::with().start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid())).expect("a process");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The files of a process under /proc are its user's, but root's when it is not dumpable.
    let mut command = std::process::Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.args([crate::support::PORTCULLIS, "-o", "json", "demo", "--port", "0", "--admin-port", "0"]);
    let mut demo = command.stdout(std::process::Stdio::piped()).spawn().expect("setpriv (util-linux)");
    let mut first = String::new();
    let stdout = demo.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut first).expect("a line");
    let process = format!("/proc/{}", demo.id());
    let status = std::fs::read_to_string(format!("{process}/status")).expect("a process");
    let owner =
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(process + "/environ").expect("a file"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&demo), Signal::INT).expect("it runs");
    assert!(demo.wait().expect("ended").success(), "{first}");
    assert!(!status.contains("\nUid:\t0\t"), "{status}");
    assert_eq!(owner, 0, "{first}");
}
