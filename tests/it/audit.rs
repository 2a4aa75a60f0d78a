//! The audit proves itself: what is done to it behind the gateway's back is named, by the program and by a verifier that
//! knows nothing but the documentation.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::redis::{node, upstream};
use crate::support::{Node, PASSWORD, Redis, Upstream, client, eventually};

const STREAM: &str = "portcullis:audit:{gate-1}";

/// Makes events whose texts are not plain: names, paths and agents from outside.
fn fill(node: &Node) {
    let token = node.token("bob");
    for path in ["/orders/1", "/orders/%C3%A9%20x", "/a%22b", "/%F0%9F%90%8D"] {
        assert_eq!(node.ask("GET", path, &token).status(), 200, "{path}");
    }
    assert_eq!(node.ask("DELETE", "/orders/1", &token).status(), 403);
    assert_eq!(node.sign_in("nobody\u{7f}\u{1b}[31m\"", PASSWORD).status(), 401);
    let agent = client().get(node.url("/orders")).header("user-agent", "\"\\\t</script>").send();
    assert_eq!(agent.expect("an answer").status(), 401);
}

/// Waits until the last event is shipped and signed.
fn signed(node: &Node) {
    eventually("everything is shipped and signed", || {
        let metrics = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
        let (code, out, _) = node.cli(&["audit", "verify"]);
        let line = out.lines().find(|line| line.starts_with("gate-1: "))?;
        let count = line.split(' ').nth(1)?;
        let all = line.ends_with(&format!("signed up to event {count}"));
        (code == 0 && all && metrics.contains("portcullis_audit_pending 0")).then_some(())
    });
}

/// Exit code and the first event that is named.
fn first_broken((code, out, err): &(i32, String, String)) -> (i32, u64) {
    let seq = out.split("event ").nth(1).and_then(|rest| rest.split(':').next()).and_then(|n| n.parse().ok());
    (*code, seq.unwrap_or_else(|| panic!("no event is named: {out}{err}")))
}

struct Entry {
    id: String,
    event: String,
}

fn entries(redis: &Redis) -> Vec<Entry> {
    let text = redis.cli(&["--json", "XRANGE", STREAM, "-", "+"]);
    // `--json` came with Redis 7; the plain form is id, field and value, each on a line.
    assert!(!text.contains("Unrecognized"), "{text}");
    let found: Vec<(String, serde_json::Value)> = serde_json::from_str(&text).expect("JSON");
    found
        .into_iter()
        .map(|(id, fields)| Entry { id, event: fields[1].as_str().expect("an event").to_owned() })
        .collect()
}

/// Ids and events.
type Stream = Vec<(String, String)>;

/// Replaces what the stream holds.
fn put(redis: &Redis, events: &[(String, String)]) {
    redis.cli(&["DEL", STREAM]);
    for (id, event) in events {
        let said = redis.cli(&["XADD", STREAM, id, "event", event]);
        assert_eq!(said.trim_matches('"'), id, "{said}");
    }
}

#[test]
fn every_tampering_with_the_stream_is_named() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    fill(&node);
    signed(&node);
    let whole: Vec<(String, String)> = entries(&redis).into_iter().map(|e| (e.id, e.event)).collect();
    let count = whole.len();
    assert!(count >= 8);
    let epoch = whole[0].0.split('-').next().expect("an epoch").to_owned();
    let verify = || first_broken(&node.cli(&["audit", "verify"]));
    let tampered = |name: &str, seq: usize, change: &dyn Fn(&mut Stream)| {
        let mut events = whole.clone();
        change(&mut events);
        put(&redis, &events);
        assert_eq!(verify(), (1, seq as u64), "{name}");
    };
    tampered("a changed event", 4, &|events| events[3].1 = events[3].1.replace("\"bob\"", "\"eve\""));
    tampered("a removed event", 3, &|events| drop(events.remove(2)));
    tampered("the first event removed", 1, &|events| drop(events.remove(0)));
    tampered("a cut end", count - 1, &|events| events.truncate(count - 2));
    tampered("only the last event cut", count, &|events| events.truncate(count - 1));
    tampered("everything removed", 1, &|events| events.clear());
    tampered("two events that changed places", 3, &|events| {
        let later = std::mem::take(&mut events[3].1);
        events[3].1 = std::mem::replace(&mut events[2].1, later);
    });
    tampered("a doubled event", 2, &|events| {
        let again = events[1].1.clone();
        events.push((format!("{epoch}-{}", count + 1), again));
    });
    tampered("another node's event", 3, &|events| {
        events[2].1 = events[2].1.replace("\"node\":\"gate-1\"", "\"node\":\"gate-2\"");
    });
    tampered("what is no event", 5, &|events| events[4].1 = "not an event".to_owned());
    tampered("a member that is there twice", 6, &|events| {
        events[5].1 = events[5].1.replacen('{', "{\"auth\":null,", 1);
    });
    put(&redis, &whole);
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = node.cli(&["-o", "json", "audit", "verify", "--node", "gate-1"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &report[0]["ok"], &report[0]["events"]), (0, &true.into(), &count.into()));
}

#[test]
fn a_forged_or_withheld_checkpoint_is_noticed() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    fill(&node);
    signed(&node);
    let (code, kept, err) = node.cli(&["audit", "checkpoints"]);
    assert_eq!(code, 0, "{err}");
    let kept_file = node.directory().join("kept.json");
    std::fs::write(&kept_file, &kept).expect("written");
    let hash = "portcullis:audit-checkpoints";
    let token = redis.cli(&["HGET", hash, "gate-1"]);
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    parts[1] = parts[1].replace(|c: char| c.is_ascii_digit(), "a");
    redis.cli(&["HSET", hash, "gate-1", &parts.join(".")]);
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 1, "{out}");
    assert!(err.contains("signature that does not fit"), "{err}");
    // Who removes the checkpoint and cuts the end goes unnoticed by the store alone, not by a kept checkpoint.
    redis.cli(&["HDEL", hash, "gate-1"]);
    let last = entries(&redis).pop().expect("an entry").id;
    redis.cli(&["XDEL", STREAM, &last]);
    assert_eq!(node.cli(&["audit", "verify"]).0, 0);
    let kept = kept_file.to_str().expect("text");
    let seq: u64 = last.split('-').nth(1).and_then(|seq| seq.parse().ok()).expect("a seq");
    assert_eq!(first_broken(&node.cli(&["audit", "verify", "--checkpoints", kept])), (1, seq));
}

#[test]
fn old_events_can_be_removed_and_the_rest_verified() {
    let (upstream, redis) = (upstream(), Redis::start());
    let node = node(&upstream, &redis.url(), "").start();
    fill(&node);
    signed(&node);
    for entry in entries(&redis).iter().take(3) {
        redis.cli(&["XDEL", STREAM, &entry.id]);
    }
    assert_eq!(first_broken(&node.cli(&["audit", "verify"])), (1, 1));
    let (code, out, err) = node.cli(&["audit", "verify", "--node", "gate-1", "--from", "4"]);
    assert_eq!(code, 0, "{out}{err}");
    let cut = entries(&redis).pop().expect("an entry").id;
    redis.cli(&["XDEL", STREAM, &cut]);
    assert_eq!(node.cli(&["audit", "verify", "--node", "gate-1", "--from", "4"]).0, 1);
}

/// Exit code and output of the verifier that was written from the documentation.
fn independent(arguments: &[&Path]) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/verify_audit.py");
    let mut command = Command::new("python3");
    command.arg(script);
    if let [export, checkpoints] = arguments {
        command.arg("--checkpoints").args([checkpoints, export]);
    } else {
        command.args(arguments);
    }
    let output = command.output().expect("python3 is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Both verifiers, with the checkpoints: what they agree on.
fn both(node: &Node, export: &str, checkpoints: &Path) -> (i32, Option<u64>) {
    let file: PathBuf = node.directory().join("export.jsonl");
    std::fs::write(&file, export).expect("written");
    let theirs = independent(&[&file, checkpoints]);
    let (export, kept) = (file.to_str().expect("text"), checkpoints.to_str().expect("text"));
    let ours = node.cli(&["audit", "verify", "--checkpoints", kept, export]);
    if ours.0 == 0 {
        assert_eq!(theirs.0, 0, "{theirs:?}");
        return (0, None);
    }
    assert_eq!(first_broken(&ours), first_broken(&theirs), "{ours:?} {theirs:?}");
    let (code, seq) = first_broken(&ours);
    (code, Some(seq))
}

fn exported(node: &Node) -> Vec<String> {
    let (code, out, err) = node.cli(&["audit", "export"]);
    assert_eq!(code, 0, "{err}");
    out.lines().map(str::to_owned).collect()
}

fn agree(node: &Node) {
    fill(node);
    signed(node);
    let kept = node.directory().join("kept.json");
    std::fs::write(&kept, node.cli(&["audit", "checkpoints"]).1).expect("written");
    let whole = exported(node);
    let count = whole.len();
    let check = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = whole.clone();
        change(&mut lines);
        both(node, &(lines.join("\n") + "\n"), &kept)
    };
    let named = |seq: usize| (1, Some(seq as u64));
    assert_eq!(check(&|_| {}), (0, None));
    assert_eq!(check(&|lines| lines[3] = lines[3].replace("\"allow\"", "\"deny\"")), named(4));
    assert_eq!(check(&|lines| drop(lines.remove(4))), named(5));
    assert_eq!(check(&|lines| lines.truncate(count - 1)), named(count));
    assert_eq!(check(&|lines| lines.clear()), named(1));
    assert_eq!(check(&|lines| lines.swap(4, 5)), named(5));
    assert_eq!(check(&|lines| lines.insert(6, lines[2].clone())), named(3));
    assert_eq!(check(&|lines| lines[2] = "}".to_owned()), named(3));
    assert_eq!(check(&|lines| lines[1] = lines[1].replacen('{', "{\"auth\":null,", 1)), named(2));
    // A chain that is whole, and a checkpoint for less of it that nobody signed.
    let mut document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&kept).expect("kept")).expect("JSON");
    let token = document["checkpoints"][0].as_str().expect("a checkpoint").to_owned();
    let parts: Vec<&str> = token.split('.').collect();
    let first: serde_json::Value = serde_json::from_str(&whole[0]).expect("an event");
    let claims = serde_json::json!({
        "hash": first["hash"], "node": "gate-1", "seq": 1, "time": "2026-01-05T10:00:00.000000Z"
    });
    let claims =
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, claims.to_string());
    document["checkpoints"][0] = format!("{}.{claims}.{}", parts[0], parts[2]).into();
    let forged = node.directory().join("forged.json");
    std::fs::write(&forged, document.to_string()).expect("written");
    let file = node.directory().join("export.jsonl");
    std::fs::write(&file, whole.join("\n")).expect("written");
    let said = independent(&[&file, &forged]);
    assert!(said.0 == 1 && said.2.contains("signature does not fit"), "{said:?}");
    let (forged, file) = (forged.to_str().expect("text"), file.to_str().expect("text"));
    assert_eq!(node.cli(&["audit", "verify", "--checkpoints", forged, file]).0, 1);
}

#[test]
fn a_verifier_written_from_the_documentation_agrees() {
    let upstream: Upstream = upstream();
    agree(&Node::with().upstream(&upstream.url()).start());
}

#[test]
fn it_agrees_on_batches_in_redis_too() {
    let (upstream, redis) = (upstream(), Redis::start());
    let settings = "[audit]\nentry = \"batch\"\ncompress = true";
    agree(&node(&upstream, &redis.url(), "").config(settings).start());
}

#[test]
fn an_export_without_a_node_verifies_offline_and_csv_is_one_line_an_event() {
    let upstream = upstream();
    let mut node = Node::with().upstream(&upstream.url()).start();
    fill(&node);
    signed(&node);
    let (_, csv, _) = node.cli(&["audit", "export", "--format", "csv"]);
    let whole = exported(&node);
    assert_eq!(csv.lines().count(), whole.len() + 1, "{csv}");
    let file = node.directory().join("export.jsonl");
    std::fs::write(&file, whole.join("\n")).expect("written");
    assert_eq!(node.stop(), 0);
    let (code, out, err) = node.cli(&["audit", "verify", file.to_str().expect("text")]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(independent(&[&file]).0, 0);
}
