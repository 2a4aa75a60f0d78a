//! `portcullis user`: accounts.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Map, Value, json};

use super::node::{Node, segment, with};
use super::{Context, Done, Failure, one_line, table};
use crate::model::{AttributeValue, RoleName, Username};

/// What to do with accounts.
#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// Add an account.
    #[command(
        after_help = "Example:\n  portcullis user add alice --role reader --attr department=sales --password-stdin < password"
    )]
    Add(Add),
    /// List the accounts.
    #[command(after_help = "Example:\n  portcullis -o json user list | jq -r '.[].name'")]
    List,
    /// Show an account.
    #[command(after_help = "Example:\n  portcullis user show alice")]
    Show {
        /// Its name.
        name: String,
    },
    /// Change an account's roles, attributes, address or tenant; ends everything that it holds.
    #[command(after_help = "Example:\n  portcullis user set alice --role reader --role portcullis:viewer")]
    Set(Set),
    /// Set a new password.
    #[command(
        after_help = "Example:\n  printf '%s\\n' \"$PASSWORD\" | portcullis user passwd alice --password-stdin"
    )]
    Passwd {
        /// Its name.
        name: String,
        /// Read the password from standard input, one line.
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Refuse sign-in and end everything that the account holds.
    #[command(after_help = "Example:\n  portcullis user disable alice")]
    Disable {
        /// Its name.
        name: String,
    },
    /// Let a disabled account sign in again.
    #[command(after_help = "Example:\n  portcullis user enable alice")]
    Enable {
        /// Its name.
        name: String,
    },
    /// Forget an account's failed sign-ins, so that it may try again at once.
    #[command(after_help = "Example:\n  portcullis user unlock alice")]
    Unlock {
        /// Its name.
        name: String,
    },
    /// Delete an account and end everything that it holds.
    #[command(after_help = "Example:\n  portcullis user delete alice")]
    Delete {
        /// Its name.
        name: String,
    },
}

/// A new account.
#[derive(Args, Debug)]
pub struct Add {
    /// Its name.
    name: String,
    /// A role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// An attribute; may be repeated.
    #[arg(long = "attr", value_name = "KEY=VALUE")]
    attributes: Vec<String>,
    /// The tenant (`dom` in policies).
    #[arg(long)]
    tenant: Option<String>,
    /// An e-mail address, taken as verified.
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input, one line.
    #[arg(long)]
    password_stdin: bool,
    /// Succeed when the account exists already, and leave it as it is.
    #[arg(long)]
    if_missing: bool,
}

/// What changes of an account.
#[derive(Args, Debug)]
pub struct Set {
    /// Its name.
    name: String,
    /// A role; repeated ones replace all.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// An attribute; repeated ones replace all.
    #[arg(long = "attr", value_name = "KEY=VALUE")]
    attributes: Vec<String>,
    /// The tenant (`dom` in policies).
    #[arg(long)]
    tenant: Option<String>,
    /// An e-mail address, taken as verified.
    #[arg(long)]
    email: Option<String>,
    /// The address is not known to be theirs: it is not passed on.
    #[arg(long)]
    email_unverified: bool,
    /// Remove what it has of this; may be repeated.
    #[arg(long, value_enum, value_name = "WHAT")]
    clear: Vec<Clear>,
}

/// What can be removed from an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Clear {
    Roles,
    #[value(name = "attrs")]
    Attributes,
    Tenant,
    Email,
}

/// Runs the command.
pub fn run(context: &Context, command: &UserCommand) -> Done {
    match command {
        UserCommand::Add(add) => added(context, add),
        UserCommand::List => list(context),
        UserCommand::Show { name } => show(context, Method::GET, &path(name), None),
        UserCommand::Set(set) => patch(context, &set.name, &changes(set)?),
        UserCommand::Passwd { name, .. } => patch(context, name, &json!({"password": password()?})),
        UserCommand::Disable { name } => patch(context, name, &json!({"disabled": true})),
        UserCommand::Enable { name } => patch(context, name, &json!({"disabled": false})),
        UserCommand::Unlock { name } => show(context, Method::POST, &format!("{}/unlock", path(name)), None),
        UserCommand::Delete { name } => {
            with(context, async |node: &Node<'_>| node.call(Method::DELETE, &path(name), None).await)?;
            context.print(&json!({"name": name, "deleted": true}), &format!("deleted {name}\n"));
            Ok(())
        }
    }
}

fn added(context: &Context, add: &Add) -> Done {
    Username::parse(&add.name).map_err(|error| Failure::usage(error.to_string()))?;
    let mut body = Map::new();
    body.insert("name".into(), json!(add.name));
    check_roles(&add.roles)?;
    body.insert("roles".into(), json!(add.roles));
    body.insert("attributes".into(), parsed(&add.attributes)?);
    body.insert("tenant".into(), json!(add.tenant));
    body.insert("email".into(), json!(add.email));
    body.insert("email_verified".into(), json!(add.email.is_some()));
    if add.password_stdin {
        body.insert("password".into(), json!(password()?));
    }
    let body = Value::Object(body);
    let account = with(context, async |node: &Node<'_>| {
        match node.json(Method::POST, "/api/v1/users", Some(&body)).await {
            Err(failure) if failure.name == "conflict" && add.if_missing => {
                node.json(Method::GET, &path(&add.name), None).await
            }
            other => other,
        }
    })?;
    print(context, &account);
    Ok(())
}

fn changes(set: &Set) -> Result<Value, Failure> {
    let mut body = Map::new();
    if !set.roles.is_empty() {
        check_roles(&set.roles)?;
        body.insert("roles".into(), json!(set.roles));
    }
    if !set.attributes.is_empty() {
        body.insert("attributes".into(), parsed(&set.attributes)?);
    }
    if let Some(tenant) = &set.tenant {
        body.insert("tenant".into(), json!(tenant));
    }
    if let Some(email) = &set.email {
        body.insert("email".into(), json!(email));
        body.insert("email_verified".into(), json!(!set.email_unverified));
    } else if set.email_unverified {
        body.insert("email_verified".into(), json!(false));
    }
    for clear in &set.clear {
        let (member, empty, flag) = match clear {
            Clear::Roles => ("roles", json!([]), "--role"),
            Clear::Attributes => ("attributes", json!({}), "--attr"),
            Clear::Tenant => ("tenant", Value::Null, "--tenant"),
            Clear::Email => ("email", Value::Null, "--email"),
        };
        if body.insert(member.into(), empty).is_some() {
            return Err(Failure::usage(format!("{flag} and --clear of the same: give one of them")));
        }
    }
    if body.is_empty() {
        let message = "nothing to set: give --role, --attr, --tenant, --email, --email-unverified or --clear";
        return Err(Failure::usage(message));
    }
    Ok(Value::Object(body))
}

fn path(name: &str) -> String {
    format!("/api/v1/users/{}", segment(name))
}

fn patch(context: &Context, name: &str, body: &Value) -> Done {
    show(context, Method::PATCH, &path(name), Some(body))
}

fn show(context: &Context, method: Method, path: &str, body: Option<&Value>) -> Done {
    let account = with(context, async |node: &Node<'_>| node.json(method, path, body).await)?;
    print(context, &account);
    Ok(())
}

fn check_roles(roles: &[String]) -> Done {
    roles
        .iter()
        .try_for_each(|role| RoleName::parse(role).map(drop))
        .map_err(|e| Failure::usage(e.to_string()))
}

fn password() -> Result<String, Failure> {
    one_line().map_err(|error| Failure::usage(format!("the password on standard input: {error}")))
}

fn parsed(attributes: &[String]) -> Result<Value, Failure> {
    let mut object = Map::new();
    for attribute in attributes {
        let (key, value) = attribute
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::usage(format!("`{attribute}` is not KEY=VALUE")))?;
        object.insert(key.to_owned(), json!(AttributeValue::from_text(value)));
    }
    Ok(Value::Object(object))
}

fn list(context: &Context) -> Done {
    let accounts =
        with(context, async |node: &Node<'_>| node.json(Method::GET, "/api/v1/users", None).await)?;
    let mut rows = vec![["NAME", "ROLES", "STATE", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(accounts.as_array().into_iter().flatten().map(row));
    context.print(&accounts, &table(&rows));
    Ok(())
}

fn row(account: &Value) -> Vec<String> {
    let text = |key: &str| account.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    vec![text("name"), list_of(account, "roles"), state(account).to_owned(), text("origin")]
}

fn state(account: &Value) -> &'static str {
    let is = |key: &str| account.get(key).and_then(Value::as_bool).unwrap_or(false);
    match (is("disabled"), is("password")) {
        (true, _) => "disabled",
        (false, true) => "active",
        (false, false) => "no password",
    }
}

fn list_of(value: &Value, key: &str) -> String {
    let items = value.get(key).and_then(Value::as_array);
    let texts: Vec<_> = items.into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(", ") }
}

fn print(context: &Context, account: &Value) {
    let text = |key: &str| account.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
    let attributes = account.get("attributes").and_then(Value::as_object);
    let attributes: Vec<_> =
        attributes.into_iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
    let verified = account.get("email_verified").and_then(Value::as_bool).unwrap_or(false);
    let email = match text("email") {
        none if none == "-" => none,
        email if verified => email,
        email => format!("{email} (not verified)"),
    };
    let rows = [
        ("name", text("name")),
        ("roles", list_of(account, "roles")),
        ("attributes", if attributes.is_empty() { "-".to_owned() } else { attributes.join(", ") }),
        ("tenant", text("tenant")),
        ("email", email),
        ("state", state(account).to_owned()),
        ("created", text("created")),
        ("password set", text("password_changed")),
        ("kept in", text("origin")),
    ];
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    context.print(account, &table(&rows));
}
