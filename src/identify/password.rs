//! Passwords: the same work and answer for every wrong one, limits per account and address, hashes kept up to date.

use std::net::IpAddr;

use super::limits::{self, Limits};
use super::{Identifier, SignInError, pool, principal_of};
use crate::accounts::{Account, Origin};
use crate::model::{Principal, Username};
use crate::store::{Records, StoreError};

/// A longer password is never right; in bytes.
const LONGEST: usize = 1_024;

impl Identifier {
    /// Checks a password in the bounded Argon2id pool; rehashes when parameters rose; limits tries per account and
    /// address. Unknown, disabled, and accounts without a password cost the same as a wrong password.
    ///
    /// # Errors
    /// See [`SignInError`]; the limits count failures alone.
    pub async fn password(
        &self,
        username: &str,
        password: &str,
        client_ip: IpAddr,
    ) -> Result<Principal, SignInError> {
        self.password_on(username, password, client_ip, None).await
    }

    /// The same for a browser that may bring the cookie of [`Identifier::device_cookie`]: failures elsewhere never lock
    /// out a device that the account signed in with before.
    ///
    /// # Errors
    /// See [`SignInError`].
    pub async fn password_on(
        &self,
        username: &str,
        password: &str,
        client_ip: IpAddr,
        device: Option<&str>,
    ) -> Result<Principal, SignInError> {
        let device = device.filter(|cookie| limits::is_device_of(&self.device_key(), username, cookie));
        let limits = Limits::of_account(self.counters(), username, client_ip, device).await?;
        limits.check().await?;
        let account = match Username::parse(username) {
            Ok(name) => self.directory.find(name.as_str()).await.map_err(SignInError::Store)?,
            Err(_) => None,
        };
        let settings = self.settings.load_full();
        let phc = account.as_ref().and_then(|account| account.password_hash.as_deref());
        let tried = if password.len() > LONGEST { "" } else { password };
        let matches = self.pool.verify(tried, phc.unwrap_or(&settings.nobody)).await?;
        if !matches && phc.is_some_and(|phc| pool::is_weaker(phc, &settings.hashing)) {
            // Its cheaper hash would tell that the account exists.
            self.pool.verify(tried, &settings.nobody).await?;
        }
        let right = matches && phc.is_some() && password.len() <= LONGEST && !password.is_empty();
        let Some(account) = account.filter(|account| right && !account.disabled) else {
            return Err(limits.failed().await);
        };
        // Of many tries at once the right one is not told from the others either.
        limits.check().await?;
        limits.succeeded(self.clock.now()).await;
        self.rehash(&account, password, &settings.hashing).await;
        let mut principal = principal_of(&account);
        principal.auth_time = Some(self.clock.now());
        Ok(principal)
    }

    /// The value of a cookie for the browser that an account just signed in with.
    pub fn device_cookie(&self, username: &str) -> String {
        limits::device_cookie(&self.device_key(), username)
    }

    /// Forgets the failed sign-ins of an account (`user unlock`).
    ///
    /// # Errors
    /// When the store is away.
    pub async fn unlock(&self, username: &str) -> Result<(), StoreError> {
        limits::unlock(self.counters(), username).await
    }

    /// Counts a visit to an identity provider that begins from this address.
    ///
    /// # Errors
    /// [`SignInError::TooOften`], or the store is away.
    pub async fn may_leave(&self, client_ip: IpAddr) -> Result<(), SignInError> {
        limits::away(self.counters(), client_ip).await
    }

    fn device_key(&self) -> [u8; 32] {
        self.tokens.derive("device")
    }

    /// Hashes again when the configured cost rose. A failure changes nothing: the next sign-in tries again.
    async fn rehash(&self, account: &Account, password: &str, hashing: &crate::config::Hashing) {
        let Some(old) = account.password_hash.as_deref() else { return };
        if account.origin != Origin::Store || !pool::is_weaker(old, hashing) {
            return;
        }
        let Ok(new) = self.pool.hash(password, hashing).await else { return };
        let change = |current: &mut Account| {
            if current.password_hash.as_deref() == Some(old) {
                current.password_hash = Some(new.clone());
            }
        };
        if let Err(error) = self.directory.update(account.name.as_str(), &change).await {
            tracing::warn!(%error, account = %account.name, "a password could not be hashed again");
        }
    }

    pub(super) fn counters(&self) -> &dyn Records {
        &**self.directory.records()
    }
}
