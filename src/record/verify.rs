//! Proves a chain of events without trusting who wrote it: parses, canonicalises (RFC 8785) and hashes anew. Called by
//! `audit verify`.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::chain::quote;
use super::checkpoint::Checkpoint;

/// The first event that is missing, changed or out of order.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("node `{node}`, event {seq}: {reason}")]
pub struct Broken {
    /// Whose chain.
    pub node: String,
    /// Which event.
    pub seq: u64,
    /// What is wrong.
    pub reason: String,
}

/// Checks events in order, from each node's first (`seq` 1); how many there were. Several nodes may be mixed.
///
/// # Errors
/// The first event that breaks its node's chain.
pub fn verify<T: AsRef<str>>(events: impl IntoIterator<Item = T>) -> Result<u64, Broken> {
    check(events, false)
}

/// The same for a part: the first event of each node is believed in what came before it.
///
/// # Errors
/// The first event that breaks its node's chain.
pub fn verify_from<T: AsRef<str>>(events: impl IntoIterator<Item = T>) -> Result<u64, Broken> {
    check(events, true)
}

/// Checks one node's events against its signed checkpoint too: the chain had the event of the checkpoint, so it must
/// still be there. `part` as for [`verify_from`].
///
/// # Errors
/// The first event that is missing, changed, out of order or another node's.
pub fn verify_chain<T: AsRef<str>>(
    node: &str,
    events: &[T],
    part: bool,
    checkpoint: Option<&Checkpoint>,
) -> Result<u64, Broken> {
    let mut expected = 1;
    let broken = |seq, reason: String| Broken { node: node.to_owned(), seq, reason };
    let mut signed = None;
    for text in events {
        let Ok(place) = serde_json::from_str::<Place>(text.as_ref()) else { break };
        if place.node != node {
            let other = place.node;
            // What comes before it may be broken earlier.
            let before = events.iter().take_while(|event| event.as_ref() != text.as_ref());
            check(before, part)?;
            return Err(broken(expected, format!("an event of node `{other}` stands in its place")));
        }
        expected = place.seq + 1;
        if checkpoint.is_some_and(|checkpoint| checkpoint.seq == place.seq) {
            signed = Some(place.hash);
        }
    }
    let count = check(events, part)?;
    let Some(checkpoint) = checkpoint else { return Ok(count) };
    let time = &checkpoint.time;
    match signed {
        Some(hash) if hash == checkpoint.hash => Ok(count),
        Some(_) => Err(broken(checkpoint.seq, format!("it is not the event that was signed at {time}"))),
        // A part that begins later does not hold the event of the checkpoint.
        None if part && expected > checkpoint.seq => Ok(count),
        None => {
            Err(broken(expected, format!("it is missing: event {} was signed at {time}", checkpoint.seq)))
        }
    }
}

/// Where an event stands.
#[derive(serde::Deserialize)]
struct Place {
    node: String,
    seq: u64,
    hash: String,
}

fn check<T: AsRef<str>>(events: impl IntoIterator<Item = T>, part: bool) -> Result<u64, Broken> {
    let mut chains: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut count = 0;
    let mut near = (String::new(), 0);
    for text in events {
        let next = near.1 + 1;
        let broken = |node: &str, seq: u64, reason: &str| {
            Err(Broken { node: node.to_owned(), seq, reason: reason.to_owned() })
        };
        let Ok(mut event) = serde_json::from_str::<Value>(text.as_ref()) else {
            return broken(&near.0, next, "it is not JSON");
        };
        let text_of = |name: &str| event.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(node), Some(seq)) = (text_of("node"), event.get("seq").and_then(Value::as_u64)) else {
            return broken(&near.0, next, "it has no node or no seq");
        };
        let (prev, stated) = (text_of("prev"), text_of("hash"));
        let start = || {
            if part { (seq.saturating_sub(1), prev.clone().unwrap_or_default()) } else { (0, "0".repeat(64)) }
        };
        let (last, last_hash) = chains.get(&node).cloned().unwrap_or_else(start);
        if seq <= last {
            return broken(&node, seq, "it is out of order or there twice");
        }
        if seq != last + 1 {
            return broken(&node, last + 1, "it is missing");
        }
        if has_twice(text.as_ref(), &event) {
            return broken(&node, seq, "it was changed: a member is there twice");
        }
        if let Some(members) = event.as_object_mut() {
            members.remove("hash");
        }
        let hash = hex::encode(Sha256::digest(canonical(&event).as_bytes()));
        if stated.as_deref() != Some(&hash) {
            return broken(&node, seq, "it was changed: its hash does not fit");
        }
        if prev.as_deref() != Some(&last_hash) {
            return broken(&node, seq, "it does not follow the event before it");
        }
        near = (node.clone(), seq);
        chains.insert(node, (seq, hash));
        count += 1;
    }
    Ok(count)
}

/// Whether the text says more than what was parsed from it, as a repeated member does.
fn has_twice(text: &str, event: &Value) -> bool {
    fn colons(value: &Value) -> usize {
        match value {
            Value::Object(members) => members.values().map(|value| colons(value) + 1).sum(),
            Value::Array(items) => items.iter().map(colons).sum(),
            _ => 0,
        }
    }
    let (mut inside, mut escaped, mut found) = (false, false, 0);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b':' if !inside => found += 1,
            _ => {}
        }
    }
    found != colons(event)
}

/// A value in RFC 8785 form. Numbers that are not whole are written as serde_json does; events have none.
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(1024);
    write(&mut out, value);
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => quote(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                quote(out, name);
                out.push(':');
                write(out, value);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}
