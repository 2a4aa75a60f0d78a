//! What a policy author should hear although the policy loads.
//!
//! Called by `check`. A new warning is one more step of [`warnings`].

use std::collections::HashMap;
use std::path::Path;

use super::Problem;
use super::definition::{ALLOW, ALLOW_UNLESS_DENIED, PRIORITY};
use super::expression;
use super::snapshot::{INLINE_ROWS, Snapshot};
use super::source::{Row, error};

/// Every warning.
pub fn warnings(directory: &Path, snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut warn = |file: &str, line, code, message: String| {
        found.push(Problem { severity: "warning", ..error(directory, file, line, code, message) });
    };
    let definition = &snapshot.definition;
    if definition.allows_by_default() {
        let message = "this effect allows what no row denies; `serve` refuses it unless [policy] allow_by_default = true";
        warn("model.conf", definition.effect_line, "allows-by-default", message.to_owned());
    }
    if snapshot.rows.is_empty() {
        warn("model.conf", 1, "empty", "no `p` row: everything is denied".to_owned());
    }
    if snapshot.evaluates_every_row() && snapshot.rows.len() > INLINE_ROWS {
        let message = format!(
            "{} `p` rows are each evaluated for a refusal; begin the matcher with g(r.sub, p.sub) &&",
            snapshot.rows.len()
        );
        warn("model.conf", definition.matcher_line, "slow", message);
    }
    for (earlier, row) in &snapshot.duplicates {
        warn(
            &earlier.file,
            earlier.line,
            "duplicate",
            format!("the same row stands in {}:{}", row.file, row.line),
        );
    }
    for call in expression::calls(&definition.matcher).iter().filter(|call| call.function == "regexMatch") {
        let [_, pattern] = call.arguments.as_slice() else { continue };
        let Some(column) = expression::token_of(pattern, "p").and_then(|token| definition.column(token))
        else {
            continue;
        };
        for row in &snapshot.rows {
            let Some(value) = row.values.get(column) else { continue };
            if value != ".*" && !(value.starts_with('^') && value.ends_with('$')) {
                let message =
                    format!("`{value}` is not anchored and matches within longer texts; write ^({value})$");
                warn(&row.file, row.line, "unanchored", message);
            }
        }
    }
    for (row, message) in broad(snapshot) {
        warn(&row.file, row.line, "broad", message);
    }
    for (row, message) in unreachable(snapshot) {
        warn(&row.file, row.line, "unreachable", message);
    }
    found
}

/// Patterns that match far more than they seem to.
fn broad(snapshot: &Snapshot) -> Vec<(&Row, String)> {
    let definition = &snapshot.definition;
    let mut columns = HashMap::new();
    for call in expression::calls(&definition.matcher) {
        if let [_, pattern, ..] = call.arguments.as_slice()
            && let Some(column) =
                expression::token_of(pattern, "p").and_then(|token| definition.column(token))
        {
            columns.insert(column, call.function);
        }
    }
    let mut found = Vec::new();
    for row in &snapshot.rows {
        let denies =
            definition.column("eft").and_then(|at| row.values.get(at)).is_some_and(|eft| eft == "deny");
        for (column, function) in &columns {
            let Some(value) = row.values.get(*column).filter(|_| !denies) else { continue };
            if ["/*", "*"].contains(&value.as_str()) && function.starts_with("keyMatch") {
                found.push((row, format!("`{value}` allows every path")));
            } else if function == "keyMatch"
                && value.split_once('*').is_some_and(|(_, rest)| !rest.is_empty())
            {
                found.push((row, format!("keyMatch ignores what follows the first `*` of `{value}`")));
            } else if function == "keyMatch2" && value.contains('|') {
                found.push((row, format!("`|` in `{value}` is not grouped: each side matches on its own")));
            }
        }
    }
    found
}

/// Rows that can never decide, whatever is asked.
fn unreachable(snapshot: &Snapshot) -> Vec<(&Row, String)> {
    let definition = &snapshot.definition;
    let Some(column) = definition.column("eft") else { return Vec::new() };
    let denies = |row: &Row| row.values.get(column).is_some_and(|eft| eft == "deny");
    let others = |row: &Row| {
        let values = row.values.iter().enumerate().filter(|(at, _)| *at != column);
        values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let mut found = Vec::new();
    let mut first: HashMap<Vec<String>, &Row> = HashMap::new();
    for row in &snapshot.rows {
        if definition.effect == ALLOW && denies(row) {
            found.push((row, "this effect asks for no deny: the row never decides".to_owned()));
        } else if let Some(earlier) = first.get(&others(row)) {
            let place = format!("{}:{}", earlier.file, earlier.line);
            if definition.effect == PRIORITY {
                found.push((row, format!("{place} decides the same requests first")));
            } else if definition.effect == ALLOW_UNLESS_DENIED {
                let allows = if denies(row) { earlier } else { row };
                found.push((
                    allows,
                    format!("a row that denies the same outweighs it ({place}, {}:{})", row.file, row.line),
                ));
            }
        } else {
            first.insert(others(row), row);
        }
    }
    found
}
