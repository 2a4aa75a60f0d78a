//! Every reader of bytes from outside, with random input that is the same at each run (`fuzz/` has the same readers for
//! cargo-fuzz). None of them panics, and each keeps its promise.

use std::path::Path;

use portcullis::model::{CanonicalHost, CanonicalPath, Target, Timestamp};
use portcullis::tokens::{Expected, Signature, inspect};
use portcullis::{config, decide, record};

use crate::random::{Random, cases};
use crate::support::{Node, Reply, Upstream, eventually};

#[test]
fn a_canonical_path_or_host_stays_what_it_is() {
    let mut random = Random::new(1);
    let pieces = [
        "/", "//", ".", "..", ";", "%2e", "%2F", "%5c", "%25", "%252e", "%00", "%c3%a9", "é", "?", "#", "\\",
        "%", "a",
    ];
    let (mut read, mut refused) = (0, 0);
    for _ in 0..cases(20_000) {
        let path = format!("/{}", String::from_utf8_lossy(&random.mutated(b"a/b%2Fc;d=e/f.g", &pieces)));
        match CanonicalPath::parse(&path) {
            Ok((once, encoded)) => {
                read += 1;
                assert_eq!(CanonicalPath::parse(once.as_str()), Ok((once.clone(), encoded)), "{path}");
                let before = percent_encoding::percent_decode_str(&path);
                assert!(before.eq(percent_encoding::percent_decode_str(once.as_str())), "{path}");
                assert!(Target::from_parts("GET", "a", once.as_str(), true).is_ok(), "{path}");
            }
            Err(_) => refused += 1,
        }
        let host =
            random.mutated(b"api.Example.com:8080", &["[::1]", ":", ".", "@", "..", "%", "é", "080", "a"]);
        let host = String::from_utf8_lossy(&host).into_owned();
        if let Ok(once) = CanonicalHost::parse(&host, true) {
            assert_eq!(CanonicalHost::parse(&once.to_string(), true), Ok(once), "{host}");
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn a_changed_token_is_never_valid_without_its_key() {
    let mut random = Random::new(2);
    let token = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEiLCJ0eXAiOiJhdCtqd3QifQ.\
                 eyJpc3MiOiJodHRwczovL2dhdGUuZXhhbXBsZSIsInN1YiI6ImEiLCJhdWQiOiJiIiwiZXhwIjoxODAwMDAwMzAwfQ.AAAA";
    let audience = ["b".to_owned()];
    let now = Timestamp::from_seconds(1_800_000_000);
    let expected = Expected { issuer: "https://gate.example", audience: &audience, now };
    for _ in 0..cases(20_000) {
        let bytes =
            random.mutated(token.as_bytes(), &[".", "..", "=", "e30", "W10", "bnVsbA", "é", "-_", "IiI"]);
        let text = String::from_utf8_lossy(&bytes);
        let seen = inspect(&text, &|_| None, &expected);
        assert!(seen.signature != Signature::Valid && !seen.problems.is_empty(), "{text}");
    }
}

#[test]
fn a_changed_configuration_is_loaded_or_refused_with_its_mistakes() {
    let mut random = Random::new(3);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("portcullis.toml");
    let pieces = [
        "[",
        "]",
        "[[route]]",
        "\"",
        "=",
        "0",
        "-1",
        "\n",
        "{rest*}",
        "\"env:X\"",
        "9999999999999999999",
        "é",
        "#",
        "{",
        "[]",
    ];
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..cases(600) {
        let text = random.mutated(include_bytes!("../../config/portcullis.toml"), &pieces);
        std::fs::write(&file, &text).expect("written");
        match config::load(&file, &Vec::new) {
            Ok(_) => loaded += 1,
            Err(problems) => {
                refused += 1;
                assert!(!problems.is_empty(), "{}", String::from_utf8_lossy(&text));
                for problem in problems {
                    assert!(problem.to_string().contains("portcullis.toml"), "{problem}");
                }
            }
        }
    }
    assert!(loaded > 10 && refused > 100, "{loaded} loaded, {refused} refused");
}

#[test]
fn changed_policies_are_checked_without_panic_and_every_mistake_has_its_place() {
    let mut random = Random::new(4);
    let directory = tempfile::tempdir().expect("a directory");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let model = std::fs::read(from.join("model.conf")).expect("a file");
    let rows = std::fs::read(from.join("policy.csv")).expect("a file");
    let pieces = [
        "p, ",
        "g, ",
        "p2, ",
        ", ",
        "(",
        "*",
        "[",
        "\"",
        "\n",
        "allow",
        "deny",
        "eval(",
        "é",
        "r.sub.roles",
        "\\",
        ".*.*.*",
    ];
    let mut mistakes = 0;
    for number in 0..cases(300) {
        let (model, rows) = match number % 4 {
            0 => (random.mutated(&model, &pieces), rows.clone()),
            _ => (model.clone(), random.mutated(&rows, &pieces)),
        };
        std::fs::write(directory.path().join("model.conf"), &model).expect("written");
        std::fs::write(directory.path().join("policy.csv"), &rows).expect("written");
        for problem in decide::check(directory.path(), &decide::Settings::plain(None), false) {
            assert!(problem.file.ends_with(".conf") || problem.file.ends_with(".csv"), "{problem}");
            assert!(!problem.message.is_empty());
            mistakes += usize::from(problem.severity == "error");
        }
    }
    assert!(mistakes > 20, "{mistakes} mistakes");
}

#[test]
fn any_change_of_an_exported_audit_is_found() {
    let upstream = Upstream::start(|_| Reply::ok("reached"));
    let node = Node::with().upstream(&upstream.url()).start();
    let bob = node.token("bob");
    for path in ["/a", "/b%20c", "/d"] {
        assert_eq!(node.ask("GET", path, &bob).status(), 200);
    }
    assert_eq!(node.ask("DELETE", "/a", &bob).status(), 403);
    let export = eventually("the audit has all five events", || {
        let (code, out, err) = node.cli(&["audit", "export", "--format", "jsonl"]);
        assert_eq!(code, 0, "{err}");
        (out.lines().count() >= 5).then_some(out)
    });
    let lines: Vec<&str> = export.lines().collect();
    let whole = u64::try_from(lines.len()).expect("a number");
    assert_eq!(record::verify(&lines), Ok(whole));
    let mut random = Random::new(5);
    for _ in 0..cases(4_000) {
        let at = random.below(lines.len());
        let mut bytes = lines[at].as_bytes().to_vec();
        let place = random.below(bytes.len());
        let new = u8::try_from(0x20 + random.below(0x5f)).expect("a byte");
        if bytes[place] == new {
            continue;
        }
        bytes[place] = new;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let same = serde_json::from_str::<serde_json::Value>(&text).ok()
            == serde_json::from_str::<serde_json::Value>(lines[at]).ok();
        let mut changed: Vec<&str> = lines.clone();
        changed[at] = &text;
        assert!(same || record::verify(&changed).is_err(), "a changed byte was not found: {text}");
    }
    for at in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(at);
        // Without the last one it is the chain as it was before.
        assert_eq!(record::verify(&fewer).is_ok(), at + 1 == lines.len(), "event {at} removed");
        let mut again = lines.clone();
        again.insert(at, lines[at]);
        assert!(record::verify(&again).is_err(), "event {at} doubled");
        if at + 1 < lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(at, at + 1);
            assert!(record::verify(&swapped).is_err(), "event {at} swapped");
        }
    }
}
