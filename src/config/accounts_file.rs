//! The accounts file (`[accounts] file`): accounts under version control, with password hashes only.
//!
//! Read by `load` at start and at every reload; the accounts then go to `accounts::Directory::adopt_file_accounts`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use argon2::password_hash::phc::PasswordHash;

use super::fields::non_empty;
use super::load::{read, syntax};
use super::problem::Problem;
use super::reader::{Context, Section};
use super::tree;
use crate::model::{Account, Origin};
use crate::model::{RoleName, Timestamp, Username};

/// Reads the accounts of a file.
///
/// # Errors
/// Every mistake in it, with its line.
pub fn load(path: &Path) -> Result<Vec<Account>, Vec<Problem>> {
    let text = read(path).map_err(|problem| vec![problem])?;
    parse(path, &text)
}

/// Reads the accounts of a text that stands in `path`.
///
/// # Errors
/// Every mistake in it, with its line.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Account>, Vec<Problem>> {
    let root = tree::parse(text).map_err(|errors| syntax(path, errors))?;
    let mut context = Context::new(path, Default::default());
    let accounts = context.read(root, |s| s.tables("user", "An account.", account));
    names(&accounts, &mut context);
    let problems = context.take_problems();
    let accounts: Vec<Account> = accounts.into_iter().flatten().collect();
    if problems.is_empty() { Ok(accounts) } else { Err(problems) }
}

fn account(s: &mut Section<'_>) -> Option<Account> {
    let refused = "is not taken here: passwords are never in a file; `password_hash` takes an Argon2 hash";
    for key in ["password", "password_file"] {
        s.refuse(key, &format!("`{key}` {refused}"));
    }
    let name = s.required("name", "text", None, "The name.", |text| {
        Username::parse(text).map(Some).map_err(|error| error.to_string())
    });
    let password_hash = s.hidden("password_hash", "Argon2 hash (PHC string).", hash);
    let roles = s.list("roles", "list of roles", &[], "Roles; operators' ones too.", |text| {
        let role = RoleName::parse(text).map_err(|error| error.to_string())?;
        role.check_operator().map_err(|error| error.to_string())?;
        Ok(role)
    });
    let attributes = s.attributes("attributes", "Attributes for policies.");
    let tenant = s.optional("tenant", "text", "The tenant (`dom`).", non_empty);
    let email = s.optional("email", "text", "The e-mail address.", email);
    let email_verified = s.boolean("email_verified", false, "Whether the address is known to be theirs.");
    let disabled = s.boolean("disabled", false, "Whether nobody can sign in with it.");
    if email_verified && email.is_none() {
        s.problem("email_verified", "`email_verified` needs an `email`");
    }
    Some(Account {
        name: name?,
        password_hash,
        roles,
        attributes,
        tenant,
        email,
        email_verified,
        disabled,
        created: Timestamp::default(),
        password_changed: None,
        origin: Origin::File,
    })
}

/// Names are unique, and none is a role at the same time.
fn names(accounts: &[Option<Account>], context: &mut Context) {
    let all: BTreeSet<&str> = accounts.iter().flatten().map(|account| account.name.as_str()).collect();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (index, account) in accounts.iter().enumerate() {
        let Some(account) = account else { continue };
        let name = account.name.as_str();
        match seen.insert(name.to_ascii_lowercase(), name) {
            Some(same) if same == name => {
                let message = format!("there are two accounts `{name}`; names are unique");
                context.problem(&format!("user[{index}].name"), message);
            }
            Some(other) => {
                let message = format!(
                    "`{name}` and `{other}` differ in case alone; upstreams that ignore case would take one for the other"
                );
                context.problem(&format!("user[{index}].name"), message);
            }
            None => {}
        }
        for role in &account.roles {
            if all.contains(role.as_str()) || role.as_str() == "anonymous" {
                let message = format!("role `{role}` has the name of an existing principal");
                context.problem(&format!("user[{index}].roles"), message);
            }
        }
    }
}

/// Takes an Argon2id hash and nothing else; the message never holds the text, which may be a password.
fn hash(text: &str) -> Result<String, String> {
    let wrong =
        "is not an Argon2id hash (`$argon2id$v=19$m=19456,t=2,p=1$…$…`); passwords are never in a file";
    let hash = PasswordHash::new(text).map_err(|_| wrong.to_owned())?;
    match hash.algorithm.as_str() {
        "argon2id" => {}
        // Names of algorithms say nothing of a password.
        known @ ("argon2i" | "argon2d" | "scrypt" | "pbkdf2-sha256" | "pbkdf2-sha512" | "2a" | "2b"
        | "2y") => {
            return Err(format!("is a hash by {known}; only argon2id counts here, so set the password anew"));
        }
        _ => return Err(wrong.to_owned()),
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(wrong.to_owned());
    }
    let params = argon2::Params::try_from(&hash);
    let params = params.map_err(|_| "has parameters that Argon2 does not take".to_owned())?;
    if params.m_cost() > 4 << 20 || params.t_cost() > 1000 || params.p_cost() > 64 {
        return Err("costs more than 4GiB, 1000 passes or 64 lanes".to_owned());
    }
    Ok(text.to_owned())
}

fn email(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic());
    match text.split_once('@') {
        Some((local, domain)) if plain && !local.is_empty() && domain.contains(|c| c != '@') => {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{text}` is not an e-mail address")),
    }
}
