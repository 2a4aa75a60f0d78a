//! The matcher, compiled: answered for a request and a row without the interpreter.
//!
//! `index` makes one of each term. It answers only where its answer is certainly rhai's: texts, booleans, whole numbers,
//! `&&`, `||`, `!`, comparisons, `+` of texts, roles, `keyMatch` to `keyMatch3`, `keyMatch5`, `keyGet2`, `regexMatch` and
//! `eval` rules of such things. For everything else it gives `None`, and the row is evaluated by rhai. `oracle` holds both against casbin.
//! `reader` makes a [`Node`] of a text. Another function is a branch of its `call` and an arm of [`Node::value`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

use super::patterns::{Patterns, prefix_holds};
use super::request::{Facts, Source, Value};
use super::roles::{Closure, RoleGraphs};
use super::table::{Symbol, Table};

/// A part of the matcher.
#[derive(Debug)]
pub enum Node {
    /// A text.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Number(i64),
    /// A request token, or a field of it.
    Request(Source),
    /// A column of `p`.
    Column(usize),
    /// `!a`
    Not(Box<Self>),
    /// `a && b`
    And(Box<Self>, Box<Self>),
    /// `a || b`
    Or(Box<Self>, Box<Self>),
    /// `a == b`, `a < b`, …
    Compare(Relation, Box<Self>, Box<Self>),
    /// `a + b`
    Concat(Box<Self>, Box<Self>),
    /// `keyMatch`
    Prefix(Box<Self>, Box<Self>),
    /// A text held against a pattern.
    Matches(Box<Self>, Patterns),
    /// `keyGet2`
    Get(Box<Self>, Patterns),
    /// A role definition, the name, the role, the domain.
    Linked(String, Box<Self>, Box<Self>, Option<Box<Self>>),
    /// `eval` of a column: what each text of it means.
    Rule(usize, HashMap<Symbol, Option<Self>>),
}

/// How two values are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// What a node is evaluated for.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The request.
    pub facts: &'a Facts,
    /// The subject's roles.
    pub subject: &'a Closure,
    /// The files' role graphs.
    pub graphs: &'a RoleGraphs,
    /// The rows.
    pub table: &'a Table,
    /// The row's number.
    pub row: usize,
}

/// What a value certainly is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A text.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Number,
}

impl Node {
    /// Whether it is true; `None`: ask rhai.
    pub fn holds(&self, given: Given<'_>) -> Option<bool> {
        match self {
            Self::And(left, right) => Some(left.holds(given)? && right.holds(given)?),
            Self::Or(left, right) => Some(left.holds(given)? || right.holds(given)?),
            Self::Not(node) => node.holds(given).map(|holds| !holds),
            _ => match self.value(given)? {
                Value::Boolean(value) => Some(value),
                Value::Text(_) | Value::Number(_) => None,
            },
        }
    }

    fn text<'a>(&'a self, given: Given<'a>) -> Option<Cow<'a, str>> {
        match self.value(given)? {
            Value::Text(text) => Some(text),
            Value::Boolean(_) | Value::Number(_) => None,
        }
    }

    fn value<'a>(&'a self, given: Given<'a>) -> Option<Value<'a>> {
        Some(match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Boolean(value) => Value::Boolean(*value),
            Self::Number(value) => Value::Number(*value),
            Self::Request(source) => given.facts.read(source)?,
            Self::Column(column) => Value::Text(Cow::Borrowed(given.table.value(given.row, *column)?)),
            Self::Not(_) | Self::And(..) | Self::Or(..) => Value::Boolean(self.holds(given)?),
            Self::Compare(relation, left, right) => {
                Value::Boolean(relation.holds(&left.value(given)?, &right.value(given)?)?)
            }
            Self::Concat(left, right) => {
                Value::Text(Cow::Owned(left.text(given)?.into_owned() + &*right.text(given)?))
            }
            Self::Prefix(value, pattern) => {
                Value::Boolean(prefix_holds(&pattern.text(given)?, &value.text(given)?)?)
            }
            Self::Matches(value, patterns) => {
                Value::Boolean(patterns.holds(given.table, given.row, &value.text(given)?)?)
            }
            Self::Get(value, patterns) => {
                Value::Text(Cow::Owned(patterns.get(given.table, given.row, &value.text(given)?)?))
            }
            Self::Linked(definition, name, role, domain) => {
                let (name, role) = (name.text(given)?, role.text(given)?);
                let domain = match domain {
                    Some(domain) => domain.text(given)?,
                    None => Cow::Borrowed(""),
                };
                Value::Boolean(given.graphs.has(definition, given.subject, &name, &role, &domain))
            }
            Self::Rule(column, rules) => {
                let symbol = given.table.symbol(given.row, *column)?;
                rules.get(&symbol)?.as_ref()?.value(given)?
            }
        })
    }

    /// What it certainly yields, for every request and row and without an error; `None` when that is not certain.
    pub fn kind(&self) -> Option<Kind> {
        let text = |node: &Self| (node.kind() == Some(Kind::Text)).then_some(());
        let boolean = |node: &Self| (node.kind() == Some(Kind::Boolean)).then_some(());
        match self {
            Self::Text(_) | Self::Column(_) => Some(Kind::Text),
            Self::Boolean(_) => Some(Kind::Boolean),
            Self::Number(_) => Some(Kind::Number),
            Self::Request(source) => source.kind(),
            Self::Not(node) => boolean(node).map(|()| Kind::Boolean),
            Self::And(left, right) | Self::Or(left, right) => {
                boolean(left)?;
                boolean(right).map(|()| Kind::Boolean)
            }
            Self::Compare(_, left, right) => (left.kind()? == right.kind()?).then_some(Kind::Boolean),
            Self::Concat(left, right) => {
                text(left)?;
                text(right).map(|()| Kind::Text)
            }
            Self::Matches(value, patterns) => {
                text(value)?;
                patterns.are_checked().then_some(Kind::Boolean)
            }
            Self::Linked(_, name, role, domain) => {
                text(name)?;
                text(role)?;
                domain.as_deref().map_or(Some(()), text).map(|()| Kind::Boolean)
            }
            // A prefix can end within a character; a parameter's name and a rule can be anything.
            Self::Prefix(..) | Self::Get(..) | Self::Rule(..) => None,
        }
    }

    /// True when it is the same for every row.
    pub fn is_of_request(&self) -> bool {
        match self {
            Self::Text(_) | Self::Boolean(_) | Self::Number(_) | Self::Request(_) => true,
            Self::Column(_) | Self::Rule(..) | Self::Get(..) => false,
            Self::Not(node) => node.is_of_request(),
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Compare(_, left, right)
            | Self::Concat(left, right)
            | Self::Prefix(left, right) => left.is_of_request() && right.is_of_request(),
            Self::Matches(value, patterns) => value.is_of_request() && patterns.is_constant(),
            Self::Linked(_, name, role, domain) => {
                name.is_of_request()
                    && role.is_of_request()
                    && domain.as_deref().is_none_or(Self::is_of_request)
            }
        }
    }

    /// The only column that it reads: `Some(None)` when it reads none, `None` when there is more than one.
    pub fn column(&self) -> Option<Option<usize>> {
        match self {
            Self::Column(column) => Some(Some(*column)),
            Self::Text(_) => Some(None),
            Self::Concat(left, right) => match (left.column()?, right.column()?) {
                (one, None) | (None, one) => Some(one),
                (Some(left), Some(right)) => (left == right).then_some(Some(left)),
            },
            _ => None,
        }
    }

    /// The text that a part of texts and one column makes of a value of that column.
    pub fn with_column(&self, value: &str) -> String {
        match self {
            Self::Column(_) => value.to_owned(),
            Self::Text(text) => text.clone(),
            Self::Concat(left, right) => left.with_column(value) + right.with_column(value).as_str(),
            _ => String::new(),
        }
    }
}

impl Relation {
    /// rhai's comparison: values of different kinds are unequal, and none is less than the other.
    fn holds(self, left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
        let order = match (left, right) {
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Number(left), Value::Number(right)) => left.cmp(right),
            (Value::Boolean(left), Value::Boolean(right)) => {
                return match self {
                    Self::Equal => Some(left == right),
                    Self::Unequal => Some(left != right),
                    _ => None,
                };
            }
            _ => return Some(self == Self::Unequal),
        };
        Some(match self {
            Self::Equal => order == Ordering::Equal,
            Self::Unequal => order != Ordering::Equal,
            Self::Less => order == Ordering::Less,
            Self::AtMost => order != Ordering::Greater,
            Self::Greater => order == Ordering::Greater,
            Self::AtLeast => order != Ordering::Less,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::Names;
    use super::*;

    fn parsed(text: &str) -> Option<Node> {
        let columns = ["sub".to_owned(), "obj".to_owned(), "act".to_owned()];
        let source = |token: &str, field: Option<&str>| match (token, field) {
            ("obj", None) => Some(Source::Object),
            ("sub", Some(field)) => Some(Source::Subject(field.to_owned())),
            _ => None,
        };
        let table = Table::default();
        Node::parse(text, Names { columns: &columns, source: &source, table: &table })
    }

    #[test]
    fn only_what_has_one_certain_meaning_is_compiled() {
        for good in [
            "r.obj == p.obj",
            "!(r.obj != p.obj) && true",
            "(p.sub == \"*\" || g(r.sub.name, p.sub)) && keyMatch2(r.obj, p.obj)",
            "regexMatch(r.obj, \"^(\" + p.act + \")$\")",
            "r.sub.level > 3 && r.sub.level <= 7",
            "eval(p.act)",
        ] {
            assert!(parsed(good).is_some(), "{good}");
        }
        for only_rhai in [
            "r.obj == p.obj == true",
            "r.obj = p.obj",
            "r.obj | p.obj",
            "r.obj & & p.obj",
            "r.sub.level > -3",
            "r.sub.level > 3.5",
            "r.sub.level > 3 > 2",
            "r.sub.level > 3000000000",
            "r.sub == p.sub",
            "r.obj.len() == 3",
            "r.obj[0] == p.obj",
            "r.obj == \"p.x\"",
            "r.obj == \"a\\n\"",
            "r.obj == 'a'",
            "q.obj == p.obj",
            "r.obj == p.obj)",
            "keyMatch2(r.obj, r.obj)",
            "f()",
            "",
        ] {
            assert!(parsed(only_rhai).is_none(), "{only_rhai}");
        }
    }

    #[test]
    fn what_can_fail_is_not_certain() {
        for certain in
            ["r.obj == p.obj", "g(r.sub.name, p.sub)", "keyMatch2(r.obj, p.obj)", "!(r.obj == p.act)"]
        {
            assert_eq!(parsed(certain).unwrap().kind(), Some(Kind::Boolean), "{certain}");
        }
        for uncertain in [
            "keyMatch(r.obj, p.obj)",
            "r.sub.level == \"3\"",
            "g(r.sub.level, p.sub)",
            "regexMatch(r.obj, \"^(\" + p.act + \")$\")",
            "eval(p.act)",
            "r.obj && true",
        ] {
            assert_eq!(parsed(uncertain).and_then(|node| node.kind()), None, "{uncertain}");
        }
    }
}
