//! `portcullis check` and `portcullis config show`: what a node would be started with, without starting it.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, Done, Failure, Output, load};
use crate::config;
use crate::decide;

/// What to do with the configuration.
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Show every setting, where it came from, secrets masked.
    Show,
}

/// `portcullis check`: every mistake of configuration, certificates, policies and policy tests.
pub fn run(context: &Context) -> Done {
    let mut problems = Vec::new();
    match load(&context.config) {
        Err(found) => {
            problems.extend(found.iter().map(|p| mistake(&p.file.display().to_string(), p.line, &p.message)))
        }
        Ok(loaded) => {
            if let Some(path) = &loaded.config.accounts.file
                && let Err(found) = config::accounts_file::load(path)
            {
                problems
                    .extend(found.iter().map(|p| mistake(&p.file.display().to_string(), p.line, &p.message)));
            }
            problems.extend(policy_problems(&loaded.config));
        }
    }
    report(context, &problems, "nothing was started")
}

fn policy_problems(config: &config::Config) -> Vec<Value> {
    let directory = &config.policy.directory;
    let found = decide::check(directory, Some(&config.node.name), true);
    found
        .into_iter()
        .map(|p| {
            json!({
                "file": directory.join(&p.file).display().to_string(),
                "line": p.line, "severity": p.severity, "code": p.code, "message": p.message,
            })
        })
        .collect()
}

fn mistake(file: &str, line: u32, message: &str) -> Value {
    json!({"file": file, "line": line, "severity": "error", "code": "configuration", "message": message})
}

/// Prints problems as `file:line: message` or as one JSON document; code 2 when one is a mistake.
///
/// # Errors
/// With code 2 when a problem is a mistake.
pub fn report(context: &Context, problems: &[Value], ending: &str) -> Done {
    let text = |p: &Value, key: &str| p.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mistakes = problems.iter().filter(|p| text(p, "severity") == "error").count();
    if context.output == Output::Json {
        println!("{}", json!({"ok": mistakes == 0, "problems": problems}));
    } else {
        for problem in problems {
            let line = problem.get("line").and_then(Value::as_u64).unwrap_or(0);
            let kind = if text(problem, "severity") == "error" { "" } else { "warning: " };
            println!("{}:{line}: {kind}{}", text(problem, "file"), text(problem, "message"));
        }
        match mistakes {
            0 => println!("no mistakes"),
            1 => println!("1 mistake, {ending}"),
            n => println!("{n} mistakes, {ending}"),
        }
    }
    if mistakes == 0 { Ok(()) } else { Err(Failure { code: 2, name: "problems", message: String::new() }) }
}

/// `portcullis config show`.
pub fn config(context: &Context, command: &ConfigCommand) -> Done {
    let ConfigCommand::Show = command;
    let loaded = context.load()?;
    if context.output == Output::Json {
        let all: Vec<_> = loaded
            .provenance
            .iter()
            .map(|(key, value, origin)| json!({"key": key, "value": value, "from": origin.to_string()}))
            .collect();
        println!("{}", Value::Array(all));
    } else {
        print!("{}", config::show(&loaded));
    }
    Ok(())
}
