//! Promises of the ring.

use super::*;
use crate::accounts::memory::Memory;
use crate::model::{Clock as _, ManualClock};
use serde_json::{Value, json};

const TTL: Duration = Duration::from_secs(300);

struct World {
    records: Arc<Memory>,
    clock: Arc<ManualClock>,
    sealer: Sealer,
    _dir: tempfile::TempDir,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_000_000)));
    let dir = tempfile::tempdir().unwrap();
    let sealer = Sealer::open(dir.path()).unwrap();
    World { records: Memory::new(clock.clone()), clock, sealer, _dir: dir }
}

impl World {
    async fn ring(&self, algorithm: SigningAlgorithm) -> Arc<KeyRing> {
        KeyRing::open(self.records.clone(), self.sealer.clone(), algorithm, TTL, self.clock.clone())
            .await
            .unwrap()
    }
}

fn kid(token: &str) -> String {
    let header = BASE64URL.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

fn verifies(ring: &KeyRing, token: &str) -> bool {
    let (message, signature) = token.rsplit_once('.').unwrap();
    ring.verifier(&kid(token)).is_some_and(|key| {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, key.algorithm).unwrap_or(false)
    })
}

#[tokio::test]
async fn every_algorithm_signs_verifies_and_publishes_public_members_only() {
    for (algorithm, kty) in
        [(SigningAlgorithm::Es256, "EC"), (SigningAlgorithm::EdDsa, "OKP"), (SigningAlgorithm::Rs256, "RSA")]
    {
        let world = world();
        let ring = world.ring(algorithm).await;
        let token = ring.sign("at+jwt", &json!({"a": 1})).unwrap();
        assert!(verifies(&ring, &token));
        assert!(!verifies(&ring, &format!("{token}AA")));
        let jwks: Value = serde_json::from_slice(&ring.jwks()).unwrap();
        let jwk = jwks["keys"][0].as_object().unwrap();
        assert_eq!(jwk["kty"], kty);
        assert_eq!(jwk["kid"], kid(&token).as_str());
        for private in ["d", "p", "q", "dp", "dq", "qi", "k", "oth"] {
            assert!(!jwk.contains_key(private));
        }
        let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
        let key = jsonwebtoken::DecodingKey::from_jwk(&parsed).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        let pinned = ring.verifier(&kid(&token)).unwrap().algorithm;
        assert!(jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, pinned).unwrap());
    }
}

#[tokio::test]
async fn nodes_share_one_ring_and_one_derived_secret() {
    let world = world();
    let (one, two) = (world.ring(SigningAlgorithm::Es256).await, world.ring(SigningAlgorithm::Es256).await);
    assert!(verifies(&two, &one.sign("at+jwt", &json!({})).unwrap()));
    assert_eq!(one.derive("refresh"), two.derive("refresh"));
    assert_ne!(one.derive("refresh"), one.derive("csrf"));
}

#[tokio::test]
async fn a_rotation_publishes_first_signs_later_and_lets_the_old_key_verify() {
    let world = world();
    let (ring, other) =
        (world.ring(SigningAlgorithm::Es256).await, world.ring(SigningAlgorithm::Es256).await);
    let old = ring.sign("at+jwt", &json!({})).unwrap();
    let generation = ring.generation();
    let next = ring.rotate().await.unwrap();
    assert!(ring.generation() > generation);
    assert_eq!(next.state, "published");
    assert_eq!(kid(&ring.sign("at+jwt", &json!({})).unwrap()), kid(&old));
    other.reload().await.unwrap();
    assert!(String::from_utf8_lossy(&other.jwks()).contains(&next.kid));
    world.clock.advance(TTL);
    let new = other.sign("at+jwt", &json!({})).unwrap();
    assert_eq!(kid(&new), next.kid);
    assert!(verifies(&ring, &old) && verifies(&ring, &new));
    world.clock.advance(TTL + ASSERTION_TTL);
    assert!(!verifies(&ring, &old) && verifies(&ring, &new));
    ring.reload().await.unwrap();
    assert!(!String::from_utf8_lossy(&ring.jwks()).contains(&kid(&old)));
    assert_eq!(
        ring.list().iter().map(|key| key.state.as_str()).collect::<Vec<_>>(),
        ["signing", "withdrawn"]
    );
}

#[tokio::test]
async fn a_withdrawn_key_counts_no_more_and_the_last_cannot_be_withdrawn() {
    let world = world();
    let ring = world.ring(SigningAlgorithm::Es256).await;
    let old = ring.sign("at+jwt", &json!({})).unwrap();
    assert!(matches!(ring.retire(&kid(&old)).await, Err(KeyError::Last(_))));
    assert!(matches!(ring.retire("none").await, Err(KeyError::Unknown(_))));
    let next = ring.rotate().await.unwrap();
    ring.retire(&kid(&old)).await.unwrap();
    assert!(!verifies(&ring, &old) && !ring.trusts(&kid(&old)));
    assert_eq!(kid(&ring.sign("at+jwt", &json!({})).unwrap()), next.kid);
    assert!(matches!(ring.retire(&next.kid).await, Err(KeyError::Last(_))));
}

#[tokio::test]
async fn withdrawing_the_published_key_leaves_the_old_one_signing() {
    let world = world();
    let ring = world.ring(SigningAlgorithm::Es256).await;
    let old = ring.sign("at+jwt", &json!({})).unwrap();
    let next = ring.rotate().await.unwrap();
    ring.retire(&next.kid).await.unwrap();
    world.clock.advance(TTL * 5);
    assert!(verifies(&ring, &old));
    assert_eq!(kid(&ring.sign("at+jwt", &json!({})).unwrap()), kid(&old));
}

#[tokio::test]
async fn another_algorithm_in_the_configuration_rotates() {
    let world = world();
    world.ring(SigningAlgorithm::Es256).await;
    let ring = world.ring(SigningAlgorithm::EdDsa).await;
    assert_eq!(ring.list().len(), 2);
    world.clock.advance(TTL);
    let token = ring.sign("at+jwt", &json!({})).unwrap();
    assert_eq!(ring.verifier(&kid(&token)).unwrap().algorithm, jsonwebtoken::Algorithm::EdDSA);
}

#[tokio::test]
async fn another_master_key_does_not_open_the_ring_and_nothing_is_stored_in_clear() {
    let world = world();
    world.ring(SigningAlgorithm::Es256).await;
    let record = world.records.get(Table::Keys, RECORD).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&record.value).contains("pkcs8"));
    let dir = tempfile::tempdir().unwrap();
    let stranger = Sealer::open(dir.path()).unwrap();
    let opened =
        KeyRing::open(world.records.clone(), stranger, SigningAlgorithm::Es256, TTL, world.clock.clone());
    assert!(matches!(opened.await, Err(KeyError::Sealed(_))));
    assert!(world.clock.now() > Timestamp::default());
}
