//! Access tokens of trusted issuers (`[[trusted_issuer]]`): verified as strictly as our own, with the issuer's keys alone,
//! into principals `<name of the issuer>:<sub>` that carry mapped roles only.
//!
//! `identify` asks for tokens that are not ours. A claim is added in [`Issuer::read`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::cache::Cache;
use super::claims::{self, Reader, Signature};
use super::groups::{find, mapped, texts};
use super::{LONGEST_CACHED, Verified};
use crate::config::{Config, TrustedIssuer};
use crate::keys::issuer::{Held, IssuerKeys};
use crate::model::{
    Acr, AttributeValue, Attributes, AuthMethod, Principal, PrincipalKind, SharedClock, Timestamp,
};

/// How far the clock of another issuer may be ahead of ours.
const AHEAD: Duration = Duration::from_secs(30);

/// Why a token of another issuer does not count.
#[derive(Debug)]
pub enum TrustedError {
    /// The token is wrong; for the log.
    Invalid(String),
    /// The issuer's keys were never seen, or not for a day.
    NoKeys {
        /// The issuer's name here.
        issuer: String,
        /// Seconds.
        retry_after: u32,
    },
}

/// The trusted issuers of one configuration.
pub struct TrustedIssuers {
    by_issuer: HashMap<String, Arc<Issuer>>,
    verified: Cache<Known>,
    clock: SharedClock,
}

/// A verified token: the keys that it was verified with.
#[derive(Clone)]
struct Known {
    verified: Arc<Verified>,
    issuer: Arc<Issuer>,
    generation: u64,
}

struct Issuer {
    config: TrustedIssuer,
    keys: Arc<IssuerKeys>,
}

/// A token that was taken apart: of a trusted issuer, as it says itself.
pub struct Claimed<'t> {
    token: &'t str,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    message: &'t str,
    signature: &'t str,
    issuer: Arc<Issuer>,
}

/// A token that is right, to be [remembered](TrustedIssuers::remember) when its principal may come in.
pub struct Proved<'t> {
    token: &'t str,
    known: Known,
}

impl Proved<'_> {
    /// What it says.
    pub fn verified(&self) -> &Arc<Verified> {
        &self.known.verified
    }
}

impl TrustedIssuers {
    /// The issuers of a configuration. Keys that were fetched under `before` are kept.
    ///
    /// # Errors
    /// When a key file or CA cannot be used; the text names the issuer.
    pub fn open(config: &Config, before: Option<&Self>, clock: SharedClock) -> Result<Self, String> {
        let mut by_issuer = HashMap::new();
        for issuer in &config.trusted_issuers {
            let known =
                before.and_then(|before| before.by_issuer.get(&issuer.issuer)).map(|known| &known.keys);
            let keys = IssuerKeys::open(issuer, known, Arc::clone(&clock))
                .map_err(|error| format!("trusted issuer `{}`: {error}", issuer.name))?;
            by_issuer.insert(issuer.issuer.clone(), Arc::new(Issuer { config: issuer.clone(), keys }));
        }
        let capacity = if by_issuer.is_empty() { 0 } else { config.tokens.cache };
        Ok(Self { by_issuer, verified: Cache::new(capacity), clock })
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.by_issuer.is_empty()
    }

    /// A token that was verified before and counts still.
    pub fn known(&self, token: &str) -> Option<Arc<Verified>> {
        let known = self.verified.get(token)?;
        let held = known.issuer.keys.at_hand().filter(|held| held.generation == known.generation);
        if held.is_none() || known.verified.expires <= self.clock.now() {
            self.verified.remove(token);
            return None;
        }
        Some(known.verified)
    }

    /// Takes a token apart when its `iss` is a trusted issuer's.
    pub fn claimed<'t>(&self, token: &'t str) -> Option<Claimed<'t>> {
        let (header, claims, message, signature) = claims::split(token).ok()?;
        let (header, claims) = (claims::object(header)?, claims::object(claims)?);
        let issuer = Arc::clone(self.by_issuer.get(claims.get("iss")?.as_str()?)?);
        Some(Claimed { token, header, claims, message, signature, issuer })
    }

    /// Verifies the token, with keys fetched now where that is needed and permitted.
    ///
    /// # Errors
    /// See [`TrustedError`].
    pub async fn prove<'t>(&self, claimed: Claimed<'t>) -> Result<Proved<'t>, TrustedError> {
        let issuer = Arc::clone(&claimed.issuer);
        let mut problems = Vec::new();
        let kid = claims::check_header(&claimed.header, &issuer.config.types, &mut problems);
        let now = self.clock.now();
        // What is wrong whatever the keys are costs nobody a fetch.
        let verified = issuer.read(&claimed.claims, kid.as_deref().unwrap_or_default(), now, &mut problems);
        let named = claimed.header.get("alg").and_then(Value::as_str).unwrap_or_default();
        if !issuer.config.algorithms.iter().any(|algorithm| algorithm == named) {
            problems.push("`alg` is not one of the issuer's `algorithms`".to_owned());
        }
        if let Some(first) = problems.into_iter().next() {
            return Err(TrustedError::Invalid(first));
        }
        let (Some(kid), Some(verified)) = (kid, verified) else {
            return Err(TrustedError::Invalid("it is no access token".to_owned()));
        };
        let Some(held) = issuer.keys.for_kid(&kid).await else {
            let retry_after = issuer.keys.retry_after();
            return Err(TrustedError::NoKeys { issuer: issuer.config.name.clone(), retry_after });
        };
        check(&claimed, &held, &kid, named)?;
        let known = Known { verified: Arc::new(verified), issuer, generation: held.generation };
        Ok(Proved { token: claimed.token, known })
    }

    /// Remembers the token until it expires or the issuer's keys change.
    pub fn remember(&self, proved: Proved<'_>) {
        if proved.token.len() <= LONGEST_CACHED {
            self.verified.put(proved.token, proved.known);
        }
    }
}

/// The signature, by the one key with this id for this algorithm.
fn check(claimed: &Claimed<'_>, held: &Held, kid: &str, algorithm: &str) -> Result<(), TrustedError> {
    let invalid = |why: &str| Err(TrustedError::Invalid(why.to_owned()));
    let Some(verifier) = held.set.find(kid, algorithm) else {
        return invalid("the issuer has no key with its `kid` and `alg`");
    };
    let mut problems = Vec::new();
    let signature = claims::check_signature(
        &claimed.header,
        claimed.message,
        claimed.signature,
        &verifier,
        &mut problems,
    );
    if signature == Signature::Valid && problems.is_empty() {
        Ok(())
    } else {
        invalid("the signature is wrong")
    }
}

impl Issuer {
    /// The claims, each of its type, as a principal of this issuer.
    fn read(
        &self,
        claims: &Map<String, Value>,
        kid: &str,
        now: Timestamp,
        problems: &mut Vec<String>,
    ) -> Option<Verified> {
        claims::no_id_token(claims, problems);
        let mut from = Reader { claims, problems };
        let audience = from.required("aud", "a text or a list of texts", claims::audience);
        let subject = from.required("sub", "a text of visible ASCII, 255 letters at most", subject);
        let expires = from.required("exp", "a time", claims::time);
        let issued = from.required("iat", "a time", claims::time);
        let not_before = from.optional("nbf", "a time", claims::time);
        let auth_time = from.optional("auth_time", "a time", claims::time);
        let jti = from.optional("jti", "a text", claims::text);
        let client = from.optional("client_id", "a text", claims::text);
        let party = from.optional("azp", "a text", claims::text);
        let sid = from.optional("sid", "a text", claims::text);
        let scope = from.optional("scope", "a text", |value| value.as_str().map(claims::words));
        let amr = from.optional("amr", "a list of texts", claims::texts).unwrap_or_default();
        let email = from.optional("email", "a text", |value| value.as_str().map(str::to_owned));
        let certificate = from.optional("cnf", "a certificate's thumbprint", claims::confirmation);
        let groups = self.config.roles_claim.as_deref().and_then(|name| find(claims, name));
        if groups.is_some_and(|value| !value.is_string() && claims::texts(value).is_none()) {
            problems.push("the claim with the groups is neither a text nor a list of texts".to_owned());
        }
        if audience.is_some_and(|list| !list.iter().any(|one| self.config.audience.contains(one))) {
            problems.push("`aud` is not this audience".to_owned());
        }
        if expires.is_some_and(|expires| expires <= now) {
            problems.push("it has expired".to_owned());
        }
        let ahead = now.plus(AHEAD);
        if [not_before, issued].into_iter().flatten().any(|from| from > ahead) {
            problems.push("it is not valid yet".to_owned());
        }
        if matches!((issued, expires), (Some(issued), Some(expires)) if issued >= expires) {
            problems.push("`exp` is not after `iat`".to_owned());
        }
        let (subject, issued, expires) = (subject?, issued?, expires?);
        let name = &self.config.name;
        // What names something of the issuer is told from what has the same name here.
        let theirs = |text: String| -> Arc<str> { Arc::from(format!("{name}:{text}")) };
        let mut principal = Principal::new(theirs(subject), PrincipalKind::User, AuthMethod::Bearer);
        let (roles, unmapped) = mapped(&self.config.roles, texts(groups));
        principal.roles = roles;
        principal.attributes = attributes(unmapped);
        principal.acr = if amr.iter().any(|method| &**method == "mfa") { Acr::Two } else { Acr::One };
        principal.amr = amr;
        principal.auth_time = auth_time.filter(|at| *at <= ahead);
        principal.client_id = client.or(party).map(theirs);
        principal.sid = sid.map(theirs);
        principal.scope = scope.unwrap_or_default();
        let verified = claims.get("email_verified") == Some(&Value::Bool(true));
        principal.email = email.filter(|_| verified).map(Arc::from);
        principal.expires = Some(expires);
        Some(Verified {
            principal: Arc::new(principal),
            jti: jti.map(theirs).unwrap_or_default(),
            kid: Arc::from(kid),
            issued,
            expires,
            bound_to_certificate: certificate,
            issuer: Arc::from(self.config.issuer.as_str()),
        })
    }
}

/// What can be the end of a principal's name.
fn subject(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    (printable && !text.is_empty() && text.len() <= 255).then(|| text.to_owned())
}

/// Groups that no mapping names are attributes.
fn attributes(unmapped: Vec<String>) -> Attributes {
    let mut attributes = Attributes::default();
    if !unmapped.is_empty() {
        let groups = unmapped.into_iter().map(AttributeValue::Text).collect();
        attributes.0.insert("groups".to_owned(), AttributeValue::List(groups));
    }
    attributes
}

#[cfg(test)]
mod tests;
