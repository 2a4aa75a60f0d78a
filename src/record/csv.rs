//! Events as comma-separated values (RFC 4180). Called by `audit export --format csv`.
//!
//! A text that a spreadsheet would take for a formula gets an apostrophe in front.

use serde_json::Value;

/// The columns, as paths into the event.
const COLUMNS: [&str; 20] = [
    "/node",
    "/seq",
    "/time",
    "/kind",
    "/decision",
    "/reason",
    "/principal/name",
    "/principal/kind",
    "/auth",
    "/client/ip",
    "/method",
    "/host",
    "/path",
    "/route",
    "/status",
    "/duration_us",
    "/rule/file",
    "/rule/line",
    "/policy",
    "/request_id",
];

/// The head line, without its end.
pub fn csv_head() -> String {
    COLUMNS.map(|column| column.trim_start_matches('/').replace('/', "_")).join(",")
}

/// One event's line, without its end.
pub fn csv_line(event: &Value) -> String {
    COLUMNS.map(|column| field(event.pointer(column))).join(",")
}

fn field(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return String::new(),
        Some(Value::String(text)) => text,
        Some(other) => return other.to_string(),
    };
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.clone() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_become_a_formula_or_another_column() {
        let event = serde_json::json!({"node": "=1+1", "seq": 7, "path": "/a,\"b\"\n", "reason": null});
        let line = csv_line(&event);
        assert!(line.starts_with("'=1+1,7,"), "{line}");
        assert!(line.contains("\"/a,\"\"b\"\"\n\""), "{line}");
        assert_eq!(csv_head().split(',').count(), COLUMNS.len());
    }
}
