//! Refresh token families: one record per sign-in of a client; rotation in one atomic step; reuse ends the family.
//!
//! A refresh token is `<family>.<generation>.<HMAC-SHA-256 of both>`. The successor is computed from family and
//! generation and never stored, so that whoever asks again within the grace gets the same one.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};

use super::{Holder, Issued, PrincipalSource, TokenError, Tokens};
use crate::model::{Principal, Timestamp, random_token};
use crate::revocation::{Credential, Standing};
use crate::store::{Expect, Revoked, StoreError, Table};

/// How often a rotation is tried again when another call was faster: each lost try means that another succeeded.
const TRIES: usize = 16;

/// How many families one read of the list brings.
const PAGE: usize = 500;

/// What is remembered of a revoked session at least: nothing of it lives longer.
const SESSION_REVOKED_FOR: Duration = Duration::from_secs(30 * 86_400);

#[derive(Serialize, Deserialize)]
struct Family {
    client: String,
    scope: Vec<Arc<str>>,
    /// How the person signed in; `sid` is set. Roles and attributes are looked up anew, except for foreign principals.
    principal: Principal,
    /// Of the token that counts.
    generation: u64,
    created: Timestamp,
    rotated: Timestamp,
}

/// A family as `session list` shows it.
#[derive(Clone, Debug)]
pub struct FamilyInfo {
    /// The sign-in.
    pub sid: String,
    /// The principal's name.
    pub subject: String,
    /// Whom the tokens were issued to.
    pub client: String,
    /// When the family began.
    pub created: Timestamp,
    /// When its refresh token was used last.
    pub rotated: Timestamp,
}

impl FamilyInfo {
    fn of(family: Family) -> Self {
        Self {
            sid: family.principal.sid.as_deref().unwrap_or_default().to_owned(),
            subject: family.principal.name.to_string(),
            client: family.client,
            created: family.created,
            rotated: family.rotated,
        }
    }
}

/// A refresh token that carries our HMAC.
struct Presented<'a> {
    family: &'a str,
    generation: u64,
}

impl Tokens {
    pub(super) async fn new_family(
        &self,
        principal: &Principal,
        client: &str,
        scope: &[Arc<str>],
    ) -> Result<String, TokenError> {
        let (id, now) = (random_token::<16>(), self.clock.now());
        let family = Family {
            client: client.to_owned(),
            scope: scope.to_vec(),
            principal: principal.clone(),
            generation: 1,
            created: now,
            rotated: now,
        };
        let put = self.write_family(&id, &family, Expect::Absent).await?;
        put.ok_or_else(|| StoreError::Unavailable("the new family's id is taken; try again".to_owned()))?;
        Ok(self.refresh_token(&id, family.generation))
    }

    /// One rotation. `reload` gives the principal as it is now (disabled: None). Within
    /// `refresh_grace` of a rotation, and until the successor was used, the old token yields the same successor; any
    /// other use of a token that was rotated ends the family and revokes its session.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the token does not count or is another client's.
    pub async fn refresh(
        &self,
        refresh_token: &str,
        client: &str,
        reload: &dyn PrincipalSource,
    ) -> Result<Issued, TokenError> {
        let presented = self.presented(refresh_token).ok_or_else(|| invalid("it is no refresh token"))?;
        for _ in 0..TRIES {
            let (mut family, version) =
                self.family(presented.family).await?.ok_or_else(|| invalid("its family has ended"))?;
            if family.client != client {
                return Err(invalid("it belongs to another client"));
            }
            self.check_standing(&family)?;
            let now = self.clock.now();
            let repeated = presented.generation.checked_add(1) == Some(family.generation)
                && !self.refresh_grace.is_zero()
                && now.since(family.rotated) <= self.refresh_grace;
            if presented.generation > family.generation {
                return Err(invalid("the store does not know it; sign in again"));
            }
            if presented.generation != family.generation && !repeated {
                self.end_family(presented.family, &family).await?;
                return Err(invalid("it was used before: its family has ended"));
            }
            let Some(principal) = as_it_is_now(&family.principal, reload).await? else {
                self.end_family(presented.family, &family).await?;
                return Err(invalid("its principal is gone or disabled"));
            };
            if !repeated {
                family.generation += 1;
                family.rotated = now;
                family.principal = principal.clone();
                let expect = Expect::Version(version);
                if self.write_family(presented.family, &family, expect).await?.is_none() {
                    continue;
                }
            }
            let mut issued = self.access_token(&principal, client, &family.scope)?;
            issued.refresh_token = Some(self.refresh_token(presented.family, family.generation));
            return Ok(issued);
        }
        Err(StoreError::Unavailable("the family changes too often; try again".to_owned()).into())
    }

    /// Revokes an access or refresh token (RFC 7009): refresh: its family and session; access: its jti. Unknown tokens
    /// and those of others: Ok(None). `Some(subject)` whose it was.
    ///
    /// # Errors
    /// When the store did not confirm the revocation.
    pub async fn revoke(&self, token: &str, by: Holder<'_>) -> Result<Option<String>, TokenError> {
        if let Some(presented) = self.presented(token) {
            let Some((family, _)) = self.family(presented.family).await? else { return Ok(None) };
            let subject = family.principal.name.to_string();
            if !holds(by, &subject, Some(&family.client)) {
                return Ok(None);
            }
            self.end_family(presented.family, &family).await?;
            return Ok(Some(subject));
        }
        let Ok(verified) = self.read(token) else { return Ok(None) };
        let principal = &verified.principal;
        if !holds(by, &principal.name, principal.client_id.as_deref()) {
            return Ok(None);
        }
        let what = Revoked::Token(verified.jti.to_string());
        self.revocations.revoke(what, verified.expires).await?;
        self.verified.remove(token);
        Ok(Some(principal.name.to_string()))
    }

    /// The families that count, of one principal or all.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn families(&self, subject: Option<&str>) -> Result<Vec<FamilyInfo>, StoreError> {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(Table::Families, "", after.as_deref(), PAGE).await?;
            for (id, record) in &page {
                let family = parsed(id, &record.value)?;
                let wanted = subject.is_none_or(|subject| &*family.principal.name == subject);
                if wanted && !matches!(self.check_standing(&family), Err(TokenError::Invalid(_))) {
                    found.push(FamilyInfo::of(family));
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok(found),
            }
        }
    }

    fn check_standing(&self, family: &Family) -> Result<(), TokenError> {
        let credential = Credential {
            sid: family.principal.sid.as_deref(),
            subject: Some(&family.principal.name),
            client: Some(&family.client),
            issued: family.created,
            ..Credential::default()
        };
        match self.revocations.standing(&credential) {
            Standing::Good => Ok(()),
            Standing::Revoked => Err(invalid("it is revoked")),
            Standing::Unknown => Err(TokenError::Unknown),
        }
    }

    /// Revokes the session first, so that nothing of it counts when the record is gone.
    async fn end_family(&self, id: &str, family: &Family) -> Result<(), StoreError> {
        if let Some(sid) = &family.principal.sid {
            let until = self.clock.now().plus(self.refresh_ttl.max(SESSION_REVOKED_FOR));
            self.revocations.revoke(Revoked::Session(sid.to_string()), until).await?;
        }
        self.records.delete(Table::Families, id, Expect::Anything).await?;
        Ok(())
    }

    async fn family(&self, id: &str) -> Result<Option<(Family, u64)>, StoreError> {
        let Some(record) = self.records.get(Table::Families, id).await? else { return Ok(None) };
        Ok(Some((parsed(id, &record.value)?, record.version)))
    }

    async fn write_family(
        &self,
        id: &str,
        family: &Family,
        expect: Expect,
    ) -> Result<Option<u64>, StoreError> {
        let json = serde_json::to_vec(family).map_err(|error| StoreError::Refused(error.to_string()))?;
        let expires = family.rotated.plus(self.refresh_ttl);
        self.records.put(Table::Families, id, &json, Some(expires), expect).await
    }

    fn refresh_token(&self, family: &str, generation: u64) -> String {
        let message = format!("{family}.{generation}");
        let tag = hmac::sign(&self.refresh_key(), message.as_bytes());
        format!("{message}.{}", BASE64URL.encode(tag.as_ref()))
    }

    /// The parts of a refresh token that we made; `None` for everything else.
    fn presented<'a>(&self, token: &'a str) -> Option<Presented<'a>> {
        // 22 characters, 20 digits, 43 characters, two dots.
        let (message, tag) = token.rsplit_once('.').filter(|_| token.len() <= 87)?;
        let (family, number) = message.split_once('.')?;
        let generation = number.parse::<u64>().ok().filter(|parsed| parsed.to_string() == number)?;
        let tag = BASE64URL.decode(tag).ok()?;
        hmac::verify(&self.refresh_key(), message.as_bytes(), &tag).ok()?;
        Some(Presented { family, generation })
    }

    fn refresh_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.keys.derive("refresh"))
    }
}

fn parsed(id: &str, json: &[u8]) -> Result<Family, StoreError> {
    let corrupt =
        |error: serde_json::Error| StoreError::Corrupt { key: id.to_owned(), reason: error.to_string() };
    serde_json::from_slice(json).map_err(corrupt)
}

fn invalid(text: &str) -> TokenError {
    TokenError::Invalid(text.to_owned())
}

fn holds(by: Holder<'_>, subject: &str, client: Option<&str>) -> bool {
    match by {
        Holder::Operator => true,
        Holder::Subject(name) => name == subject,
        Holder::Client(id) => Some(id) == client,
    }
}

/// The principal with the roles that it has now and the proof that it gave at sign-in; `None` when it is gone or disabled.
///
/// # Errors
/// When the source is away.
pub async fn as_it_is_now(
    then: &Principal,
    source: &dyn PrincipalSource,
) -> Result<Option<Principal>, StoreError> {
    let Some(now) = source.current(&then.name).await? else { return Ok(None) };
    if now.kind != then.kind {
        // An account that was deleted is not the certificate that could have its name.
        return Ok(None);
    }
    let foreign = then.name.contains(':') && !then.name.starts_with("client:");
    if foreign {
        // Its provider alone knows its roles: those of the sign-in stay until the next one.
        return Ok(Some(then.clone()));
    }
    Ok(Some(Principal {
        roles: now.roles,
        attributes: now.attributes,
        tenant: now.tenant,
        email: now.email,
        ..then.clone()
    }))
}
