//! Signed checkpoints: "the chain of this node had this event, with this hash". They find a chain whose end was cut off,
//! which hashes alone cannot. Called by `ship` (sign), the operators' listener and `audit verify` (check).
//!
//! A checkpoint is a JWS (RFC 7515) with `typ` [`TYPE`], signed with Ed25519 (RFC 8037) by a key that is derived from the
//! key ring's root: the same on every node and after every rotation. A new member is a field of [`Checkpoint`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Shared;
use super::state::Shipped;
use super::tail::At;
use crate::keys::KeyRing;
use crate::store::AuditStore;

/// `typ` of a checkpoint's header.
pub const TYPE: &str = "portcullis-audit-checkpoint+jwt";
/// What the key is derived for.
const PURPOSE: &str = "audit-checkpoint";
/// How often a checkpoint is made at most, except at the end.
const EVERY: Duration = Duration::from_secs(1);

/// What a checkpoint says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Hash of the event `seq`.
    pub hash: String,
    /// Whose chain.
    pub node: String,
    /// The last event of the chain at `time`.
    pub seq: u64,
    /// When it was signed, RFC 3339 in UTC.
    pub time: String,
}

/// Makes checkpoints.
#[derive(Clone)]
pub struct Signer {
    pair: Arc<Ed25519KeyPair>,
}

/// Checkpoints and the keys that check them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Public keys, as JSON Web Keys (RFC 8037).
    pub keys: Vec<Value>,
    /// Signed, the newest of each node.
    pub checkpoints: Vec<String>,
}

impl Signer {
    /// The signer of every node that has this ring.
    ///
    /// # Errors
    /// When the library refuses the derived key.
    pub fn of(keys: &KeyRing) -> Result<Self, String> {
        let seed = zeroize::Zeroizing::new(keys.derive(PURPOSE));
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|error| error.to_string())?;
        Ok(Self { pair: Arc::new(pair) })
    }

    /// A signed checkpoint.
    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.kid(), "typ": TYPE});
        let claims = serde_json::to_string(checkpoint).unwrap_or_default();
        let text = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims));
        let signature = BASE64URL.encode(self.pair.sign(text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// The public key.
    pub fn public_key(&self) -> Value {
        let x = BASE64URL.encode(self.pair.public_key());
        let kid = self.kid();
        json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig"})
    }

    /// RFC 7638 thumbprint (RFC 8037 §2).
    fn kid(&self) -> String {
        let x = BASE64URL.encode(self.pair.public_key());
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        BASE64URL.encode(Sha256::digest(members.as_bytes()))
    }
}

impl Checkpoints {
    /// What they say.
    ///
    /// # Errors
    /// The first one that proves nothing, and why.
    pub fn check(&self) -> Result<Vec<Checkpoint>, String> {
        self.checkpoints.iter().map(|token| self.read(token)).collect()
    }

    fn read(&self, token: &str) -> Result<Checkpoint, String> {
        let wrong = |what: &str| format!("a checkpoint {what}");
        let (text, signature) = token.rsplit_once('.').ok_or_else(|| wrong("is not a signed text"))?;
        let (header, claims) = text.split_once('.').ok_or_else(|| wrong("is not a signed text"))?;
        let decode = |part: &str| BASE64URL.decode(part).map_err(|_| wrong("is not base64url"));
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| wrong("has no header"))?;
        let says = |name: &str| header.get(name).and_then(Value::as_str);
        if says("alg") != Some("EdDSA") || says("typ") != Some(TYPE) {
            return Err(wrong("is of another type"));
        }
        let key = self.keys.iter().find(|key| key.get("kid").and_then(Value::as_str) == says("kid"));
        let x = key.and_then(|key| key.get("x")).and_then(Value::as_str);
        let x = decode(x.ok_or_else(|| wrong("is signed with a key that is not known"))?)?;
        UnparsedPublicKey::new(&ED25519, x)
            .verify(text.as_bytes(), &decode(signature)?)
            .map_err(|_| wrong("has a signature that does not fit"))?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| wrong("does not say what it must"))
    }
}

/// The shipping thread's memory of what it signed.
#[derive(Default)]
pub struct Signing {
    signed: Option<(u64, Instant)>,
}

impl Signing {
    /// Signs where the chain stands, if it moved; `last`: also when the latest one is young. A checkpoint that cannot be
    /// stored is made again later.
    pub async fn sign(&mut self, shared: &Shared, store: &dyn AuditStore, shipped: &Shipped, last: bool) {
        let Some(signer) = shared.signer.get() else { return };
        let at = At::of(shipped);
        let due =
            self.signed.is_none_or(|(seq, when)| seq != at.event() && (last || when.elapsed() >= EVERY));
        if !due || at.event() == 0 {
            return;
        }
        let node = shared.node.clone();
        let time = shared.clock.now().rfc3339();
        let checkpoint = Checkpoint { hash: at.hash.to_string(), node, seq: at.event(), time };
        match store.set_checkpoint(&shared.node, &signer.sign(&checkpoint)).await {
            Ok(()) => self.signed = Some((at.event(), Instant::now())),
            Err(error) => tracing::warn!(%error, "a checkpoint of the audit chain could not be stored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer { pair: Arc::new(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()) }
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            hash: "a".repeat(64),
            node: "gate-1".to_owned(),
            seq: 7,
            time: "2026-01-05T10:00:00Z".to_owned(),
        }
    }

    fn check(keys: Vec<Value>, token: String) -> Result<Vec<Checkpoint>, String> {
        Checkpoints { keys, checkpoints: vec![token] }.check()
    }

    #[test]
    fn a_checkpoint_says_what_was_signed_and_nothing_else_does() {
        let (ours, other) = (signer(1), signer(2));
        let token = ours.sign(&checkpoint());
        assert_eq!(check(vec![other.public_key(), ours.public_key()], token.clone()), Ok(vec![checkpoint()]));
        let why = |keys, token| check(keys, token).unwrap_err();
        assert!(why(vec![other.public_key()], token.clone()).contains("not known"));
        let mut renamed = other.public_key();
        renamed["kid"] = ours.public_key()["kid"].clone();
        assert!(why(vec![renamed], token.clone()).contains("does not fit"));
        let parts: Vec<&str> = token.split('.').collect();
        let claims = BASE64URL.encode(serde_json::to_string(&Checkpoint { seq: 3, ..checkpoint() }).unwrap());
        let forged = format!("{}.{claims}.{}", parts[0], parts[2]);
        assert!(why(vec![ours.public_key()], forged).contains("does not fit"));
        let none = BASE64URL.encode(json!({"alg": "none", "kid": ours.kid(), "typ": TYPE}).to_string());
        let unsigned = format!("{none}.{}.", parts[1]);
        assert!(why(vec![ours.public_key()], unsigned).contains("another type"));
        for text in ["", "a", "a.b", "a.b.c", "é.é.é"] {
            assert!(check(vec![ours.public_key()], text.to_owned()).is_err(), "{text}");
        }
    }
}
