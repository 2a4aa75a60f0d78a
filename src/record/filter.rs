//! Choosing events, and what of them may be shown to people. Called by the commands and the operators' listener.
//!
//! One more criterion is one field of [`Filter`] and one line in [`Filter::matches`].

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
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// `access`, `login` …
    pub kind: Option<String>,
    /// The refusal or failure.
    pub reason: Option<String>,
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
            && self.until.is_none_or(|until| time().is_some_and(|time| time < until))
            && is(&self.decision, text("decision"))
            && is(&self.kind, text("kind"))
            && is(&self.reason, text("reason"))
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
