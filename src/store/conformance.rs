//! What every store must do, as checks that each backend's tests run through [`run`].
//!
//! A new backend calls [`run`] with a fresh store; a new promise of a trait is a check here.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use super::{AuditEntry, Expect, LogPosition, RevocationEntry, Revoked, Shipped, Store, Table};
use crate::model::{SharedClock, Timestamp};

/// Runs every check on an empty store. `pass` lets that much time go by, for `clock` and for the store.
pub(super) async fn run<F: Future<Output = ()>>(
    store: &Store,
    clock: SharedClock,
    pass: impl Fn(Duration) -> F,
) {
    store.records.ping().await.unwrap();
    compare_and_set(store).await;
    one_of_many_takes(store).await;
    listing(store).await;
    expiry(store, &clock, &pass).await;
    counting(store, &pass).await;
    revocations(store, &clock).await;
    audit(store, &clock).await;
}

async fn compare_and_set(store: &Store) {
    let records = &store.records;
    let put = |value: &'static [u8], expect| records.put(Table::Accounts, "a", value, None, expect);
    assert_eq!(records.get(Table::Accounts, "a").await.unwrap(), None);
    assert_eq!(put(b"0", Expect::Version(1)).await.unwrap(), None);
    assert_eq!(put(b"\xff\x00bin", Expect::Absent).await.unwrap(), Some(1));
    assert_eq!(put(b"2", Expect::Absent).await.unwrap(), None);
    let record = records.get(Table::Accounts, "a").await.unwrap().unwrap();
    assert_eq!((record.value.as_slice(), record.version), (b"\xff\x00bin".as_slice(), 1));
    assert_eq!(put(b"2", Expect::Version(2)).await.unwrap(), None);
    assert_eq!(put(b"2", Expect::Version(1)).await.unwrap(), Some(2));
    assert_eq!(put(b"3", Expect::Anything).await.unwrap(), Some(3));
    assert_eq!(records.get(Table::Clients, "a").await.unwrap(), None, "tables are name spaces");
    assert!(!records.delete(Table::Accounts, "a", Expect::Version(1)).await.unwrap());
    assert!(records.delete(Table::Accounts, "a", Expect::Version(3)).await.unwrap());
    assert!(!records.delete(Table::Accounts, "a", Expect::Anything).await.unwrap());
    assert_eq!(records.get(Table::Accounts, "a").await.unwrap(), None);
}

async fn one_of_many_takes(store: &Store) {
    store.records.put(Table::Once, "code", b"x", None, Expect::Absent).await.unwrap();
    let takes = (0..100).map(|_| {
        let records = store.records.clone();
        tokio::spawn(async move { records.take(Table::Once, "code").await.unwrap() })
    });
    let results = futures_util::future::join_all(takes.collect::<Vec<_>>()).await;
    assert_eq!(results.into_iter().filter(|taken| taken.as_ref().unwrap().is_some()).count(), 1);
    let puts = (0..100).map(|_| {
        let records = store.records.clone();
        tokio::spawn(async move { records.put(Table::Once, "p", b"x", None, Expect::Absent).await.unwrap() })
    });
    let results = futures_util::future::join_all(puts.collect::<Vec<_>>()).await;
    assert_eq!(results.into_iter().filter(|put| put.as_ref().unwrap().is_some()).count(), 1);
}

async fn listing(store: &Store) {
    let records = &store.records;
    for key in ["u/c", "u/a", "v", "u/b", "t", "u/é", "u"] {
        records.put(Table::Nodes, key, key.as_bytes(), None, Expect::Absent).await.unwrap();
    }
    let keys = async |prefix: &'static str, after: Option<&'static str>, limit: usize| {
        let found = records.list(Table::Nodes, prefix, after, limit).await.unwrap();
        found.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys("", None, 100).await, ["t", "u", "u/a", "u/b", "u/c", "u/é", "v"]);
    assert_eq!(keys("u/", None, 100).await, ["u/a", "u/b", "u/c", "u/é"]);
    assert_eq!(keys("u/", None, 2).await, ["u/a", "u/b"]);
    assert_eq!(keys("u/", Some("u/b"), 2).await, ["u/c", "u/é"]);
    assert_eq!(keys("u/", Some("a"), 1).await, ["u/a"]);
    assert_eq!(keys("u/", Some("v"), 1).await, Vec::<String>::new());
    assert_eq!(keys("x", None, 5).await, Vec::<String>::new());
    records.delete(Table::Nodes, "u/a", Expect::Anything).await.unwrap();
    assert_eq!(keys("u/", None, 1).await, ["u/b"]);
}

async fn expiry<F: Future<Output = ()>>(store: &Store, clock: &SharedClock, pass: &impl Fn(Duration) -> F) {
    let records = &store.records;
    let at = clock.now().plus(Duration::from_secs(1));
    for key in ["get", "take", "put"] {
        records.put(Table::Sessions, key, b"1", Some(at), Expect::Absent).await.unwrap();
    }
    records.put(Table::Sessions, "stays", b"1", Some(at), Expect::Absent).await.unwrap();
    records.put(Table::Sessions, "stays", b"2", None, Expect::Version(1)).await.unwrap();
    let gone = Some(clock.now().minus(Duration::from_secs(1)));
    records.put(Table::Sessions, "past", b"1", gone, Expect::Anything).await.unwrap();
    assert_eq!(records.get(Table::Sessions, "past").await.unwrap(), None);
    assert!(records.get(Table::Sessions, "get").await.unwrap().is_some());
    pass(Duration::from_millis(1050)).await;
    assert_eq!(records.get(Table::Sessions, "get").await.unwrap(), None);
    assert_eq!(records.take(Table::Sessions, "take").await.unwrap(), None);
    assert!(!records.delete(Table::Sessions, "take", Expect::Anything).await.unwrap());
    assert_eq!(records.list(Table::Sessions, "", None, 10).await.unwrap().len(), 1);
    assert_eq!(records.put(Table::Sessions, "put", b"2", None, Expect::Version(1)).await.unwrap(), None);
    assert_eq!(records.put(Table::Sessions, "put", b"2", None, Expect::Absent).await.unwrap(), Some(1));
    assert_eq!(records.get(Table::Sessions, "stays").await.unwrap().unwrap().value, b"2");
}

async fn counting<F: Future<Output = ()>>(store: &Store, pass: &impl Fn(Duration) -> F) {
    let window = Duration::from_secs(1);
    assert_eq!(store.records.increment("c", 1, window).await.unwrap(), 1);
    assert_eq!(store.records.increment("c", 2, window).await.unwrap(), 3);
    assert_eq!(store.records.get(Table::Counters, "c").await.unwrap().unwrap().value, b"3");
    assert_eq!(store.records.remaining("none").await.unwrap(), Duration::ZERO);
    pass(Duration::from_millis(500)).await;
    let left = store.records.remaining("c").await.unwrap();
    assert!(!left.is_zero() && left <= Duration::from_millis(500), "{left:?}");
    store.records.increment("c", 1, window).await.unwrap();
    pass(Duration::from_millis(550)).await;
    assert_eq!(
        store.records.increment("c", 1, window).await.unwrap(),
        1,
        "the first increment opens the window"
    );
}

async fn revocations(store: &Store, clock: &SharedClock) {
    let log = &store.revocations;
    let now = clock.now();
    let entry = |what, until: Timestamp| RevocationEntry { what, not_before: now, until };
    let later = now.plus(Duration::from_secs(60));
    let start = log.head().await.unwrap();
    assert_eq!(start.index, 0);
    assert_ne!(start.epoch, 0);
    let mut last = start;
    for name in ["a", "b", "c"] {
        let at = log.append(&entry(Revoked::Subject(name.to_owned()), later)).await.unwrap();
        assert_eq!((at.epoch, at.index), (start.epoch, last.index + 1));
        last = at;
    }
    assert_eq!(log.head().await.unwrap(), last);
    let all = log.after(LogPosition::default(), 10).await.unwrap();
    let names: Vec<_> = all.iter().map(|(at, entry)| (at.index, entry.what.clone())).collect();
    let subject = |name: &str| Revoked::Subject(name.to_owned());
    assert_eq!(names, [(1, subject("a")), (2, subject("b")), (3, subject("c"))]);
    assert_eq!(all[0].1, entry(subject("a"), later));
    let (first, _) = all[0].clone();
    assert_eq!(log.after(first, 1).await.unwrap(), all[1..2]);
    assert_eq!(log.after(last, 10).await.unwrap(), []);
    let over = log.append(&entry(Revoked::Token("old".to_owned()), now)).await.unwrap();
    assert_eq!(log.after(last, 10).await.unwrap(), [], "what no longer matters is not given");
    assert_eq!(log.head().await.unwrap(), over);
    let odd = entry(Revoked::Certificate("CN=é, O=x#0A".to_owned()), later);
    let at = log.append(&odd).await.unwrap();
    assert_eq!(log.after(last, 1).await.unwrap(), [(at, odd)]);
}

fn event(seq: u64) -> AuditEntry {
    let time = Timestamp::from_micros(1_800_000_000_000_000 + i64::try_from(seq).unwrap());
    AuditEntry { seq, time, json: format!(r#"{{"seq":{seq},"time":"{}"}}"#, time.rfc3339()) }
}

async fn audit(store: &Store, clock: &SharedClock) {
    let audit = &store.audit;
    let epoch = u64::try_from(clock.now().micros() / 1000).unwrap();
    let events: Vec<_> = (1..=20).map(event).collect();
    let there = async |node: &str, epoch, after, entries: &[AuditEntry]| {
        assert_eq!(audit.append(node, epoch, after, entries).await.unwrap(), Shipped::There);
    };
    assert_eq!(audit.last("n1").await.unwrap(), None);
    there("n1", epoch, 0, &[]).await;
    assert_eq!(audit.nodes().await.unwrap(), Vec::<String>::new());
    there("n1", epoch, 0, &events[..5]).await;
    there("n1", epoch, 0, &events[..5]).await;
    there("n1", epoch, 3, &events[3..8]).await;
    there("n1", epoch + 5, 6, &events[6..12]).await;
    // A clock that went back between two starts.
    there("n1", epoch - 1_000, 12, &events[10..19]).await;
    assert_eq!(audit.append("n1", epoch + 9, 20, &events[19..]).await.unwrap(), Shipped::Behind(19));
    assert_eq!(audit.append("n3", epoch, 1, &events[1..]).await.unwrap(), Shipped::Behind(0));
    there("n1", epoch + 9, 0, &events).await;
    there("n2", epoch, 0, &events[..1]).await;
    assert_eq!(audit.last("n1").await.unwrap().as_ref(), events.last());
    assert_eq!(audit.read("n1", 1, 100).await.unwrap(), events);
    assert_eq!(audit.read("n1", 7, 3).await.unwrap(), events[6..9]);
    assert_eq!(audit.read("n1", 15, 2).await.unwrap(), events[14..16]);
    assert_eq!(audit.read("n1", 21, 2).await.unwrap(), []);
    let back: Vec<_> = events.iter().rev().cloned().collect();
    assert_eq!(audit.read_back("n1", None, 3).await.unwrap(), back[..3]);
    assert_eq!(audit.read_back("n1", Some(10), 4).await.unwrap(), back[11..15]);
    assert_eq!(audit.read_back("n1", Some(1), 4).await.unwrap(), []);
    let nodes: BTreeSet<_> = audit.nodes().await.unwrap().into_iter().collect();
    assert_eq!(nodes, ["n1".to_owned(), "n2".to_owned()].into());
    assert_eq!(audit.read("n3", 1, 1).await.unwrap(), []);
    assert_eq!(audit.checkpoints().await.unwrap(), []);
    for (node, text) in [("n2", "b"), ("n1", "a"), ("n2", "c")] {
        audit.set_checkpoint(node, text).await.unwrap();
    }
    let expected = [("n1", "a"), ("n2", "c")].map(|(node, text)| (node.to_owned(), text.to_owned()));
    assert_eq!(audit.checkpoints().await.unwrap(), expected);
}
