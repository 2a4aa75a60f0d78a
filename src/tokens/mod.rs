//! Access tokens (RFC 9068) and refresh token families: issue, verify, refresh, revoke.
//!
//! `identify` verifies, doors issue, refresh and revoke, `forward` signs assertions. Reading is in `claims.rs`, refresh
//! families are in `families.rs`, tokens of other issuers in `trusted.rs`; a claim is added in [`Tokens::issue`] and
//! `claims.rs`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config;
use crate::keys::{KeyError, KeyRing};
use crate::model::{AuthMethod, Principal, PrincipalKind, SharedClock, Timestamp, random_token};
use crate::revocation::{Credential, Revocations, Standing};
use crate::store::{Records, StoreError};

pub(crate) mod cache;
pub mod claims;
mod families;
pub mod groups;
pub mod json;
#[cfg(test)]
mod tests;
pub mod trusted;

use cache::Cache;
use claims::{Claims, LONGEST};
pub use claims::{Expected, Inspection, Signature, inspect};
pub use families::{FamilyInfo, as_it_is_now};

/// The `typ` of an access token (RFC 9068 §2.1).
const ACCESS: &str = "at+jwt";

/// The `typ` of an assertion for upstreams, which is no access token.
const ASSERTION: &str = "portcullis-assertion+jwt";

/// The life of an assertion.
const ASSERTION_TTL: Duration = Duration::from_secs(60);

/// How far the clocks of nodes may differ: `nbf` lies so much before `iat`, and there is no leeway when verifying.
const CLOCKS: Duration = Duration::from_secs(60);

/// Longer tokens are verified each time instead of filling the cache.
const LONGEST_CACHED: usize = LONGEST / 2;

/// Why there is no token, or it does not count.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token is wrong; the text is for the log and `token inspect`.
    #[error("{0}")]
    Invalid(String),
    /// This node cannot know whether it is revoked.
    #[error("revocations are not known: the store is away")]
    Unknown,
    /// The principal's roles and attributes do not fit in one.
    #[error(
        "the roles and attributes of `{0}` make a token longer than {LONGEST} bytes; give it fewer or shorter ones"
    )]
    TooLong(Arc<str>),
    /// It could not be signed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a token answer carries (RFC 6749 §5.1).
#[derive(Clone, Debug)]
pub struct Issued {
    /// The JWT.
    pub access_token: String,
    /// Opaque.
    pub refresh_token: Option<String>,
    /// Of the access token.
    pub expires_in: Duration,
    /// Separated by spaces.
    pub scope: String,
    /// The sign-in session that both belong to.
    pub sid: String,
    /// Of the access token.
    pub jti: String,
}

/// A verified access token: the same `Arc<Principal>` for every request that brings it.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who.
    pub principal: Arc<Principal>,
    /// Its id.
    pub jti: Arc<str>,
    /// The key that signed it.
    pub kid: Arc<str>,
    /// When it was made, to the microsecond for our own.
    pub issued: Timestamp,
    /// From then on it does not count.
    pub expires: Timestamp,
    /// `cnf.x5t#S256` (RFC 8705 §3.1): counts only with that client certificate.
    pub bound_to_certificate: Option<String>,
    /// `iss`.
    pub issuer: Arc<str>,
}

/// Issues and checks tokens.
pub struct Tokens {
    issuer: Arc<str>,
    audience: Vec<String>,
    access_ttl: Duration,
    refresh_ttl: Duration,
    refresh_grace: Duration,
    keys: Arc<KeyRing>,
    revocations: Arc<Revocations>,
    records: Arc<dyn Records>,
    clock: SharedClock,
    verified: Cache<Arc<Verified>>,
}

impl Tokens {
    /// Tokens of one issuer. `config.cache` bounds how many verified tokens are remembered.
    pub fn new(
        config: &config::Tokens,
        keys: Arc<KeyRing>,
        revocations: Arc<Revocations>,
        records: Arc<dyn Records>,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            issuer: Arc::from(config.issuer.as_str()),
            audience: config.audience.clone(),
            access_ttl: config.access_ttl,
            refresh_ttl: config.refresh_ttl,
            refresh_grace: config.refresh_grace,
            keys,
            revocations,
            records,
            clock,
            verified: Cache::new(config.cache),
        })
    }

    /// An access token for the principal, and with `refresh` a new refresh family of `client`. `principal.sid` is used
    /// or a new one made.
    ///
    /// # Errors
    /// When the principal is `anonymous` or does not fit in a token, nothing signs, or the store is away.
    pub async fn issue(
        &self,
        principal: &Principal,
        client: &str,
        scope: &[Arc<str>],
        refresh: bool,
    ) -> Result<Issued, TokenError> {
        if principal.is_anonymous() {
            return Err(TokenError::Invalid("`anonymous` gets no token".to_owned()));
        }
        let mut principal = principal.clone();
        principal.sid.get_or_insert_with(|| random_token::<16>().into());
        let mut issued = self.access_token(&principal, client, scope)?;
        if refresh {
            issued.refresh_token = Some(self.new_family(&principal, client, scope).await?);
        }
        Ok(issued)
    }

    /// Verifies an access token through the bounded cache. Expiry, key withdrawal and revocation are looked at on every
    /// call, hits included. Synchronous, no I/O.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when it does not count, [`TokenError::Unknown`] when that cannot be known now.
    pub fn verify(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        let verified = self.read(token)?;
        match self.standing(&verified) {
            Standing::Good => Ok(verified),
            Standing::Revoked => Err(TokenError::Invalid("it is revoked".to_owned())),
            Standing::Unknown => Err(TokenError::Unknown),
        }
    }

    /// A token that this node verified before, although revocations are not known now: not expired, not in those that
    /// are known, and the log was followed at most `within` ago (never longer than tokens live).
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when it does not count, [`TokenError::Unknown`] when it is not such a token.
    pub fn verify_known(&self, token: &str, within: Duration) -> Result<Arc<Verified>, TokenError> {
        self.verified.get(token).ok_or(TokenError::Unknown)?;
        let verified = self.read(token)?;
        let within = within.min(self.access_ttl);
        match self.standing(&verified) {
            Standing::Good => Ok(verified),
            Standing::Revoked => Err(TokenError::Invalid("it is revoked".to_owned())),
            Standing::Unknown if self.revocations.trusted_for().is_some_and(|age| age <= within) => {
                Ok(verified)
            }
            Standing::Unknown => Err(TokenError::Unknown),
        }
    }

    fn standing(&self, verified: &Verified) -> Standing {
        let principal = &verified.principal;
        self.revocations.standing(&Credential {
            jti: Some(&verified.jti),
            sid: principal.sid.as_deref(),
            subject: Some(&principal.name),
            client: principal.client_id.as_deref(),
            kid: Some(&verified.kid),
            certificate: None,
            issued: verified.issued,
        })
    }

    /// What verification says of a token of ours, for `token inspect`: every problem, revocation included.
    pub fn inspect(&self, token: &str) -> Inspection {
        let mut seen = inspect(token, &|kid| self.keys.verifier(kid), &self.expected());
        if seen.problems.is_empty()
            && let Err(error) = self.verify(token)
        {
            seen.problems.push(error.to_string());
        }
        seen
    }

    /// Signs a JWT that is no access token (the assertion), for 60 seconds; and when it expires.
    ///
    /// # Errors
    /// When nothing signs.
    pub fn sign_assertion(
        &self,
        principal: &Principal,
        roles: &[Arc<str>],
        audience: &str,
    ) -> Result<(String, Timestamp), TokenError> {
        let now = self.clock.now();
        let expires = Timestamp::from_seconds(now.seconds()).plus(ASSERTION_TTL);
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(self.issuer));
        claims.insert("sub".to_owned(), json!(principal.name));
        claims.insert("aud".to_owned(), json!(audience));
        claims.insert("exp".to_owned(), json!(expires.seconds()));
        claims.insert("iat".to_owned(), json!(now.seconds()));
        claims.insert("roles".to_owned(), json!(roles));
        claims.insert("attrs".to_owned(), json!(principal.attributes));
        claims.insert("acr".to_owned(), json!(principal.acr));
        claims.insert("amr".to_owned(), json!(principal.amr));
        insert(&mut claims, "client_id", principal.client_id.as_deref());
        insert(&mut claims, "sid", principal.sid.as_deref());
        Ok((self.keys.sign(ASSERTION, &Value::Object(claims))?, expires))
    }

    /// A key of its own for one purpose, the same on every node (`KeyRing::derive`).
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        self.keys.derive(purpose)
    }

    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    fn expected(&self) -> Expected<'_> {
        Expected { issuer: &self.issuer, audience: &self.audience, now: self.clock.now() }
    }

    /// The token as the cache or its own text says; not whether it is revoked.
    fn read(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        if let Some(verified) = self.verified.get(token) {
            if verified.expires <= self.clock.now() {
                self.verified.remove(token);
                return Err(TokenError::Invalid("it has expired".to_owned()));
            }
            if !self.keys.trusts(&verified.kid) {
                self.verified.remove(token);
                return Err(TokenError::Invalid("no key of ours has its `kid`".to_owned()));
            }
            return Ok(verified);
        }
        let seen = inspect(token, &|kid| self.keys.verifier(kid), &self.expected());
        let Some(claims) = seen.read else {
            let first = seen.problems.into_iter().next();
            return Err(TokenError::Invalid(first.unwrap_or_else(|| "it is no access token".to_owned())));
        };
        let verified = Arc::new(self.verified_from(claims));
        // What is remembered passed while revocations were known: `verify_known` stands on that.
        if token.len() <= LONGEST_CACHED && self.revocations.is_fresh() {
            self.verified.put(token, Arc::clone(&verified));
        }
        Ok(verified)
    }

    fn verified_from(&self, claims: Claims) -> Verified {
        let kind = match claims.subject.starts_with("client:") {
            true => PrincipalKind::Client,
            false => PrincipalKind::User,
        };
        let mut principal = Principal::new(claims.subject, kind, AuthMethod::Bearer);
        principal.roles = claims.roles;
        principal.attributes = claims.attributes;
        principal.tenant = claims.tenant.map(Arc::from);
        principal.acr = claims.acr;
        principal.amr = claims.amr;
        principal.auth_time = claims.auth_time;
        principal.client_id = Some(Arc::from(claims.client));
        principal.sid = claims.sid.map(Arc::from);
        principal.email = claims.email.map(Arc::from);
        principal.scope = claims.scope;
        principal.expires = Some(claims.expires);
        Verified {
            principal: Arc::new(principal),
            jti: Arc::from(claims.jti),
            kid: Arc::from(claims.kid),
            issued: claims.issued,
            expires: claims.expires,
            bound_to_certificate: claims.certificate,
            issuer: Arc::clone(&self.issuer),
        }
    }

    /// A signed access token, without a refresh token. The principal has a `sid`.
    fn access_token(
        &self,
        principal: &Principal,
        client: &str,
        scope: &[Arc<str>],
    ) -> Result<Issued, TokenError> {
        let now = self.clock.now();
        let (jti, scope) = (new_jti(now), scope.join(" "));
        let sid = principal.sid.as_deref().unwrap_or_default().to_owned();
        let expires = Timestamp::from_seconds(now.seconds()).plus(self.access_ttl);
        let mut claims = Map::new();
        claims.insert("iss".to_owned(), json!(self.issuer));
        claims.insert("sub".to_owned(), json!(principal.name));
        let audience = match self.audience.as_slice() {
            [one] => json!(one),
            several => json!(several),
        };
        claims.insert("aud".to_owned(), audience);
        claims.insert("exp".to_owned(), json!(expires.seconds()));
        claims.insert("iat".to_owned(), json!(now.seconds()));
        claims.insert("nbf".to_owned(), json!(now.minus(CLOCKS).seconds().max(0)));
        claims.insert("jti".to_owned(), json!(jti));
        claims.insert("client_id".to_owned(), json!(client));
        claims.insert("scope".to_owned(), json!(scope));
        if let Some(at) = principal.auth_time {
            claims.insert("auth_time".to_owned(), json!(at.seconds().max(0)));
        }
        claims.insert("acr".to_owned(), json!(principal.acr));
        claims.insert("amr".to_owned(), json!(principal.amr));
        insert(&mut claims, "sid", principal.sid.as_deref());
        claims.insert("roles".to_owned(), json!(principal.roles));
        claims.insert("attrs".to_owned(), json!(principal.attributes));
        insert(&mut claims, "tenant", principal.tenant.as_deref());
        insert(&mut claims, "email", principal.email.as_deref());
        let access_token = self.keys.sign(ACCESS, &Value::Object(claims))?;
        if access_token.len() > LONGEST {
            let error = TokenError::TooLong(Arc::clone(&principal.name));
            tracing::warn!(%error, "no token");
            return Err(error);
        }
        Ok(Issued { access_token, refresh_token: None, expires_in: self.access_ttl, scope, sid, jti })
    }
}

fn insert(claims: &mut Map<String, Value>, name: &str, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        claims.insert(name.to_owned(), json!(text));
    }
}

/// An id that begins with the microsecond of issue: `iat` has seconds only, and a sign-in in the same second as a
/// revocation of all that was issued before must not fall under it.
fn new_jti(now: Timestamp) -> String {
    format!("{:x}.{}", now.micros().max(0), random_token::<16>())
}

/// The moment of issue: as the `jti` has it when that agrees with `iat`, else `iat`.
fn issued_at(jti: &str, iat: Timestamp) -> Timestamp {
    let micros = jti.split_once('.').and_then(|(micros, _)| i64::from_str_radix(micros, 16).ok());
    micros.map(Timestamp::from_micros).filter(|at| at.seconds() == iat.seconds()).unwrap_or(iat)
}

/// Who revokes: a client its own tokens, a holder (bearer) their own, an operator anything.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'a> {
    /// By client id.
    Client(&'a str),
    /// By principal name.
    Subject(&'a str),
    /// Anyone's.
    Operator,
}

/// Looks a principal up again at refresh: roles as they are now; `None` when it is gone or disabled.
#[async_trait::async_trait]
pub trait PrincipalSource: Send + Sync {
    /// The principal of that name.
    async fn current(&self, name: &str) -> Result<Option<Principal>, StoreError>;
}
