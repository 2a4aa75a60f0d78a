//! The patterns that rows give to a pattern function, compiled to the cheapest thing that means the same as casbin's
//! regular expression.
//!
//! Made by `compiled`, one [`Patterns`] for each call in the matcher. Another cheap shape is a variant of [`Pattern`] and a
//! line in [`Pattern::compile`]; the tests hold every shape against the regular expression.

use std::sync::OnceLock;

use regex::Regex;

use super::compiled::Node;
use super::functions::Style;
use super::table::Table;

/// Most regular expressions that are kept compiled for one call; rhai's functions have a memory of their own.
const MOST: usize = 8_192;

/// What the texts of the second argument are as patterns.
#[derive(Debug)]
pub struct Patterns {
    style: Style,
    argument: Box<Node>,
    column: Option<usize>,
    /// By the number of the column's text; one entry when the argument reads no column.
    slots: Vec<Slot>,
    compiled: Vec<OnceLock<Option<Pattern>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    /// No text of this column, or one too many.
    Unknown,
    /// `keyGet2`: the pattern has no parameter of the name.
    Absent,
    /// A plain path; the number of the parameter.
    Path(u16),
    /// One that is compiled; the number of the parameter.
    Compiled(u32, u16),
}

impl Patterns {
    /// The patterns of an argument; `None` when it reads more than texts and one column. `parameter`: the name that
    /// `keyGet2` asks for.
    pub fn new(style: Style, argument: Node, parameter: Option<&str>, table: &Table) -> Option<Self> {
        let column = argument.column()?;
        let mut patterns =
            Self { style, argument: Box::new(argument), column, slots: Vec::new(), compiled: Vec::new() };
        match column {
            None => {
                let slot = patterns.slot("", parameter);
                patterns.slots.push(slot);
            }
            Some(column) => {
                patterns.slots = vec![Slot::Unknown; table.texts().len()];
                for row in 0..table.len() {
                    let Some(symbol) = table.symbol(row, column) else { continue };
                    if patterns.slots.get(symbol as usize) == Some(&Slot::Unknown) {
                        let slot = patterns.slot(table.texts().text(symbol), parameter);
                        if let Some(place) = patterns.slots.get_mut(symbol as usize) {
                            *place = slot;
                        }
                    }
                }
            }
        }
        Some(patterns)
    }

    fn slot(&mut self, value: &str, parameter: Option<&str>) -> Slot {
        let pattern = self.argument.with_column(value);
        let at = match parameter {
            None => 0,
            Some(name) => match Style::Colon.parameter(&pattern, name) {
                None => return Slot::Absent,
                Some(at) => at,
            },
        };
        let Ok(at) = u16::try_from(at) else { return Slot::Unknown };
        let direct = matches!(*self.argument, Node::Column(_));
        let paths = [Style::Colon, Style::ColonGroups, Style::Braces, Style::ShortBraces];
        if direct && paths.contains(&self.style) && is_plain_path(self.style, &pattern) {
            return Slot::Path(at);
        }
        match u32::try_from(self.compiled.len()) {
            Ok(next) if self.compiled.len() < MOST => {
                self.compiled.push(OnceLock::new());
                Slot::Compiled(next, at)
            }
            _ => Slot::Unknown,
        }
    }

    /// True when every pattern was checked as it stands when the policy was loaded.
    pub fn are_checked(&self) -> bool {
        self.style != Style::Groups
            && (matches!(*self.argument, Node::Column(_)) || self.is_constant() && self.compiles())
    }

    fn compiles(&self) -> bool {
        self.style.compile(&self.argument.with_column("")).is_ok()
    }

    /// True when there is one pattern for all rows.
    pub fn is_constant(&self) -> bool {
        self.column.is_none()
    }

    /// The column that is the pattern.
    pub fn is_of_column(&self) -> Option<(usize, Style)> {
        match *self.argument {
            Node::Column(column) => Some((column, self.style)),
            _ => None,
        }
    }

    /// Whether the text matches the row's pattern; `None`: ask rhai.
    pub fn holds(&self, table: &Table, row: usize, text: &str) -> Option<bool> {
        let text =
            if self.style == Style::ShortBraces { text.split('?').next().unwrap_or_default() } else { text };
        let (slot, value) = self.find(table, row)?;
        match slot {
            Slot::Unknown | Slot::Absent => None,
            Slot::Path(_) => path_holds(self.style, value, text),
            Slot::Compiled(at, _) => self.compiled(at, value)?.holds(text),
        }
    }

    /// What stands at the parameter; empty when the text does not match or the pattern has no such parameter; `None`: ask
    /// rhai.
    pub fn get(&self, table: &Table, row: usize, text: &str) -> Option<String> {
        let (slot, value) = self.find(table, row)?;
        match slot {
            Slot::Unknown => None,
            Slot::Absent => Some(String::new()),
            Slot::Path(parameter) => {
                if !path_holds(self.style, value, text)? {
                    return Some(String::new());
                }
                let pairs = value.split('/').zip(text.split('/'));
                let mut found = pairs.filter(|(segment, _)| is_parameter(self.style, segment));
                found.nth(usize::from(parameter)).map(|(_, given)| given.to_owned())
            }
            Slot::Compiled(at, parameter) => match self.compiled(at, value)? {
                Pattern::Regex(regex) => {
                    let found = regex.captures(text).and_then(|found| found.get(usize::from(parameter) + 1));
                    Some(found.map(|group| group.as_str().to_owned()).unwrap_or_default())
                }
                _ => None,
            },
        }
    }

    fn find<'a>(&self, table: &'a Table, row: usize) -> Option<(Slot, &'a str)> {
        let Some(column) = self.column else { return self.slots.first().map(|slot| (*slot, "")) };
        let symbol = table.symbol(row, column)?;
        self.slots.get(symbol as usize).map(|slot| (*slot, table.texts().text(symbol)))
    }

    fn compiled(&self, at: u32, value: &str) -> Option<&Pattern> {
        let place = self.compiled.get(at as usize)?;
        place.get_or_init(|| Pattern::compile(self.style, &self.argument.with_column(value))).as_ref()
    }
}

/// A compiled pattern.
#[derive(Debug)]
enum Pattern {
    /// Equal to one of these.
    Words(Vec<String>),
    /// Contains one of these.
    Parts(Vec<String>),
    /// Whatever has no line break; what has one is for the regular expression's own rules.
    Line,
    /// Everything else.
    Regex(Regex),
}

impl Pattern {
    /// The pattern in a style; `None` when it is not a regular expression.
    fn compile(style: Style, pattern: &str) -> Option<Self> {
        let simple = if style == Style::Regex { words(pattern) } else { None };
        simple.or_else(|| style.compile(pattern).ok().map(Self::Regex))
    }

    /// Whether a text matches; `None`: the answer is not certain here.
    fn holds(&self, text: &str) -> Option<bool> {
        match self {
            Self::Words(words) => Some(words.iter().any(|word| word == text)),
            Self::Parts(parts) => Some(parts.iter().any(|part| text.contains(part.as_str()))),
            Self::Line => (!text.contains('\n')).then_some(true),
            Self::Regex(regex) => Some(regex.is_match(text)),
        }
    }
}

/// Plain alternatives, anchored as `^(a|b)$` or not at all.
fn words(pattern: &str) -> Option<Pattern> {
    let anchored = pattern.strip_prefix("^(").and_then(|rest| rest.strip_suffix(")$"));
    let inner = anchored.unwrap_or(pattern);
    if inner == ".*" {
        // Unanchored it finds the empty text in everything.
        return Some(if anchored.is_some() { Pattern::Line } else { Pattern::Parts(vec![String::new()]) });
    }
    if !inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '|') {
        return None;
    }
    let words = inner.split('|').map(str::to_owned).collect();
    Some(if anchored.is_some() { Pattern::Words(words) } else { Pattern::Parts(words) })
}

/// `keyMatch`; `None` where it fails, because the prefix ends within a character.
pub fn prefix_holds(pattern: &str, text: &str) -> Option<bool> {
    let Some((prefix, _)) = pattern.split_once('*') else { return Some(text == pattern) };
    if text.len() <= prefix.len() {
        return Some(text == prefix);
    }
    text.get(..prefix.len()).map(|start| start == prefix)
}

/// True when a segment stands for any text that is not empty: `:name`, or `{name}` in the other styles.
fn is_parameter(style: Style, segment: &str) -> bool {
    match style {
        Style::Colon | Style::ColonGroups => segment.starts_with(':'),
        _ => segment.starts_with('{'),
    }
}

/// True for literal segments and whole-segment parameters, with `/*` at the end or without.
fn is_plain_path(style: Style, pattern: &str) -> bool {
    let plain = |text: &str, more: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || more.as_bytes().contains(&b))
    };
    pattern.strip_suffix("/*").unwrap_or(pattern).split('/').all(|segment| {
        if !is_parameter(style, segment) {
            return plain(segment, "_-");
        }
        let name = match style {
            Style::Colon | Style::ColonGroups => segment.strip_prefix(':'),
            _ => segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')),
        };
        name.is_some_and(|name| !name.is_empty() && plain(name, "_"))
    })
}

/// Whether a text matches a plain path; `None`: the answer is not certain here.
fn path_holds(style: Style, pattern: &str, text: &str) -> Option<bool> {
    let (closed, open) = match pattern.strip_suffix("/*") {
        Some(closed) => (closed, true),
        None => (pattern, false),
    };
    let mut rest = text.split('/');
    let begins = closed.split('/').all(|segment| match rest.next() {
        Some(given) if is_parameter(style, segment) => !given.is_empty(),
        Some(given) => segment == given,
        None => false,
    });
    match (begins, open) {
        (false, _) => Some(false),
        (true, false) => Some(rest.next().is_none()),
        (true, true) if text.contains('\n') => None,
        (true, true) => Some(rest.next().is_some()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::source::Row;
    use super::*;

    fn text(parts: Vec<&'static str>) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(parts), 0..6).prop_map(|parts| parts.concat())
    }

    fn table(pattern: &str) -> Table {
        let row = Row {
            kind: "p".to_owned(),
            values: vec![pattern.to_owned()],
            file: Arc::from("x.csv"),
            line: 1,
            text: String::new(),
        };
        Table::new(&[row], 1).unwrap()
    }

    #[test]
    fn a_line_break_is_for_the_regular_expression() {
        assert_eq!(path_holds(Style::Colon, "/a/*", "/a/x\ny"), None);
        assert_eq!(path_holds(Style::Colon, "/a/*", "/a/xy"), Some(true));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn every_shape_is_the_regular_expression(
            path in text(vec!["/", "a", "b", "é", "\n", "7", "a.b", "-", ":x", "{x}"]),
            pattern in text(vec!["/", "a", "b", ":x", ":y", ":", "*", "/*", "7", ".", "-", "é", "{x}", "{y}", "{", "}"]),
        ) {
            for style in [Style::Colon, Style::ColonGroups, Style::Braces, Style::ShortBraces] {
                let table = table(&pattern);
                let patterns = Patterns::new(style, Node::Column(0), None, &table).unwrap();
                let Ok(regex) = style.compile(&pattern) else { continue };
                if let Some(holds) = patterns.holds(&table, 0, &path) {
                    prop_assert_eq!(holds, regex.is_match(&path), "{:?} {} {}", style, &path, &pattern);
                }
            }
            let Ok(regex) = Style::ColonGroups.compile(&pattern) else { return Ok(()) };
            for name in ["x", "y"] {
                let table = table(&pattern);
                let patterns = Patterns::new(Style::ColonGroups, Node::Column(0), Some(name), &table).unwrap();
                let at = Style::Colon.parameter(&pattern, name);
                let expected = at.and_then(|at| regex.captures(&path)?.get(at + 1).map(|g| g.as_str().to_owned()));
                if let Some(got) = patterns.get(&table, 0, &path) {
                    prop_assert_eq!(got, expected.unwrap_or_default(), "{} {}", &path, &pattern);
                }
            }
        }

        #[test]
        fn methods_are_the_regular_expression(
            method in text(vec!["GET", "POST", "X", "\n", "|"]),
            inner in text(vec!["GET", "POST", "|", ".*", "X", ".", "["]),
            anchored in any::<bool>(),
        ) {
            let pattern = if anchored { format!("^({inner})$") } else { inner };
            if let (Some(ours), Ok(regex)) = (Pattern::compile(Style::Regex, &pattern), Regex::new(&pattern))
                && let Some(holds) = ours.holds(&method)
            {
                prop_assert_eq!(holds, regex.is_match(&method), "{:?} {}", &method, &pattern);
            }
        }
    }
}
