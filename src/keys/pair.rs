//! One signing key pair: made, opened from PKCS#8, signing, and its public half as JWK and [`Verifier`].
//!
//! Used by the ring alone. A new algorithm is an arm in each match here and one in `config::SigningAlgorithm`.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{KeyError, Verifier};
use crate::config::SigningAlgorithm;

/// A private key, parsed once.
pub(super) enum Pair {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
    Rs256(RsaKeyPair),
}

/// The name of an algorithm as JOSE writes it (RFC 7518 §3.1, RFC 8037 §3.1).
pub(super) const fn name(algorithm: SigningAlgorithm) -> &'static str {
    match algorithm {
        SigningAlgorithm::Es256 => "ES256",
        SigningAlgorithm::EdDsa => "EdDSA",
        SigningAlgorithm::Rs256 => "RS256",
    }
}

/// A new private key as PKCS#8. RSA (2048 bits) takes a tenth of a second and more.
pub(super) fn generate(algorithm: SigningAlgorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |_| KeyError::Crypto("a key could not be made");
    let random = SystemRandom::new();
    let der = match algorithm {
        SigningAlgorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(failed)?
            .as_ref()
            .to_vec(),
        SigningAlgorithm::EdDsa => Ed25519KeyPair::generate_pkcs8(&random).map_err(failed)?.as_ref().to_vec(),
        SigningAlgorithm::Rs256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
            let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            der.as_ref().to_vec()
        }
    };
    Ok(Zeroizing::new(der))
}

impl Pair {
    /// Opens what [`generate`] made.
    pub(super) fn open(algorithm: &str, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let rejected = |error: aws_lc_rs::error::KeyRejected| KeyError::Sealed(error.to_string());
        match algorithm {
            "ES256" => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                .map(Self::Es256)
                .map_err(rejected),
            "EdDSA" => Ed25519KeyPair::from_pkcs8(pkcs8).map(Self::EdDsa).map_err(rejected),
            "RS256" => RsaKeyPair::from_pkcs8(pkcs8).map(Self::Rs256).map_err(rejected),
            other => Err(KeyError::Sealed(format!("unknown algorithm `{other}`"))),
        }
    }

    /// The signature of a JWS signing input (RFC 7515 §5.1), not yet encoded.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Crypto("signing failed");
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(failed)
            }
            Self::EdDsa(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }

    /// The required public members in the order of RFC 7638 §3.2, for the thumbprint and the JWK.
    pub(super) fn members(&self) -> Result<Value, KeyError> {
        let text = |bytes: &[u8]| BASE64URL.encode(bytes);
        Ok(match self {
            Self::Es256(pair) => {
                // Uncompressed point: 4, x (32 bytes), y (32 bytes) (SEC 1 §2.3.3).
                let point = pair.public_key().as_ref();
                let (x, y) = point
                    .get(1..)
                    .and_then(|xy| xy.split_at_checked(32))
                    .ok_or(KeyError::Crypto("a public key has an unknown form"))?;
                json!({"crv": "P-256", "kty": "EC", "x": text(x), "y": text(y)})
            }
            Self::EdDsa(pair) => {
                json!({"crv": "Ed25519", "kty": "OKP", "x": text(pair.public_key().as_ref())})
            }
            Self::Rs256(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"e": text(&public.e), "kty": "RSA", "n": text(&public.n)})
            }
        })
    }

    /// What verifies its signatures, with the algorithm pinned.
    pub(super) fn verifier(&self, kid: &str) -> Verifier {
        let (algorithm, key) = match self {
            Self::Es256(pair) => (Algorithm::ES256, DecodingKey::from_ec_der(pair.public_key().as_ref())),
            Self::EdDsa(pair) => (Algorithm::EdDSA, DecodingKey::from_ed_der(pair.public_key().as_ref())),
            Self::Rs256(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                (Algorithm::RS256, DecodingKey::from_rsa_raw_components(&public.n, &public.e))
            }
        };
        Verifier { kid: kid.to_owned(), algorithm, key }
    }
}

/// The `kid` of a key: its thumbprint (RFC 7638), base64url.
pub(super) fn thumbprint(members: &Value) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, members.to_string().as_bytes());
    BASE64URL.encode(digest.as_ref())
}
