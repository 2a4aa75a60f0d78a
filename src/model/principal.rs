//! Who is asking.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Attributes, Timestamp};

/// What kind of principal a name belongs to. Names are unique over all kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrincipalKind {
    /// A person: an account, or the subject of a provider or trusted issuer.
    User,
    /// An OAuth client, `client:<id>`.
    Client,
    /// The holder of a client certificate.
    Certificate,
    /// Nobody: a route with `none`.
    Anonymous,
}

impl PrincipalKind {
    /// `user`, `client`, `certificate` or `anonymous`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Client => "client",
            Self::Certificate => "certificate",
            Self::Anonymous => "anonymous",
        }
    }
}

/// Which credential proved the identity: the `auth` member of an audit event and the names of `authenticate`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// `Authorization: Bearer`.
    Bearer,
    /// The browser session cookie.
    Session,
    /// A TLS client certificate.
    Certificate,
    /// `Authorization: Basic`, or a password at the login endpoint.
    Password,
    /// An API key.
    ApiKey,
    /// Nothing: the subject is `anonymous`.
    None,
}

impl AuthMethod {
    /// The name that configuration and audit use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Session => "session",
            Self::Certificate => "certificate",
            Self::Password => "password",
            Self::ApiKey => "api_key",
            Self::None => "none",
        }
    }
}

/// How strongly the principal authenticated (the `acr` claim, RFC 9068 §2.2.1), ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Acr {
    /// Not at all: `anonymous`, or a token that does not say.
    #[default]
    #[serde(rename = "urn:portcullis:acr:0")]
    Zero,
    /// One factor.
    #[serde(rename = "urn:portcullis:acr:1")]
    One,
    /// Two factors.
    #[serde(rename = "urn:portcullis:acr:2")]
    Two,
    /// Phishing-resistant.
    #[serde(rename = "urn:portcullis:acr:3")]
    Three,
}

impl Acr {
    /// The URN.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Zero => "urn:portcullis:acr:0",
            Self::One => "urn:portcullis:acr:1",
            Self::Two => "urn:portcullis:acr:2",
            Self::Three => "urn:portcullis:acr:3",
        }
    }

    /// Reads the URN.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Zero, Self::One, Self::Two, Self::Three].into_iter().find(|acr| acr.as_str() == text)
    }
}

impl fmt::Display for Acr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who is asking, whichever way they proved it. Shared behind an `Arc` and never changed: the same `Arc` for
/// every request of one verified token or session, so that what is computed from it can be kept with it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Principal {
    /// Unique over all kinds: `alice`, `client:pep`, `corp:1234`, `anonymous`.
    pub name: Arc<str>,
    /// What kind of principal this is.
    pub kind: PrincipalKind,
    /// Roles that the account or token carries, sorted, each once; the policy files may give more.
    pub roles: Vec<Arc<str>>,
    /// Attributes for policies.
    pub attributes: Attributes,
    /// The tenant (`dom` in policies).
    pub tenant: Option<Arc<str>>,
    /// How the identity was proved for *this* credential.
    pub method: AuthMethod,
    /// How strongly.
    pub acr: Acr,
    /// By which methods (RFC 8176).
    pub amr: Vec<Arc<str>>,
    /// When the person last proved it.
    pub auth_time: Option<Timestamp>,
    /// The OAuth client that the token was issued to.
    pub client_id: Option<Arc<str>>,
    /// The sign-in session that the credential belongs to.
    pub sid: Option<Arc<str>>,
    /// The e-mail address, verified ones only.
    pub email: Option<Arc<str>>,
    /// OAuth scopes of the token.
    pub scope: Vec<Arc<str>>,
    /// When the credential stops to count.
    pub expires: Option<Timestamp>,
}

impl Principal {
    /// A principal with a name and a kind and nothing else.
    pub fn new(name: impl Into<Arc<str>>, kind: PrincipalKind, method: AuthMethod) -> Self {
        Self {
            name: name.into(),
            kind,
            roles: Vec::new(),
            attributes: Attributes::default(),
            tenant: None,
            method,
            acr: Acr::Zero,
            amr: Vec::new(),
            auth_time: None,
            client_id: None,
            sid: None,
            email: None,
            scope: Vec::new(),
            expires: None,
        }
    }

    /// The subject of a request without credentials on a route that lists `none`.
    pub fn anonymous() -> Self {
        Self::new("anonymous", PrincipalKind::Anonymous, AuthMethod::None)
    }

    /// True for the subject of requests without credentials.
    pub fn is_anonymous(&self) -> bool {
        self.kind == PrincipalKind::Anonymous
    }
}
