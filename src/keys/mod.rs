//! Signing keys: made, sealed, rotated, withdrawn, published (JWKS); and the keys of trusted issuers, in `issuer.rs`.
//!
//! `tokens` signs and verifies with the [`KeyRing`]; `app` reloads it each second; doors publish [`KeyRing::jwks`].
//! The private keys are one sealed record of the store, so that every node has the same ring and changes are one
//! atomic step. An algorithm is added in `pair.rs`.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hkdf;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

use crate::config::SigningAlgorithm;
use crate::model::{SharedClock, Timestamp};
use crate::store::{Expect, Records, StoreError, Table};

pub mod issuer;
mod pair;
mod ring;
pub mod sealer;
pub mod set;
#[cfg(test)]
mod tests;

pub use sealer::Sealer;

use ring::{Snapshot, Stored, StoredKey};

const RECORD: &str = "ring";

/// How often a change is tried again when another node was faster.
const TRIES: usize = 16;

/// The longest life of what else is signed with the ring (assertions).
const ASSERTION_TTL: Duration = Duration::from_secs(60);

/// Why a key could not be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such key.
    #[error("there is no key `{0}`")]
    Unknown(String),
    /// Nothing would sign any more.
    #[error("key `{0}` is the only one that signs; rotate first")]
    Last(String),
    /// The record in the store is not ours, or was sealed with another master key.
    #[error("a stored key cannot be opened: {0}")]
    Sealed(String),
    /// The cryptographic library refused, or no key signs now.
    #[error("{0}")]
    Crypto(&'static str),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Our ring of signing keys. Readers see an immutable snapshot; every change bumps [`KeyRing::generation`].
pub struct KeyRing {
    records: Arc<dyn Records>,
    sealer: Sealer,
    algorithm: SigningAlgorithm,
    access_ttl: Duration,
    clock: SharedClock,
    snapshot: ArcSwap<Snapshot>,
}

/// What `key list` shows.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KeyInfo {
    /// RFC 7638 thumbprint.
    pub kid: String,
    /// `ES256`, `EdDSA` or `RS256`.
    pub algorithm: String,
    /// published | signing | verifying | withdrawn
    pub state: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it begins to sign.
    pub signs_from: Timestamp,
    /// When it stops to count, once that is known.
    pub verifies_until: Option<Timestamp>,
}

/// A public key with its algorithm.
pub struct Verifier {
    /// The key's id.
    pub kid: String,
    /// The one algorithm that it is used with.
    pub algorithm: jsonwebtoken::Algorithm,
    /// The public key.
    pub key: jsonwebtoken::DecodingKey,
}

impl KeyRing {
    /// Loads the ring from the store; makes the first key when there is none (one wins among nodes). When the newest
    /// key has another algorithm than configured, it rotates.
    ///
    /// # Errors
    /// When the store is away, or holds a ring that the sealer does not open.
    pub async fn open(
        records: Arc<dyn Records>,
        sealer: Sealer,
        algorithm: SigningAlgorithm,
        access_ttl: Duration,
        clock: SharedClock,
    ) -> Result<Arc<Self>, KeyError> {
        let (stored, version) = load_or_make(&records, &sealer, algorithm, clock.now()).await?;
        let snapshot = ArcSwap::from_pointee(Snapshot::of(stored, version, 1, clock.now())?);
        let ring = Arc::new(Self { records, sealer, algorithm, access_ttl, clock, snapshot });
        if ring.newest_algorithm().is_some_and(|name| name != pair::name(algorithm)) {
            ring.rotate().await?;
        }
        Ok(ring)
    }

    /// Signs a JWT with the current key: header `{"alg","kid","typ"}` (RFC 7515 §7.1).
    ///
    /// # Errors
    /// When no key signs now or the library refuses.
    pub fn sign(&self, typ: &str, claims: &serde_json::Value) -> Result<String, KeyError> {
        let snapshot = self.snapshot.load();
        let key = snapshot.signing(self.clock.now()).ok_or(KeyError::Crypto("no key signs now"))?;
        let header = serde_json::json!({"alg": key.stored.algorithm, "kid": key.stored.kid, "typ": typ});
        let mut token = BASE64URL.encode(header.to_string());
        token.push('.');
        BASE64URL.encode_string(claims.to_string(), &mut token);
        let signature = key.pair.sign(token.as_bytes())?;
        token.push('.');
        BASE64URL.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The key with which a token of ours with this `kid` is verified: its pinned algorithm and the public key.
    /// `None` when unknown, past its end or withdrawn.
    pub fn verifier(&self, kid: &str) -> Option<Arc<Verifier>> {
        self.snapshot.load().counting(kid, self.clock.now()).map(|key| Arc::clone(&key.verifier))
    }

    /// True while [`KeyRing::verifier`] has this key: the cheap question for tokens verified before.
    pub fn trusts(&self, kid: &str) -> bool {
        self.snapshot.load().counting(kid, self.clock.now()).is_some()
    }

    /// The published set (RFC 7517), never private members; serialised once per generation.
    pub fn jwks(&self) -> bytes::Bytes {
        self.snapshot.load().jwks.clone()
    }

    /// Grows with every change: caches compare it.
    pub fn generation(&self) -> u64 {
        self.snapshot.load().generation
    }

    /// Every key that is known, the newest first.
    pub fn list(&self) -> Vec<KeyInfo> {
        let now = self.clock.now();
        let snapshot = self.snapshot.load();
        let mut list: Vec<_> = snapshot.keys.iter().map(|key| snapshot.info(key, now)).collect();
        list.sort_by_key(|key| std::cmp::Reverse(key.signs_from));
        list
    }

    /// Publishes a new key that signs after `access_ttl`.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn rotate(&self) -> Result<KeyInfo, KeyError> {
        let now = self.clock.now();
        let (algorithm, signs_from) = (self.algorithm, now.plus(self.access_ttl));
        // On a thread of its own: an RSA key takes long to find.
        let made = tokio::task::spawn_blocking(move || StoredKey::generate(algorithm, now, signs_from)).await;
        let key = made.map_err(|_| KeyError::Crypto("a key could not be made"))??;
        let kid = key.kid.clone();
        self.change(|ring| {
            ring.keys.push(key.clone());
            Ok(())
        })
        .await?;
        self.list().into_iter().find(|info| info.kid == kid).ok_or(KeyError::Unknown(kid))
    }

    /// Withdraws at once: tokens of it are refused from now on by every node that reloads. A published successor of
    /// the key that signs begins to sign at once.
    ///
    /// # Errors
    /// When it is unknown, signs and has no successor, or the store is away.
    pub async fn retire(&self, kid: &str) -> Result<(), KeyError> {
        let now = self.clock.now();
        self.change(|ring| {
            let signs = ring.signing(now).is_some_and(|key| key.kid == kid);
            if signs {
                let later = |key: &&mut StoredKey| key.counts(now) && key.signs_from > now;
                let successor = ring.keys.iter_mut().filter(later).min_by_key(|key| key.signs_from);
                successor.ok_or_else(|| KeyError::Last(kid.to_owned()))?.signs_from = now;
            }
            let key = ring.keys.iter_mut().find(|key| key.kid == kid && key.counts(now));
            key.ok_or_else(|| KeyError::Unknown(kid.to_owned()))?.withdrawn = Some(now);
            Ok(())
        })
        .await
    }

    /// Reads the ring from the store again (called each second by app, and on revocation of a key).
    ///
    /// # Errors
    /// When the store is away or the ring cannot be opened; the present one stays.
    pub async fn reload(&self) -> Result<(), KeyError> {
        let Some(record) = self.records.get(Table::Keys, RECORD).await? else {
            return Err(KeyError::Sealed("the ring is gone from the store; restore it".to_owned()));
        };
        let now = self.clock.now();
        let present = self.snapshot.load();
        if record.version == present.version && present.changes.is_none_or(|at| now < at) {
            return Ok(());
        }
        self.show(Stored::unseal(&self.sealer, &record.value)?, record.version)
    }

    /// A secret of this ring, derived per purpose (HKDF-SHA-256, RFC 5869), the same on every node and after
    /// rotations: for refresh tokens, CSRF.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let snapshot = self.snapshot.load();
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis").extract(&snapshot.root);
        let mut out = [0; 32];
        let info = [purpose.as_bytes()];
        let filled = prk.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut out));
        if filled.is_err() {
            // Cannot happen for 32 bytes (RFC 5869 §2.3 allows 255 times that). A key nobody knows denies.
            out = crate::model::random_bytes();
        }
        out
    }

    fn newest_algorithm(&self) -> Option<String> {
        let (now, snapshot) = (self.clock.now(), self.snapshot.load());
        let newest = snapshot.keys.iter().filter(|key| key.stored.counts(now));
        newest.max_by_key(|key| key.stored.signs_from).map(|key| key.stored.algorithm.clone())
    }

    /// Reads, changes, writes when nobody wrote meanwhile; else again.
    async fn change(
        &self,
        change: impl Fn(&mut Stored) -> Result<(), KeyError> + Send + Sync,
    ) -> Result<(), KeyError> {
        for _ in 0..TRIES {
            let Some(record) = self.records.get(Table::Keys, RECORD).await? else {
                return Err(KeyError::Sealed("the ring is gone from the store; restore it".to_owned()));
            };
            let mut stored = Stored::unseal(&self.sealer, &record.value)?;
            change(&mut stored)?;
            stored.settle(self.clock.now(), self.access_ttl + ASSERTION_TTL);
            let sealed = stored.seal(&self.sealer)?;
            let expect = Expect::Version(record.version);
            if let Some(version) = self.records.put(Table::Keys, RECORD, &sealed, None, expect).await? {
                return self.show(stored, version);
            }
        }
        Err(StoreError::Unavailable("the key ring changes too often; try again".to_owned()).into())
    }

    /// Makes a ring the one that readers see, unless they see a newer one already.
    fn show(&self, stored: Stored, version: u64) -> Result<(), KeyError> {
        let mut next = Snapshot::of(stored, version, 0, self.clock.now())?;
        // `rcu` may run its closure again, and keys are opened once: hence the loop over compare-and-swap.
        let mut present = self.snapshot.load_full();
        loop {
            if present.version > version {
                return Ok(());
            }
            next.generation = present.generation + 1;
            let shared = Arc::new(next);
            let previous = self.snapshot.compare_and_swap(&present, Arc::clone(&shared));
            if Arc::ptr_eq(&previous, &present) {
                return Ok(());
            }
            present = Arc::clone(&previous);
            let Some(mine) = Arc::into_inner(shared) else { return Ok(()) };
            next = mine;
        }
    }
}

async fn load_or_make(
    records: &Arc<dyn Records>,
    sealer: &Sealer,
    algorithm: SigningAlgorithm,
    now: Timestamp,
) -> Result<(Stored, u64), KeyError> {
    for _ in 0..TRIES {
        if let Some(record) = records.get(Table::Keys, RECORD).await? {
            return Ok((Stored::unseal(sealer, &record.value)?, record.version));
        }
        let stored = Stored::new(StoredKey::generate(algorithm, now, now)?);
        let sealed = stored.seal(sealer)?;
        if let Some(version) = records.put(Table::Keys, RECORD, &sealed, None, Expect::Absent).await? {
            return Ok((stored, version));
        }
    }
    Err(StoreError::Unavailable("the key ring changes too often; try again".to_owned()).into())
}
