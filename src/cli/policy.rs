//! `portcullis policy`: check, test and explain policies, without a node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, Done, Failure, Output, check};
use crate::decide::{self, Problem};
use crate::model::{AttributeValue, AuthMethod, Clock as _, Principal, PrincipalKind, SystemClock};

/// What to do with policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Report every mistake and warning.
    Check {
        /// The policy directory.
        #[arg(default_value = "policies")]
        dir: PathBuf,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
    },
    /// Run the policy tests.
    Test {
        /// The policy directory.
        #[arg(default_value = "policies")]
        dir: PathBuf,
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
    Explain {
        /// The policy directory.
        #[arg(default_value = "policies")]
        dir: PathBuf,
        /// Include this node's own rows.
        #[arg(long)]
        node: Option<String>,
        /// The subject's name.
        #[arg(long)]
        sub: String,
        /// The object: a path.
        #[arg(long)]
        obj: String,
        /// The action: a method.
        #[arg(long)]
        act: String,
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
            let problems = decide::check(dir, node.as_deref(), true);
            check::report(context, &as_json(&problems), "nothing would be loaded")
        }
        PolicyCommand::Test { dir, node, filter, coverage } => {
            test(context, &decide::test(dir, node.as_deref(), filter.as_deref()), *coverage)
        }
        PolicyCommand::Explain { dir, node, sub, obj, act, dom, roles, attributes, ip, host } => {
            let mut principal = Principal::new(sub.as_str(), kind(sub), AuthMethod::None);
            principal.roles = roles.iter().map(|role| Arc::from(role.as_str())).collect();
            principal.tenant = dom.as_deref().map(Arc::from);
            for attribute in attributes {
                let (key, value) = attribute
                    .split_once('=')
                    .ok_or_else(|| Failure::usage(format!("`{attribute}` is not KEY=VALUE")))?;
                principal.attributes.0.insert(key.to_owned(), AttributeValue::from_text(value));
            }
            let query = decide::Query {
                principal,
                object: obj.clone(),
                action: act.clone(),
                host: host.clone(),
                ip: *ip,
                secure: true,
                at: SystemClock.now(),
            };
            let explanation = decide::explain(dir, node.as_deref(), &query).map_err(|p| unusable(&p))?;
            context.print(&serde_json::to_value(&explanation).unwrap_or_default(), &explanation.to_string());
            if explanation.decision == "allow" { Ok(()) } else { Err(Failure::no("")) }
        }
    }
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
        println!("{document}");
    } else {
        for case in &report.cases {
            println!("{} {}", if case.ok { "ok    " } else { "FAILED" }, case.name);
        }
        for problem in &report.problems {
            println!("{}:{}: {}", problem.file, problem.line, problem.message);
        }
        if coverage {
            println!("{} of {} rows decided in some case", report.rows_covered, report.rows);
            report.uncovered.iter().for_each(|row| println!("  not covered: {row}"));
        }
        let failed = report.cases.iter().filter(|case| !case.ok).count();
        println!("{} cases, {failed} failed", report.cases.len());
    }
    let broken = report.problems.iter().any(|p| p.severity == "error" && p.code != "test");
    match (report.ok, broken && report.cases.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure { code: 2, name: "policy", message: String::new() }),
        (false, false) => Err(Failure::no("")),
    }
}
