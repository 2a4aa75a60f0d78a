//! Names of accounts and roles (`docs/principals.md`): one name space, parsed once.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Account names.
    #[error(
        "`{0}` is not an account name: 1 to 128 letters, digits and `.` `_` `@` `+` `-`, beginning with a letter or digit"
    )]
    Username(String),
    /// Role names.
    #[error("`{0}` is not a role name: 1 to 64 letters, digits and `_` `.` `:` `/` `-`")]
    Role(String),
    /// Roles that look like operators'.
    #[error(
        "`{0}` is no operator's role; there are portcullis:viewer, portcullis:operator and portcullis:administrator"
    )]
    Operator(String),
    /// Names that mean something else already.
    #[error("`{0}` is reserved and cannot name an account")]
    Reserved(String),
}

/// The name of an account: no `:`, which separates the kinds of other principals (`client:pep`, `corp:1234`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Username(Arc<str>);

impl Username {
    /// Checks and wraps the name; exact, case counts.
    ///
    /// # Errors
    /// When a character, the length or a reserved name forbids it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._@+-".contains(b);
        let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        if !first || bytes.len() > 128 || !bytes.iter().all(allowed) {
            return Err(NameError::Username(text.chars().take(128).collect()));
        }
        if text == "anonymous" {
            return Err(NameError::Reserved(text.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl<'de> Deserialize<'de> for Username {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The name of a role as accounts, mappings and tokens carry it. Policy files may use any text that casbin takes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoleName(Arc<str>);

impl RoleName {
    /// Checks and wraps the name.
    ///
    /// # Errors
    /// When a character or the length forbids it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(NameError::Role(text.chars().take(64).collect()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Fails for a role that looks like an operator's and is none: whoever gave it meant something that it does not do.
    ///
    /// # Errors
    /// With the roles that there are.
    pub fn check_operator(&self) -> Result<(), NameError> {
        let known =
            matches!(self.as_str(), "portcullis:viewer" | "portcullis:operator" | "portcullis:administrator");
        if self.is_operator() && !known {
            return Err(NameError::Operator(self.to_string()));
        }
        Ok(())
    }

    /// Roles of operators (`portcullis:viewer`, `:operator`, `:administrator`): given by `user set` or the accounts file alone.
    pub fn is_operator(&self) -> bool {
        is_operator_role(&self.0)
    }
}

/// The same for a text of a policy file, which may be no [`RoleName`].
pub fn is_operator_role(role: &str) -> bool {
    role.starts_with("portcullis:")
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_names_cannot_look_like_other_principals() {
        for bad in ["", "client:x", "a b", "-a", "anonymous", "é", "a\n", &"a".repeat(129)] {
            assert!(Username::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Username::parse("alice@example.com").is_ok());
    }

    #[test]
    fn role_names_have_no_comma() {
        assert!(RoleName::parse("x,admin").is_err());
        assert!(RoleName::parse("sales-eu").is_ok());
        assert!(RoleName::parse("portcullis:viewer").is_ok_and(|r| r.is_operator()));
        assert!(RoleName::parse("portcullis:viewer").is_ok_and(|r| r.check_operator().is_ok()));
        assert!(RoleName::parse("portcullis:root").is_ok_and(|r| r.check_operator().is_err()));
        assert!(RoleName::parse("reader").is_ok_and(|r| r.check_operator().is_ok()));
    }
}
