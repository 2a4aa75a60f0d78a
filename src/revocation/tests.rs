//! The view against a log in memory that can lose entries.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;

use super::*;
use crate::cluster::catch_up;
use crate::model::{Clock as _, ManualClock};

#[derive(Default)]
struct Log {
    epoch: AtomicU64,
    entries: Mutex<Vec<RevocationEntry>>,
    down: AtomicBool,
}

impl Log {
    fn head_now(&self) -> LogPosition {
        let index = u64::try_from(self.entries.lock().unwrap().len()).unwrap();
        LogPosition { epoch: 1 + self.epoch.load(Ordering::SeqCst), index }
    }
    fn check(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("down".to_owned()))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl RevocationLog for Log {
    async fn append(&self, entry: &RevocationEntry) -> Result<LogPosition, StoreError> {
        self.check()?;
        self.entries.lock().unwrap().push(entry.clone());
        Ok(self.head_now())
    }
    async fn head(&self) -> Result<LogPosition, StoreError> {
        self.check()?;
        Ok(self.head_now())
    }
    async fn after(
        &self,
        position: LogPosition,
        limit: usize,
    ) -> Result<Vec<(LogPosition, RevocationEntry)>, StoreError> {
        self.check()?;
        let epoch = self.head_now().epoch;
        let from = if position.epoch == epoch { position.index } else { 0 };
        let entries = self.entries.lock().unwrap();
        let numbered = (1..).zip(entries.iter().cloned());
        let wanted = numbered.skip(usize::try_from(from).unwrap()).take(limit);
        Ok(wanted.map(|(index, entry)| (LogPosition { epoch, index }, entry)).collect())
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn setup(always_fresh: bool) -> (Arc<Log>, Arc<ManualClock>, Arc<Revocations>) {
    let log = Arc::new(Log::default());
    let clock = Arc::new(ManualClock::at(at(1000)));
    let view = Revocations::new(log.clone(), always_fresh, clock.clone());
    (log, clock, view)
}

#[tokio::test]
async fn every_kind_of_revocation_refuses_what_it_names() {
    let (_, _, view) = setup(true);
    let good = Credential {
        jti: Some("j"),
        sid: Some("s"),
        subject: Some("alice"),
        client: Some("c"),
        kid: Some("k"),
        certificate: Some("i#1"),
        issued: at(1000),
    };
    assert_eq!(view.standing(&good), Standing::Good);
    let kinds: [fn(String) -> Revoked; 6] = [
        Revoked::Token,
        Revoked::Session,
        Revoked::Subject,
        Revoked::Client,
        Revoked::Key,
        Revoked::Certificate,
    ];
    for (kind, name) in kinds.into_iter().zip(["j", "s", "alice", "c", "k", "i#1"]) {
        let (_, _, view) = setup(true);
        view.revoke(kind("other".to_owned()), at(2000)).await.unwrap();
        assert_eq!(view.standing(&good), Standing::Good);
        let epoch = view.epoch();
        view.revoke(kind(name.to_owned()), at(2000)).await.unwrap();
        assert!(view.epoch() > epoch);
        assert_eq!(view.standing(&good), Standing::Revoked);
        assert_eq!(view.standing(&Credential::default()), Standing::Good);
    }
}

#[tokio::test]
async fn a_subject_may_sign_in_again_and_the_moment_only_grows() {
    let (_, clock, view) = setup(true);
    view.revoke(Revoked::Subject("alice".to_owned()), at(5000)).await.unwrap();
    let issued =
        |seconds| Credential { subject: Some("alice"), issued: at(seconds), ..Credential::default() };
    assert_eq!(view.standing(&issued(1000)), Standing::Revoked);
    assert_eq!(view.standing(&issued(1001)), Standing::Good);
    let older =
        RevocationEntry { what: Revoked::Subject("alice".to_owned()), not_before: at(10), until: at(20) };
    view.apply(&[(LogPosition { epoch: 1, index: 2 }, older)]);
    assert_eq!(view.standing(&issued(1000)), Standing::Revoked);
    clock.advance(Duration::from_secs(4000));
    assert_eq!(view.standing(&issued(1000)), Standing::Good, "forgotten after `until`");
    view.renew(LogPosition { epoch: 1, index: 2 }, Instant::now() + FORGET_EVERY);
    assert!(view.known().entries(at(0)).is_empty());
}

#[tokio::test]
async fn the_lease_counts_from_the_sending() {
    let (log, _, view) = setup(false);
    assert_eq!(view.standing(&Credential::default()), Standing::Unknown);
    log.append(&RevocationEntry { what: Revoked::Key("k".to_owned()), not_before: at(1), until: at(9000) })
        .await
        .unwrap();
    catch_up(&*log, &view).await.unwrap();
    assert_eq!(view.standing(&Credential::default()), Standing::Good);
    let revoked = Credential { kid: Some("k"), ..Credential::default() };
    assert_eq!(view.standing(&revoked), Standing::Revoked);

    let late = Revocations::new(log.clone(), false, Arc::new(ManualClock::at(at(1000))));
    std::thread::sleep(Duration::from_millis(2));
    let old = Instant::now() - Duration::from_millis(1);
    late.renew(log.head_now(), old);
    assert!(late.is_fresh());
    let sent = late.confirmed.load(Ordering::SeqCst);
    assert_eq!(late.started + Duration::from_nanos(sent - 1), old);
}

#[tokio::test]
async fn a_store_that_is_away_does_not_renew() {
    let (log, _, view) = setup(false);
    log.down.store(true, Ordering::SeqCst);
    assert!(catch_up(&*log, &view).await.is_err());
    assert!(!view.is_fresh());
    assert!(view.revoke(Revoked::Token("t".to_owned()), at(2000)).await.is_err());
}

#[tokio::test]
async fn a_log_that_lost_entries_is_not_trusted_and_gets_them_back() {
    for rebuilt in [false, true] {
        let (log, clock, view) = setup(false);
        for name in ["a", "b", "c"] {
            view.revoke(Revoked::Token(name.to_owned()), at(2000)).await.unwrap();
        }
        catch_up(&*log, &view).await.unwrap();
        assert!(view.is_fresh());
        log.entries.lock().unwrap().truncate(1);
        log.epoch.fetch_add(u64::from(rebuilt), Ordering::SeqCst);
        catch_up(&*log, &view).await.unwrap();
        assert!(!view.is_fresh());
        let mut names: Vec<_> =
            log.entries.lock().unwrap().iter().map(|e| serde_json::to_string(&e.what).unwrap()).collect();
        names.sort();
        let token = |name: &str| serde_json::to_string(&Revoked::Token(name.to_owned())).unwrap();
        assert_eq!(names, [token("a"), token("b"), token("c")]);
        view.renew(log.head_now(), Instant::now());
        assert!(!view.is_fresh(), "other nodes may still hold something");
        let sent = Instant::now() + SETTLE;
        view.renew(log.head_now(), sent);
        assert!(view.is_fresh());
        assert_eq!(view.held().len(), 3);
        assert!(clock.now() < at(2000));
    }
}
