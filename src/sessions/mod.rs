//! Browser sessions: make, find, carry to another host, end.
//!
//! `identify` finds, doors make and end, `admin` lists and revokes. What a session remembers is [`stored::Stored`].

use std::sync::Arc;
use std::time::Duration;

use crate::config;
use crate::model::{AuthMethod, Principal, SharedClock, Timestamp, random_token};
use crate::revocation::{Credential, Revocations, Standing};
use crate::store::{Expect, Records, Revoked, StoreError, Table};

mod recent;
mod stored;
#[cfg(test)]
mod tests;

use recent::{Recent, Seen};
use stored::{Carried, Stored, hash};

/// How long what the store said of a cookie is believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// A session's last use is written at most so often.
const TOUCH: Duration = Duration::from_secs(60);

/// The life of a code that carries a session to another host.
const CODE_TTL: Duration = Duration::from_secs(30);

/// How long a revoked session is remembered at least: tokens of the same sign-in may live as long.
const REVOKED_FOR: Duration = Duration::from_secs(30 * 86_400);

/// How many sessions one read of the list brings.
const PAGE: usize = 500;

/// A live session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who.
    pub principal: Arc<Principal>,
    /// shared by all hosts' cookies of one sign-in
    pub sid: Arc<str>,
    /// When the person signed in.
    pub created: Timestamp,
    /// When it ends unless it is used before.
    pub expires: Timestamp,
    /// The only host where its cookie counts.
    pub host: String,
}

/// A session as `session list` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SessionInfo {
    /// The sign-in.
    pub sid: String,
    /// The principal's name.
    pub subject: String,
    /// When the person signed in.
    pub created: Timestamp,
    /// To the minute.
    pub last_seen: Timestamp,
    /// Where its cookie counts.
    pub host: String,
}

/// All browser sessions.
pub struct Sessions {
    idle: Duration,
    absolute: Duration,
    records: Arc<dyn Records>,
    revocations: Arc<Revocations>,
    clock: SharedClock,
    recent: Recent,
}

impl Sessions {
    /// Sessions that end after `config.idle` without use and `config.absolute` after the sign-in.
    pub fn new(
        config: &config::Session,
        records: Arc<dyn Records>,
        revocations: Arc<Revocations>,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            idle: config.idle,
            absolute: config.absolute,
            records,
            revocations,
            clock,
            recent: Recent::default(),
        })
    }

    /// A new session for `host`; the opaque cookie value (32 random bytes; stored under its SHA-256).
    ///
    /// # Errors
    /// When the store is away.
    pub async fn create(&self, principal: Principal, host: &str) -> Result<(String, Session), StoreError> {
        self.create_since(principal, host, self.clock.now()).await
    }

    async fn create_since(
        &self,
        mut principal: Principal,
        host: &str,
        created: Timestamp,
    ) -> Result<(String, Session), StoreError> {
        let now = self.clock.now();
        let sid = Arc::clone(principal.sid.get_or_insert_with(|| random_token::<16>().into()));
        principal.auth_time.get_or_insert(created);
        principal.method = AuthMethod::Session;
        principal.expires = Some(created.plus(self.absolute));
        let stored = Stored { principal, sid, created, seen: now, host: host.to_owned() };
        let cookie = random_token::<32>();
        let key = hash(&cookie);
        let put = self.write(&key, &stored, Expect::Absent).await?;
        put.ok_or_else(|| StoreError::Unavailable("the new session's id is taken; try again".to_owned()))?;
        Ok((cookie, self.session(&stored, Arc::new(stored.principal.clone()))))
    }

    /// The session of this cookie on this host. Unknown, expired, revoked or another host's: None. What the store said
    /// is believed for at most 1 s while nothing is revoked; same `Arc<Principal>` while the principal is the same.
    ///
    /// # Errors
    /// When the store is away, or this node cannot know what is revoked.
    pub async fn find(&self, cookie: &str, host: &str) -> Result<Option<Session>, StoreError> {
        if !stored::looks_like_a_cookie(cookie) {
            return Ok(None);
        }
        let (key, now, epoch) = (hash(cookie), self.clock.now(), self.revocations.epoch());
        let known = self.recent.get(&key);
        let fresh = |seen: &Seen| seen.epoch == epoch && seen.at <= now && now.since(seen.at) < BELIEVED;
        let session = match known {
            Some(seen) if fresh(&seen) => seen.session,
            known => {
                let Some((stored, version)) = self.read(&key).await? else {
                    self.recent.remove(&key);
                    return Ok(None);
                };
                let stored = self.touch(&key, stored, version, now).await?;
                let principal = known
                    .map(|seen| seen.session.principal)
                    .filter(|principal| **principal == stored.principal)
                    .unwrap_or_else(|| Arc::new(stored.principal.clone()));
                let session = self.session(&stored, principal);
                self.recent.put(key, Seen { session: session.clone(), at: now, epoch });
                session
            }
        };
        if session.expires <= now || session.host != host {
            return Ok(None);
        }
        self.standing(&session).map(|good| good.then_some(session))
    }

    /// Ends the session of this cookie, with everything issued in it.
    ///
    /// # Errors
    /// When the store did not confirm it.
    pub async fn end(&self, cookie: &str) -> Result<Option<Session>, StoreError> {
        if !stored::looks_like_a_cookie(cookie) {
            return Ok(None);
        }
        let key = hash(cookie);
        let Some((stored, _)) = self.read(&key).await? else { return Ok(None) };
        self.revoke_sid(&stored.sid).await?;
        self.records.delete(Table::Sessions, &key, Expect::Anything).await?;
        self.recent.remove(&key);
        let principal = Arc::new(stored.principal.clone());
        Ok(Some(self.session(&stored, principal)))
    }

    /// A code that carries the session to `host` (once, 30 s, bound to `binding`, the hash of a cookie set there before).
    ///
    /// # Errors
    /// When the store is away.
    pub async fn carry(&self, session: &Session, host: &str, binding: &str) -> Result<String, StoreError> {
        let code = random_token::<32>();
        let carried = Carried {
            principal: (*session.principal).clone(),
            created: session.created,
            host: host.to_owned(),
            binding: binding.to_owned(),
        };
        let json = stored::written(&carried)?;
        let expires = self.clock.now().plus(CODE_TTL);
        let key = carry_key(&code);
        self.records.put(Table::Once, &key, &json, Some(expires), Expect::Absent).await?;
        Ok(code)
    }

    /// Redeems the code on `host`: the new cookie and session. A try with the wrong host or binding uses it up.
    ///
    /// # Errors
    /// When the store is away, or this node cannot know what is revoked.
    pub async fn redeem(
        &self,
        code: &str,
        host: &str,
        binding: &str,
    ) -> Result<Option<(String, Session)>, StoreError> {
        if !stored::looks_like_a_cookie(code) {
            return Ok(None);
        }
        let key = carry_key(code);
        let Some(record) = self.records.take(Table::Once, &key).await? else { return Ok(None) };
        let carried: Carried = stored::parsed(&key, &record.value)?;
        let bound =
            aws_lc_rs::constant_time::verify_slices_are_equal(carried.binding.as_bytes(), binding.as_bytes());
        if bound.is_err() || carried.host != host {
            return Ok(None);
        }
        let sid = carried.principal.sid.clone().unwrap_or_default();
        let expires = carried.created.plus(self.absolute);
        let (created, host) = (carried.created, carried.host);
        let principal = Arc::new(carried.principal);
        let was = Session { principal: Arc::clone(&principal), sid, created, expires, host };
        if expires <= self.clock.now() || !self.standing(&was)? {
            return Ok(None);
        }
        self.create_since((*principal).clone(), &was.host, created).await.map(Some)
    }

    /// Sessions that count, of one principal or all.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn list(&self, subject: Option<&str>) -> Result<Vec<SessionInfo>, StoreError> {
        let all = self.all().await?;
        let mine = all.into_iter().map(|(_, stored)| stored).filter(|stored| {
            subject.is_none_or(|subject| &*stored.principal.name == subject)
                && self.revocations.standing(&stored.credential()) != Standing::Revoked
        });
        Ok(mine.map(Stored::into_info).collect())
    }

    /// Revokes by sid: cookies and tokens issued in it. True when a session or a refresh token family had it.
    ///
    /// # Errors
    /// When the store did not confirm it.
    pub async fn revoke(&self, sid: &str) -> Result<bool, StoreError> {
        self.revoke_sid(sid).await?;
        let mut found = false;
        for (key, stored) in self.all().await? {
            if &*stored.sid == sid {
                self.records.delete(Table::Sessions, &key, Expect::Anything).await?;
                found = true;
            }
        }
        Ok(found || self.has_family(sid).await?)
    }

    fn session(&self, stored: &Stored, principal: Arc<Principal>) -> Session {
        let expires = self.expires(stored);
        let sid = Arc::clone(&stored.sid);
        Session { principal, sid, created: stored.created, expires, host: stored.host.clone() }
    }

    fn expires(&self, stored: &Stored) -> Timestamp {
        stored.seen.plus(self.idle).min(stored.created.plus(self.absolute))
    }

    fn standing(&self, session: &Session) -> Result<bool, StoreError> {
        let credential = Credential {
            sid: Some(&session.sid),
            subject: Some(&session.principal.name),
            issued: session.created,
            ..Credential::default()
        };
        match self.revocations.standing(&credential) {
            Standing::Good => Ok(true),
            Standing::Revoked => Ok(false),
            Standing::Unknown => Err(StoreError::Unavailable("revocations are not known".to_owned())),
        }
    }

    /// Writes the last use when the written one is a minute old (or a quarter of a shorter idle time).
    async fn touch(
        &self,
        key: &str,
        stored: Stored,
        version: u64,
        now: Timestamp,
    ) -> Result<Stored, StoreError> {
        if now.since(stored.seen) < TOUCH.min(self.idle / 4) || self.expires(&stored) <= now {
            return Ok(stored);
        }
        let touched = Stored { seen: now, ..stored };
        // Another node that was faster touched it, or ended it, which the next read sees.
        self.write(key, &touched, Expect::Version(version)).await?;
        Ok(touched)
    }

    async fn read(&self, key: &str) -> Result<Option<(Stored, u64)>, StoreError> {
        let Some(record) = self.records.get(Table::Sessions, key).await? else { return Ok(None) };
        Ok(Some((stored::parsed(key, &record.value)?, record.version)))
    }

    async fn write(&self, key: &str, stored: &Stored, expect: Expect) -> Result<Option<u64>, StoreError> {
        let json = stored::written(stored)?;
        self.records.put(Table::Sessions, key, &json, Some(self.expires(stored)), expect).await
    }

    async fn revoke_sid(&self, sid: &str) -> Result<(), StoreError> {
        let until = self.clock.now().plus(self.absolute.max(REVOKED_FOR));
        self.revocations.revoke(Revoked::Session(sid.to_owned()), until).await
    }

    async fn all(&self) -> Result<Vec<(String, Stored)>, StoreError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(Table::Sessions, "", after.as_deref(), PAGE).await?;
            for (key, record) in &page {
                all.push((key.clone(), stored::parsed(key, &record.value)?));
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok(all),
            }
        }
    }

    async fn has_family(&self, sid: &str) -> Result<bool, StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(Table::Families, "", after.as_deref(), PAGE).await?;
            if page.iter().any(|(_, record)| stored::family_has_sid(&record.value, sid)) {
                return Ok(true);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok(false),
            }
        }
    }
}

fn carry_key(code: &str) -> String {
    format!("carry/{}", hash(code))
}
