//! What people and machines hold ends when the configuration no longer says of them what it said: accounts of the file,
//! clients, providers, certificate rules.
//!
//! `app::open` and `reload` call [`settle`], which compares with what the store remembers, so that a change between two
//! starts counts too. Another kind of principal is one more line in [`said`] and one arm in [`ended`].

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::config::Config;
use crate::model::{Account, Clock, PrincipalKind};
use crate::revocation::Revocations;
use crate::store::{Expect, Records, Revoked, StoreError, Table};

/// Where the store remembers what was said last.
const KEY: &str = "configured";
/// How many revocations are written at once.
const TOGETHER: usize = 64;
/// How many names one read brings.
const PAGE: usize = 500;
/// How often the record is written again when another node was faster.
const TRIES: usize = 16;

/// `account/alice` and the like: a digest of what is said of them.
pub(super) type Said = BTreeMap<String, String>;

/// What a configuration says of those who can hold something.
pub(super) fn said(config: &Config, accounts: &[Account]) -> Said {
    let mut said = Said::new();
    for account in accounts {
        let Account { password_hash, roles, attributes, tenant, email, email_verified, disabled, .. } =
            account;
        let what = json!([password_hash, roles, attributes, tenant, email, email_verified, disabled]);
        said.insert(format!("account/{}", account.name), digest(&what));
    }
    for client in &config.clients {
        let what = json!([client.roles, client.attributes, client.scopes, client.grant_types]);
        said.insert(format!("client/{}", client.id), digest(&what));
    }
    for provider in &config.providers {
        let what = json!([
            provider.issuer,
            provider.client_id,
            provider.roles_claim,
            provider.roles,
            provider.attributes
        ]);
        said.insert(format!("provider/{}", provider.name), digest(&what));
    }
    let rules: Vec<_> = config
        .certificate_principals
        .iter()
        .map(|rule| json!([rule.matches, rule.name, rule.roles, rule.attributes]))
        .collect();
    if !rules.is_empty() {
        said.insert("certificates".to_owned(), digest(&json!(rules)));
    }
    said
}

fn digest(what: &serde_json::Value) -> String {
    hex::encode(Sha256::digest(what.to_string()))
}

/// Ends what is held by those of whom `now` says something else than `before` or the store's memory; how many.
///
/// # Errors
/// When the store is away: then not all of it is ended.
pub(super) async fn settle(
    records: &dyn Records,
    revocations: &Revocations,
    clock: &dyn Clock,
    config: &Config,
    now: &Said,
    before: Option<&Said>,
) -> Result<usize, StoreError> {
    for _ in 0..TRIES {
        let record = records.get(Table::Principals, KEY).await?;
        let remembered = record.as_ref().map(|record| serde_json::from_slice::<Said>(&record.value));
        let remembered = remembered
            .transpose()
            .map_err(|error| StoreError::Corrupt { key: KEY.to_owned(), reason: error.to_string() })?;
        let mut changed = BTreeSet::new();
        for past in [before, remembered.as_ref()].into_iter().flatten() {
            let both = past.keys().chain(now.keys());
            changed.extend(both.filter(|who| past.get(*who) != now.get(*who)).map(String::as_str));
        }
        let until = clock.now().plus(config.tokens.refresh_ttl.max(config.session.absolute));
        let mut ends = Vec::new();
        for who in changed {
            ended(records, who, &mut ends).await?;
        }
        let count = ends.len();
        let revoked = stream::iter(ends).map(|what| revocations.revoke(what, until));
        revoked.buffer_unordered(TOGETHER).try_collect::<()>().await?;
        if remembered.as_ref() == Some(now) {
            return Ok(count);
        }
        let json = serde_json::to_vec(now).map_err(|error| StoreError::Refused(error.to_string()))?;
        let expect = record.map_or(Expect::Absent, |record| Expect::Version(record.version));
        if records.put(Table::Principals, KEY, &json, None, expect).await?.is_some() {
            return Ok(count);
        }
    }
    Err(StoreError::Unavailable("other nodes change their configuration all the time".to_owned()))
}

/// What is to be revoked for one of [`said`].
async fn ended(records: &dyn Records, who: &str, ends: &mut Vec<Revoked>) -> Result<(), StoreError> {
    match who.split_once('/') {
        Some(("account", name)) => ends.push(Revoked::Subject(name.to_owned())),
        Some(("client", id)) => {
            ends.push(Revoked::Subject(format!("client:{id}")));
            ends.push(Revoked::Client(id.to_owned()));
        }
        Some(("provider", name)) => subjects(records, &format!("{name}:"), PrincipalKind::User, ends).await?,
        _ => subjects(records, "", PrincipalKind::Certificate, ends).await?,
    }
    Ok(())
}

/// Everyone of this kind whose name begins so and who was ever seen.
async fn subjects(
    records: &dyn Records,
    prefix: &str,
    kind: PrincipalKind,
    ends: &mut Vec<Revoked>,
) -> Result<(), StoreError> {
    let prefix = format!("name/{prefix}");
    let mut after: Option<String> = None;
    loop {
        let page = records.list(Table::Principals, &prefix, after.as_deref(), PAGE).await?;
        let seen = page.iter().filter(|(_, record)| record.value == kind.as_str().as_bytes());
        ends.extend(
            seen.filter_map(|(key, _)| Some(Revoked::Subject(key.strip_prefix("name/")?.to_owned()))),
        );
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
            _ => return Ok(()),
        }
    }
}
