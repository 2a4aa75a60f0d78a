//! `[[trusted_issuer]]`: access tokens of others that routes accept.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::fields::non_empty;
use super::files::FileKind;
use super::reader::Section;
use super::values::{secure_url, source_name};
use crate::model::RoleName;

/// Signature algorithms with a public key (RFC 7518 §3.1, RFC 8037) that tokens may have.
const ASYMMETRIC: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// `[[trusted_issuer]]`
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    /// Begins the names of its principals.
    pub name: String,
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// Where its keys are; this or `jwks_file`.
    pub jwks_uri: Option<Url>,
    /// Its keys.
    pub jwks_file: Option<PathBuf>,
    /// The `aud` of tokens that count; one of these must be in it.
    pub audience: Vec<String>,
    /// Signature algorithms that count, asymmetric ones.
    pub algorithms: Vec<String>,
    /// The `typ` of tokens that count.
    pub types: Vec<String>,
    /// The claim with the groups.
    pub roles_claim: Option<String>,
    /// group -> role here
    pub roles: BTreeMap<String, RoleName>,
    /// Who must have issued the certificate of `jwks_uri`.
    pub ca: Option<PathBuf>,
    /// Whether `jwks_uri` may be a private or loopback address.
    pub allow_private: bool,
}

impl TrustedIssuer {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let issuer = Self {
            name: s.required(
                "name",
                "text",
                String::new(),
                "Begins the names of its principals; lower-case letters, digits and `-`.",
                source_name,
            ),
            issuer: s.required("issuer", "text", String::new(), "The `iss` of its tokens, exactly.", non_empty),
            jwks_uri: s.optional("jwks_uri", "URL", "Where its keys are; this or `jwks_file`.", secure_url),
            jwks_file: s.file("jwks_file", FileKind::KeySet, "Its keys (RFC 7517); this or `jwks_uri`."),
            audience: s.required_list(
                "audience",
                "list of texts",
                "Tokens for one of these count.",
                non_empty,
            ),
            algorithms: s.required_list(
                "algorithms",
                "list of algorithms",
                "Signatures that count: asymmetric ones only.",
                algorithm,
            ),
            types: s.list(
                "types",
                "list of texts",
                &["at+jwt"],
                "The `typ` of tokens that count; add \"JWT\" for issuers that do not follow RFC 9068.",
                non_empty,
            ),
            roles_claim: s.optional("roles_claim", "text", "The claim with the groups.", non_empty),
            roles: s.roles_mapping("roles", "Which group is which role; others become no role."),
            ca: s.file(
                "ca",
                FileKind::Certificates,
                "Who must have issued the certificate of `jwks_uri`, PEM; by default the system's authorities.",
            ),
            allow_private: s.boolean(
                "allow_private",
                false,
                "Fetch `jwks_uri` although its address is private or loopback.",
            ),
        };
        let (uri, file) = (s.context.is_set(&s.key("jwks_uri")), s.context.is_set(&s.key("jwks_file")));
        if uri && file {
            s.problem("jwks_file", "`jwks_file` is set beside `jwks_uri`; keep one of the two");
        } else if !uri && !file && !s.describing() {
            s.problem("jwks_uri", "`jwks_uri` or `jwks_file` is missing in [[trusted_issuer]]");
        }
        issuer
    }
}

fn algorithm(text: &str) -> Result<String, String> {
    if ASYMMETRIC.contains(&text) {
        return Ok(text.to_owned());
    }
    let known = ASYMMETRIC.join(", ");
    if text.starts_with("HS") || text == "none" {
        Err(format!("`{text}` is not an asymmetric algorithm; known: {known}"))
    } else {
        Err(format!("`{text}` is not known here; known: {known}"))
    }
}
