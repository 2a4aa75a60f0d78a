//! `portcullis audit`: what was decided, and the proof that nothing of it is missing.

pub mod line;
mod verify;
mod why;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::Value;

use crate::cli::node::{Node, with};
use crate::cli::{Context, Done, Failure, Output, emit};
use crate::model::{Clock as _, SystemClock, Timestamp};
use crate::record::{self, Filter};

use line::Layout;
pub use why::{decided, recalled, run as why};

/// What to do with the audit.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Print the newest events, and with `--follow` each further one once. Times are in UTC.
    #[command(after_help = "Example:\n  portcullis audit tail --follow --decision deny")]
    Tail {
        /// Go on printing as events happen.
        #[arg(short, long)]
        follow: bool,
        /// How many.
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        #[command(flatten)]
        selection: Selection,
    },
    /// Find events. Times are in UTC.
    #[command(
        after_help = "Example:\n  portcullis audit query --since 1h --sub bob --decision deny --path '/admin/*'"
    )]
    Query {
        /// Not older than this (`15m`, `1h`, `7d`), or not before this moment (`2026-01-05T10:00:00Z`) [default: 1h,
        /// with `--request` any age].
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Older than this, or before this moment.
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
        /// Of this request, by our id or the client's.
        #[arg(long, value_name = "ID")]
        request: Option<String>,
        /// At most this many, the newest.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        #[command(flatten)]
        selection: Selection,
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

/// Which events.
#[derive(clap::Args, Debug)]
pub struct Selection {
    /// Of this principal.
    #[arg(long, value_name = "NAME")]
    sub: Option<String>,
    /// allow, deny or error.
    #[arg(long)]
    decision: Option<String>,
    /// On this path; `*` matches anything.
    #[arg(long)]
    path: Option<String>,
    /// access, login, token, session, key, policy, admin, node or stream.
    #[arg(long)]
    kind: Option<String>,
    /// With this reason, such as forbidden, no-route or upstream-failed.
    #[arg(long)]
    reason: Option<String>,
}

impl Selection {
    /// As parameters of a call.
    fn append(&self, query: &mut url::form_urlencoded::Serializer<'_, String>) {
        let Self { sub, decision, path, kind, reason } = self;
        let given =
            [("sub", sub), ("decision", decision), ("path", path), ("kind", kind), ("reason", reason)];
        for (key, value) in given {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
    }

    /// For events that come one by one.
    fn filter(&self) -> Filter {
        let Self { sub, decision, path, kind, reason } = self;
        let (sub, decision, path) = (sub.clone(), decision.clone(), path.clone());
        Filter { sub, decision, path, kind: kind.clone(), reason: reason.clone(), ..Filter::default() }
    }
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
        AuditCommand::Tail { follow, lines, selection } => tail(context, *follow, *lines, selection),
        AuditCommand::Query { since, until, request, limit, selection } => {
            let mut printer = Printer::new(context, selection);
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", &limit.to_string()).append_pair("hints", printer.wants());
            let since = since.as_deref().or(request.is_none().then_some("1h"));
            for (key, value) in [("since", since), ("until", until.as_deref())] {
                if let Some(value) = value {
                    query.append_pair(key, &moment(value)?);
                }
            }
            if let Some(request) = request {
                query.append_pair("request", request);
            }
            selection.append(&mut query);
            let path = format!("/api/v1/audit?{}", query.finish());
            let events = with(context, async |node: &Node<'_>| node.call(Method::GET, &path, None).await)?;
            printer.print(&events);
            if events.is_empty() && context.output == Output::Text {
                eprintln!("no event matches");
            }
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

/// A moment as the API takes it: so long ago, or a date and time.
fn moment(text: &str) -> Result<String, Failure> {
    if let Some(moment) = Timestamp::parse_rfc3339(text) {
        return Ok(moment.rfc3339());
    }
    let wrong = || {
        let known = "neither a duration such as 15m, 1h or 7d nor a moment such as 2026-01-05T10:00:00Z";
        Failure::usage(format!("`{text}` is {known}"))
    };
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
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

/// Prints events as they come: JSON as it is, else laid out for people.
struct Printer {
    json: bool,
    layout: Layout,
    filter: Filter,
}

impl Printer {
    fn new(context: &Context, selection: &Selection) -> Self {
        let json = context.output == Output::Json;
        Self { json, layout: Layout::new(true), filter: selection.filter() }
    }

    /// What to ask for besides the events: people want to read why, and proofs need what was recorded.
    fn wants(&self) -> &'static str {
        if self.json { "false" } else { "true" }
    }

    fn print(&mut self, events: &str) {
        let parsed = |text| serde_json::from_str::<Value>(text).ok().map(|event| (text, event));
        let chosen = events.lines().filter_map(parsed).filter(|(_, event)| self.filter.matches(event));
        if self.json {
            return chosen.for_each(|(text, _)| emit(text));
        }
        let events: Vec<Value> = chosen.map(|(_, event)| event).collect();
        self.layout.today = line::today();
        self.layout.fit(&events);
        events.iter().for_each(|event| emit(self.layout.line(event)));
    }
}

fn tail(context: &Context, follow: bool, lines: usize, selection: &Selection) -> Done {
    with(context, async |node: &Node<'_>| {
        // Before the newest are read: what happens in between is then among them, or follows.
        let mut next = if follow { ends(node).await? } else { BTreeMap::new() };
        let mut printer = Printer::new(context, selection);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &lines.to_string()).append_pair("hints", printer.wants());
        selection.append(&mut query);
        let path = format!("/api/v1/audit?{}", query.finish());
        let newest = node.call(Method::GET, &path, None).await?;
        printer.print(&newest);
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
            match newer(&mut printer, node, &mut next).await {
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
async fn newer(
    printer: &mut Printer,
    node: &Node<'_>,
    next: &mut BTreeMap<String, u64>,
) -> Result<(), Failure> {
    for (name, end) in ends(node).await? {
        let from = *next.entry(name.clone()).or_insert(1);
        if end > from {
            every(node, &name, from, printer.wants(), |events| {
                printer.print(events);
                events.lines().for_each(|event| note(event, next));
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

/// Every event of a node, page by page; each page is JSON Lines.
async fn every(
    node: &Node<'_>,
    name: &str,
    mut from: u64,
    hints: &str,
    mut each: impl FnMut(&str),
) -> Result<(), Failure> {
    loop {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("node", name)
            .append_pair("from", &from.to_string())
            .append_pair("limit", &PAGE.to_string())
            .append_pair("hints", hints)
            .finish();
        let text = node.call(Method::GET, &format!("/api/v1/audit/export?{query}"), None).await?;
        let Some(last) = text.lines().last() else { return Ok(()) };
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        each(&text);
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
            every(node, &name, 1, "false", |events| {
                events.lines().for_each(|event| match format {
                    Format::Jsonl => emit(event),
                    Format::Csv => emit(record::csv_line(&serde_json::from_str(event).unwrap_or_default())),
                });
            })
            .await?;
        }
        Ok(())
    })
}
