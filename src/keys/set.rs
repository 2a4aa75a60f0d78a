//! The key set of another issuer (RFC 7517): which of its keys count, each pinned to the algorithms it may be used with.
//!
//! Read by [`issuer`](super::issuer). A new algorithm is an arm in [`suits`] and a name in `config::trusted_issuer`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::Verifier;

/// How many keys of one set are looked at.
const MOST: usize = 100;

/// RSA moduli that count, in bytes: 2048 bits (RFC 7518 §3.3) to 8192, which costs enough.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Every algorithm of which keys can count.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The keys that count.
pub struct KeySet {
    keys: Vec<Arc<Verifier>>,
}

impl KeySet {
    /// Reads a set. Left out: keys without `kid`, for another use, symmetric, weak, or of no algorithm in `algorithms`.
    ///
    /// # Errors
    /// When it is no set, or holds no key that counts.
    pub fn parse(json: &[u8], algorithms: &[Algorithm]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(json).map_err(|error| format!("it is not JSON: {error}"))?;
        let all = set.get("keys").and_then(Value::as_array).ok_or("it has no list `keys`")?;
        let keys: Vec<_> = all
            .iter()
            .take(MOST)
            .filter_map(Value::as_object)
            .flat_map(|key| verifiers(key, algorithms))
            .collect();
        if keys.is_empty() {
            let wanted: Vec<_> = algorithms.iter().map(|algorithm| format!("{algorithm:?}")).collect();
            return Err(format!(
                "none of its {} keys has a `kid` and is for {}",
                all.len(),
                wanted.join(" or ")
            ));
        }
        Ok(Self { keys })
    }

    /// The key of this id for this algorithm.
    pub fn find(&self, kid: &str, algorithm: &str) -> Option<Arc<Verifier>> {
        let found =
            self.keys.iter().find(|key| key.kid == kid && format!("{:?}", key.algorithm) == algorithm);
        found.cloned()
    }

    /// The key of this id for whatever algorithm.
    pub fn any(&self, kid: &str) -> Option<Arc<Verifier>> {
        self.keys.iter().find(|key| key.kid == kid).cloned()
    }

    /// True when it has the key, for whatever algorithm.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid == kid)
    }
}

/// One for each algorithm that the key may be used with.
fn verifiers(key: &Map<String, Value>, algorithms: &[Algorithm]) -> Vec<Arc<Verifier>> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let Some(kid) = text("kid").filter(|kid| !kid.is_empty()) else { return Vec::new() };
    let verifies = match key.get("key_ops") {
        None => true,
        Some(operations) => operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify")),
    };
    if key.get("use").is_some_and(|used| used != "sig") || !verifies {
        return Vec::new();
    }
    let mut found = Vec::new();
    for algorithm in algorithms {
        if text("alg").is_some_and(|named| named != format!("{algorithm:?}")) {
            continue;
        }
        if let Some(decoding) = suits(key, *algorithm) {
            found.push(Arc::new(Verifier { kid: kid.to_owned(), algorithm: *algorithm, key: decoding }));
        }
    }
    found
}

/// The public key, when it is of the kind that the algorithm takes (RFC 7518 §6, RFC 8037 §2).
fn suits(key: &Map<String, Value>, algorithm: Algorithm) -> Option<DecodingKey> {
    let text = |name: &str| key.get(name).and_then(Value::as_str);
    let curve = |name: &str| text("crv") == Some(name);
    match (text("kty")?, algorithm) {
        (
            "RSA",
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512,
        ) => {
            let modulus = BASE64URL.decode(text("n")?).ok()?;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            if !MODULUS.contains(&(modulus.len() - zeros)) {
                return None;
            }
            DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()
        }
        ("EC", Algorithm::ES256) if curve("P-256") => {
            DecodingKey::from_ec_components(text("x")?, text("y")?).ok()
        }
        ("EC", Algorithm::ES384) if curve("P-384") => {
            DecodingKey::from_ec_components(text("x")?, text("y")?).ok()
        }
        ("OKP", Algorithm::EdDSA) if curve("Ed25519") => DecodingKey::from_ed_components(text("x")?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

    fn rsa(bytes: usize) -> Value {
        json!({"kty": "RSA", "kid": "r", "n": BASE64URL.encode(vec![0xC5; bytes]), "e": "AQAB"})
    }

    fn keys(key: Value) -> Option<KeySet> {
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes(), &ALL).ok()
    }

    #[test]
    fn a_key_counts_for_what_it_is() {
        let set = keys(rsa(256)).unwrap();
        assert!(set.find("r", "RS256").is_some() && set.find("r", "PS256").is_some());
        assert!(
            set.find("r", "ES256").is_none()
                && set.find("r", "RS512").is_none()
                && set.find("R", "RS256").is_none()
        );
        let mut named = rsa(256);
        named["alg"] = json!("PS256");
        let set = keys(named).unwrap();
        assert!(set.find("r", "RS256").is_none() && set.find("r", "PS256").is_some());
    }

    #[test]
    fn keys_that_do_not_count_are_left_out() {
        for (name, value) in
            [("use", json!("enc")), ("key_ops", json!(["sign"])), ("kid", json!("")), ("alg", json!("HS256"))]
        {
            let mut key = rsa(256);
            key[name] = value;
            assert!(keys(key).is_none(), "{name}");
        }
        assert!(keys(rsa(255)).is_none() && keys(rsa(1025)).is_none());
        assert!(keys(json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0"})).is_none());
        assert!(keys(json!({"kty": "EC", "crv": "P-521", "kid": "e", "x": "AA", "y": "AA"})).is_none());
        for broken in ["", "[]", "{\"keys\": {}}", "{\"keys\": []}", "{\"keys\": [1, null]}"] {
            assert!(KeySet::parse(broken.as_bytes(), &ALL).is_err(), "{broken}");
        }
    }
}
