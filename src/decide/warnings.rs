//! What a policy author should hear although the policy loads.
//!
//! Called by `check`. A new warning is one more step of [`warnings`].

use std::collections::HashMap;
use std::path::Path;

use super::Problem;
use super::definition::{ALLOW, ALLOW_UNLESS_DENIED, Definition, PRIORITY, mentioned};
use super::expression::{self, Piece};
use super::snapshot::{INLINE_ROWS, Snapshot};
use super::source::{Row, error};
use crate::model::is_operator_role;

/// How many rows with wildcards are looked at for each subject: a policy of many such rows is still checked at once.
const WIDE_ROWS: usize = 64;

/// Every warning.
pub fn warnings(directory: &Path, snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut warn = |file: &str, line, code, message: String| {
        found.push(Problem { severity: "warning", ..error(directory, file, line, code, message) });
    };
    let definition = &snapshot.definition;
    let rows: Vec<Row> = snapshot.rows.iter().collect();
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
    for row in snapshot.links.iter().filter(|row| row.kind == "g") {
        if let Some(role) = row.values.get(1).filter(|role| is_operator_role(role)) {
            let message = format!(
                "`{role}` is an operator's and given to nobody by a policy; use `portcullis user set`"
            );
            warn(&row.file, row.line, "operator-role", message);
        }
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
        for row in &rows {
            let Some(value) = row.values.get(column) else { continue };
            if value != ".*" && !(value.starts_with('^') && value.ends_with('$')) {
                let message =
                    format!("`{value}` is not anchored and matches within longer texts; write ^({value})$");
                warn(&row.file, row.line, "unanchored", message);
            }
        }
    }
    for (row, message) in ungrouped(definition, &rows) {
        warn(&row.file, row.line, "unanchored", message);
    }
    for (row, message) in broad(definition, &rows) {
        warn(&row.file, row.line, "broad", message);
    }
    for (row, message) in unreachable(definition, &rows) {
        warn(&row.file, row.line, "unreachable", message);
    }
    found
}

/// Patterns that match far more than they seem to.
fn broad<'a>(definition: &Definition, rows: &'a [Row]) -> Vec<(&'a Row, String)> {
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
    for row in rows {
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

/// How a column of a row may reach further than its own text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// `keyMatch` or `keyMatch2`: `*` at the end is any rest.
    Path,
    /// `regexMatch`: `.*` is everything.
    Text,
}

/// The columns that the matcher reads only as the pattern of one call. Empty when it negates something: a pattern that
/// matches more would not allow more then.
fn reaches(definition: &Definition) -> HashMap<usize, Reach> {
    let mut found = HashMap::new();
    if definition.matcher.contains('!') {
        return found;
    }
    let pieces: Vec<_> =
        expression::pieces(&definition.matcher).into_iter().map(|(_, piece)| piece).collect();
    let read = |token: &str| {
        let reads = [Piece::Word("p"), Piece::Sign('.'), Piece::Word(token)];
        pieces.windows(reads.len()).filter(|window| *window == reads).count()
    };
    for call in expression::calls(&definition.matcher) {
        let reach = match call.function.as_str() {
            "keyMatch" | "keyMatch2" => Reach::Path,
            "regexMatch" => Reach::Text,
            _ => continue,
        };
        let [_, pattern] = call.arguments.as_slice() else { continue };
        for token in mentioned(pattern, "p").iter().filter(|token| read(token) == 1) {
            if let Some(column) = definition.column(token) {
                found.insert(column, reach);
            }
        }
    }
    found
}
/// True when everything that `narrow` matches is matched by `wide` too.
fn covers(reach: Reach, wide: &str, narrow: &str) -> bool {
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte))
            && text.starts_with('/')
    };
    match (reach, wide.strip_suffix('*')) {
        _ if wide == narrow => true,
        (Reach::Text, _) => wide == ".*",
        (Reach::Path, Some(prefix)) => {
            let rest = narrow.strip_prefix(prefix);
            plain(prefix) && rest.is_some_and(|rest| plain(&format!("/{}", rest.replace([':', '*'], ""))))
        }
        (Reach::Path, None) => false,
    }
}

/// Rows that can never decide, whatever is asked.
fn unreachable<'a>(definition: &Definition, rows: &'a [Row]) -> Vec<(&'a Row, String)> {
    let (effect, eft) = (definition.effect.as_str(), definition.column("eft"));
    let reaches = reaches(definition);
    let denies = |row: &Row| eft.and_then(|at| row.values.get(at)).is_some_and(|eft| eft == "deny");
    // What has to be equal for one row to cover another, and all that they match.
    let part = |row: &Row, exact: bool| {
        let values = row.values.iter().enumerate();
        let values = values.filter(|(at, _)| Some(*at) != eft && !(exact && reaches.contains_key(at)));
        values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let is_wide = |row: &Row| reaches.keys().any(|at| row.values.get(*at).is_some_and(|v| v.ends_with('*')));
    let covers_row = |wide: &Row, narrow: &Row| {
        reaches.iter().all(|(at, reach)| match (wide.values.get(*at), narrow.values.get(*at)) {
            (Some(wide), Some(narrow)) => covers(*reach, wide, narrow),
            _ => false,
        })
    };
    let (mut same, mut wide) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
    for (at, row) in rows.iter().enumerate() {
        same.entry(part(row, false)).or_default().push(at);
        if is_wide(row) {
            let others = wide.entry(part(row, true)).or_default();
            if others.len() < WIDE_ROWS {
                others.push(at);
            }
        }
    }
    let mut found = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        if effect == ALLOW && denies(row) {
            found.push((row, "this effect asks for no deny: the row never decides".to_owned()));
            continue;
        }
        let (same, wide) = (same.get(&part(row, false)), wide.get(&part(row, true)));
        let others = same.into_iter().chain(wide).flatten().filter(|other| **other != at);
        let because = others.filter_map(|other| {
            let by = rows.get(*other).filter(|by| covers_row(by, row))?;
            let place = format!("{}:{}", by.file, by.line);
            let alike = denies(by) == denies(row);
            if effect == ALLOW_UNLESS_DENIED && denies(by) && !alike {
                Some(format!("{place} denies the same requests, which outweighs it"))
            } else if *other < at && (alike || effect == PRIORITY) {
                Some(format!("{place} decides the same requests first"))
            } else {
                None
            }
        });
        if let Some(message) = because.into_iter().next() {
            found.push((row, message));
        }
    }
    found
}

/// True when a text has a `|` outside of brackets.
fn has_alternatives(pattern: &str) -> bool {
    let mut depth = 0_usize;
    let mut escaped = false;
    for byte in pattern.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'|' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

/// Rows whose alternatives the matcher puts between anchors without a group: `^GET|HEAD$` is `^GET` or `HEAD$`.
fn ungrouped<'a>(definition: &Definition, rows: &'a [Row]) -> Vec<(&'a Row, String)> {
    let mut found = Vec::new();
    for call in expression::calls(&definition.matcher).iter().filter(|call| call.function == "regexMatch") {
        let [_, pattern] = call.arguments.as_slice() else { continue };
        let tokens = mentioned(pattern, "p");
        let [token] = tokens.as_slice() else { continue };
        let pattern: String = pattern.chars().filter(|letter| !letter.is_whitespace()).collect();
        let name = format!("p.{token}");
        let Some((before, after)) = pattern.split_once(&name) else { continue };
        let open =
            before.is_empty() && after.is_empty() || before.ends_with("(\"+") && after.starts_with("+\")");
        let Some(column) = definition.column(token).filter(|_| !open) else { continue };
        for row in rows {
            if let Some(value) = row.values.get(column).filter(|value| has_alternatives(value)) {
                let message = format!(
                    "the anchors hold only one side of `{value}` each; write ({value}), or group it in the matcher"
                );
                found.push((row, message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, check};

    const DENY_WINS: &str = "some(where (p.eft == allow)) && !some(where (p.eft == deny))";
    const GROUPED: &str = "regexMatch(r.act, \"^(\" + p.act + \")$\")";

    /// Line and code of each warning of these rows, under this effect and term for the method.
    fn warned(effect: &str, method: &str, rows: &str) -> Vec<(u32, &'static str)> {
        let directory = tempfile::tempdir().unwrap();
        let model = format!(
            "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act, eft\n[role_definition]\n\
             g = _, _\n[policy_effect]\ne = {effect}\n[matchers]\nm = g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && \
             {method}\n"
        );
        std::fs::write(directory.path().join("model.conf"), model).unwrap();
        std::fs::write(directory.path().join("policy.csv"), rows).unwrap();
        let found = check(directory.path(), &Settings::plain(None), true);
        assert!(found.iter().all(|problem| problem.severity == "warning"), "{found:?}");
        found.iter().map(|problem| (problem.line, problem.code)).collect()
    }

    #[test]
    fn a_row_that_a_broader_one_decides_first_is_unreachable() {
        let rows =
            "p, a, /x/*, .*, deny\np, a, /x/:id, GET, allow\np, a, /xy, GET, allow\np, b, /x/1, GET, allow\n";
        assert_eq!(warned("priority(p.eft) || deny", GROUPED, rows), [(2, "unreachable")]);
        let rows = "p, a, /x/1, GET, allow\np, a, /x/?, GET, allow\np, a, /x/*, GET|PUT, allow\np, a, /x/2, GET, allow\n\
                    p, a, /x/*, .*, deny\n";
        let found = [(1, "unreachable"), (3, "unreachable"), (4, "unreachable")];
        assert_eq!(warned(DENY_WINS, GROUPED, rows), found, "wherever the row that denies stands");
        let rows = "p, a, /x/1, GET, allow\np, a, /x/*, .*, allow\np, a, /x/2, GET, allow\n";
        assert_eq!(warned(DENY_WINS, GROUPED, rows), [(3, "unreachable")], "the first one may decide");
        let negated = format!("{GROUPED} && !(r.act == \"TRACE\")");
        assert_eq!(warned(DENY_WINS, &negated, rows), []);
        let rows = "p, a, /x, GET, deny\np, a, /x, GET, allow\n";
        assert_eq!(warned("some(where (p.eft == allow))", GROUPED, rows), [(1, "unreachable")]);
    }

    #[test]
    fn a_policy_gives_nobody_an_operators_role() {
        let rows = "p, portcullis:viewer, /x, GET, allow\ng, bob, portcullis:viewer\n";
        assert_eq!(warned(DENY_WINS, GROUPED, rows), [(2, "operator-role")]);
    }

    #[test]
    fn alternatives_between_anchors_need_a_group() {
        let rows = "p, a, /x, GET|PUT, allow\np, a, /y, (GET|PUT), allow\np, a, /z, G[E|T], allow\n";
        assert_eq!(warned(DENY_WINS, GROUPED, rows), []);
        let method = "regexMatch(r.act, \"^\" + p.act + \"$\")";
        assert_eq!(warned(DENY_WINS, method, rows), [(1, "unanchored")]);
    }
}
