//! `portcullis user`: accounts, through the node's admin API.

use std::io::BufRead as _;

use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::node::{Node, block_on};
use super::{Context, Done, Failure, Output};
use crate::model::AttributeValue;

/// What to do with accounts.
#[derive(Subcommand, Debug)]
pub enum UserCommand {
    /// Add an account.
    Add {
        /// Its name.
        name: String,
        /// A role; may be repeated.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// An attribute; may be repeated.
        #[arg(long = "attr", value_name = "KEY=VALUE")]
        attributes: Vec<String>,
        /// An e-mail address, taken as verified.
        #[arg(long)]
        email: Option<String>,
        /// Read the password from standard input, one line.
        #[arg(long)]
        password_stdin: bool,
        /// Succeed when the account exists already.
        #[arg(long)]
        if_missing: bool,
    },
    /// List the accounts.
    List,
    /// Show an account.
    Show {
        /// Its name.
        name: String,
    },
    /// Replace an account's roles or attributes.
    Set {
        /// Its name.
        name: String,
        /// A role; repeated ones replace all.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// An attribute; repeated ones replace all.
        #[arg(long = "attr", value_name = "KEY=VALUE")]
        attributes: Vec<String>,
    },
    /// Set a new password.
    Passwd {
        /// Its name.
        name: String,
        /// Read the password from standard input, one line.
        #[arg(long, required = true)]
        password_stdin: bool,
    },
    /// Refuse sign-in and end everything that the account holds.
    Disable {
        /// Its name.
        name: String,
    },
    /// Let a disabled account sign in again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Delete an account.
    Delete {
        /// Its name.
        name: String,
    },
}

/// Runs the command.
pub fn run(context: &Context, command: &UserCommand) -> Done {
    let node = Node::find(context)?;
    match command {
        UserCommand::Add { name, roles, attributes, email, password_stdin, if_missing } => {
            let mut body = Map::new();
            body.insert("name".into(), json!(name));
            body.insert("roles".into(), json!(roles));
            body.insert("attributes".into(), parsed(attributes)?);
            if let Some(email) = email {
                body.insert("email".into(), json!(email));
                body.insert("email_verified".into(), json!(true));
            }
            if *password_stdin {
                body.insert("password".into(), json!(password()?));
            }
            let added = block_on(node.call(Method::POST, "/api/v1/users", Some(&Value::Object(body))));
            match added {
                Err(failure) if failure.code == 1 && *if_missing => Ok(()),
                other => shown(context, &other?),
            }
        }
        UserCommand::List => list(context, &block_on(node.call(Method::GET, "/api/v1/users", None))?),
        UserCommand::Show { name } => shown(context, &block_on(node.call(Method::GET, &path(name), None))?),
        UserCommand::Set { name, roles, attributes } => {
            let mut body = Map::new();
            if !roles.is_empty() {
                body.insert("roles".into(), json!(roles));
            }
            if !attributes.is_empty() {
                body.insert("attributes".into(), parsed(attributes)?);
            }
            if body.is_empty() {
                return Err(Failure::usage("nothing to set: give --role or --attr"));
            }
            patch(context, &node, name, &Value::Object(body))
        }
        UserCommand::Passwd { name, .. } => patch(context, &node, name, &json!({"password": password()?})),
        UserCommand::Disable { name } => patch(context, &node, name, &json!({"disabled": true})),
        UserCommand::Enable { name } => patch(context, &node, name, &json!({"disabled": false})),
        UserCommand::Delete { name } => block_on(node.call(Method::DELETE, &path(name), None)).map(drop),
    }
}

fn path(name: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/v1/users/{name}")
}

fn patch(context: &Context, node: &Node, name: &str, body: &Value) -> Done {
    shown(context, &block_on(node.call(Method::PATCH, &path(name), Some(body)))?)
}

fn password() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn parsed(attributes: &[String]) -> Result<Value, Failure> {
    let mut object = Map::new();
    for attribute in attributes {
        let (key, value) = attribute
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`{attribute}` is not KEY=VALUE")))?;
        object.insert(key.to_owned(), json!(AttributeValue::from_text(value)));
    }
    Ok(Value::Object(object))
}

fn shown(context: &Context, text: &str) -> Done {
    let account: Value = serde_json::from_str(text).unwrap_or_default();
    context.print(&account, &format!("{}\n", line(&account)));
    Ok(())
}

fn list(context: &Context, text: &str) -> Done {
    let accounts: Value = serde_json::from_str(text).unwrap_or_default();
    if context.output == Output::Json {
        println!("{accounts}");
        return Ok(());
    }
    for account in accounts.as_array().into_iter().flatten() {
        println!("{}", line(account));
    }
    Ok(())
}

fn line(account: &Value) -> String {
    let text = |key: &str| account.get(key).and_then(Value::as_str).unwrap_or("");
    let roles: Vec<_> = account
        .get("roles")
        .and_then(Value::as_array)
        .map(|roles| roles.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let disabled = account.get("disabled").and_then(Value::as_bool).unwrap_or(false);
    let state = if disabled { "  disabled" } else { "" };
    format!("{:<20} {}{state}", text("name"), roles.join(", "))
}
