//! Passwords: the same work and answer for every wrong one, limits per account and address, hashes kept up to date.

use std::net::IpAddr;
use std::time::Duration;

use super::{Identifier, SignInError, pool, principal_of};
use crate::accounts::{Account, Origin};
use crate::model::{Principal, Username};
use crate::store::{Expect, Records, StoreError, Table};

/// Failures that count together.
const WINDOW: Duration = Duration::from_secs(5 * 60);
const PER_ACCOUNT: u64 = 10;
const PER_ADDRESS: u64 = 100;

/// `Retry-After`: the whole window, as its beginning is not told.
const RETRY_AFTER: u32 = 300;

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
        let keys = [(account_key(username), PER_ACCOUNT), (address_key(client_ip), PER_ADDRESS)];
        self.check_limits(&keys).await?;
        let account = match Username::parse(username) {
            Ok(name) => self.directory.find(name.as_str()).await.map_err(SignInError::Store)?,
            Err(_) => None,
        };
        let settings = self.settings.load_full();
        let phc = account.as_ref().and_then(|account| account.password_hash.as_deref());
        let tried = if password.len() > LONGEST { "" } else { password };
        let matches = self.pool.verify(tried, phc.unwrap_or(&settings.nobody)).await?;
        let right = matches && phc.is_some() && password.len() <= LONGEST && !password.is_empty();
        let Some(account) = account.filter(|account| right && !account.disabled) else {
            for (key, _) in &keys {
                self.counters().increment(key, 1, WINDOW).await.map_err(SignInError::Store)?;
            }
            return Err(SignInError::Wrong);
        };
        // Of many tries at once the right one is not told from the others either.
        self.check_limits(&keys).await?;
        self.rehash(&account, password, &settings.hashing).await;
        let mut principal = principal_of(&account);
        principal.auth_time = Some(self.clock.now());
        Ok(principal)
    }

    /// Forgets the failed sign-ins of an account (`user unlock`).
    ///
    /// # Errors
    /// When the store is away.
    pub async fn unlock(&self, username: &str) -> Result<(), StoreError> {
        self.counters().delete(Table::Counters, &account_key(username), Expect::Anything).await?;
        Ok(())
    }

    async fn check_limits(&self, keys: &[(String, u64); 2]) -> Result<(), SignInError> {
        for (key, limit) in keys {
            let failures = self.counters().increment(key, 0, WINDOW).await.map_err(SignInError::Store)?;
            if failures >= *limit {
                return Err(SignInError::TooOften { retry_after: RETRY_AFTER });
            }
        }
        Ok(())
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

    fn counters(&self) -> &dyn Records {
        &**self.directory.records()
    }
}

/// Unknown names count too, under a key of fixed length.
fn account_key(username: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, username.as_bytes());
    format!("signin/account/{}", hex::encode(digest))
}

/// One IPv6 subscriber has a /64.
fn address_key(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => format!("signin/address/{ip}"),
        IpAddr::V6(ip) => {
            let network = std::net::Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX));
            format!("signin/address/{network}/64")
        }
    }
}
