//! Choosing events and showing them to people. Called by `audit tail`, `audit query` and the operators' listener.
//!
//! One more criterion is one field of [`Filter`] and one line in [`Filter::matches`].

use std::fmt::Write as _;

use serde_json::Value;

use crate::model::Timestamp;

/// Which events; what is `None` does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// At or after this moment.
    pub since: Option<Timestamp>,
    /// The principal's name.
    pub sub: Option<String>,
    /// `allow`, `deny` or `error`.
    pub decision: Option<String>,
    /// The path; `*` stands for any characters.
    pub path: Option<String>,
    /// The request's id, ours or the client's.
    pub request: Option<String>,
}

impl Filter {
    /// Whether the event is chosen.
    pub fn matches(&self, event: &Value) -> bool {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let is =
            |want: &Option<String>, have: Option<&str>| want.as_deref().is_none_or(|want| have == Some(want));
        let name = event.get("principal").and_then(|principal| principal.get("name")).and_then(Value::as_str);
        let time = || text("time").and_then(Timestamp::parse_rfc3339);
        self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
            && is(&self.sub, name)
            && is(&self.decision, text("decision"))
            && self
                .path
                .as_deref()
                .is_none_or(|glob| text("path").is_some_and(|path| glob_matches(glob, path)))
            && (is(&self.request, text("request_id")) || is(&self.request, text("client_request_id")))
    }
}

/// Whether `text` is what `glob` says, where `*` stands for any characters, also none.
fn glob_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The event on one line, safe to show in a terminal.
pub fn line(event: &Value) -> String {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    let inner = |outer: &str, name: &str| event.get(outer).and_then(|value| value.get(name));
    let mut out = String::with_capacity(160);
    out.push_str(text("time").unwrap_or("-"));
    let _ = write!(out, " {} #{}", text("node").unwrap_or("-"), number("seq").unwrap_or(0));
    let _ = write!(out, " {} {}", text("kind").unwrap_or("-"), text("decision").unwrap_or("-"));
    match number("status") {
        Some(status) => drop(write!(out, " {status}")),
        None => out.push_str(" -"),
    }
    let _ = write!(out, " {}", inner("principal", "name").and_then(Value::as_str).unwrap_or("-"));
    if let Some(method) = text("method") {
        let _ = write!(out, " {method} {}{}", text("host").unwrap_or(""), text("path").unwrap_or(""));
    }
    if let Some(reason) = text("reason") {
        let _ = write!(out, " ({reason})");
    }
    if let Some(file) = inner("rule", "file").and_then(Value::as_str) {
        let line = inner("rule", "line").and_then(Value::as_u64).unwrap_or(0);
        let _ = write!(out, " by {file}:{line}");
    }
    if let Some(shadow) = text("shadow") {
        let _ = write!(out, " shadow {shadow}");
    }
    if let Some(ip) = inner("client", "ip").and_then(Value::as_str) {
        let _ = write!(out, " from {ip}");
    }
    if let Some(count) = number("count") {
        let _ = write!(out, " x{count}");
    }
    if let Some(id) = text("request_id") {
        let _ = write!(out, " {id}");
    }
    printable(&out)
}

/// The text without anything that a terminal would obey or that would make it look like something else: control
/// characters and the characters that steer the direction or the width of text.
pub fn printable(text: &str) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}
