//! Events for people, one on a line: when, what, who, what for, and why. Used by `audit tail`, `audit query`, `why` and
//! the demo. Another kind of event needs nothing here; a better word for one is a branch of [`Layout::cells`].
//!
//! ```text
//! 16:02:11 allow  bob  GET    /orders/7  policy.csv:3  p, reader, /orders/:id, GET|HEAD, allow    0.4 ms
//! 16:02:14 deny   bob  DELETE /orders/7  no rule       nearest: policy.csv:5 needs role admin
//! ```

use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use serde_json::Value;

use crate::model::{Clock as _, SystemClock};
use crate::record::printable;

/// The widest that a column grows; a longer value pushes the rest of its line aside.
const WIDEST: usize = 48;

/// True when standard output is a terminal that takes colours and nobody said no (<https://no-color.org>).
fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    std::io::stdout().is_terminal() && !refused && !dumb
}

/// The current date in UTC, as events have it.
pub fn today() -> String {
    let now = SystemClock.now().rfc3339();
    now.get(..10).unwrap_or_default().to_owned()
}

/// How events are laid out; it learns from those it has seen, so that lines stay aligned.
#[derive(Default)]
pub struct Layout {
    /// The decision in colour.
    colour: bool,
    /// The request's id at the end of the line, for `why`.
    ids: bool,
    /// The date (`2026-01-05`) that is left out, as it is the current one.
    pub today: String,
    nodes: BTreeSet<String>,
    hosts: BTreeSet<String>,
    widths: [usize; COLUMNS],
}

/// When, who, method, target, place, why.
const COLUMNS: usize = 6;

impl Layout {
    /// For standard output, from now on.
    pub fn new(ids: bool) -> Self {
        Self { colour: colours(), ids, today: today(), ..Self::default() }
    }

    /// Makes room for events that are printed together.
    pub fn fit(&mut self, events: &[Value]) {
        for event in events {
            self.learn(event);
        }
        for event in events {
            let cells = self.cells(event);
            self.widen(&cells);
        }
    }

    /// The event on one line; nothing in it steers a terminal.
    pub fn line(&mut self, event: &Value) -> String {
        self.fit(std::slice::from_ref(event));
        let mut padded = self.cells(event);
        for (cell, width) in padded.iter_mut().zip(self.widths) {
            *cell = format!("{cell:<width$}");
        }
        let [when, who, method, target, place, why] = padded;
        let word = printable(text(event, "/decision").unwrap_or("-"));
        let decision = match (self.colour, word.as_str()) {
            (true, "allow") => format!("\u{1b}[32m{word:<5}\u{1b}[0m"),
            (true, "deny") => format!("\u{1b}[31m{word:<5}\u{1b}[0m"),
            (true, _) => format!("\u{1b}[33m{word:<5}\u{1b}[0m"),
            (false, _) => format!("{word:<5}"),
        };
        let ending = self.ending(event);
        let line = format!("{when} {decision}  {who}  {method} {target}  {place}  {why}  {ending}");
        line.trim_end().to_owned()
    }

    fn learn(&mut self, event: &Value) {
        self.nodes.extend(text(event, "/node").map(str::to_owned));
        if text(event, "/kind") == Some("access") {
            self.hosts.extend(text(event, "/host").map(str::to_owned));
        }
    }

    fn widen(&mut self, cells: &[String; COLUMNS]) {
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = cell.chars().count().clamp(*width, WIDEST.max(*width));
        }
    }

    fn cells(&self, event: &Value) -> [String; COLUMNS] {
        let text = |pointer| text(event, pointer);
        let (date, time) = text("/time").and_then(|time| time.split_once('T')).unwrap_or(("", "-"));
        let time = time.get(..8).unwrap_or(time);
        let when = if date == self.today { time.to_owned() } else { format!("{date} {time}") };
        let who = match (text("/principal/name"), text("/client/ip")) {
            (Some(name), _) => name.to_owned(),
            (None, Some(ip)) => format!("({ip})"),
            (None, None) => "-".to_owned(),
        };
        let host = text("/host").filter(|_| self.hosts.len() > 1 && text("/kind") == Some("access"));
        let target = format!("{}{}", host.unwrap_or_default(), text("/path").unwrap_or("-"));
        let (place, why) = self.place_and_why(event);
        [when, who, text("/method").unwrap_or("-").to_owned(), target, place, why]
            .map(|cell| printable(&cell))
    }

    fn place_and_why(&self, event: &Value) -> (String, String) {
        let text = |pointer| text(event, pointer);
        let hint = || text("/hint").unwrap_or_default().to_owned();
        let reason = text("/reason").unwrap_or_default();
        match (text("/kind").unwrap_or("-"), text("/rule/file"), event.pointer("/rule/line")) {
            ("access", Some(file), Some(line)) => (format!("{file}:{line}"), hint()),
            ("access", ..) if reason == "forbidden" => ("no rule".to_owned(), hint()),
            ("access", ..) if text("/decision") == Some("allow") => ("no rule".to_owned(), hint()),
            ("access", ..) => (reason.to_owned(), String::new()),
            (kind @ ("node" | "policy"), ..) => (
                kind.to_owned(),
                format!("{reason} {}", text("/policy").unwrap_or_default()).trim().to_owned(),
            ),
            (kind, ..) => (kind.to_owned(), reason.to_owned()),
        }
    }

    /// What is told only where it matters.
    fn ending(&self, event: &Value) -> String {
        let text = |pointer| text(event, pointer).map(printable);
        let number = |pointer| event.pointer(pointer).and_then(Value::as_u64);
        let allowed_access =
            (text("/decision").as_deref(), text("/kind").as_deref()) == (Some("allow"), Some("access"));
        let took = number("/duration_us").filter(|_| allowed_access).map(duration).unwrap_or_default();
        let mut parts = vec![format!("{took:>9}")];
        if allowed_access {
            let status = number("/status").filter(|status| *status >= 400);
            parts.extend(status.map(|status| status.to_string()));
            parts.extend(text("/reason"));
        }
        parts.extend(number("/count").map(|count| format!("x{count}")));
        parts.extend(text("/shadow").map(|shadow| format!("shadow {shadow}")));
        parts.extend(text("/node").filter(|_| self.nodes.len() > 1).map(|node| format!("on {node}")));
        parts.extend(text("/request_id").filter(|_| self.ids));
        parts.join("  ")
    }
}

/// A text of several lines with its first word and its marks in colour, where standard output takes colours.
pub fn painted(text: &str) -> String {
    if !colours() {
        return text.to_owned();
    }
    let marked = text.replace('✗', "\u{1b}[31m✗\u{1b}[0m").replace('✓', "\u{1b}[32m✓\u{1b}[0m");
    match (marked.strip_prefix("ALLOW"), marked.strip_prefix("DENY")) {
        (Some(rest), _) => format!("\u{1b}[32mALLOW\u{1b}[0m{rest}"),
        (_, Some(rest)) => format!("\u{1b}[31mDENY\u{1b}[0m{rest}"),
        _ => marked,
    }
}

/// Microseconds in the unit that people read.
pub fn duration(micros: u64) -> String {
    let (unit, parts) = if micros < 1_000_000 { ("ms", 1_000) } else { ("s", 1_000_000) };
    let tenths = micros.saturating_mul(10).saturating_add(parts / 2) / parts;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

fn text<'a>(event: &'a Value, pointer: &str) -> Option<&'a str> {
    event.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(decision: &str, method: &str, more: Value) -> Value {
        let mut event = json!({
            "time": "2026-01-05T16:02:11.000000Z", "node": "g", "seq": 3, "kind": "access", "decision": decision,
            "status": 200, "duration_us": 412, "principal": {"name": "bob", "kind": "user", "roles": []},
            "method": method, "host": "h", "path": "/orders/7", "client": {"ip": "::1", "user_agent": null},
            "request_id": "01J8Z300000000000000000000",
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    }

    fn lines(layout: Layout, events: &[Value]) -> Vec<String> {
        let mut layout = Layout { today: "2026-01-05".to_owned(), ..layout };
        layout.fit(events);
        events.iter().map(|event| layout.line(event)).collect()
    }

    #[test]
    fn lines_are_aligned_and_say_who_what_and_why() {
        let row =
            json!({"rule": {"file": "policy.csv", "line": 3}, "hint": "p, reader, /orders/:id, GET, allow"});
        let refused = json!({"reason": "forbidden", "rule": null, "status": 403, "hint": "nearest: policy.csv:5 needs role admin"});
        let stranger = json!({"reason": "unauthenticated", "principal": null, "status": 401, "count": 12});
        let broken =
            json!({"reason": "upstream-failed", "status": 502, "rule": {"file": "policy.csv", "line": 3}});
        let events = [
            event("allow", "GET", row),
            event("deny", "DELETE", refused),
            event("deny", "GET", stranger),
            event("allow", "GET", broken),
            event("allow", "POST", json!({"kind": "login", "path": "/auth/login"})),
        ];
        assert_eq!(
            lines(Layout::default(), &events),
            [
                "16:02:11 allow  bob    GET    /orders/7    policy.csv:3     p, reader, /orders/:id, GET, allow         0.4 ms",
                "16:02:11 deny   bob    DELETE /orders/7    no rule          nearest: policy.csv:5 needs role admin",
                "16:02:11 deny   (::1)  GET    /orders/7    unauthenticated                                                     x12",
                "16:02:11 allow  bob    GET    /orders/7    policy.csv:3                                                0.4 ms  502  upstream-failed",
                "16:02:11 allow  bob    POST   /auth/login  login",
            ]
        );
    }

    #[test]
    fn what_differs_between_events_is_told() {
        let far = json!({"node": "b", "host": "api", "time": "2025-12-31T23:59:59.000000Z"});
        let events = [event("allow", "GET", far), event("allow", "GET", json!({}))];
        let said = lines(Layout { ids: true, ..Layout::default() }, &events);
        assert!(said[0].starts_with("2025-12-31 23:59:59 allow  bob  GET api/orders/7"), "{said:?}");
        assert!(said[1].starts_with("16:02:11            allow  bob  GET h/orders/7 "), "{said:?}");
        assert!(said[1].ends_with("on g  01J8Z300000000000000000000"), "{said:?}");
    }

    #[test]
    fn a_line_has_no_control_characters_but_its_own_colour() {
        let evil = json!({
            "principal": {"name": "eve\u{1b}[2J"}, "path": "/a\u{202e}\n\u{9b}", "reason": "\u{1b}", "hint": "\u{7}",
            "node": "\u{1b}", "request_id": "\u{1b}c", "decision": "\u{1b}x", "kind": "\u{1b}k", "time": "\u{1b}T\u{1b}",
            "shadow": "\u{1b}", "method": "\u{1b}", "host": "\u{1b}", "rule": {"file": "\u{1b}", "line": 1},
        });
        let events = [event("deny", "GET", evil), event("deny", "GET", json!({"node": "other"}))];
        for said in lines(Layout { ids: true, ..Layout::default() }, &events) {
            assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
        }
        let coloured = lines(Layout { colour: true, ..Layout::default() }, &events[1..]);
        assert!(coloured[0].starts_with("16:02:11 \u{1b}[31mdeny \u{1b}[0m  bob"), "{coloured:?}");
        assert_eq!(coloured[0].matches('\u{1b}').count(), 2);
    }

    #[test]
    fn durations_are_in_milliseconds_or_seconds() {
        assert_eq!(
            [0, 49, 412, 99_960, 1_250_000].map(duration),
            ["0.0 ms", "0.0 ms", "0.4 ms", "100.0 ms", "1.3 s"]
        );
    }
}
