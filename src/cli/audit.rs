//! `portcullis audit` and `portcullis why`: what was decided, and the proof that nothing of it is missing.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use super::node::{Node, block_on};
use super::{Context, Done, Failure, Output};
use crate::model::{Clock as _, SystemClock};
use crate::record;

/// What to do with the audit.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Print the newest events.
    Tail {
        /// Go on printing as events happen.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Find events.
    Query {
        /// Not older than this: `1h`, `7d`.
        #[arg(long, default_value = "1h")]
        since: String,
        /// Of this principal.
        #[arg(long)]
        sub: Option<String>,
        /// allow, deny or error.
        #[arg(long)]
        decision: Option<String>,
        /// On this path; `*` matches anything.
        #[arg(long)]
        path: Option<String>,
        /// Of this request.
        #[arg(long)]
        request: Option<String>,
        /// At most this many, the newest.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Print every event of every node by node and sequence.
    Export {
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
    },
    /// Verify the hash chain: 1 with the sequence of the first event that is missing, changed or reordered.
    Verify {
        /// Only this node's chain.
        #[arg(long)]
        node: Option<String>,
        /// An export to verify instead of a node's store.
        file: Option<PathBuf>,
    },
}

/// The format of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a head line.
    Csv,
}

/// Events asked for at once.
const PAGE: usize = 1000;
/// How often `tail --follow` looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Runs the command.
pub fn run(context: &Context, command: &AuditCommand) -> Done {
    match command {
        AuditCommand::Tail { follow, lines } => tail(context, *follow, *lines),
        AuditCommand::Query { since, sub, decision, path, request, limit } => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("since", &since_text(since)?).append_pair("limit", &limit.to_string());
            let given = [("sub", sub), ("decision", decision), ("path", path), ("request", request)];
            for (key, value) in given {
                if let Some(value) = value {
                    query.append_pair(key, value);
                }
            }
            let node = Node::find(context)?;
            let events =
                block_on(node.call(Method::GET, &format!("/api/v1/audit?{}", query.finish()), None))?;
            print_all(context, &events);
            Ok(())
        }
        AuditCommand::Export { format } => export(context, *format),
        AuditCommand::Verify { node, file } => verify(context, node.as_deref(), file.as_ref()),
    }
}

/// `portcullis why`: one recorded request, in words.
pub fn why(context: &Context, request_id: &str) -> Done {
    let id = crate::model::RequestId::parse(request_id)
        .ok_or_else(|| Failure::usage(format!("`{request_id}` is not a request id (26 characters)")))?;
    let node = Node::find(context)?;
    let text = block_on(node.call(Method::GET, &format!("/api/v1/audit?request={id}"), None))?;
    if text.is_empty() {
        return Err(Failure::no(format!("no event of request {id}")));
    }
    print_all(context, &text);
    if context.output == Output::Text {
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            print!("{}", in_words(&event));
        }
    }
    Ok(())
}

fn in_words(event: &Value) -> String {
    let text = |value: Option<&Value>| record::printable(value.and_then(Value::as_str).unwrap_or("-"));
    let roles = event.pointer("/principal/roles").and_then(Value::as_array);
    let roles: Vec<_> =
        roles.into_iter().flatten().filter_map(Value::as_str).map(record::printable).collect();
    let rule = match (event.pointer("/rule/file").and_then(Value::as_str), event.pointer("/rule/line")) {
        (Some(file), Some(line)) => format!("{}:{line}", record::printable(file)),
        _ => "no row".to_owned(),
    };
    format!(
        "  principal  {} by {}, roles {}\n  route      {}\n  decided by {rule} of policy {}\n  reason     {}\n",
        text(event.pointer("/principal/name")),
        text(event.get("auth")),
        if roles.is_empty() { "none".to_owned() } else { roles.join(", ") },
        text(event.get("route")),
        text(event.get("policy")),
        text(event.get("reason")),
    )
}

fn since_text(since: &str) -> Result<String, Failure> {
    let wrong = || Failure::usage(format!("`{since}` is not a duration such as 15m, 1h or 7d"));
    let (number, unit) = since.split_at_checked(since.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    Ok(SystemClock.now().minus(Duration::from_secs(number.saturating_mul(seconds))).rfc3339())
}

fn print_all(context: &Context, events: &str) {
    for text in events.lines() {
        print_one(context, text);
    }
}

fn print_one(context: &Context, text: &str) {
    if context.output == Output::Json {
        println!("{text}");
    } else if let Ok(event) = serde_json::from_str::<Value>(text) {
        println!("{}", line(&event, std::io::IsTerminal::is_terminal(&std::io::stdout())));
    }
}

/// One event on one line, for people.
pub fn line(event: &Value, colour: bool) -> String {
    let line = record::line(event);
    let code = match event.get("decision").and_then(Value::as_str) {
        Some("allow") => "32",
        Some("deny") => "31",
        _ => "33",
    };
    if colour { format!("\u{1b}[{code}m{line}\u{1b}[0m") } else { line }
}

fn tail(context: &Context, follow: bool, lines: usize) -> Done {
    let node = Node::find(context)?;
    block_on(async {
        let mut seen = std::collections::HashSet::new();
        let mut limit = lines;
        loop {
            let text = node.call(Method::GET, &format!("/api/v1/audit?limit={limit}"), None).await?;
            for event in text.lines().filter(|event| seen.insert((*event).to_owned())) {
                print_one(context, event);
            }
            if !follow {
                return Ok(());
            }
            seen = text.lines().map(str::to_owned).collect();
            limit = PAGE;
            drop(std::io::stdout().flush());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// Every event of a node, page by page.
async fn every(node: &Node, name: &str, mut each: impl FnMut(&str)) -> Result<(), Failure> {
    let mut from = 1;
    loop {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("node", name)
            .append_pair("from", &u64::to_string(&from))
            .append_pair("limit", &PAGE.to_string())
            .finish();
        let text = node.call(Method::GET, &format!("/api/v1/audit/export?{query}"), None).await?;
        let Some(last) = text.lines().last() else { return Ok(()) };
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        text.lines().for_each(&mut each);
        from = last.get("seq").and_then(Value::as_u64).unwrap_or(u64::MAX - 1) + 1;
    }
}

async fn names(node: &Node) -> Result<Vec<String>, Failure> {
    let text = node.call(Method::GET, "/api/v1/audit/nodes", None).await?;
    serde_json::from_str(&text).map_err(|error| Failure::unreachable(format!("the node's answer: {error}")))
}

fn export(context: &Context, format: Format) -> Done {
    let node = Node::find(context)?;
    block_on(async {
        if format == Format::Csv {
            println!("{}", record::csv_head());
        }
        for name in names(&node).await? {
            every(&node, &name, |event| match format {
                Format::Jsonl => println!("{event}"),
                Format::Csv => {
                    println!("{}", record::csv_line(&serde_json::from_str(event).unwrap_or_default()))
                }
            })
            .await?;
        }
        Ok(())
    })
}

fn verify(context: &Context, only: Option<&str>, file: Option<&PathBuf>) -> Done {
    let mut chains: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let node = event.get("node").and_then(Value::as_str).unwrap_or("?").to_owned();
            chains.entry(node).or_default().push(line.to_owned());
        }
    } else {
        let node = Node::find(context)?;
        block_on(async {
            for name in names(&node).await? {
                let events = chains.entry(name.clone()).or_default();
                every(&node, &name, |event| events.push(event.to_owned())).await?;
            }
            Ok(())
        })?;
    }
    if let Some(only) = only {
        chains.retain(|name, _| name == only);
    }
    let mut broken = false;
    let mut report = Vec::new();
    for (name, events) in &chains {
        match record::verify(events.iter().map(String::as_str)) {
            Ok(count) => {
                if context.output == Output::Text {
                    println!("{}: {count} events, the chain holds", record::printable(name));
                }
                report.push(serde_json::json!({"node": name, "ok": true, "events": count}));
            }
            Err(record::Broken { seq, reason, .. }) => {
                broken = true;
                if context.output == Output::Text {
                    println!("{}: event {seq}: {reason}", record::printable(name));
                }
                report.push(serde_json::json!({"node": name, "ok": false, "seq": seq, "reason": reason}));
            }
        }
    }
    if context.output == Output::Json {
        println!("{}", Value::Array(report));
    }
    if broken { Err(Failure::no("")) } else { Ok(()) }
}
