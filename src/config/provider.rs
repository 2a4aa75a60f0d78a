//! `[[provider]]`: single sign-on from another identity provider.

use std::collections::BTreeMap;
use std::path::PathBuf;

use url::Url;

use super::fields::non_empty;
use super::files::FileKind;
use super::listen::placeholder_url;
use super::reader::Section;
use super::values::{secure_url, source_name};
use crate::model::{RoleName, Secret};

/// The protocol of a provider.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProviderKind {
    /// OpenID Connect.
    #[default]
    Oidc,
}

/// `[[provider]]`
#[derive(Clone, Debug)]
pub struct Provider {
    /// Begins the names of its principals (`corp:1234`) and its addresses.
    pub name: String,
    /// Its protocol.
    pub kind: ProviderKind,
    /// Its issuer: discovery begins there.
    pub issuer: Url,
    /// What it calls us.
    pub client_id: String,
    /// How we prove it.
    pub client_secret: Option<Secret>,
    /// What we ask for.
    pub scopes: Vec<String>,
    /// The claim with the groups.
    pub roles_claim: Option<String>,
    /// group -> role here
    pub roles: BTreeMap<String, RoleName>,
    /// attribute name -> claim name
    pub attributes: BTreeMap<String, String>,
    /// shown on the login page
    pub display_name: Option<String>,
    /// Who must have issued its certificate.
    pub ca: Option<PathBuf>,
    /// Whether private and loopback addresses may be contacted for it.
    pub allow_private: bool,
}

impl Provider {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            name: s.required(
                "name",
                "text",
                String::new(),
                "Begins the names of its people (`corp:1234`); lower-case letters, digits and `-`.",
                source_name,
            ),
            kind: s.choice("kind", &[("oidc", ProviderKind::Oidc)], &["oauth2", "github"], "Its protocol."),
            issuer: s.required(
                "issuer",
                "URL",
                placeholder_url(),
                "Its issuer, exactly as its tokens have it.",
                secure_url,
            ),
            client_id: s.required(
                "client_id",
                "text",
                String::new(),
                "What it calls this gateway.",
                non_empty,
            ),
            client_secret: s.secret("client_secret", "How this gateway proves it."),
            scopes: s.list(
                "scopes",
                "list of texts",
                &["openid", "profile", "email"],
                "What is asked for; `openid` must be there.",
                scope,
            ),
            roles_claim: s.optional("roles_claim", "text", "The claim with the groups.", non_empty),
            roles: s.roles_mapping("roles", "Which group is which role; others become no role."),
            attributes: s.texts(
                "attributes",
                "Which attribute is taken from which claim: attribute = claim.",
                |_, text| non_empty(text).map(drop),
            ),
            display_name: s.optional("display_name", "text", "Its name on the sign-in page.", non_empty),
            ca: s.file(
                "ca",
                FileKind::Certificates,
                "Who must have issued its certificate, PEM; by default the system's authorities.",
            ),
            allow_private: s.boolean(
                "allow_private",
                false,
                "Contact it although its address is private or loopback.",
            ),
        }
    }
}

/// A scope (RFC 6749 §3.3).
pub(super) fn scope(text: &str) -> Result<String, String> {
    let allowed = |b: u8| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\';
    if !text.is_empty() && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a scope: no spaces, quotes or backslashes"))
    }
}
