//! `model.conf`: its definitions with their lines, and what of it is not accepted.
//!
//! Called by `load`. Another definition is one more field of [`Definition`] and one more branch in [`Definition::read`].

use std::collections::BTreeMap;
use std::path::Path;

use super::Problem;
use super::expression::{self, Usage};
use super::functions;
use super::source::{SourceFile, error};

/// One allow is enough.
pub const ALLOW: &str = "some(where (p_eft == allow))";
/// One allow is enough, and one deny outweighs it.
pub const ALLOW_UNLESS_DENIED: &str = "some(where (p_eft == allow)) && !some(where (p_eft == deny))";
/// Everything that nothing denies.
pub const NOT_DENIED: &str = "!some(where (p_eft == deny))";
/// The first row that matches decides.
pub const PRIORITY: &str = "priority(p_eft) || deny";
/// The four effects that casbin evaluates, as it writes them internally.
pub const EFFECTS: [&str; 4] = [ALLOW, ALLOW_UNLESS_DENIED, NOT_DENIED, PRIORITY];

/// A parsed and accepted model.
#[derive(Clone, Debug, Default)]
pub struct Definition {
    /// Tokens of the request definition.
    pub request: Vec<String>,
    /// Tokens of the policy definition.
    pub policy: Vec<String>,
    /// Role definitions: name and number of columns (2 or 3).
    pub roles: BTreeMap<String, usize>,
    /// The effect, one of [`EFFECTS`].
    pub effect: String,
    /// The matcher as written.
    pub matcher: String,
    /// The line of the matcher.
    pub matcher_line: u32,
    /// The line of the effect.
    pub effect_line: u32,
    /// Columns that `eval` reads.
    pub eval_columns: Vec<usize>,
}

impl Definition {
    /// True when a request without a matching row is allowed.
    pub fn allows_by_default(&self) -> bool {
        self.effect == NOT_DENIED
    }

    /// The column of a policy token.
    pub fn column(&self, token: &str) -> Option<usize> {
        self.policy.iter().position(|known| known == token)
    }

    /// How the matcher uses a request token.
    pub fn usage(&self, token: &str) -> Usage {
        expression::usage(&self.matcher, "r", token)
    }

    /// Reads and checks the file.
    ///
    /// # Errors
    /// Every mistake with its line.
    pub fn read(directory: &Path, file: &SourceFile) -> Result<Self, Vec<Problem>> {
        let fail = |line, code, message: String| error(directory, &file.name, line, code, message);
        let Ok(text) = std::str::from_utf8(&file.bytes) else {
            return Err(vec![fail(1, "not-utf-8", "is not UTF-8; save the file as UTF-8".to_owned())]);
        };
        let mut problems = Vec::new();
        let mut this = Self::default();
        let mut lines = std::collections::HashMap::new();
        for Entry { section, key, value, line } in entries(text) {
            if value.is_empty() {
                problems.push(fail(line, "model", format!("`{key}` is empty")));
                continue;
            }
            if lines.insert(format!("{section}.{key}"), line).is_some() {
                problems.push(fail(line, "model", format!("`{key}` is defined twice")));
            }
            match (section.as_str(), key.as_str()) {
                ("request_definition", "r") => this.request = tokens(&value),
                ("policy_definition", "p") => this.policy = tokens(&value),
                ("policy_effect", "e") => {
                    this.effect = escape(&value);
                    this.effect_line = line;
                }
                ("matchers", "m") => {
                    this.matcher = value;
                    this.matcher_line = line;
                }
                ("role_definition", key) if functions::ROLE_DEFINITIONS.contains(&key) => {
                    let count = value.matches('_').count();
                    if count == 2 || count == 3 {
                        this.roles.insert(key.to_owned(), count);
                    } else {
                        problems.push(fail(line, "model", format!("`{key}` needs two or three `_`, as in {key} = _, _")));
                    }
                }
                (section, key) => problems.push(fail(
                    line,
                    "model",
                    format!("`{key}` in [{section}] is not evaluated; known: r, p, e, m and g to g5 in their sections"),
                )),
            }
        }
        for (name, missing) in [
            ("[request_definition] r", this.request.is_empty()),
            ("[policy_definition] p", this.policy.is_empty()),
            ("[policy_effect] e", this.effect.is_empty()),
            ("[matchers] m", this.matcher.is_empty()),
        ] {
            if missing {
                problems.push(fail(1, "model", format!("{name} is missing")));
            }
        }
        if problems.is_empty() {
            this.check(&fail, &mut problems);
        }
        if problems.is_empty() { Ok(this) } else { Err(problems) }
    }

    fn check(&mut self, fail: &dyn Fn(u32, &'static str, String) -> Problem, problems: &mut Vec<Problem>) {
        if !EFFECTS.contains(&self.effect.as_str()) {
            problems.push(fail(
                self.effect_line,
                "effect",
                format!("unsupported effect `{}`; use one of: {}", self.effect, EFFECTS.join(" | ")),
            ));
        } else if self.effect.starts_with("priority") && self.column("priority").is_some() {
            let message = "an explicit `priority` column is not evaluated; order the rows instead".to_owned();
            problems.push(fail(self.effect_line, "effect", message));
        }
        for column in
            self.policy.iter().filter(|token| self.policy.iter().filter(|other| other == token).count() > 1)
        {
            problems.push(fail(1, "model", format!("`{column}` stands twice in [policy_definition]")));
        }
        if let Err(message) = expression::bounded(&self.matcher, true) {
            problems.push(fail(self.matcher_line, "expression", format!("the matcher {message}")));
            return;
        }
        for call in expression::calls(&self.matcher) {
            if call.function == "eval" {
                let column = call.arguments.first().and_then(|text| expression::token_of(text, "p"));
                match column.and_then(|token| self.column(token)) {
                    Some(column) => self.eval_columns.push(column),
                    None => problems.push(fail(
                        self.matcher_line,
                        "expression",
                        "`eval` reads no column of `p`".to_owned(),
                    )),
                }
                continue;
            }
            if let Some(message) = self.unknown_function(&call) {
                problems.push(fail(self.matcher_line, "function", message));
            }
        }
        for definition in ["r", "p"] {
            let known = if definition == "r" { &self.request } else { &self.policy };
            for token in mentioned(&self.matcher, definition) {
                if !known.contains(&token) {
                    let message = format!("the matcher reads `{definition}.{token}`, which is not defined");
                    problems.push(fail(self.matcher_line, "expression", message));
                }
            }
        }
    }

    /// Says what is wrong with a call, if something is.
    pub fn unknown_function(&self, call: &expression::Call) -> Option<String> {
        let given = call.arguments.len();
        if let Some(count) = self.roles.get(&call.function) {
            return (given != *count)
                .then(|| format!("`{}` takes {count} arguments, not {given}", call.function));
        }
        match functions::arity(&call.function) {
            Some(arity) if arity == given => None,
            Some(arity) => Some(format!("`{}` takes {arity} arguments, not {given}", call.function)),
            None if ["contains", "len", "is_empty"].contains(&call.function.as_str()) => None,
            None => Some(format!("`{}` is not a known function", call.function)),
        }
    }
}

/// Tokens of `definition` that an expression mentions.
pub fn mentioned(text: &str, definition: &str) -> Vec<String> {
    use expression::Piece;
    let pieces: Vec<_> = expression::pieces(text).into_iter().map(|(_, piece)| piece).collect();
    let mut found = Vec::new();
    let mut previous = None;
    for (at, piece) in pieces.iter().enumerate() {
        if let Piece::Word(word) = piece
            && *word == definition
            && previous != Some(Piece::Sign('.'))
            && let Some([Piece::Sign('.'), Piece::Word(token)]) = pieces.get(at + 1..at + 3)
        {
            found.push((*token).to_owned());
        }
        previous = Some(*piece);
    }
    found
}

struct Entry {
    section: String,
    key: String,
    value: String,
    line: u32,
}

/// The assignments of the file, read as casbin reads them (comments, continuation lines).
fn entries(text: &str) -> Vec<Entry> {
    let mut section = String::new();
    let mut entries = Vec::new();
    let mut lines = (1_u32..).zip(text.lines().map(str::trim));
    let comment = |line: &str| line.is_empty() || line.starts_with('#') || line.starts_with(';');
    while let Some((number, line)) = lines.next() {
        if comment(line) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let mut line = line.to_owned();
        let mut next_section = None;
        while let Some(kept) = line.strip_suffix('\\') {
            line = kept.trim_end().to_owned();
            let Some((_, next)) = lines.next() else { break };
            if comment(next) {
                continue;
            }
            match next.strip_prefix('[').and_then(|next| next.strip_suffix(']')) {
                Some(name) => next_section = Some(name.to_owned()),
                None => line.push_str(next),
            }
        }
        let (key, value) = line.split_once('=').unwrap_or((line.as_str(), ""));
        let value = value.split('#').next().unwrap_or_default().trim().to_owned();
        entries.push(Entry { section: section.clone(), key: key.trim().to_owned(), value, line: number });
        if let Some(next) = next_section {
            section = next;
        }
    }
    entries
}

fn tokens(value: &str) -> Vec<String> {
    value.split(',').map(|token| token.trim().to_owned()).collect()
}

fn escape(value: &str) -> String {
    value.replace("p.eft", "p_eft")
}
