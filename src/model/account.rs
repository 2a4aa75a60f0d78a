//! An account of a person, wherever it is kept.

use serde::{Deserialize, Serialize};

use super::{Attributes, RoleName, Timestamp, Username};

/// Where an account is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The store
    Store,
    /// The accounts file: read-only here
    File,
}

/// An account.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Account {
    /// Unique over all kinds of principals.
    pub name: Username,
    /// PHC string (Argon2id); absent: cannot sign in with a password.
    pub password_hash: Option<String>,
    /// Roles that it carries, besides those of the policy files.
    pub roles: Vec<RoleName>,
    /// Attributes for policies.
    pub attributes: Attributes,
    /// `dom` in policies.
    pub tenant: Option<String>,
    /// Passed on only when verified.
    pub email: Option<String>,
    /// True once the address was proved.
    pub email_verified: bool,
    /// True: cannot sign in, and what was issued is refreshed no more.
    pub disabled: bool,
    /// When it was added.
    pub created: Timestamp,
    /// When the password was last set.
    pub password_changed: Option<Timestamp>,
    /// Where it is kept.
    pub origin: Origin,
}
