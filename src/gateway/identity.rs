//! The identity headers that an upstream gets: always present, empty when unknown, and the signed assertion.
//!
//! Used by `gateway` for forwarded requests and for verdicts. A preset is one more arm of [`names`].

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use ahash::AHashMap;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::config::IdentityHeaders;
use crate::model::{Principal, Timestamp};

/// Entries per shard; the oldest knowledge goes when a shard is full.
const PER_SHARD: usize = 512;
const SHARDS: usize = 16;
/// An assertion is used while it is valid for at least this many seconds.
const REMAINING: i64 = 20;

/// Which value a header carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    User,
    Roles,
    Email,
    Assertion,
}

/// The headers of a preset.
const fn names(preset: IdentityHeaders) -> &'static [(&'static str, Part)] {
    const PORTCULLIS: &[(&str, Part)] = &[
        ("portcullis-user", Part::User),
        ("portcullis-roles", Part::Roles),
        ("portcullis-email", Part::Email),
        ("portcullis-assertion", Part::Assertion),
    ];
    const OAUTH2_PROXY: &[(&str, Part)] = &[
        ("x-forwarded-user", Part::User),
        ("x-forwarded-groups", Part::Roles),
        ("x-forwarded-email", Part::Email),
        ("x-forwarded-preferred-username", Part::User),
        ("x-auth-request-user", Part::User),
        ("x-auth-request-groups", Part::Roles),
        ("x-auth-request-email", Part::Email),
        ("x-auth-request-preferred-username", Part::User),
        ("portcullis-assertion", Part::Assertion),
    ];
    const AUTHELIA: &[(&str, Part)] = &[
        ("remote-user", Part::User),
        ("remote-groups", Part::Roles),
        ("remote-email", Part::Email),
        ("remote-name", Part::User),
        ("portcullis-assertion", Part::Assertion),
    ];
    const AUTHENTIK: &[(&str, Part)] = &[
        ("x-authentik-username", Part::User),
        ("x-authentik-groups", Part::Roles),
        ("x-authentik-email", Part::Email),
        ("x-authentik-name", Part::User),
        ("x-authentik-uid", Part::User),
        ("portcullis-assertion", Part::Assertion),
    ];
    const POMERIUM: &[(&str, Part)] = &[
        ("x-pomerium-claim-user", Part::User),
        ("x-pomerium-claim-groups", Part::Roles),
        ("x-pomerium-claim-email", Part::Email),
        ("x-pomerium-claim-name", Part::User),
        ("x-pomerium-jwt-assertion", Part::Assertion),
    ];
    const NONE: &[(&str, Part)] = &[("portcullis-assertion", Part::Assertion)];
    match preset {
        IdentityHeaders::Portcullis => PORTCULLIS,
        IdentityHeaders::Oauth2Proxy => OAUTH2_PROXY,
        IdentityHeaders::Authelia => AUTHELIA,
        IdentityHeaders::Authentik => AUTHENTIK,
        IdentityHeaders::Pomerium => POMERIUM,
        IdentityHeaders::None => NONE,
    }
}

/// The values for one principal, its roles, and one audience.
#[derive(Clone, Debug)]
pub(super) struct Values {
    user: HeaderValue,
    roles: HeaderValue,
    email: HeaderValue,
    /// With its end; absent on routes without assertions.
    assertion: Option<(HeaderValue, Timestamp)>,
}

impl Values {
    fn new(principal: &Principal, roles: &[Arc<str>]) -> Self {
        let mut joined = String::new();
        for role in roles {
            if !joined.is_empty() {
                joined.push(',');
            }
            encode(role, true, &mut joined);
        }
        let mut user = String::new();
        if !principal.is_anonymous() {
            encode(&principal.name, false, &mut user);
        }
        let mut email = String::new();
        encode(principal.email.as_deref().unwrap_or_default(), false, &mut email);
        Self { user: value(user), roles: value(joined), email: value(email), assertion: None }
    }

    /// Sets the preset's headers, every one of them.
    pub(super) fn set(&self, preset: IdentityHeaders, headers: &mut HeaderMap) {
        for (name, part) in names(preset) {
            let value = match part {
                Part::User => &self.user,
                Part::Roles => &self.roles,
                Part::Email => &self.email,
                Part::Assertion => match &self.assertion {
                    Some((assertion, _)) => assertion,
                    None => continue,
                },
            };
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
}

/// Visible ASCII but `%` as it is, every other byte percent-encoded; a role's comma too, since commas separate roles.
fn encode(text: &str, comma: bool, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && !(comma && byte == b',') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Computed values, kept per principal and audience. The entry keeps the principal alive, so that its address
/// stays its own.
#[derive(Debug, Default)]
pub(super) struct IdentityCache {
    shards: [Mutex<AHashMap<Key, Entry>>; SHARDS],
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    /// Zero: anonymous, whose principals are all alike.
    principal: usize,
    audience: Arc<str>,
    assertion: bool,
}

#[derive(Debug)]
struct Entry {
    principal: Arc<Principal>,
    roles: Arc<[Arc<str>]>,
    values: Values,
}

/// Makes the assertion for a principal, roles and audience, with the time of its end.
pub(super) type Sign<'a> =
    &'a dyn Fn(&Principal, &[Arc<str>], &str) -> Result<(String, Timestamp), crate::tokens::TokenError>;

impl IdentityCache {
    /// The values; with `sign`, including an assertion for at least 20 more seconds.
    ///
    /// # Errors
    /// What `sign` says.
    pub(super) fn values(
        &self,
        principal: &Arc<Principal>,
        roles: &Arc<[Arc<str>]>,
        audience: &Arc<str>,
        now: Timestamp,
        sign: Option<Sign<'_>>,
    ) -> Result<Values, crate::tokens::TokenError> {
        let address = if principal.is_anonymous() { 0 } else { Arc::as_ptr(principal).addr() };
        let key = Key { principal: address, audience: Arc::clone(audience), assertion: sign.is_some() };
        let shard = self.shards.get((address >> 6) % SHARDS).or_else(|| self.shards.first());
        let lock = |shard: &'_ Mutex<AHashMap<Key, Entry>>, entry: Option<Entry>| -> Option<Values> {
            let mut entries = shard.lock().unwrap_or_else(PoisonError::into_inner);
            match entry {
                None => entries.get(&key).filter(|entry| entry.fits(roles, now)).map(|e| e.values.clone()),
                Some(entry) => {
                    if entries.len() >= PER_SHARD {
                        entries.retain(|_, entry| entry.is_live(now));
                    }
                    if entries.len() >= PER_SHARD {
                        entries.clear();
                    }
                    entries.insert(key.clone(), entry);
                    None
                }
            }
        };
        if let Some(values) = shard.and_then(|shard| lock(shard, None)) {
            return Ok(values);
        }
        let mut values = Values::new(principal, roles);
        if let Some(sign) = sign {
            let (jwt, until) = sign(principal, roles, audience)?;
            values.assertion = Some((value(jwt), until));
        }
        let entry =
            Entry { principal: Arc::clone(principal), roles: Arc::clone(roles), values: values.clone() };
        if let Some(shard) = shard {
            lock(shard, Some(entry));
        }
        Ok(values)
    }
}

impl Entry {
    fn fits(&self, roles: &Arc<[Arc<str>]>, now: Timestamp) -> bool {
        self.is_live(now) && (Arc::ptr_eq(&self.roles, roles) || self.roles == *roles)
    }

    fn is_live(&self, now: Timestamp) -> bool {
        let expired = self.principal.expires.is_some_and(|expires| expires <= now);
        let lasting = self
            .values
            .assertion
            .as_ref()
            .is_none_or(|(_, until)| until.seconds() - now.seconds() >= REMAINING);
        lasting && !expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AuthMethod, PrincipalKind};
    use std::cell::Cell;
    use std::time::Duration;

    fn alice() -> Arc<Principal> {
        Arc::new(Principal::new("alice", PrincipalKind::User, AuthMethod::Bearer))
    }

    #[test]
    fn an_assertion_is_signed_once_and_reused_while_20_seconds_remain() {
        let cache = IdentityCache::default();
        let signed = Cell::new(0);
        let start = Timestamp::from_seconds(1000);
        let roles: Arc<[Arc<str>]> = Arc::from([Arc::from("reader")]);
        let (orders, billing) = (Arc::from("orders"), Arc::from("billing"));
        let ask = |who: &Arc<Principal>, roles: &Arc<[Arc<str>]>, audience: &Arc<str>, after: u64| {
            let now = start.plus(Duration::from_secs(after));
            let sign = |_: &Principal, _: &[Arc<str>], _: &str| {
                signed.set(signed.get() + 1);
                Ok((format!("jwt{}", signed.get()), now.plus(Duration::from_secs(60))))
            };
            cache.values(who, roles, audience, now, Some(&sign)).unwrap();
            signed.get()
        };
        let (first, second) = (alice(), alice());
        assert_eq!(ask(&first, &roles, &orders, 0), 1);
        assert_eq!(ask(&first, &roles, &orders, 40), 1);
        assert_eq!(ask(&first, &roles, &orders, 41), 2);
        assert_eq!(ask(&first, &roles, &billing, 41), 3);
        assert_eq!(ask(&second, &roles, &orders, 41), 4);
        assert_eq!(ask(&first, &Arc::from([]), &orders, 41), 5);
        let nobody = || Arc::new(Principal::anonymous());
        assert_eq!(ask(&nobody(), &roles, &orders, 41), 6);
        assert_eq!(ask(&nobody(), &roles, &orders, 41), 6);
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = IdentityCache::default();
        let kept: Vec<_> = (0..SHARDS * PER_SHARD * 3).map(|_| alice()).collect();
        for who in &kept {
            cache.values(who, &Arc::from([]), &Arc::from("a"), Timestamp::default(), None).unwrap();
        }
        assert!(cache.shards.iter().all(|shard| shard.lock().unwrap().len() <= PER_SHARD));
    }

    #[test]
    fn values_are_visible_ascii_and_every_header_is_there() {
        let mut principal = Principal::new("zoë 100%", PrincipalKind::User, AuthMethod::Bearer);
        principal.email = Some(Arc::from("z@example.com"));
        let values = Values::new(&principal, &[Arc::from("x,admin"), Arc::from("reader")]);
        let mut headers = HeaderMap::new();
        values.set(IdentityHeaders::Portcullis, &mut headers);
        assert_eq!(headers["portcullis-user"], "zo%C3%AB%20100%25");
        assert_eq!(headers["portcullis-roles"], "x%2Cadmin,reader");
        assert_eq!(headers["portcullis-email"], "z@example.com");
        for (preset, count) in [
            (IdentityHeaders::Oauth2Proxy, 8),
            (IdentityHeaders::Authelia, 4),
            (IdentityHeaders::Authentik, 5),
            (IdentityHeaders::Pomerium, 4),
            (IdentityHeaders::None, 0),
        ] {
            let mut headers = HeaderMap::new();
            Values::new(&Principal::anonymous(), &[]).set(preset, &mut headers);
            assert_eq!(headers.len(), count);
            assert!(headers.values().all(|value| value.is_empty()));
        }
    }
}
