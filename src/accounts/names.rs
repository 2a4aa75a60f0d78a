//! The one name space of principals: which names are given, and which are used as roles.
//!
//! Both facts are markers in [`Table::Principals`]: `name/<name>` holds the kind, `role/<role>` says that an account
//! carries the role; `case/<name in lower case>` holds how the account with that name writes it. A name is marked before the role's marker is looked for, and the other way round, so that of two
//! nodes that give the same text as a name and as a role at once at most one succeeds.

use super::{AccountError, Directory};
use crate::model::PrincipalKind;
use crate::store::{Expect, StoreError, Table};

fn name_key(name: &str) -> String {
    format!("name/{name}")
}

fn role_key(role: &str) -> String {
    format!("role/{role}")
}

/// Account names are ASCII, so that case is the only way in which two of them look alike.
fn case_key(name: &str) -> String {
    format!("case/{}", name.to_ascii_lowercase())
}

impl Directory {
    /// Registers a principal that was seen for the first time (`corp:1234`, `client:pep`, certificates): refused when
    /// its name is used as a role or belongs to a principal of another kind. Names seen before always pass.
    ///
    /// # Errors
    /// [`AccountError::NameIsRole`], [`AccountError::Exists`] (another kind has the name), or the store is away.
    pub async fn admit(&self, name: &str, kind: PrincipalKind) -> Result<(), AccountError> {
        if name.is_empty() || name == "anonymous" || kind == PrincipalKind::Anonymous {
            return Err(AccountError::NameIsRole(name.to_owned()));
        }
        if kind != PrincipalKind::User && self.file_account(name).is_some() {
            return Err(AccountError::Exists(name.to_owned()));
        }
        let key = name_key(name);
        let put = self.records.put(Table::Principals, &key, kind.as_str().as_bytes(), None, Expect::Absent);
        if put.await?.is_none() {
            let seen = self.records.get(Table::Principals, &key).await?;
            let same = seen.is_none_or(|record| record.value == kind.as_str().as_bytes());
            return if same { Ok(()) } else { Err(AccountError::Exists(name.to_owned())) };
        }
        if self.is_role(name).await? {
            self.records.delete(Table::Principals, &key, Expect::Anything).await?;
            return Err(AccountError::NameIsRole(name.to_owned()));
        }
        Ok(())
    }

    /// True when a principal of that name exists: policy loading refuses `g` rows that use it as a role.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn principal_exists(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.file_account(name).is_some() || self.name_is_given(name).await?)
    }

    /// True when policies, the configuration, or an account use the name as a role.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn is_role(&self, name: &str) -> Result<bool, StoreError> {
        if self.policy_roles.load().contains(name) || self.configured_roles.load().contains(name) {
            return Ok(true);
        }
        let key = role_key(name);
        let marked = self.records.get(Table::Principals, &key).await?;
        let in_file = self.file.load().values().any(|account| carries(account, name));
        if in_file || marked.is_none() {
            return Ok(in_file);
        }
        self.is_role_in_store(name).await
    }

    /// True when an account of the store carries the role; removes the marker when none does any longer.
    async fn is_role_in_store(&self, name: &str) -> Result<bool, StoreError> {
        let key = role_key(name);
        let marked = self.records.get(Table::Principals, &key).await?;
        if marked.is_none() {
            return Ok(false);
        }
        if self.stored().await?.iter().any(|account| carries(account, name)) {
            return Ok(true);
        }
        // The last account that had the role lost it.
        if let Some(record) = marked {
            self.records.delete(Table::Principals, &key, Expect::Version(record.version)).await?;
        }
        Ok(false)
    }

    /// True when a principal of that name was seen, whatever the accounts file says.
    pub(super) async fn name_is_given(&self, name: &str) -> Result<bool, StoreError> {
        Ok(name == "anonymous"
            || self.records.get(Table::Principals, &name_key(name)).await?.is_some()
            || self.records.get(Table::Accounts, name).await?.is_some())
    }

    /// Whether the store leaves the name to an account of the file.
    pub(super) async fn may_name_an_account(&self, name: &str) -> Result<(), AccountError> {
        match self.records.get(Table::Principals, &name_key(name)).await? {
            Some(record) if record.value == PrincipalKind::User.as_str().as_bytes() => {}
            Some(_) => return Err(AccountError::Exists(name.to_owned())),
            None if self.is_role_in_store(name).await? => {
                return Err(AccountError::NameIsRole(name.to_owned()));
            }
            None => {}
        }
        self.no_lookalike(name).await
    }

    /// Marks name and roles of an account of the file as given, for every node.
    pub(super) async fn register(&self, account: &super::Account) -> Result<(), AccountError> {
        let kind = PrincipalKind::User.as_str().as_bytes();
        let roles = account.roles.iter().map(|role| (role_key(role.as_str()), b"role".as_slice()));
        for (key, value) in std::iter::once((name_key(account.name.as_str()), kind)).chain(roles) {
            // Reading is cheap, and nearly always enough.
            if self.records.get(Table::Principals, &key).await?.is_none() {
                self.records.put(Table::Principals, &key, value, None, Expect::Absent).await?;
            }
        }
        Ok(())
    }

    /// Refuses a name that differs from an account's in case alone.
    pub(super) async fn no_lookalike(&self, name: &str) -> Result<(), AccountError> {
        let other = |other: &str| AccountError::Lookalike(name.to_owned(), other.to_owned());
        let file = self.file.load();
        let mut twins = file.keys().filter(|known| known.eq_ignore_ascii_case(name) && *known != name);
        if let Some(twin) = twins.next() {
            return Err(other(twin));
        }
        match self.records.get(Table::Principals, &case_key(name)).await? {
            Some(record) if record.value != name.as_bytes() => {
                Err(other(&String::from_utf8_lossy(&record.value)))
            }
            _ => Ok(()),
        }
    }

    /// Notes how an account of the store writes its name; of two that differ in case alone the first one stays.
    pub(super) async fn note_case(&self, name: &str) -> Result<(), AccountError> {
        let (key, value) = (case_key(name), name.as_bytes());
        if self.records.put(Table::Principals, &key, value, None, Expect::Absent).await?.is_none() {
            self.no_lookalike(name).await?;
        }
        Ok(())
    }

    /// Leaves the name's other spellings to others.
    pub(super) async fn forget_case(&self, name: &str) -> Result<(), StoreError> {
        self.records.delete(Table::Principals, &case_key(name), Expect::Anything).await.map(drop)
    }

    /// Marks that accounts carry these roles from now on; refused when one is a principal's name.
    pub(super) async fn give_roles(&self, roles: &[crate::model::RoleName]) -> Result<(), AccountError> {
        for role in roles {
            let key = role_key(role.as_str());
            self.records.put(Table::Principals, &key, b"role", None, Expect::Anything).await?;
            if self.principal_exists(role.as_str()).await? {
                return Err(AccountError::RoleIsName(role.as_str().to_owned()));
            }
        }
        Ok(())
    }
}

fn carries(account: &super::Account, role: &str) -> bool {
    account.roles.iter().any(|carried| carried.as_str() == role)
}
