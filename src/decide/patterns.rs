//! A pattern of one row, compiled to the cheapest thing that means the same as casbin's regular expression.
//!
//! Made by `residual`, once for a row. Another cheap shape is a variant of [`Pattern`] and a line in
//! [`Pattern::compile`]; the tests hold every shape against the regular expression.

use regex::Regex;

use super::functions::Style;

/// A compiled pattern.
#[derive(Debug)]
pub enum Pattern {
    /// Equal to one of these.
    Words(Vec<String>),
    /// Contains one of these.
    Parts(Vec<String>),
    /// Whatever has no line break; what has one is for the regular expression's own rules.
    Line,
    /// The segments of a path; with `true` anything may follow after one more `/`.
    Segments(Vec<Segment>, bool),
    /// Begins with the text, with `keyMatch`'s way with short paths.
    Prefix(String),
    /// Everything else.
    Regex(Regex),
}

/// One segment of a path.
#[derive(Debug)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// Any text that is not empty.
    Parameter,
}

impl Pattern {
    /// The pattern of `keyMatch`.
    pub fn prefix(pattern: &str) -> Self {
        match pattern.split_once('*') {
            Some((prefix, _)) => Self::Prefix(prefix.to_owned()),
            None => Self::Words(vec![pattern.to_owned()]),
        }
    }

    /// The pattern in a style; `None` when it is not a regular expression.
    pub fn compile(style: Style, pattern: &str) -> Option<Self> {
        let simple = match style {
            Style::Regex => words(pattern),
            Style::Colon | Style::ColonGroups => segments(pattern),
            _ => None,
        };
        simple.or_else(|| style.compile(pattern).ok().map(Self::Regex))
    }

    /// Whether a text matches; `None`: the answer is not certain here.
    pub fn holds(&self, text: &str) -> Option<bool> {
        match self {
            Self::Words(words) => Some(words.iter().any(|word| word == text)),
            Self::Parts(parts) => Some(parts.iter().any(|part| text.contains(part.as_str()))),
            Self::Line => (!text.contains('\n')).then_some(true),
            Self::Segments(segments, open) => {
                let mut rest = text.split('/');
                let begins = segments.iter().all(|segment| match (segment, rest.next()) {
                    (Segment::Literal(literal), Some(given)) => literal == given,
                    (Segment::Parameter, Some(given)) => !given.is_empty(),
                    (_, None) => false,
                });
                match (begins, open) {
                    (false, _) => Some(false),
                    (true, false) => Some(rest.next().is_none()),
                    (true, true) if text.contains('\n') => None,
                    (true, true) => Some(rest.next().is_some()),
                }
            }
            Self::Prefix(prefix) => {
                if text.len() <= prefix.len() {
                    return Some(text == prefix);
                }
                text.get(..prefix.len()).map(|start| start == prefix)
            }
            Self::Regex(regex) => Some(regex.is_match(text)),
        }
    }

    /// What stands at the parameter of this number, from 0; empty when the text does not match.
    pub fn get(&self, text: &str, parameter: usize) -> Option<String> {
        match self {
            Self::Segments(segments, _) => {
                if !self.holds(text)? {
                    return Some(String::new());
                }
                let mut pairs = segments.iter().zip(text.split('/'));
                let found = pairs.by_ref().filter(|(segment, _)| matches!(segment, Segment::Parameter));
                found.map(|(_, given)| given.to_owned()).nth(parameter)
            }
            Self::Regex(regex) => {
                let found = regex.captures(text).and_then(|found| found.get(parameter + 1));
                Some(found.map(|group| group.as_str().to_owned()).unwrap_or_default())
            }
            _ => None,
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

/// Literal segments and whole-segment parameters, `/*` at the end.
fn segments(pattern: &str) -> Option<Pattern> {
    let (closed, open) = match pattern.strip_suffix("/*") {
        Some(closed) => (closed, true),
        None => (pattern, false),
    };
    let plain = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let segment = |text: &str| match text.strip_prefix(':') {
        Some(name) => (!name.is_empty() && plain(name, "_")).then_some(Segment::Parameter),
        None => plain(text, "_-").then(|| Segment::Literal(text.to_owned())),
    };
    let segments: Option<Vec<Segment>> = closed.split('/').map(segment).collect();
    segments.map(|segments| Pattern::Segments(segments, open))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(parts: Vec<&'static str>) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(parts), 0..6).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn every_shape_is_the_regular_expression(
            path in text(vec!["/", "a", "b", "é", "\n", "7", "a.b", "-", ":x"]),
            pattern in text(vec!["/", "a", "b", ":x", ":y", ":", "*", "/*", "7", ".", "-", "é"]),
        ) {
            for style in [Style::Colon, Style::ColonGroups] {
                let (Some(ours), Ok(regex)) = (Pattern::compile(style, &pattern), style.compile(&pattern)) else {
                    continue;
                };
                if let Some(holds) = ours.holds(&path) {
                    prop_assert_eq!(holds, regex.is_match(&path), "{} {}", &path, &pattern);
                }
                for at in 0..regex.captures_len() - 1 {
                    let expected = regex.captures(&path).and_then(|found| found.get(at + 1));
                    if let (Style::ColonGroups, Some(got)) = (style, ours.get(&path, at)) {
                        prop_assert_eq!(got, expected.map_or("", |group| group.as_str()), "{}", &pattern);
                    }
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
