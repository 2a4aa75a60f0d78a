//! Verifying, filtering, showing.

use super::*;

async fn texts(count: usize) -> Vec<String> {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open(dir.path(), &store, &clock);
    for number in 0..count {
        let path = format!("/orders/{number}");
        recorder.refused(&event(Some(&alice()), Outcome::Deny, &path), 403).await.unwrap();
    }
    recorder.close(WAIT).await;
    store.texts()
}

#[tokio::test]
async fn edits_removals_and_reorders_are_named() {
    let whole = texts(6).await;
    assert_eq!(verify(&whole), Ok(6));
    assert_eq!(verify_from(&whole[2..]), Ok(4));
    let broken = |events: &[String]| verify(events).unwrap_err().seq;

    let mut edited = whole.clone();
    edited[3] = edited[3].replace("/orders/3", "/orders/9");
    assert_eq!(broken(&edited), 4);

    let mut doubled = whole.clone();
    doubled[3] = doubled[3].replacen("{\"auth\"", "{\"auth\":\"none\",\"auth\"", 1);
    assert_eq!(broken(&doubled), 4);

    let mut removed = whole.clone();
    removed.remove(2);
    assert_eq!(broken(&removed), 3);
    assert_eq!(broken(&whole[1..]), 1);

    let mut swapped = whole.clone();
    swapped.swap(2, 3);
    assert_eq!(broken(&swapped), 3);

    let mut twice = whole.clone();
    twice.insert(2, whole[1].clone());
    assert_eq!(broken(&twice), 2);

    // A forger who also makes the hash anew is caught at the next event.
    let mut forged = whole.clone();
    let mut value: Value = serde_json::from_str(&forged[3]).unwrap();
    value["path"] = Value::from("/orders/9");
    value.as_object_mut().unwrap().remove("hash");
    let hash = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(canonical(&value).as_bytes()));
    value["hash"] = Value::from(hash);
    forged[3] = value.to_string();
    assert_eq!(broken(&forged), 5);
}

#[tokio::test]
async fn filters_choose() {
    let event: Value = serde_json::from_str(&texts(1).await[0]).unwrap();
    let path = |glob: &str| Filter { path: Some(glob.to_owned()), ..Filter::default() }.matches(&event);
    assert!(path("/orders/0") && path("/orders/*") && path("*") && path("/o*e*/*0") && path("/orders/0*"));
    assert!(!path("/orders") && !path("/orders/0/*") && !path("*1") && !path(""));
    let sub = |name: &str| Filter { sub: Some(name.to_owned()), ..Filter::default() }.matches(&event);
    assert!(sub("alice") && !sub("bob"));
    let decision =
        |name: &str| Filter { decision: Some(name.to_owned()), ..Filter::default() }.matches(&event);
    assert!(decision("deny") && !decision("allow"));
    let since = |at| Filter { since: Some(Timestamp::from_seconds(at)), ..Filter::default() }.matches(&event);
    assert!(since(START) && !since(START + 1));
    let request = |id: &str| Filter { request: Some(id.to_owned()), ..Filter::default() }.matches(&event);
    assert!(request(event["request_id"].as_str().unwrap()) && !request("x"));
}

#[test]
fn a_line_shows_no_control_characters() {
    let event = serde_json::json!({
        "time": "2026-01-05T10:00:00.000000Z", "node": "g", "seq": 3, "kind": "access", "decision": "deny",
        "status": 403, "principal": {"name": "eve\u{1b}[2J", "kind": "user", "roles": []}, "method": "GET",
        "host": "h", "path": "/a\u{202e}\n\u{9b}", "reason": "forbidden", "client": {"ip": "::1", "user_agent": null},
    });
    assert_eq!(
        line(&event),
        "2026-01-05T10:00:00.000000Z g #3 access deny 403 eve\\u{1b}[2J GET h/a\\u{202e}\\u{a}\\u{9b} (forbidden) from ::1"
    );
}
