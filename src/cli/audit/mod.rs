//! `portcullis audit` and `portcullis why`: what was decided, and the proof that nothing of it is missing.

mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use crate::cli::node::{Node, with};
use crate::cli::{Context, Done, Failure, Output, emit};
use crate::model::{Clock as _, SystemClock};
use crate::record;

/// What to do with the audit.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Print the newest events, and with `--follow` each further one once.
    #[command(after_help = "Example:\n  portcullis audit tail --follow")]
    Tail {
        /// Go on printing as events happen.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
    },
    /// Find events.
    #[command(
        after_help = "Example:\n  portcullis audit query --since 1h --sub bob --decision deny --path '/admin/*'"
    )]
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
    #[command(after_help = "Example:\n  portcullis audit export --format csv > audit.csv")]
    Export {
        /// The format.
        #[arg(long, value_enum, default_value_t = Format::Jsonl)]
        format: Format,
    },
    #[command(
        after_help = "Example:\n  portcullis audit export > audit.jsonl && portcullis audit verify audit.jsonl"
    )]
    /// Verify the hash chains and the signed checkpoints: 1 with the sequence of the first event that is missing, changed
    /// or reordered.
    Verify {
        /// Only this node's chain.
        #[arg(long)]
        node: Option<String>,
        /// Begin at this event and believe it in what came before, as after old events were removed.
        #[arg(long, requires = "node")]
        from: Option<u64>,
        /// Checkpoints that were kept (`audit checkpoints`), instead of or beside those of the store.
        #[arg(long)]
        checkpoints: Option<PathBuf>,
        /// An export to verify instead of a node's store.
        file: Option<PathBuf>,
    },
    #[command(after_help = "Example:\n  portcullis audit checkpoints > checkpoints.json")]
    /// Print the newest signed checkpoint of each node and the key that checks them; keep them elsewhere.
    Checkpoints,
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
            let path = format!("/api/v1/audit?{}", query.finish());
            let events = with(context, async |node: &Node<'_>| node.call(Method::GET, &path, None).await)?;
            print_all(context, &events);
            Ok(())
        }
        AuditCommand::Export { format } => export(context, *format),
        AuditCommand::Verify { node, from, checkpoints, file } => {
            verify::run(context, &verify::What { node, from: *from, checkpoints, file })
        }
        AuditCommand::Checkpoints => {
            emit(with(context, async |node: &Node<'_>| {
                node.call(Method::GET, verify::CHECKPOINTS, None).await
            })?);
            Ok(())
        }
    }
}

/// `portcullis why`: one recorded request, in words.
pub fn why(context: &Context, request_id: &str) -> Done {
    let id = crate::model::RequestId::parse(request_id)
        .ok_or_else(|| Failure::usage(format!("`{request_id}` is not a request id (26 characters)")))?;
    let path = format!("/api/v1/audit?request={id}");
    let text = with(context, async |node: &Node<'_>| node.call(Method::GET, &path, None).await)?;
    if text.is_empty() {
        return Err(Failure::no(format!("no event of request {id}")));
    }
    print_all(context, &text);
    if context.output == Output::Text {
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            emit(in_words(&event).trim_end());
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
        emit(text);
    } else if let Ok(event) = serde_json::from_str::<Value>(text) {
        emit(line(&event, std::io::IsTerminal::is_terminal(&std::io::stdout())));
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
    with(context, async |node: &Node<'_>| {
        // Before the newest are read: what happens in between is then among them, or follows.
        let mut next = if follow { ends(node).await? } else { BTreeMap::new() };
        let newest = node.call(Method::GET, &format!("/api/v1/audit?limit={lines}"), None).await?;
        print_all(context, &newest);
        if !follow {
            return Ok(());
        }
        if node.is_offline() {
            let message = "no node runs: there is nothing to follow; start one with `portcullis serve`";
            return Err(Failure::unreachable(message));
        }
        for text in newest.lines() {
            note(text, &mut next);
        }
        let mut away = false;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match newer(context, node, &mut next).await {
                Ok(()) => away = false,
                Err(failure) if failure.code == 3 || failure.name == "invalid-token" => {
                    if !away {
                        eprintln!("{}; trying again", record::printable(&failure.message));
                    }
                    away = true;
                }
                Err(failure) => return Err(failure),
            }
        }
    })
}

/// Prints every event after those that were seen, per node in the order of `seq`.
async fn newer(context: &Context, node: &Node<'_>, next: &mut BTreeMap<String, u64>) -> Result<(), Failure> {
    for (name, end) in ends(node).await? {
        let from = *next.entry(name.clone()).or_insert(1);
        if end > from {
            every(node, &name, from, |event| {
                print_one(context, event);
                note(event, next);
            })
            .await?;
        }
    }
    Ok(())
}

/// Remembers that an event was seen.
fn note(event: &str, next: &mut BTreeMap<String, u64>) {
    let event: Value = serde_json::from_str(event).unwrap_or_default();
    let (name, seq) = (event.get("node").and_then(Value::as_str), event.get("seq").and_then(Value::as_u64));
    if let (Some(name), Some(seq)) = (name, seq) {
        let next = next.entry(name.to_owned()).or_insert(1);
        *next = (*next).max(seq.saturating_add(1));
    }
}

/// Every event of a node, page by page.
async fn every(
    node: &Node<'_>,
    name: &str,
    mut from: u64,
    mut each: impl FnMut(&str),
) -> Result<(), Failure> {
    loop {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("node", name)
            .append_pair("from", &from.to_string())
            .append_pair("limit", &PAGE.to_string())
            .finish();
        let text = node.call(Method::GET, &format!("/api/v1/audit/export?{query}"), None).await?;
        let Some(last) = text.lines().last() else { return Ok(()) };
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        text.lines().for_each(&mut each);
        match last.get("seq").and_then(Value::as_u64) {
            Some(seq) if seq >= from => from = seq + 1,
            // Damaged: what comes after it cannot be asked for, and the verification ends here anyway.
            _ => return Ok(()),
        }
    }
}

/// The nodes, and the `seq` after the last event of each.
async fn ends(node: &Node<'_>) -> Result<BTreeMap<String, u64>, Failure> {
    let nodes = node.json(Method::GET, "/api/v1/audit/nodes", None).await?;
    let end = |one: &Value| {
        let name = one.get("node")?.as_str()?.to_owned();
        Some((name, one.get("last_seq")?.as_u64()?.saturating_add(1)))
    };
    Ok(nodes.as_array().into_iter().flatten().filter_map(end).collect())
}

fn export(context: &Context, format: Format) -> Done {
    with(context, async |node: &Node<'_>| {
        if format == Format::Csv {
            emit(record::csv_head());
        }
        for name in ends(node).await?.into_keys() {
            every(node, &name, 1, |event| match format {
                Format::Jsonl => emit(event),
                Format::Csv => emit(record::csv_line(&serde_json::from_str(event).unwrap_or_default())),
            })
            .await?;
        }
        Ok(())
    })
}
