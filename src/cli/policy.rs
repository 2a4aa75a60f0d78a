//! `portcullis policy`: check, test and explain policies, without a node.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, Done, Failure, Output, check, emit};
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
    Test {
        /// The policy directory; by default the configuration's, or `policies`.
        dir: Option<PathBuf>,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
        /// Only cases whose name contains this.
        #[arg(long)]
        filter: Option<String>,
        /// Show the rows that decided in no case.
        #[arg(long)]
        coverage: bool,
    },
    /// Explain one verdict: 0 when allowed, 1 when denied.
    #[command(
        after_help = "Example:\n  portcullis policy explain --sub bob --role reader --obj /orders/7 --act DELETE"
    )]
    Explain {
        /// The policy directory; by default the configuration's, or `policies`.
        dir: Option<PathBuf>,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
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
    },
}

/// Runs the command.
pub fn run(context: &Context, command: &PolicyCommand) -> Done {
    match command {
        PolicyCommand::Check { dir, node } => {
            let (dir, settings) = scope(context, dir.as_deref(), node.as_deref());
            let problems = decide::check(&dir, &settings, true);
            check::report(context, &as_json(&problems), "nothing would be loaded")
        }
        PolicyCommand::Test { dir, node, filter, coverage } => {
            let (dir, settings) = scope(context, dir.as_deref(), node.as_deref());
            test(context, &decide::test(&dir, &settings, filter.as_deref()), *coverage)
        }
        PolicyCommand::Explain { dir, node, sub, obj, act, dom, roles, attributes, ip, host, bind } => {
            let (dir, settings) = scope(context, dir.as_deref(), node.as_deref());
            let token =
                |name: &str, given: &Option<String>| named(&settings.bind, bind, name, given.as_deref());
            if let Some(unknown) = bind.iter().find(|one| !settings.bind.contains_key(left(one))) {
                let name = left(unknown);
                return Err(Failure::usage(format!(
                    "`--{name}` is neither an option nor a token that [policy.bind] names"
                )));
            }
            let required = |name: &str, given| {
                token(name, given).ok_or_else(|| Failure::usage(format!("--{name} is required")))
            };
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
            context.print(&serde_json::to_value(&explanation).unwrap_or_default(), &explanation.to_string());
            if explanation.decision == "allow" { Ok(()) } else { Err(Failure::no("")) }
        }
    }
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
fn scope(context: &Context, dir: Option<&Path>, node: Option<&str>) -> (PathBuf, decide::Settings) {
    let plain = || (dir.unwrap_or(Path::new("policies")).to_owned(), decide::Settings::plain(node));
    let Ok(loaded) = super::load(&context.config) else { return plain() };
    let directory = &loaded.config.policy.directory;
    let same = |dir: &Path| match (dir.canonicalize(), directory.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    };
    if dir.is_some_and(|dir| !same(dir)) {
        return plain();
    }
    (dir.unwrap_or(directory).to_owned(), settings(&loaded, node))
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

fn test(context: &Context, report: &decide::TestReport, coverage: bool) -> Done {
    if context.output == Output::Json {
        let mut document = json!({"ok": report.ok, "problems": report.problems, "cases": report.cases});
        if coverage && let Some(members) = document.as_object_mut() {
            members.insert("rows".into(), json!(report.rows));
            members.insert("rows_covered".into(), json!(report.rows_covered));
            members.insert("uncovered".into(), json!(report.uncovered));
        }
        emit(document);
    } else {
        for case in &report.cases {
            let word = if case.ok { "ok    " } else { "FAILED" };
            emit(printable(&format!("{word} {}", case.name)));
        }
        for problem in &report.problems {
            emit(printable(&format!("{}:{}: {}", problem.file, problem.line, problem.message)));
        }
        if coverage {
            emit(format!("{} of {} rows decided in some case", report.rows_covered, report.rows));
            report.uncovered.iter().for_each(|row| emit(printable(&format!("  not covered: {row}"))));
        }
        let failed = report.cases.iter().filter(|case| !case.ok).count();
        emit(format!("{} cases, {failed} failed", report.cases.len()));
    }
    let broken = report.problems.iter().any(|p| p.severity == "error" && p.code != "test");
    match (report.ok, broken && report.cases.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure { code: 2, name: "policy", message: String::new() }),
        (false, false) => Err(Failure::no("")),
    }
}
