//! `portcullis policy`: check, test, explain and measure policies, without a node.

mod measure;
mod suite;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::{Context, Done, Failure, audit, check};
use crate::config;
use crate::decide::{self, Problem};
use crate::model::{AttributeValue, AuthMethod, Clock as _, Principal, PrincipalKind, SystemClock};
use crate::record::printable;

/// What to do with policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Report every mistake and warning.
    #[command(after_help = "Example:\n  portcullis policy check policies")]
    Check {
        /// The policy directory; by default the configuration's, or `policies`.
        dir: Option<PathBuf>,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
    },
    /// Run the policy tests.
    #[command(after_help = "Example:\n  portcullis policy test policies --coverage")]
    Test(suite::Suite),
    /// Explain one verdict: 0 when allowed, 1 when denied.
    #[command(
        after_help = "Example:\n  portcullis policy explain --sub bob --role reader --obj /orders/7 --act DELETE"
    )]
    Explain(Box<Explain>),
    /// Say how each matcher is answered: by an index of the rows, or by evaluating every row.
    #[command(after_help = "Example:\n  portcullis policy plan policies")]
    Plan {
        /// The policy directory; by default the configuration's, or `policies`.
        dir: Option<PathBuf>,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
    },
    /// Measure 100,000 decisions about requests drawn from the rows; 1 when plain casbin answers one otherwise.
    #[command(after_help = "Example:\n  portcullis -o json policy bench policies | jq .p99_ns")]
    Bench {
        /// The policy directory; by default the configuration's, or `policies`.
        dir: Option<PathBuf>,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
    },
}

/// Whose verdict on what.
#[derive(clap::Args, Debug)]
pub struct Explain {
    /// The policy directory; by default the configuration's, or `policies`.
    dir: Option<PathBuf>,
    /// Include this node's own rows.
    #[arg(long)]
    node: Option<String>,
    /// A recorded decision, by its request id: what was decided then, and what the files say now.
    #[arg(long, value_name = "ID", conflicts_with_all = ["sub", "obj", "act", "dom", "roles", "attributes", "ip", "host", "bind"])]
    request: Option<String>,
    /// The subject's name. Tokens with other names (`[policy.bind]`) are options by those names.
    #[arg(long)]
    sub: Option<String>,
    /// The object: a path.
    #[arg(long)]
    obj: Option<String>,
    /// The action: a method.
    #[arg(long)]
    act: Option<String>,
    /// A token with another name.
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    bind: Vec<String>,
    /// The tenant.
    #[arg(long)]
    dom: Option<String>,
    /// A role that the subject carries; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// An attribute; may be repeated.
    #[arg(long = "attr", value_name = "KEY=VALUE")]
    attributes: Vec<String>,
    /// The client's address.
    #[arg(long)]
    ip: Option<IpAddr>,
    /// The host.
    #[arg(long, default_value = "localhost")]
    host: String,
}

/// Runs the command.
pub fn run(context: &Context, command: &PolicyCommand) -> Done {
    match command {
        PolicyCommand::Check { dir, node } => {
            let (dir, settings) = scope(context, dir.as_deref(), node.as_deref())?;
            let problems = decide::check(&dir, &settings, true);
            check::report(context, &as_json(&problems), "nothing would be loaded")
        }
        PolicyCommand::Test(suite) => suite::run(context, suite),
        PolicyCommand::Explain(explain) => explained(context, explain),
        PolicyCommand::Plan { dir, node } => measure::plan(context, dir.as_deref(), node.as_deref()),
        PolicyCommand::Bench { dir, node } => measure::bench(context, dir.as_deref(), node.as_deref()),
    }
}

fn explained(context: &Context, explain: &Explain) -> Done {
    let Explain { dir, node, request, sub, obj, act, dom, roles, attributes, ip, host, bind } = explain;
    let (dir, settings) = scope(context, dir.as_deref(), node.as_deref())?;
    if let Some(id) = request {
        return recorded(context, &dir, &settings, id);
    }
    let token = |name: &str, given: &Option<String>| named(&settings.bind, bind, name, given.as_deref());
    if let Some(unknown) = bind.iter().find(|one| !settings.bind.contains_key(left(one))) {
        let name = left(unknown);
        return Err(Failure::usage(format!(
            "`--{name}` is neither an option nor a token that [policy.bind] names"
        )));
    }
    let required =
        |name: &str, given| token(name, given).ok_or_else(|| Failure::usage(format!("--{name} is required")));
    let sub = required("sub", sub)?;
    let mut principal = Principal::new(sub.as_str(), kind(&sub), AuthMethod::None);
    principal.roles = roles.iter().map(|role| Arc::from(role.as_str())).collect();
    principal.tenant = token("dom", dom).map(Arc::from);
    for attribute in attributes {
        let (key, value) = attribute
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`{attribute}` is not KEY=VALUE")))?;
        principal.attributes.0.insert(key.to_owned(), AttributeValue::from_text(value));
    }
    let query = decide::Query {
        principal,
        object: required("obj", obj)?,
        action: required("act", act)?,
        host: host.clone(),
        ip: *ip,
        secure: true,
        at: SystemClock.now(),
    };
    let explanation = decide::explain(&dir, &settings, &query).map_err(|p| unusable(&p))?;
    let document = serde_json::to_value(&explanation).unwrap_or_default();
    context.print(&document, &shown(&explanation.to_string()));
    if explanation.allows() { Ok(()) } else { Err(Failure::no("")) }
}

/// Safe for a terminal, and in its colours.
fn shown(text: &str) -> String {
    audit::line::painted(&text.lines().map(printable).collect::<Vec<_>>().join("\n"))
}

/// A recorded decision, then and by the files here.
fn recorded(context: &Context, dir: &Path, settings: &decide::Settings, id: &str) -> Done {
    let found = audit::recalled(context, id)?;
    let asked: Vec<_> =
        found.into_iter().filter_map(|one| Some((one.query?, one.event, one.notes))).collect();
    if asked.is_empty() {
        let message =
            format!("the policy was not asked for request {id}; `portcullis why {id}` says what happened");
        return Err(Failure::no(message));
    }
    let mut allowed = true;
    for (query, event, notes) in asked {
        let now = decide::explain(dir, settings, &query).map_err(|p| unusable(&p))?;
        allowed &= now.allows();
        let member = |name: &str| event.get(name).cloned().unwrap_or_default();
        let mut document = serde_json::to_value(&now).unwrap_or_default();
        if let Some(members) = document.as_object_mut() {
            let then = json!({
                "time": member("time"), "decision": member("decision"), "reason": member("reason"), "rule": member("rule"),
                "roles": event.pointer("/principal/roles"), "digest": member("policy"),
            });
            members.insert("then".to_owned(), then);
            members.insert("notes".to_owned(), json!(notes));
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("-");
        let same = if text("policy") == now.digest { "the same files" } else { "other files" };
        let mut said = format!(
            "{now}  then    {}, by policy {} ({same}), {}\n",
            audit::decided(&event),
            text("policy"),
            text("time")
        );
        notes.iter().for_each(|note| said.push_str(&format!("  note    {note}\n")));
        context.print(&document, &shown(&said));
    }
    if allowed { Ok(()) } else { Err(Failure::no("")) }
}

/// What was given for a token, by its own name or by one that is bound to it.
fn named(
    names: &BTreeMap<String, String>,
    given: &[String],
    token: &str,
    own: Option<&str>,
) -> Option<String> {
    let bound = given.iter().filter_map(|one| one.split_once('='));
    let mut bound = bound.filter(|(name, _)| names.get(*name).is_some_and(|to| to == token));
    own.or_else(|| bound.next().map(|(_, value)| value)).map(str::to_owned)
}

fn left(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// The directory, and what the configuration says of it: where the directory is the configuration's, other names of
/// tokens, which roles count and whose names may not be roles are the same as for a node.
///
/// # Errors
/// When the configuration has mistakes, and was named or is to say which directory.
fn scope(
    context: &Context,
    dir: Option<&Path>,
    node: Option<&str>,
) -> Result<(PathBuf, decide::Settings), Failure> {
    let plain = || (dir.unwrap_or(Path::new("policies")).to_owned(), decide::Settings::plain(node));
    let (named, there) = (context.config_given, context.config.exists());
    let loaded = match context.load() {
        Ok(loaded) => loaded,
        Err(failure) if (named && there) || (dir.is_none() && (named || there)) => return Err(failure),
        Err(_) => return Ok(plain()),
    };
    let directory = &loaded.config.policy.directory;
    let same = |dir: &Path| match (dir.canonicalize(), directory.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    if dir.is_some_and(|dir| !same(dir)) {
        return Ok(plain());
    }
    Ok((dir.unwrap_or(directory).to_owned(), settings(&loaded, node)))
}

/// What a loaded configuration says of its policy directory.
pub fn settings(loaded: &config::Loaded, node: Option<&str>) -> decide::Settings {
    let config = &loaded.config;
    let mut names: HashSet<String> = loaded.accounts.iter().map(|account| account.name.to_string()).collect();
    names.extend(config.clients.iter().map(|client| format!("client:{}", client.id)));
    names.extend(config.certificate_principals.iter().map(|rule| rule.name.clone()));
    decide::Settings::of(&config.policy, node, Arc::new(move |name| names.contains(name)))
}

fn kind(name: &str) -> PrincipalKind {
    match name {
        "anonymous" => PrincipalKind::Anonymous,
        name if name.starts_with("client:") => PrincipalKind::Client,
        _ => PrincipalKind::User,
    }
}

fn as_json(problems: &[Problem]) -> Vec<Value> {
    problems.iter().map(|problem| serde_json::to_value(problem).unwrap_or_default()).collect()
}

fn unusable(problems: &[Problem]) -> Failure {
    let lines: Vec<_> = problems.iter().map(|p| format!("{}:{}: {}", p.file, p.line, p.message)).collect();
    Failure { code: 2, name: "policy", message: lines.join("\n") }
}
