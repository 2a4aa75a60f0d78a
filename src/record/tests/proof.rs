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
    let kind = |name: &str| Filter { kind: Some(name.to_owned()), ..Filter::default() }.matches(&event);
    assert!(kind("access") && !kind("login"));
    let reason = |name: &str| Filter { reason: Some(name.to_owned()), ..Filter::default() }.matches(&event);
    assert_eq!((reason("no-route"), reason("forbidden")), (false, event["reason"] == "forbidden"));
    let until = |at| Filter { until: Some(Timestamp::from_seconds(at)), ..Filter::default() }.matches(&event);
    assert!(!until(START) && until(START + 1));
    let since = |at| Filter { since: Some(Timestamp::from_seconds(at)), ..Filter::default() }.matches(&event);
    assert!(since(START) && !since(START + 1));
    let request = |id: &str| Filter { request: Some(id.to_owned()), ..Filter::default() }.matches(&event);
    assert!(request(event["request_id"].as_str().unwrap()) && !request("x"));
}

#[tokio::test]
async fn a_cut_end_and_another_nodes_events_are_named() {
    let whole = texts(6).await;
    let hash = |seq: usize| {
        let event: Value = serde_json::from_str(&whole[seq - 1]).unwrap();
        event["hash"].as_str().unwrap().to_owned()
    };
    let at = |seq: usize, hash: String| Checkpoint {
        hash,
        node: "gate-1".to_owned(),
        seq: seq as u64,
        time: "2026-01-05T10:00:00Z".to_owned(),
    };
    let prove =
        |events: &[String], part, seq| verify_chain("gate-1", events, part, Some(&at(seq, hash(seq))));
    assert_eq!(prove(&whole, false, 6), Ok(6));
    assert_eq!(prove(&whole, false, 4), Ok(6), "the chain went on after it was signed");
    assert_eq!(prove(&whole[2..], true, 1), Ok(4), "a part begins after what was signed");
    let cut = prove(&whole[..4], false, 6).unwrap_err();
    assert_eq!((cut.seq, cut.reason.contains("event 6 was signed")), (5, true));
    assert_eq!(prove(&whole[1..3], true, 6).unwrap_err().seq, 4);
    assert_eq!(prove(&[], false, 6).unwrap_err().seq, 1);
    let other = verify_chain("gate-1", &whole, false, Some(&at(3, hash(4)))).unwrap_err();
    assert_eq!((other.seq, other.reason.contains("not the event that was signed")), (3, true));

    let foreign = whole[1].replace("\"node\":\"gate-1\"", "\"node\":\"gate-2\"");
    let mixed = [whole[0].clone(), foreign, whole[1].clone()];
    let found = verify_chain("gate-1", &mixed, false, None).unwrap_err();
    assert_eq!((found.seq, found.reason.contains("`gate-2`")), (2, true));
}

#[tokio::test]
async fn the_last_event_is_signed_when_all_is_shipped() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open(dir.path(), &store, &clock);
    let records = crate::accounts::memory::Memory::new(clock.clone());
    let sealer = crate::keys::Sealer::open(dir.path()).unwrap();
    let algorithm = config::SigningAlgorithm::Es256;
    let ring = crate::keys::KeyRing::open(records, sealer, algorithm, WAIT, clock.clone()).await.unwrap();
    let signer = Signer::of(&ring).unwrap();
    recorder.sign_with(signer.clone());
    let read = || {
        let token = store.checkpoint.lock().unwrap().clone()?;
        let found = Checkpoints { keys: vec![signer.public_key()], checkpoints: vec![token] }.check();
        Some(found.unwrap().remove(0))
    };
    for round in 1..=2 {
        recorder.refused(&event(Some(&alice()), Outcome::Deny, "/x"), 403).await.unwrap();
        while read().is_none_or(|checkpoint| checkpoint.seq < round) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    recorder.refused(&event(Some(&alice()), Outcome::Deny, "/x"), 403).await.unwrap();
    recorder.close(WAIT).await;
    let last = read().unwrap();
    assert_eq!((last.seq, last.node.as_str()), (3, "gate-1"));
    assert_eq!(store.values()[2]["hash"], last.hash);
}
