//! `portcullis check` and `portcullis config show`: what a node would be started with, without starting it.

use std::path::Path;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, Done, Failure, Output, emit};
use crate::config;
use crate::decide;
use crate::record::printable;

/// What to do with the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Show every setting, where it came from, secrets masked.
    #[command(after_help = "Example:\n  portcullis config show | grep -v default")]
    Show,
}

/// `portcullis check`: every mistake of configuration, certificates, policies and policy tests.
pub fn run(context: &Context) -> Done {
    report(context, &problems(&context.config), "nothing was started")
}

/// Every mistake and warning of a configuration and of all that it names.
pub fn problems(file: &Path) -> Vec<Value> {
    let as_value = |p: &config::Problem, severity: &str| {
        json!({
            "file": p.file.display().to_string(), "line": p.line, "severity": severity,
            "code": "configuration", "message": p.message,
        })
    };
    let as_values = |found: &[config::Problem], severity: &str| -> Vec<Value> {
        found.iter().map(|problem| as_value(problem, severity)).collect()
    };
    match config::draft(file, &config::environment) {
        Err(found) => as_values(&found, "error"),
        Ok(draft) => {
            let mut problems = as_values(&draft.problems, "error");
            problems.extend(as_values(&draft.loaded.warnings, "warning"));
            // A mistake elsewhere does not hide those of the policies.
            if draft.policy_is_clear {
                problems.extend(policy_problems(&draft.loaded));
            }
            problems
        }
    }
}

fn policy_problems(loaded: &config::Loaded) -> Vec<Value> {
    let policy = &loaded.config.policy;
    let settings = super::policy::settings(loaded, Some(&loaded.config.node.name));
    let found = decide::check(&policy.directory, &settings, true);
    found.into_iter().map(|problem| serde_json::to_value(&problem).unwrap_or_default()).collect()
}

/// Prints problems as `file:line: message` or as one JSON document; code 2 when one is a mistake.
///
/// # Errors
/// With code 2 when a problem is a mistake.
pub fn report(context: &Context, problems: &[Value], ending: &str) -> Done {
    let text = |p: &Value, key: &str| p.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mistakes = problems.iter().filter(|p| text(p, "severity") == "error").count();
    if context.output == Output::Json {
        emit(json!({"ok": mistakes == 0, "problems": problems}));
    } else {
        for problem in problems {
            let line = problem.get("line").and_then(Value::as_u64).unwrap_or(0);
            let kind = if text(problem, "severity") == "error" { "" } else { "warning: " };
            // A variable, and a file that cannot be read, have none.
            let line = if line > 0 { format!(":{line}") } else { String::new() };
            let text = format!("{}{line}: {kind}{}", text(problem, "file"), text(problem, "message"));
            emit(printable(&text));
        }
        match mistakes {
            0 => emit("no mistakes"),
            1 => emit(format!("1 mistake, {ending}")),
            n => emit(format!("{n} mistakes, {ending}")),
        }
    }
    if mistakes == 0 { Ok(()) } else { Err(Failure { code: 2, name: "problems", message: String::new() }) }
}

/// A shown TOML value as JSON; what is not set is null.
fn as_json(shown: &str) -> Value {
    if shown == "none" {
        return Value::Null;
    }
    let document: Result<toml::Table, _> = format!("value = {shown}").parse();
    let value = document.ok().and_then(|mut table| table.remove("value"));
    value.and_then(|value| serde_json::to_value(value).ok()).unwrap_or_else(|| shown.into())
}

/// `portcullis config show`.
pub fn config(context: &Context, command: &ConfigCommand) -> Done {
    let ConfigCommand::Show = command;
    let loaded = context.load()?;
    if context.output == Output::Json {
        let setting = |(key, value, origin): &(String, String, config::Origin)| {
            (key.clone(), json!({"value": as_json(value), "from": origin.to_string()}))
        };
        emit(Value::Object(loaded.provenance.iter().map(setting).collect()));
    } else {
        emit(config::show(&loaded).trim_end());
    }
    Ok(())
}
