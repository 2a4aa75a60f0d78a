//! Accounts of people, from the store and from a file under version control, and the one name space of principals.
//!
//! `identify` looks accounts up, `admin` and `cli` change them, `decide` asks for names and reports the roles of its
//! files. A new property of an account is a field of [`Account`] with `#[serde(default)]`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::model::{PrincipalKind, SharedClock};

pub use crate::model::{Account, Origin};
use crate::store::{Expect, Record, Records, StoreError, Table};

#[cfg(test)]
pub(crate) mod memory;
mod names;
#[cfg(test)]
pub(crate) mod tests;

/// How often a change is tried again when another node was faster.
const TRIES: usize = 16;

/// How many accounts are registered at once.
const TOGETHER: usize = 64;

/// How many accounts one read of the list brings.
const PAGE: usize = 500;

/// Why an account could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The name is given.
    #[error("account `{0}` exists already")]
    Exists(String),
    /// No such account.
    #[error("there is no account `{0}`")]
    Unknown(String),
    /// The name would match policy rows that are meant for a role.
    #[error("`{0}` is used as a role and cannot name an account")]
    NameIsRole(String),
    /// The role would give the rights of one principal to others.
    #[error("role `{0}` has the name of an existing principal")]
    RoleIsName(String),
    /// Upstreams that ignore case would take one for the other.
    #[error("account `{0}` differs from the account `{1}` in case alone")]
    Lookalike(String, String),
    /// Not ours to change.
    #[error("account `{0}` is in the accounts file; change it there")]
    InFile(String),
    /// Others write it too often.
    #[error("account `{0}` was changed meanwhile; try again")]
    Changed(String),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All accounts and all principal names.
pub struct Directory {
    records: Arc<dyn Records>,
    clock: SharedClock,
    file: ArcSwap<HashMap<String, Account>>,
    policy_roles: ArcSwap<HashSet<String>>,
    configured_roles: ArcSwap<HashSet<String>>,
}

impl Directory {
    /// The directory over a store, without file accounts and roles yet.
    pub fn new(records: Arc<dyn Records>, clock: SharedClock) -> Self {
        Self {
            records,
            clock,
            file: ArcSwap::default(),
            policy_roles: ArcSwap::default(),
            configured_roles: ArcSwap::default(),
        }
    }

    /// Takes the accounts of the file, all or none: what contradicts the store is refused before anything changes. The
    /// names of accounts that from now on hide one of the store.
    ///
    /// # Errors
    /// [`AccountError::Exists`] for the name of another kind of principal, [`AccountError::NameIsRole`] for a new name
    /// that an account of the store carries as a role, [`AccountError::RoleIsName`] for a role that is a principal's
    /// name, [`AccountError::Lookalike`]; or the store is away.
    pub async fn adopt_file_accounts(&self, accounts: Vec<Account>) -> Result<Vec<String>, AccountError> {
        let hidden = self.examine_file_accounts(&accounts).await?;
        // The store commits together what is asked of it together.
        let registered = stream::iter(&accounts).map(|account| self.register(account));
        registered.buffer_unordered(TOGETHER).try_collect::<()>().await?;
        self.set_file_accounts(accounts);
        Ok(hidden)
    }

    /// What [`Directory::adopt_file_accounts`] would say; nothing changes.
    ///
    /// # Errors
    /// The same.
    async fn examine_file_accounts(&self, accounts: &[Account]) -> Result<Vec<String>, AccountError> {
        let mut hidden = Vec::new();
        for account in accounts {
            let name = account.name.as_str();
            self.may_name_an_account(name).await?;
            for role in &account.roles {
                if self.name_is_given(role.as_str()).await? {
                    return Err(AccountError::RoleIsName(role.to_string()));
                }
            }
            if self.records.get(Table::Accounts, name).await?.is_some() {
                hidden.push(name.to_owned());
            }
        }
        Ok(hidden)
    }

    /// Whether the configuration may give these roles (mappings, clients, certificates).
    ///
    /// # Errors
    /// [`AccountError::RoleIsName`] for one that is a principal's name; or the store is away.
    pub async fn examine_configured_roles(&self, roles: &HashSet<String>) -> Result<(), AccountError> {
        for role in roles {
            if self.name_is_given(role).await? {
                return Err(AccountError::RoleIsName(role.clone()));
            }
        }
        Ok(())
    }

    /// The accounts that come from the file.
    pub fn file_accounts(&self) -> Vec<Account> {
        self.file.load().values().cloned().collect()
    }

    /// Replaces the accounts that come from the file (parsed by config::accounts_file).
    fn set_file_accounts(&self, accounts: Vec<Account>) {
        let from_file = |account: Account| Account { origin: Origin::File, ..account };
        let by_name =
            accounts.into_iter().map(|account| (account.name.to_string(), from_file(account))).collect();
        self.file.store(Arc::new(by_name));
    }

    /// Names that live policies use as roles (second column of `g`).
    pub fn set_policy_roles(&self, roles: HashSet<String>) {
        self.policy_roles.store(Arc::new(roles));
    }

    /// Names that mappings and clients give as roles.
    pub fn set_configured_roles(&self, roles: HashSet<String>) {
        self.configured_roles.store(Arc::new(roles));
    }

    /// File first, then store.
    ///
    /// # Errors
    /// When the store is away or holds something else under the name.
    pub async fn find(&self, name: &str) -> Result<Option<Account>, StoreError> {
        if let Some(account) = self.file_account(name) {
            return Ok(Some(account));
        }
        let record = self.records.get(Table::Accounts, name).await?;
        record.map(|record| read(name, &record)).transpose()
    }

    /// Every account by name; one in the file hides one of the same name in the store.
    ///
    /// # Errors
    /// When the store is away or holds something else among the accounts.
    pub async fn list(&self) -> Result<Vec<Account>, StoreError> {
        let file = self.file.load_full();
        let mut all = self.stored().await?;
        all.retain(|account| !file.contains_key(account.name.as_str()));
        all.extend(file.values().cloned());
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// At most `most` accounts after a name, by name, as [`Directory::list`] has them.
    ///
    /// # Errors
    /// The same.
    pub async fn page(&self, after: &str, most: usize) -> Result<Vec<Account>, StoreError> {
        let file = self.file.load_full();
        let from = Some(after).filter(|after| !after.is_empty());
        let records = self.records.list(Table::Accounts, "", from, most).await?;
        // Beyond a full page of the store there may be more of it.
        let last = records.last().filter(|_| records.len() >= most).map(|(name, _)| name.clone());
        let mut page = Vec::with_capacity(records.len());
        for (name, record) in records.iter().filter(|(name, _)| !file.contains_key(name)) {
            page.push(read(name, record)?);
        }
        let within = |name: &str| name > after && last.as_deref().is_none_or(|last| name <= last);
        page.extend(file.values().filter(|account| within(account.name.as_str())).cloned());
        page.sort_by(|one, other| one.name.cmp(&other.name));
        page.truncate(most);
        Ok(page)
    }

    /// Adds an account to the store; `created` and `origin` are set here.
    ///
    /// # Errors
    /// When its name is given to any principal or used as a role, a role of it names a principal, or the store is away.
    pub async fn add(&self, account: Account) -> Result<(), AccountError> {
        let name = account.name.to_string();
        if self.file_account(&name).is_some() || self.records.get(Table::Accounts, &name).await?.is_some() {
            return Err(AccountError::Exists(name));
        }
        if account.roles.iter().any(|role| role.as_str() == name) {
            return Err(AccountError::NameIsRole(name));
        }
        // The name may be known from before: an account that was deleted keeps its name.
        if self.is_role(&name).await? {
            return Err(AccountError::NameIsRole(name));
        }
        self.no_lookalike(&name).await?;
        self.give_roles(&account.roles).await?;
        self.admit(&name, PrincipalKind::User).await?;
        self.note_case(&name).await?;
        let account = Account { origin: Origin::Store, created: self.clock.now(), ..account };
        let json = written(&account)?;
        let put = self.records.put(Table::Accounts, &name, &json, None, Expect::Absent);
        put.await?.map(|_| ()).ok_or(AccountError::Exists(name))
    }

    /// Reads, changes, writes if unchanged (retrying); the new account. `change` may run more than once.
    ///
    /// # Errors
    /// When there is none, it is in the file, a new role names a principal, others write it all the time, or the store is away.
    pub async fn update(
        &self,
        name: &str,
        change: &(dyn Fn(&mut Account) + Send + Sync),
    ) -> Result<Account, AccountError> {
        if self.file_account(name).is_some() {
            return Err(AccountError::InFile(name.to_owned()));
        }
        for _ in 0..TRIES {
            let Some(record) = self.records.get(Table::Accounts, name).await? else {
                return Err(AccountError::Unknown(name.to_owned()));
            };
            let before = read(name, &record)?;
            let mut account = before.clone();
            change(&mut account);
            account.name = before.name.clone();
            account.origin = Origin::Store;
            let new: Vec<_> =
                account.roles.iter().filter(|role| !before.roles.contains(role)).cloned().collect();
            self.give_roles(&new).await?;
            let expect = Expect::Version(record.version);
            let json = written(&account)?;
            let put = self.records.put(Table::Accounts, name, &json, None, expect);
            if put.await?.is_some() {
                return Ok(account);
            }
        }
        Err(AccountError::Changed(name.to_owned()))
    }

    /// Deletes an account of the store. Its name stays taken for other kinds of principals.
    ///
    /// # Errors
    /// When there is none, it is in the file, or the store is away.
    pub async fn delete(&self, name: &str) -> Result<(), AccountError> {
        if self.file_account(name).is_some() {
            return Err(AccountError::InFile(name.to_owned()));
        }
        if !self.records.delete(Table::Accounts, name, Expect::Anything).await? {
            return Err(AccountError::Unknown(name.to_owned()));
        }
        self.forget_case(name).await?;
        Ok(())
    }

    /// The store, for what `identify` keeps beside accounts (counters of failed sign-ins).
    pub(crate) fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    fn file_account(&self, name: &str) -> Option<Account> {
        self.file.load().get(name).cloned()
    }

    /// The accounts of the store.
    async fn stored(&self) -> Result<Vec<Account>, StoreError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.records.list(Table::Accounts, "", after.as_deref(), PAGE).await?;
            for (name, record) in &page {
                all.push(read(name, record)?);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => return Ok(all),
            }
        }
    }
}

fn read(name: &str, record: &Record) -> Result<Account, StoreError> {
    serde_json::from_slice(&record.value)
        .map_err(|error| StoreError::Corrupt { key: format!("account {name}"), reason: error.to_string() })
}

fn written(account: &Account) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(account).map_err(|error| StoreError::Refused(error.to_string()))
}
