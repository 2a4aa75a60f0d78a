//! Browser sessions. Whose a session is, is looked up again every second, as for passwords: an account that left the file
//! of accounts, or a provider that left the configuration, takes its sessions along.

use std::sync::Arc;
use std::time::Duration;

use super::{Asking, CookieIs, Found, Identifier, away, cookie, identified};
use crate::model::{Principal, Refusal, Timestamp};
use crate::sessions::Session;
use crate::store::StoreError;
use crate::tokens::as_it_is_now;

/// How long a principal is believed to be as it was looked up.
const LOOKED_UP: Duration = Duration::from_secs(1);

/// What became of a session's principal.
#[derive(Clone)]
pub(super) struct LookedUp {
    /// As the session has it.
    then: Arc<Principal>,
    now: Arc<Principal>,
    at: Timestamp,
    generation: u64,
}

impl Identifier {
    /// The session of the request's cookie on its host.
    pub(super) async fn session(&self, asking: &Asking<'_>) -> Result<Found, Refusal> {
        let cookie = match cookie(asking.headers, self.settings.load().cookie) {
            CookieIs::Absent => return Ok(Found::NotMine { clear_cookie: false }),
            CookieIs::Ambiguous => return Ok(Found::NotMine { clear_cookie: true }),
            CookieIs::One(value) => value,
        };
        let found = self.session_of(&cookie, asking.host).await.map_err(away)?;
        Ok(found.map_or(Found::NotMine { clear_cookie: true }, |session| {
            Found::Is(identified(session.principal, false))
        }))
    }

    /// The session of this cookie on this host, with its principal as it is now; `None` too when that is gone.
    ///
    /// # Errors
    /// When the store is away, or this node cannot know what is revoked.
    pub async fn session_of(&self, cookie: &str, host: &str) -> Result<Option<Session>, StoreError> {
        let Some(session) = self.sessions.find(cookie, host).await? else { return Ok(None) };
        let key = format!("{} {host}", session.sid);
        let (at, generation) = (self.clock.now(), self.settings.load().generation);
        let known = self.looked_up.get(&key);
        let fresh = |known: &&LookedUp| {
            known.generation == generation
                && known.at <= at
                && at.since(known.at) < LOOKED_UP
                && Arc::ptr_eq(&known.then, &session.principal)
        };
        if let Some(known) = known.as_ref().filter(fresh) {
            return Ok(Some(Session { principal: Arc::clone(&known.now), ..session }));
        }
        let Some(now) = as_it_is_now(&session.principal, self).await? else {
            self.looked_up.remove(&key);
            return Ok(None);
        };
        let same = [known.map(|known| known.now), Some(Arc::clone(&session.principal))];
        let same = same.into_iter().flatten().find(|principal| **principal == now);
        let now = same.unwrap_or_else(|| Arc::new(now));
        let then = Arc::clone(&session.principal);
        self.looked_up.put(&key, LookedUp { then, now: Arc::clone(&now), at, generation });
        Ok(Some(Session { principal: now, ..session }))
    }
}
