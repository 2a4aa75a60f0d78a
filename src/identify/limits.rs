//! How often a wrong password or secret may be tried: per account, per address, per known device.
//!
//! `password` and `client` ask before they look at a secret and count every failure. Counts are in the store, so that
//! nodes share them. A try from a known device (its cookie, or an address that the account signed in from before) has
//! a count of its own: whoever guesses from elsewhere cannot lock the owner out.

use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::SignInError;
use crate::model::{Timestamp, random_token};
use crate::store::{Expect, Records, StoreError, Table};

/// Failures that count together.
const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Failures of one account, from one known device, of one client from one address.
const PER_ACCOUNT: u64 = 10;
/// Failures from one address, whatever they name.
const PER_ADDRESS: u64 = 100;
/// Visits to identity providers that begin from one address: each is kept in the store until it ends.
const PER_ADDRESS_AWAY: u64 = 300;
/// How long an address stays known after a sign-in.
const KNOWN: Duration = Duration::from_secs(90 * 86_400);
/// Letters of the random part of a device cookie (16 bytes).
const NONCE: usize = 22;

/// The counts that one try falls under.
pub(super) struct Limits<'a> {
    records: &'a dyn Records,
    counts: Vec<(String, u64)>,
    /// The count of this device alone, which a right password clears.
    own: Option<String>,
    /// Where to note that the account signs in from here.
    unknown_address: Option<String>,
}

impl<'a> Limits<'a> {
    /// For a password: `device` is true for a cookie that this account got.
    pub(super) async fn of_account(
        records: &'a dyn Records,
        username: &str,
        ip: IpAddr,
        device: Option<&str>,
    ) -> Result<Self, SignInError> {
        let (account, address) = (hashed(username), network(ip));
        if let Some(device) = device {
            let own = format!("{}device/{}", account_prefix(&account), hashed(device));
            let counts = vec![(own.clone(), PER_ACCOUNT)];
            return Ok(Self { records, counts, own: Some(own), unknown_address: None });
        }
        let marker = format!("signin/known/{account}/{address}");
        let known = records.get(Table::Counters, &marker).await.map_err(SignInError::Store)?.is_some();
        let of_address = (format!("signin/address/{address}"), PER_ADDRESS);
        Ok(if known {
            let own = format!("{}at/{address}", account_prefix(&account));
            let counts = vec![(own.clone(), PER_ACCOUNT), of_address];
            Self { records, counts, own: Some(own), unknown_address: None }
        } else {
            let counts = vec![(format!("{}all", account_prefix(&account)), PER_ACCOUNT), of_address];
            Self { records, counts, own: None, unknown_address: Some(marker) }
        })
    }

    /// For a client's secret. There is no count over all addresses: it would let anyone stop a machine, and a generated
    /// secret is not guessed from many addresses either.
    pub(super) fn of_client(records: &'a dyn Records, id: &str, ip: IpAddr) -> Self {
        let address = network(ip);
        let counts = vec![
            (format!("signin/client/{}/at/{address}", hashed(id)), PER_ACCOUNT),
            (format!("signin/address/{address}"), PER_ADDRESS),
        ];
        Self { records, counts, own: None, unknown_address: None }
    }

    /// Refuses when a count is used up; only reads.
    pub(super) async fn check(&self) -> Result<(), SignInError> {
        for (key, limit) in &self.counts {
            let record = self.records.get(Table::Counters, key).await.map_err(SignInError::Store)?;
            let failures = record.map_or(0, |record| count(&record.value));
            if failures >= *limit {
                return Err(too_often(self.records, key).await);
            }
        }
        Ok(())
    }

    /// Counts a failure: what the client is told. Of many tries at once those beyond the limit are answered as the
    /// right one would be.
    pub(super) async fn failed(&self) -> SignInError {
        let mut answer = SignInError::Wrong;
        for (key, limit) in &self.counts {
            match self.records.increment(key, 1, WINDOW).await {
                Ok(failures) if failures > *limit => answer = too_often(self.records, key).await,
                Ok(_) => {}
                Err(error) => return SignInError::Store(error),
            }
        }
        answer
    }

    /// Forgets the failures of a device that has proved itself, and remembers the address.
    pub(super) async fn succeeded(&self, now: Timestamp) {
        let mut result = Ok(());
        if let Some(key) = &self.own {
            result = self.records.delete(Table::Counters, key, Expect::Anything).await.map(drop);
        }
        if let Some(marker) = &self.unknown_address {
            let until = Some(now.plus(KNOWN));
            let put = self.records.put(Table::Counters, marker, b"1", until, Expect::Absent);
            result = result.and(put.await.map(drop));
        }
        if let Err(error) = result {
            tracing::warn!(%error, "a sign-in's device could not be remembered");
        }
    }
}

/// What is left of the count's window, in whole seconds; all of it when that cannot be told.
async fn too_often(records: &dyn Records, key: &str) -> SignInError {
    let left = records.remaining(key).await.unwrap_or(WINDOW).min(WINDOW);
    let seconds = left.as_millis().div_ceil(1000).max(1);
    SignInError::TooOften { retry_after: u32::try_from(seconds).unwrap_or(u32::MAX) }
}

/// Counts a visit to an identity provider.
pub(super) async fn away(records: &dyn Records, ip: IpAddr) -> Result<(), SignInError> {
    let key = format!("signin/away/{}", network(ip));
    match records.increment(&key, 1, WINDOW).await {
        Ok(visits) if visits > PER_ADDRESS_AWAY => Err(too_often(records, &key).await),
        Ok(_) => Ok(()),
        Err(error) => Err(SignInError::Store(error)),
    }
}

/// Forgets every failed sign-in of an account; its known devices stay known.
pub(super) async fn unlock(records: &dyn Records, username: &str) -> Result<(), StoreError> {
    let prefix = account_prefix(&hashed(username));
    loop {
        let page = records.list(Table::Counters, &prefix, None, 100).await?;
        if page.is_empty() {
            return Ok(());
        }
        for (key, _) in page {
            records.delete(Table::Counters, &key, Expect::Anything).await?;
        }
    }
}

/// The value of a cookie that proves a sign-in of this account in this browser: random, then a keyed hash of both.
pub(super) fn device_cookie(key: &[u8; 32], username: &str) -> String {
    let nonce = random_token::<16>();
    let tag = device_tag(key, username, &nonce);
    format!("{nonce}{tag}")
}

/// Whether the cookie was given to this account.
pub(super) fn is_device_of(key: &[u8; 32], username: &str, cookie: &str) -> bool {
    let Some((nonce, tag)) = cookie.split_at_checked(NONCE) else { return false };
    let expected = device_tag(key, username, nonce);
    constant_time::verify_slices_are_equal(expected.as_bytes(), tag.as_bytes()).is_ok()
}

fn device_tag(key: &[u8; 32], username: &str, nonce: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    URL_SAFE_NO_PAD.encode(hmac::sign(&key, format!("{nonce} {username}").as_bytes()).as_ref())
}

/// Unknown names count too, under a key of fixed length that does not say what was typed.
fn hashed(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

fn account_prefix(hashed: &str) -> String {
    format!("signin/account/{hashed}/")
}

/// One IPv6 subscriber has a /64.
fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let network = std::net::Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX));
            format!("{network}/64")
        }
    }
}

/// Counters are decimal text in every store; anything else locks.
fn count(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}
