//! Writing, shipping, crashes, a full log, floods.

use super::*;

#[tokio::test]
async fn an_event_has_every_member_and_both_halves() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open(dir.path(), &store, &clock);
    let mut alice = alice();
    alice.roles = vec![Arc::from("not-these")];
    let rule = RuleRef { file: Arc::from("policy.csv"), line: 7 };
    let roles = [Arc::from("buyer"), Arc::from("staff")];
    let event =
        Event { rule: Some(&rule), roles: &roles, ..event(Some(&alice), Outcome::Allow, "/a\"\u{1}ü") };
    let pending = recorder.begin(&event).await.unwrap();
    clock.advance(Duration::from_micros(1500));
    pending.finish(502, clock.now(), Some("upstream-failed"));
    recorder.close(WAIT).await;
    assert_whole(&store, 1);
    let got = &store.values()[0];
    let names = "auth client client_request_id count decision duration_us epoch hash host id kind method node path \
                 policy prev principal reason request_id route rule seq shadow status time trace_id";
    assert_eq!(got.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" "), names);
    assert_eq!(canonical(got), store.texts()[0]);
    assert_eq!((got["status"].as_u64(), got["duration_us"].as_u64()), (Some(502), Some(1500)));
    assert_eq!(got["reason"], "upstream-failed");
    assert_eq!(got["principal"]["roles"], serde_json::json!(["buyer", "staff"]));
    assert_eq!(got["rule"]["line"], 7);
    assert_eq!(got["path"], "/a\"\u{1}ü");
    assert_eq!(got["time"], "2026-01-05T10:00:00.000000Z");
    assert_eq!(got["epoch"], START * 1000);
}

/// The recorder's threads ended, without shipping: the store is away.
async fn gone(recorder: Arc<Recorder>) {
    let mut ended = recorder.ended.clone();
    drop(recorder);
    ended.wait_for(|ended| *ended).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_interrupted_ships_once_at_the_next_start() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    store.away.store(true, Ordering::SeqCst);
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    recorder.refused(&event(Some(&alice), Outcome::Deny, "/no"), 403).await.unwrap();
    let open_one = recorder.begin(&event(Some(&alice), Outcome::Allow, "/long")).await.unwrap();
    recorder.begin(&event(Some(&alice), Outcome::Allow, "/ok")).await.unwrap().finish(200, clock.now(), None);
    let copy = crashed(dir.path());
    gone(recorder).await;
    store.away.store(false, Ordering::SeqCst);
    let again = open(copy.path(), &store, &clock);
    again.refused(&event(Some(&alice), Outcome::Deny, "/after"), 403).await.unwrap();
    again.close(WAIT).await;
    assert_whole(&store, 4);
    let last = &store.values()[2];
    assert_eq!((last["path"].as_str(), last["reason"].as_str()), (Some("/long"), Some("interrupted")));
    assert!(last["status"].is_null());
    drop(open_one);
}

#[tokio::test]
async fn a_dropped_decision_is_interrupted() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open(dir.path(), &store, &clock);
    drop(recorder.begin(&event(None, Outcome::Allow, "/x")).await.unwrap());
    recorder.close(WAIT).await;
    assert_eq!(store.values()[0]["reason"], "interrupted");
    assert!(recorder.begin(&event(None, Outcome::Allow, "/x")).await.is_err());
}

#[tokio::test]
async fn a_damaged_record_is_named_and_the_rest_survives() {
    for torn in [false, true] {
        let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
        store.away.store(true, Ordering::SeqCst);
        let alice = alice();
        let recorder = open(dir.path(), &store, &clock);
        for path in ["/1", "/victim-here", "/3"] {
            recorder.refused(&event(Some(&alice), Outcome::Deny, path), 403).await.unwrap();
        }
        let copy = crashed(dir.path());
        gone(recorder).await;
        let file = std::fs::read_dir(copy.path().join("audit"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| find(&std::fs::read(path).unwrap(), b"/victim-here").is_some())
            .unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let at = find(&bytes, b"/victim-here").unwrap();
        if torn {
            bytes[at..].fill(0)
        } else {
            bytes[at] ^= 4
        }
        std::fs::write(&file, bytes).unwrap();
        store.away.store(false, Ordering::SeqCst);
        let again = open(copy.path(), &store, &clock);
        again.refused(&event(Some(&alice), Outcome::Deny, "/4"), 403).await.unwrap();
        again.close(WAIT).await;
        let paths: Vec<String> = store.values().iter().map(|e| e["path"].to_string()).collect();
        if torn {
            assert_eq!(paths, ["\"/1\"", "\"/4\""]);
        } else {
            assert_eq!(paths, ["\"/1\"", "null", "\"/3\"", "\"/4\""]);
            assert_eq!(store.values()[1]["reason"], "record-damaged");
        }
        assert_whole(&store, paths.len() as u64);
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[tokio::test]
async fn a_full_log_refuses_keeps_a_tenth_and_recovers() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    store.away.store(true, Ordering::SeqCst);
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    let mut held = Vec::new();
    let mut written = 0_u64;
    while let Ok(pending) = recorder.begin(&event(None, Outcome::Allow, "/anyone")).await {
        held.push(pending);
        written += 1;
    }
    assert!(recorder.trouble().is_none(), "the last tenth is left");
    let before = written;
    while let Ok(pending) = recorder.begin(&event(Some(&alice), Outcome::Allow, "/alice")).await {
        held.push(pending);
        written += 1;
    }
    assert!(written > before + 10);
    assert!(recorder.trouble().unwrap().contains("full"));
    for pending in held {
        pending.finish(200, clock.now(), None);
    }
    assert_eq!(recorder.pending().0, written);
    store.away.store(false, Ordering::SeqCst);
    while recorder.pending().0 > 0 || recorder.trouble().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    recorder.refused(&event(Some(&alice), Outcome::Deny, "/again"), 403).await.unwrap();
    recorder.close(WAIT).await;
    assert_whole(&store, written + 1);
}

#[tokio::test]
async fn who_decides_faster_than_the_store_takes_events_waits_and_is_not_refused() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    recorder.refused(&event(Some(&alice), Outcome::Deny, "/first"), 403).await.unwrap();
    while recorder.pending().0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let path = format!("/{}", "x".repeat(4000));
    for _ in 0..20_000 {
        let pending = recorder.begin(&event(Some(&alice), Outcome::Allow, &path)).await.unwrap();
        pending.finish(200, clock.now(), None);
    }
    recorder.close(WAIT).await;
    assert_whole(&store, 20_001);
}

#[tokio::test]
async fn a_long_request_does_not_pin_the_log_and_outlives_many_turns_of_it() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    let long = recorder.begin(&event(Some(&alice), Outcome::Allow, "/long")).await.unwrap();
    let lost = recorder.begin(&event(Some(&alice), Outcome::Allow, "/lost")).await.unwrap();
    let path = format!("/{}", "x".repeat(4000));
    let mut count = 0;
    while count < 600 {
        match recorder.refused(&event(Some(&alice), Outcome::Deny, &path), 403).await {
            Ok(()) => count += 1,
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    long.finish(200, clock.now(), None);
    while recorder.pending().0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let copy = crashed(dir.path());
    std::mem::forget(lost);
    open(copy.path(), &store, &clock).close(WAIT).await;
    assert_whole(&store, count + 2);
    let paths: Vec<Value> = store.values().iter().map(|event| event["path"].clone()).collect();
    assert_eq!((&paths[600], &paths[601]), (&Value::from("/long"), &Value::from("/lost")));
}

#[tokio::test]
async fn floods_of_strangers_are_one_event_a_second() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    for number in 0..250 {
        let path = format!("/{number}");
        recorder.refused(&event(None, Outcome::Deny, &path), 401).await.unwrap();
        recorder.refused(&event(Some(&alice), Outcome::Deny, "/a"), 403).await.unwrap();
    }
    recorder.close(WAIT).await;
    assert_whole(&store, 100 + 250 + 1);
    let merged: Vec<Value> = store.values().into_iter().filter(|event| !event["count"].is_null()).collect();
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0]["count"], 150);
    assert!(merged[0]["request_id"].is_null() && merged[0]["path"].is_null());
    assert_eq!((&merged[0]["status"], &merged[0]["reason"]), (&Value::from(401), &Value::from("forbidden")));
}

#[tokio::test]
async fn what_must_be_on_the_disk_is_there_when_its_call_returns() {
    for durability in [Durability::Written, Durability::Durable] {
        let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
        let audit = Audit { durability, ..Audit::default() };
        let recorder =
            Recorder::open("gate-1", dir.path(), &audit, Arc::clone(&store) as _, Arc::clone(&clock) as _)
                .unwrap();
        let waits = || {
            let written = recorder.shared.ring().written;
            recorder.shared.committer.flushed() >= written
        };
        let alice = alice();
        for kind in
            [Kind::Login, Kind::Token, Kind::Session, Kind::Key, Kind::Policy, Kind::Admin, Kind::Node]
        {
            let change = Event { kind, ..event(Some(&alice), Outcome::Allow, "/x") };
            recorder.security(&change, Some(200)).await.unwrap();
            assert!(waits(), "{kind:?}");
        }
        if durability == Durability::Durable {
            let decided = recorder.begin(&event(Some(&alice), Outcome::Allow, "/x")).await.unwrap();
            assert!(waits(), "a decision");
            decided.finish(200, clock.now(), None);
            recorder.refused(&event(Some(&alice), Outcome::Deny, "/x"), 403).await.unwrap();
            assert!(waits(), "a refusal");
        }
        recorder.close(WAIT).await;
    }
}

#[tokio::test]
async fn the_count_of_a_flood_survives_a_crash() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    store.away.store(true, Ordering::SeqCst);
    let recorder = open(dir.path(), &store, &clock);
    let begun = recorder.begin(&event(Some(&alice()), Outcome::Allow, "/long")).await.unwrap();
    // The places of the first second are used again in the next one.
    for (second, refusals) in [(0, 130), (1, 175)] {
        for last in [1, 2] {
            let time = Timestamp::from_seconds(START + 10 * second);
            let client_ip = Some(IpAddr::from([10, 0, 0, last]));
            for number in 0..refusals {
                let path = format!("/{number}");
                let stranger = Event { time, client_ip, ..event(None, Outcome::Deny, &path) };
                recorder.refused(&stranger, 400 + u16::from(last)).await.unwrap();
            }
        }
        if second == 0 {
            clock.advance(Duration::from_secs(10));
        }
    }
    let copy = crashed(dir.path());
    gone(recorder).await;
    store.away.store(false, Ordering::SeqCst);
    let again = open(copy.path(), &store, &clock);
    again.close(WAIT).await;
    assert_whole(&store, 4 * 101 + 1);
    let merged: Vec<Value> = store.values().into_iter().filter(|event| !event["count"].is_null()).collect();
    let mut counts: Vec<_> = merged
        .iter()
        .map(|event| (event["count"].as_u64().unwrap(), event["status"].as_u64().unwrap()))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [(30, 401), (30, 402), (75, 401), (75, 402)]);
    assert!(merged.iter().all(|event| event["reason"] == "forbidden" && event["path"].is_null()));
    let interrupted = store.values().into_iter().filter(|event| event["reason"] == "interrupted").count();
    assert_eq!(interrupted, 1, "the decision alone that had no outcome");
    drop(begun);
}

#[tokio::test]
async fn each_second_and_address_counts_anew_and_system_events_are_never_merged() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open_with(dir.path(), &store, &clock, 0);
    for second in 0..2 {
        for number in 0..110 {
            for last in 1..3 {
                let time = Timestamp::from_seconds(START + second);
                let client_ip = Some(IpAddr::from([10, 0, 0, last]));
                let stranger = Event { time, client_ip, ..event(None, Outcome::Deny, "/same") };
                recorder.refused(&stranger, 401).await.unwrap();
            }
            let node = Event { kind: Kind::Node, ..event(None, Outcome::Error, "") };
            if second == 0 && number < 105 {
                recorder.security(&node, None).await.unwrap();
            }
        }
        clock.advance(Duration::from_secs(1));
    }
    recorder.close(WAIT).await;
    assert_whole(&store, 2 * 2 * 101 + 105);
    let counts: Vec<Value> = store.values().into_iter().filter(|event| event["count"] == 10).collect();
    assert_eq!(counts.len(), 4);
    assert!(counts.iter().all(|event| event["path"] == "/same" && event["request_id"].is_null()));
}

#[test]
fn many_workers_write_at_once() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let recorder = open_with(dir.path(), &store, &clock, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let alice = alice();
                    for _ in 0..2000 {
                        let event = event(Some(&alice), Outcome::Allow, "/x");
                        recorder.begin(&event).await.unwrap().finish(200, clock.now(), None);
                    }
                });
            });
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(recorder.close(WAIT));
    assert_whole(&store, 8000);
}

#[tokio::test]
async fn the_store_comes_back_and_nothing_is_lost_or_doubled() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    for round in 0..6_u64 {
        let recorder = open_with(dir.path(), &store, &clock, 8 << 20);
        store.away.store(round % 3 == 1, Ordering::SeqCst);
        store.mute.store(round % 3 == 2, Ordering::SeqCst);
        for _ in 0..700 {
            recorder.refused(&event(Some(&alice), Outcome::Deny, "/x"), 403).await.unwrap();
        }
        if round % 3 == 2 {
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        recorder.close(if round % 3 == 0 { WAIT } else { Duration::from_millis(100) }).await;
        let mut ended = recorder.ended.clone();
        ended.wait_for(|ended| *ended).await.unwrap();
    }
    store.mute.store(false, Ordering::SeqCst);
    store.away.store(false, Ordering::SeqCst);
    open(dir.path(), &store, &clock).close(WAIT).await;
    assert_whole(&store, 6 * 700);
}

#[tokio::test]
async fn the_chain_goes_on_after_an_emptied_store_and_after_an_emptied_disk() {
    let (store, clock) = (Arc::new(Memory::default()), clock());
    let alice = alice();
    let first = tempfile::tempdir().unwrap();
    for dir in [first.path(), tempfile::tempdir().unwrap().path()] {
        let recorder = open(dir, &store, &clock);
        for _ in 0..5 {
            recorder.security(&event(Some(&alice), Outcome::Deny, "/x"), Some(403)).await.unwrap();
        }
        recorder.close(WAIT).await;
    }
    assert_whole(&store, 10);
    // The store forgets its newest events, which the first log still has: they come again, the very same.
    let texts = store.texts();
    store.events.lock().unwrap().retain(|seq, _| *seq <= 3);
    open(first.path(), &store, &clock).close(WAIT).await;
    assert_eq!(store.texts(), texts[..5]);
    // It forgets all, and so does the log: the chain goes on from the state file.
    store.events.lock().unwrap().clear();
    for entry in std::fs::read_dir(first.path().join("audit")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let recorder = open(first.path(), &store, &clock);
    recorder.refused(&event(Some(&alice), Outcome::Deny, "/x"), 403).await.unwrap();
    recorder.close(WAIT).await;
    let (kept, new) = (&texts[..5], store.texts());
    assert_eq!(verify(kept.iter().chain(&new)), Ok(6));
}

#[tokio::test]
async fn unshipped_events_are_readable_and_durable_ones_return() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    store.away.store(true, Ordering::SeqCst);
    let audit = Audit { durability: Durability::Durable, ..Audit::default() };
    let recorder =
        Recorder::open("gate-1", dir.path(), &audit, Arc::clone(&store) as _, Arc::clone(&clock) as _)
            .unwrap();
    assert!(
        Recorder::open("x", dir.path(), &audit, Arc::clone(&store) as _, Arc::clone(&clock) as _).is_err()
    );
    let alice = alice();
    let mut follow = recorder.follow();
    recorder.begin(&event(Some(&alice), Outcome::Allow, "/1")).await.unwrap().finish(200, clock.now(), None);
    let failed = Event { kind: Kind::Login, ..event(None, Outcome::Deny, "/2") };
    recorder.security(&failed, None).await.unwrap();
    assert_eq!(verify(recorder.unshipped()), Ok(2));
    assert_eq!(recorder.pending().0, 2);
    store.away.store(false, Ordering::SeqCst);
    recorder.close(WAIT).await;
    assert_eq!(*follow.recv().await.unwrap(), *store.texts()[0]);
    assert!(recorder.unshipped().is_empty());
    assert_whole(&store, 2);
}

async fn shipped(recorder: &Recorder) {
    while recorder.pending().0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_the_store_loses_while_the_node_runs_is_shipped_again() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    for restart in [false, true] {
        let mut recorder = open(dir.path(), &store, &clock);
        for kept in [0, 3, 9] {
            for _ in 0..10 {
                recorder.refused(&event(Some(&alice), Outcome::Deny, "/x"), 403).await.unwrap();
            }
            shipped(&recorder).await;
            let before = store.texts();
            store.events.lock().unwrap().retain(|seq, _| *seq <= kept);
            if restart {
                recorder.close(WAIT).await;
                recorder = open(dir.path(), &store, &clock);
            }
            recorder.refused(&event(Some(&alice), Outcome::Deny, "/after"), 403).await.unwrap();
            shipped(&recorder).await;
            assert_eq!(store.texts()[..before.len()], before);
            assert_whole(&store, before.len() as u64 + 1);
        }
        recorder.close(WAIT).await;
    }
}

#[tokio::test]
async fn a_store_that_loses_more_than_the_log_has_gets_the_rest_and_the_loss_shows() {
    let (dir, store, clock) = (tempfile::tempdir().unwrap(), Arc::new(Memory::default()), clock());
    let alice = alice();
    let recorder = open(dir.path(), &store, &clock);
    let path = format!("/{}", "x".repeat(4000));
    for _ in 0..12 {
        for _ in 0..20 {
            recorder.refused(&event(Some(&alice), Outcome::Deny, &path), 403).await.unwrap();
        }
        shipped(&recorder).await;
    }
    let before = store.texts();
    store.events.lock().unwrap().clear();
    recorder.refused(&event(Some(&alice), Outcome::Deny, "/after"), 403).await.unwrap();
    shipped(&recorder).await;
    let after = store.texts();
    assert!(after.len() > 30 && after.len() < before.len(), "{} of {}", after.len(), before.len());
    assert_eq!(before[before.len() + 1 - after.len()..], after[..after.len() - 1]);
    assert_eq!(verify_from(&after), Ok(after.len() as u64));
    assert_eq!(verify(&after).unwrap_err().seq, 1);
    recorder.close(WAIT).await;
}
