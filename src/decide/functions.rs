//! The functions that matchers may call, with casbin's meaning but without its panics, and with compiled patterns kept.
//!
//! Registered with rhai by `interpreter`, and on the `Enforcer`s that `snapshot` explains with. A new function: one entry
//! in [`ALL`].
//! An argument that casbin would panic on is a failure: the request is denied, whatever the rest of the matcher says.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use casbin::function_map::OperatorFunction;
use casbin::rhai::Dynamic;
use casbin::{CoreApi as _, Enforcer};
use regex::Regex;

use super::call;

/// Names that `[role_definition]` may define.
pub const ROLE_DEFINITIONS: [&str; 5] = ["g", "g2", "g3", "g4", "g5"];

/// Compiled patterns kept per thread; beyond it, patterns are compiled at every use.
const PATTERNS: usize = 65_536;

const ALL: [(&str, OperatorFunction); 10] = [
    ("keyMatch", OperatorFunction::Arg2(|a, b| key_match(&text(&a), &text(&b)))),
    ("keyMatch2", OperatorFunction::Arg2(|a, b| matches(&text(&a), &text(&b), Style::Colon))),
    ("keyMatch3", OperatorFunction::Arg2(|a, b| matches(&text(&a), &text(&b), Style::Braces))),
    ("keyMatch4", OperatorFunction::Arg2(|a, b| key_match4(&text(&a), &text(&b)))),
    (
        "keyMatch5",
        OperatorFunction::Arg2(|a, b| {
            let path = text(&a);
            matches(path.split('?').next().unwrap_or_default(), &text(&b), Style::ShortBraces)
        }),
    ),
    ("regexMatch", OperatorFunction::Arg2(|a, b| matches(&text(&a), &text(&b), Style::Regex))),
    ("keyGet", OperatorFunction::Arg2(|a, b| key_get(&text(&a), &text(&b)))),
    (
        "keyGet2",
        OperatorFunction::Arg3(|a, b, c| key_get_named(&text(&a), &text(&b), &text(&c), Style::Colon)),
    ),
    (
        "keyGet3",
        OperatorFunction::Arg3(|a, b, c| key_get_named(&text(&a), &text(&b), &text(&c), Style::Braces)),
    ),
    ("ipMatch", OperatorFunction::Arg2(|a, b| ip_match(&text(&a), &text(&b)))),
];

/// How many arguments a function takes; `None` for unknown ones.
pub fn arity(name: &str) -> Option<usize> {
    let (_, function) = ALL.iter().find(|(known, _)| *known == name)?;
    Some(if matches!(function, OperatorFunction::Arg3(_)) { 3 } else { 2 })
}

/// Registers every function, and `g` to `g5` as the model defines them.
pub fn register(enforcer: &mut Enforcer, roles: &std::collections::BTreeMap<String, usize>) {
    for (name, function) in all(roles) {
        enforcer.add_function(name, function);
    }
}

/// Every function for a model with these role definitions.
pub fn all(roles: &std::collections::BTreeMap<String, usize>) -> Vec<(&'static str, OperatorFunction)> {
    let mut functions = ALL.to_vec();
    let two: [(&str, OperatorFunction); 5] = [
        ("g", OperatorFunction::Arg2(|a, b| link("g", &a, &b, None))),
        ("g2", OperatorFunction::Arg2(|a, b| link("g2", &a, &b, None))),
        ("g3", OperatorFunction::Arg2(|a, b| link("g3", &a, &b, None))),
        ("g4", OperatorFunction::Arg2(|a, b| link("g4", &a, &b, None))),
        ("g5", OperatorFunction::Arg2(|a, b| link("g5", &a, &b, None))),
    ];
    let three: [(&str, OperatorFunction); 5] = [
        ("g", OperatorFunction::Arg3(|a, b, c| link("g", &a, &b, Some(&c)))),
        ("g2", OperatorFunction::Arg3(|a, b, c| link("g2", &a, &b, Some(&c)))),
        ("g3", OperatorFunction::Arg3(|a, b, c| link("g3", &a, &b, Some(&c)))),
        ("g4", OperatorFunction::Arg3(|a, b, c| link("g4", &a, &b, Some(&c)))),
        ("g5", OperatorFunction::Arg3(|a, b, c| link("g5", &a, &b, Some(&c)))),
    ];
    for (name, count) in roles {
        let set = if *count == 3 { &three } else { &two };
        if let Some((name, function)) = set.iter().find(|(known, _)| known == name) {
            functions.push((name, *function));
        }
    }
    functions
}

fn text(value: &Dynamic) -> Cow<'_, str> {
    casbin::function_map::dynamic_to_str(value)
}

fn failed(message: String) -> Dynamic {
    call::fail(message);
    Dynamic::UNIT
}

fn link(definition: &str, name: &Dynamic, role: &Dynamic, domain: Option<&Dynamic>) -> Dynamic {
    if !name.is_string() || !role.is_string() || domain.is_some_and(|domain| !domain.is_string()) {
        return failed(format!("`{definition}` was asked about something that is not a text"));
    }
    let domain = domain.map(text).unwrap_or_default();
    let found = call::with(|context| {
        context.graphs.has(definition, &context.subject, &text(name), &text(role), &domain)
    });
    found.map_or_else(|| failed("no role graph".to_owned()), Dynamic::from)
}

/// How a pattern becomes a regular expression.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Style {
    /// `regexMatch`: as written, not anchored.
    Regex,
    /// `keyMatch2`: `:name`.
    Colon,
    /// `keyMatch3`: `{name}`, greedy within a segment.
    Braces,
    /// `keyMatch5`: `{name}`.
    ShortBraces,
    /// `keyMatch4`: `{name}` as a group.
    Groups,
    /// `keyGet2`: `:name` as a group.
    ColonGroups,
    /// `keyGet3`: `{name}` as a group.
    BracesGroups,
}

impl Style {
    /// The style of a function's second argument.
    pub fn of(function: &str) -> Option<Self> {
        Some(match function {
            "regexMatch" => Self::Regex,
            "keyMatch2" => Self::Colon,
            "keyMatch3" => Self::Braces,
            "keyMatch4" => Self::Groups,
            "keyMatch5" => Self::ShortBraces,
            "keyGet2" => Self::ColonGroups,
            "keyGet3" => Self::BracesGroups,
            _ => return None,
        })
    }

    /// The regular expression that casbin builds.
    pub fn expression(self, pattern: &str) -> String {
        static COLON: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(":[^/]*").ok());
        static COLON_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(":[^/]+").ok());
        static BRACES: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\{[^/]*\}").ok());
        static SHORT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\{[^/]+?\}").ok());
        let (parameter, with) = match self {
            Self::Regex => return pattern.to_owned(),
            Self::Colon => (&COLON, "[^/]+"),
            Self::Braces => (&BRACES, "[^/]+"),
            Self::ShortBraces => (&SHORT, "[^/]+"),
            Self::Groups => (&SHORT, "([^/]+)"),
            Self::ColonGroups => (&COLON_NAME, "([^/]+)"),
            Self::BracesGroups => (&SHORT, "([^/]+?)"),
        };
        let pattern = pattern.replace("/*", "/.*");
        let replaced = match parameter.as_ref() {
            Some(parameter) => parameter.replace_all(&pattern, with).into_owned(),
            None => pattern,
        };
        let replaced = if self == Self::BracesGroups { replaced.replace('{', "\\{") } else { replaced };
        format!("^{replaced}$")
    }

    /// The names of a pattern's parameters.
    fn names(self, pattern: &str) -> Vec<&str> {
        let segments = pattern.split('/');
        match self {
            Self::Colon | Self::ColonGroups => segments
                .filter_map(|segment| segment.split_once(':').map(|(_, name)| name))
                .filter(|name| !name.is_empty())
                .collect(),
            _ => segments
                .flat_map(|segment| segment.split('{').skip(1))
                .filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
                .filter(|name| !name.is_empty())
                .collect(),
        }
    }

    /// Which parameter of a pattern has the name, from 0.
    pub fn parameter(self, pattern: &str, name: &str) -> Option<usize> {
        self.names(pattern).iter().position(|known| *known == name)
    }

    /// True for patterns that are certainly valid, without compiling them: most rows of large policies.
    pub fn plainly_valid(self, pattern: &str) -> bool {
        let pattern = match self {
            Self::Regex => {
                return pattern == ".*" || pattern.chars().all(|c| c.is_ascii_alphanumeric() || c == '|');
            }
            _ => pattern.strip_suffix("/*").unwrap_or(pattern),
        };
        pattern.len() < 1024 && pattern.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.:".contains(c))
    }

    /// Compiles a pattern.
    ///
    /// # Errors
    /// What the regular expression's author should know.
    pub fn compile(self, pattern: &str) -> Result<Regex, String> {
        Regex::new(&self.expression(pattern)).map_err(|cause| match cause {
            regex::Error::Syntax(text) => {
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
            other => other.to_string(),
        })
    }
}

thread_local! {
    static COMPILED: RefCell<HashMap<Style, HashMap<String, Regex>>> = RefCell::new(HashMap::new());
}

fn with_pattern<T>(pattern: &str, style: Style, work: impl FnOnce(&Regex) -> T) -> Option<T> {
    COMPILED.with(|cell| {
        let mut kept = cell.borrow_mut();
        let kept = kept.entry(style).or_default();
        if let Some(regex) = kept.get(pattern) {
            return Some(work(regex));
        }
        match style.compile(pattern) {
            Ok(regex) => {
                let result = work(&regex);
                if kept.len() < PATTERNS {
                    kept.insert(pattern.to_owned(), regex);
                }
                Some(result)
            }
            Err(cause) => {
                call::fail(format!("`{pattern}` is not a pattern: {cause}"));
                None
            }
        }
    })
}

fn matches(value: &str, pattern: &str, style: Style) -> Dynamic {
    with_pattern(pattern, style, |regex| regex.is_match(value)).map_or(Dynamic::UNIT, Dynamic::from)
}

fn key_match(path: &str, pattern: &str) -> Dynamic {
    let Some((prefix, _)) = pattern.split_once('*') else { return Dynamic::from(path == pattern) };
    if path.len() <= prefix.len() {
        return Dynamic::from(path == prefix);
    }
    match path.get(..prefix.len()) {
        Some(start) => Dynamic::from(start == prefix),
        None => {
            failed(format!("`{path}` cannot be held against `{pattern}`: the prefix ends inside a character"))
        }
    }
}

fn key_get(path: &str, pattern: &str) -> Dynamic {
    let Some((prefix, _)) = pattern.split_once('*') else { return Dynamic::from(String::new()) };
    if path.len() > prefix.len() && !path.is_char_boundary(prefix.len()) {
        return failed(format!(
            "`{path}` cannot be held against `{pattern}`: the prefix ends inside a character"
        ));
    }
    Dynamic::from(path.strip_prefix(prefix).unwrap_or_default().to_owned())
}

fn key_match4(path: &str, pattern: &str) -> Dynamic {
    let names = Style::Groups.names(pattern);
    let answer = with_pattern(pattern, Style::Groups, |regex| {
        let Some(found) = regex.captures(path) else { return Some(false) };
        let values: Option<Vec<&str>> =
            found.iter().skip(1).map(|group| group.map(|group| group.as_str())).collect();
        let values = values.filter(|values| values.len() == names.len())?;
        let mut seen = HashMap::new();
        Some(names.iter().zip(values).all(|(name, value)| *seen.entry(*name).or_insert(value) == value))
    });
    match answer {
        Some(Some(answer)) => Dynamic::from(answer),
        Some(None) => failed(format!("`{pattern}` has groups of its own, which keyMatch4 does not take")),
        None => Dynamic::UNIT,
    }
}

fn key_get_named(path: &str, pattern: &str, name: &str, style: Style) -> Dynamic {
    let groups = if style == Style::Colon { Style::ColonGroups } else { Style::BracesGroups };
    let Some(index) = style.parameter(pattern, name) else {
        return Dynamic::from(String::new());
    };
    let value = with_pattern(pattern, groups, |regex| {
        let found = regex.captures(path)?;
        Some(found.get(index + 1)?.as_str().to_owned())
    });
    value.map_or(Dynamic::UNIT, |value| Dynamic::from(value.unwrap_or_default()))
}

fn ip_match(address: &str, range: &str) -> Dynamic {
    let Ok(address) = address.parse::<IpAddr>() else {
        return failed(format!("ipMatch: `{address}` is not an address"));
    };
    let address = address.to_canonical();
    let found = match range.parse::<ipnet::IpNet>() {
        Ok(network) => network.contains(&address),
        Err(_) => match range.parse::<IpAddr>() {
            Ok(one) => one.to_canonical() == address,
            Err(_) => return failed(format!("ipMatch: `{range}` is neither an address nor a network")),
        },
    };
    Dynamic::from(found)
}
