//! `portcullis audit verify`: chains and checkpoints, of a node's store or of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};

use super::{ends, every};
use crate::cli::node::{Node, with};
use crate::cli::{Context, Done, Failure, Output, emit};
use crate::record::{self, Broken, Checkpoint, Checkpoints};

/// The resource with the checkpoints.
pub const CHECKPOINTS: &str = "/api/v1/audit/checkpoints";

/// What to verify.
pub struct What<'a> {
    /// Only this node's chain.
    pub node: &'a Option<String>,
    /// From this event on.
    pub from: Option<u64>,
    /// A file of checkpoints.
    pub checkpoints: &'a Option<PathBuf>,
    /// An export.
    pub file: &'a Option<PathBuf>,
}

type Chains = BTreeMap<String, Vec<String>>;

/// Runs the command.
pub fn run(context: &Context, what: &What<'_>) -> Done {
    let mut signed = Vec::new();
    if let Some(path) = what.checkpoints {
        signed.push(read_checkpoints(&read(path)?)?);
    }
    let mut chains = match what.file {
        Some(path) => from_file(&read(path)?),
        None => {
            let (chains, checkpoints) = from_node(context, what)?;
            signed.push(checkpoints);
            chains
        }
    };
    let mut checkpoints: BTreeMap<String, Vec<Checkpoint>> = BTreeMap::new();
    for checkpoint in
        signed.iter().map(Checkpoints::check).collect::<Result<Vec<_>, _>>().map_err(Failure::no)?
    {
        for checkpoint in checkpoint {
            chains.entry(checkpoint.node.clone()).or_default();
            checkpoints.entry(checkpoint.node.clone()).or_default().push(checkpoint);
        }
    }
    if let Some(only) = what.node {
        chains.retain(|name, _| name == only);
        if chains.is_empty() {
            return Err(Failure::no(format!("there is no event of a node `{only}`")));
        }
    }
    let mut broken = false;
    let mut report = Vec::new();
    for (name, events) in &chains {
        let signed = checkpoints.get(name).map(Vec::as_slice).unwrap_or_default();
        let proof = prove(name, events, what.from.is_some(), signed);
        let shown = record::printable(name);
        match &proof {
            Ok(count) => {
                if context.output == Output::Text {
                    let upto = signed.iter().map(|checkpoint| checkpoint.seq).max();
                    let upto = upto.map_or_else(String::new, |seq| format!(", signed up to event {seq}"));
                    emit(format!("{shown}: {count} events, the chain holds{upto}"));
                }
                report.push(json!({"node": name, "ok": true, "events": count}));
            }
            Err(Broken { seq, reason, .. }) => {
                broken = true;
                if context.output == Output::Text {
                    emit(format!("{shown}: event {seq}: {}", record::printable(reason)));
                }
                report.push(json!({"node": name, "ok": false, "seq": seq, "reason": reason}));
            }
        }
    }
    if context.output == Output::Json {
        emit(Value::Array(report));
    }
    if broken { Err(Failure::no("")) } else { Ok(()) }
}

/// The chain against each of its checkpoints; of several mistakes the first event's.
fn prove(name: &str, events: &[String], part: bool, signed: &[Checkpoint]) -> Result<u64, Broken> {
    let mut proof = record::verify_chain(name, events, part, None);
    for checkpoint in signed {
        match (record::verify_chain(name, events, part, Some(checkpoint)), &proof) {
            (Err(found), Err(known)) if known.seq <= found.seq => {}
            (Err(found), _) => proof = Err(found),
            (Ok(_), _) => {}
        }
    }
    proof
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn read_checkpoints(text: &str) -> Result<Checkpoints, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the checkpoints cannot be read: {error}")))
}

/// The events of an export by node. A line that says of no node belongs to the node of the line before it.
fn from_file(text: &str) -> Chains {
    let mut chains = Chains::new();
    let mut name = "?".to_owned();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        if let Some(node) = event.get("node").and_then(Value::as_str) {
            node.clone_into(&mut name);
        }
        chains.entry(name.clone()).or_default().push(line.to_owned());
    }
    chains
}

fn from_node(context: &Context, what: &What<'_>) -> Result<(Chains, Checkpoints), Failure> {
    with(context, async |node: &Node<'_>| {
        // First, so that every event that they name must be among those read then.
        let checkpoints = read_checkpoints(&node.call(Method::GET, CHECKPOINTS, None).await?)?;
        let mut chains = Chains::new();
        for name in ends(node).await?.into_keys() {
            if what.node.as_ref().is_none_or(|only| *only == name) {
                let events = chains.entry(name.clone()).or_default();
                every(node, &name, what.from.unwrap_or(1), "false", |page| {
                    events.extend(page.lines().map(str::to_owned));
                })
                .await?;
            }
        }
        Ok((chains, checkpoints))
    })
}
