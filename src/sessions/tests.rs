//! Promises of sessions: opaque, one host, bounded in time, ended at once, carried once.

use super::*;
use crate::accounts::memory::Memory;
use crate::model::{Clock as _, ManualClock, PrincipalKind};

const HOST: &str = "gate.example";

struct World {
    records: Arc<Memory>,
    clock: Arc<ManualClock>,
    revocations: Arc<Revocations>,
    sessions: Arc<Sessions>,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_800_000_000)));
    let records = Memory::new(clock.clone());
    let revocations = Revocations::new(records.clone(), true, clock.clone());
    let config =
        config::Session { idle: Duration::from_secs(12 * 3_600), absolute: Duration::from_secs(7 * 86_400) };
    let sessions = Sessions::new(&config, records.clone(), revocations.clone(), clock.clone());
    World { records, clock, revocations, sessions }
}

impl World {
    async fn sign_in(&self) -> (String, Session) {
        let alice = Principal::new("alice", PrincipalKind::User, AuthMethod::Password);
        self.sessions.create(alice, HOST).await.unwrap()
    }

    async fn lives(&self, cookie: &str) -> bool {
        self.sessions.find(cookie, HOST).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn a_session_is_found_on_its_host_and_its_cookie_is_not_stored() {
    let world = world();
    let (cookie, made) = world.sign_in().await;
    let found = world.sessions.find(&cookie, HOST).await.unwrap().unwrap();
    assert_eq!((found.sid.clone(), found.principal.method), (made.sid, AuthMethod::Session));
    assert!(world.sessions.find(&cookie, "other.example").await.unwrap().is_none());
    for unknown in ["", "x", &random_token::<32>(), &format!("{cookie} ")] {
        assert!(!world.lives(unknown).await);
    }
    for (key, record) in world.records.list(Table::Sessions, "", None, 10).await.unwrap() {
        assert!(!key.contains(&cookie) && !String::from_utf8_lossy(&record.value).contains(&cookie));
    }
    assert_ne!(world.sign_in().await.0, cookie);
}

#[tokio::test]
async fn it_ends_when_idle_and_at_the_latest_after_its_absolute_time() {
    let world = world();
    let (idle, _) = world.sign_in().await;
    let (used, _) = world.sign_in().await;
    for _ in 0..13 {
        world.clock.advance(Duration::from_secs(12 * 3_600 - 1));
        assert!(world.lives(&used).await);
    }
    assert!(!world.lives(&idle).await);
    world.clock.advance(Duration::from_secs(12 * 3_600));
    assert!(!world.lives(&used).await);
}

#[tokio::test]
async fn the_store_is_asked_once_a_second_and_written_once_a_minute() {
    let world = world();
    let (cookie, _) = world.sign_in().await;
    let first = world.sessions.find(&cookie, HOST).await.unwrap().unwrap();
    let reads = world.records.reads();
    for _ in 0..10 {
        assert!(world.lives(&cookie).await);
    }
    assert_eq!(world.records.reads(), reads);
    let version = async || world.records.list(Table::Sessions, "", None, 1).await.unwrap()[0].1.version;
    world.clock.advance(Duration::from_secs(59));
    let later = world.sessions.find(&cookie, HOST).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&first.principal, &later.principal));
    assert_eq!((world.records.reads(), version().await), (reads + 1, 1));
    world.clock.advance(Duration::from_secs(1));
    assert!(world.lives(&cookie).await);
    assert_eq!(version().await, 2);
}

#[tokio::test]
async fn an_ended_or_revoked_session_is_gone_at_once_and_its_sid_is_revoked() {
    let world = world();
    let (cookie, session) = world.sign_in().await;
    assert!(world.lives(&cookie).await);
    assert_eq!(world.sessions.end(&cookie).await.unwrap().unwrap().sid, session.sid);
    assert!(!world.lives(&cookie).await);
    let credential = Credential { sid: Some(&session.sid), ..Credential::default() };
    assert_eq!(world.revocations.standing(&credential), Standing::Revoked);
    let (cookie, session) = world.sign_in().await;
    assert!(world.lives(&cookie).await);
    assert_eq!(world.sessions.list(Some("alice")).await.unwrap().len(), 1);
    assert!(world.sessions.revoke(&session.sid).await.unwrap());
    assert!(!world.lives(&cookie).await);
    assert!(world.sessions.list(None).await.unwrap().is_empty());
    assert!(!world.sessions.revoke("unknown").await.unwrap());
}

#[tokio::test]
async fn another_nodes_revocation_counts_although_the_session_is_remembered() {
    let world = world();
    let (cookie, _) = world.sign_in().await;
    assert!(world.lives(&cookie).await);
    let until = world.clock.now().plus(Duration::from_secs(60));
    world.revocations.revoke(Revoked::Subject("alice".to_owned()), until).await.unwrap();
    assert!(!world.lives(&cookie).await);
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_never_a_session() {
    let world = world();
    let (cookie, _) = world.sign_in().await;
    world.records.go_away(true);
    assert!(world.sessions.find(&cookie, HOST).await.is_err());
}

#[tokio::test]
async fn a_code_carries_a_session_once_to_one_host_for_one_browser() {
    let world = world();
    let (_, session) = world.sign_in().await;
    let carry = async || world.sessions.carry(&session, "app.example", "bind").await.unwrap();
    let redeem =
        async |code: &str, host: &str, bind: &str| world.sessions.redeem(code, host, bind).await.unwrap();
    let code = carry().await;
    let (cookie, carried) = redeem(&code, "app.example", "bind").await.unwrap();
    assert_eq!((carried.sid.clone(), carried.created), (session.sid.clone(), session.created));
    assert!(world.sessions.find(&cookie, "app.example").await.unwrap().is_some());
    assert!(redeem(&code, "app.example", "bind").await.is_none());
    for (host, bind) in [("evil.example", "bind"), ("app.example", "other")] {
        let code = carry().await;
        assert!(redeem(&code, host, bind).await.is_none());
        assert!(redeem(&code, "app.example", "bind").await.is_none());
    }
    let code = carry().await;
    world.clock.advance(CODE_TTL);
    assert!(redeem(&code, "app.example", "bind").await.is_none());
    let code = carry().await;
    world.sessions.revoke(&session.sid).await.unwrap();
    assert!(redeem(&code, "app.example", "bind").await.is_none());
    assert!(world.sessions.find(&cookie, "app.example").await.unwrap().is_none());
}
