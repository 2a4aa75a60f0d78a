//! `[tokens]`: what this gateway issues.

use std::time::Duration;

use url::Url;

use super::fields::non_empty;
use super::reader::Section;
use super::values::secure_url;
use super::{Listen, listen};

/// What tokens are signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    #[default]
    Es256,
    /// Ed25519.
    EdDsa,
    /// RSA with PKCS #1 v1.5.
    Rs256,
}

/// `[tokens]`
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// The `iss` of our tokens, without a slash at its end by default.
    pub issuer: String,
    /// The `aud` of our access tokens; a token for none of these is refused.
    pub audience: Vec<String>,
    /// What tokens are signed with.
    pub algorithm: SigningAlgorithm,
    /// How long an access token lives.
    pub access_ttl: Duration,
    /// How long a refresh token lives.
    pub refresh_ttl: Duration,
    /// How long an old refresh token still gets the same successor; zero: not at all.
    pub refresh_grace: Duration,
    /// Verified tokens that are remembered.
    pub cache: usize,
}

impl Default for Tokens {
    fn default() -> Self {
        let public = Listen::default().public_url;
        super::reader::defaults(|s| Self::read(s, &public))
    }
}

impl Tokens {
    pub(super) fn read(s: &mut Section<'_>, public_url: &Url) -> Self {
        let public = listen::without_slash(public_url);
        let issuer =
            s.optional("issuer", "URL", "The issuer of our tokens; by default `public_url`.", |text| {
                secure_url(text).map(|_| text.to_owned())
            });
        let audience = s.list(
            "audience",
            "list of texts",
            &[],
            "Whom our access tokens are for; by default `public_url`. A token for none of these is refused.",
            non_empty,
        );
        let issuer = issuer.unwrap_or_else(|| public.clone());
        let audience = if audience.is_empty() { vec![public] } else { audience };
        s.effective("issuer", &format!("{issuer:?}"));
        s.effective("audience", &format!("{audience:?}"));
        Self {
            issuer,
            audience,
            algorithm: s.choice(
                "algorithm",
                &[
                    ("ES256", SigningAlgorithm::Es256),
                    ("EdDSA", SigningAlgorithm::EdDsa),
                    ("RS256", SigningAlgorithm::Rs256),
                ],
                &[],
                "What tokens are signed with.",
            ),
            access_ttl: s.positive_duration("access_ttl", "5m", "How long an access token lives."),
            refresh_ttl: s.positive_duration("refresh_ttl", "30d", "How long a refresh token lives."),
            refresh_grace: s.duration(
                "refresh_grace",
                "10s",
                "How long a used refresh token still gets the same successor; \"0s\": not at all.",
            ),
            cache: s.number(
                "cache",
                (10_000, "10000"),
                (0, 10_000_000),
                "Verified tokens that a node remembers.",
            ),
        }
    }
}
