//! The ring as it is stored (one sealed record) and as readers see it (an immutable snapshot).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::pair::{self, Pair};
use super::{KeyError, KeyInfo, Sealer, Verifier};
use crate::config::SigningAlgorithm;
use crate::model::{Timestamp, random_bytes};

const CONTEXT: &str = "keys/ring/1";

/// How long a key that verifies no longer, or was withdrawn, is still listed.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// The stored form: JSON, sealed as a whole, so that nobody who writes to the store can add a key.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    root: Hidden,
    pub(super) keys: Vec<StoredKey>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredKey {
    pub(super) kid: String,
    pub(super) algorithm: String,
    pub(super) created: Timestamp,
    pub(super) signs_from: Timestamp,
    pub(super) verifies_until: Option<Timestamp>,
    pub(super) withdrawn: Option<Timestamp>,
    pkcs8: Hidden,
}

/// Base64url of secret bytes; wiped when dropped.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct Hidden(String);

impl Hidden {
    fn new(bytes: &[u8]) -> Self {
        Self(BASE64URL.encode(bytes))
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let decoded = BASE64URL.decode(&self.0);
        decoded.map(Zeroizing::new).map_err(|_| KeyError::Sealed("a secret is not base64url".to_owned()))
    }
}

impl StoredKey {
    /// A new key that signs from `signs_from`.
    pub(super) fn generate(
        algorithm: SigningAlgorithm,
        now: Timestamp,
        signs_from: Timestamp,
    ) -> Result<Self, KeyError> {
        let pkcs8 = pair::generate(algorithm)?;
        let name = pair::name(algorithm);
        Ok(Self {
            kid: pair::thumbprint(&Pair::open(name, &pkcs8)?.members()?),
            algorithm: name.to_owned(),
            created: now,
            signs_from,
            verifies_until: None,
            withdrawn: None,
            pkcs8: Hidden::new(&pkcs8),
        })
    }

    /// Neither withdrawn nor past its end.
    pub(super) fn counts(&self, now: Timestamp) -> bool {
        self.withdrawn.is_none() && self.verifies_until.is_none_or(|end| now < end)
    }
}

impl Stored {
    pub(super) fn new(first: StoredKey) -> Self {
        Self { root: Hidden::new(&random_bytes::<32>()), keys: vec![first] }
    }

    pub(super) fn seal(&self, sealer: &Sealer) -> Result<Vec<u8>, KeyError> {
        let json = serde_json::to_vec(self).map_err(|error| KeyError::Sealed(error.to_string()))?;
        Ok(sealer.seal(CONTEXT, &Zeroizing::new(json)))
    }

    pub(super) fn unseal(sealer: &Sealer, sealed: &[u8]) -> Result<Self, KeyError> {
        let plain = sealer.unseal(CONTEXT, sealed).ok_or_else(|| {
            KeyError::Sealed("it was sealed with another master key; put the `master.key` of the node that made it into data_dir"
                    .to_owned())
        })?;
        serde_json::from_slice(&plain).map_err(|error| KeyError::Sealed(error.to_string()))
    }

    /// The key that signs at `now`.
    pub(super) fn signing(&self, now: Timestamp) -> Option<&StoredKey> {
        self.keys
            .iter()
            .filter(|key| key.counts(now) && key.signs_from <= now)
            .max_by_key(|key| key.signs_from)
    }

    /// The newest that counts has no end; the others verify for `tail` after their successor signs. Forgets what ended long ago.
    pub(super) fn settle(&mut self, now: Timestamp, tail: Duration) {
        let forgotten = |key: &StoredKey| {
            [key.withdrawn, key.verifies_until].into_iter().flatten().any(|end| end.plus(REMEMBERED) < now)
        };
        self.keys.retain(|key| !forgotten(key));
        self.keys.sort_by_key(|key| std::cmp::Reverse(key.signs_from));
        let mut successor = None;
        for key in self.keys.iter_mut().filter(|key| key.counts(now)) {
            key.verifies_until = match (successor, key.verifies_until) {
                (None, _) => None,
                (Some(from), None) => Some(Timestamp::plus(from, tail)),
                (Some(_), known) => known,
            };
            successor = Some(key.signs_from);
        }
    }
}

/// What readers see.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    /// The version of the record.
    pub(super) version: u64,
    pub(super) root: Zeroizing<Vec<u8>>,
    pub(super) keys: Vec<Live>,
    pub(super) jwks: Bytes,
    /// When the first of its keys ends and the published set changes.
    pub(super) changes: Option<Timestamp>,
}

/// A key of the snapshot.
pub(super) struct Live {
    pub(super) stored: StoredKey,
    pub(super) pair: Pair,
    pub(super) verifier: Arc<Verifier>,
}

impl Snapshot {
    pub(super) fn of(
        stored: Stored,
        version: u64,
        generation: u64,
        now: Timestamp,
    ) -> Result<Self, KeyError> {
        let root = stored.root.bytes()?;
        let mut keys = Vec::with_capacity(stored.keys.len());
        let mut published = Vec::new();
        for key in stored.keys {
            let pair = Pair::open(&key.algorithm, &key.pkcs8.bytes()?)?;
            if key.counts(now) {
                published.push(jwk(&pair, &key)?);
            }
            keys.push(Live { verifier: Arc::new(pair.verifier(&key.kid)), pair, stored: key });
        }
        let counting = keys.iter().filter(|key| key.stored.counts(now));
        let changes = counting.filter_map(|key| key.stored.verifies_until).min();
        let jwks = Bytes::from(json!({"keys": published}).to_string());
        Ok(Self { generation, version, root, keys, jwks, changes })
    }

    pub(super) fn signing(&self, now: Timestamp) -> Option<&Live> {
        let able = |key: &&Live| key.stored.counts(now) && key.stored.signs_from <= now;
        self.keys.iter().filter(able).max_by_key(|key| key.stored.signs_from)
    }

    pub(super) fn counting(&self, kid: &str, now: Timestamp) -> Option<&Live> {
        self.keys.iter().find(|key| key.stored.kid == kid && key.stored.counts(now))
    }

    pub(super) fn info(&self, key: &Live, now: Timestamp) -> KeyInfo {
        let signs = self.signing(now).is_some_and(|signing| signing.stored.kid == key.stored.kid);
        let state = match &key.stored {
            stored if !stored.counts(now) => "withdrawn",
            stored if stored.signs_from > now => "published",
            _ if signs => "signing",
            _ => "verifying",
        };
        KeyInfo {
            kid: key.stored.kid.clone(),
            algorithm: key.stored.algorithm.clone(),
            state: state.to_owned(),
            created: key.stored.created,
            signs_from: key.stored.signs_from,
            verifies_until: key.stored.withdrawn.or(key.stored.verifies_until),
        }
    }
}

/// The public key as a JWK for verifying signatures (RFC 7517 §4).
fn jwk(pair: &Pair, key: &StoredKey) -> Result<Value, KeyError> {
    let mut members = pair.members()?;
    if let Value::Object(map) = &mut members {
        map.insert("use".to_owned(), "sig".into());
        map.insert("alg".to_owned(), key.algorithm.as_str().into());
        map.insert("kid".to_owned(), key.kid.as_str().into());
    }
    Ok(members)
}
