//! What is left of the matcher for one row: its columns filled in, constant parts folded, patterns compiled.
//!
//! `index` makes a [`Template`] of the matcher once, and a [`Residual`] of each row when the row is first asked about. A
//! residual answers only where its answer is certainly rhai's: texts, booleans, `&&`, `||`, `!`, `==`, `!=`, `+`, roles,
//! `keyMatch`, `keyMatch2`, `keyGet2` and `regexMatch`. For everything else it gives `None`, and the row is evaluated by
//! rhai. `oracle` holds both against casbin. Another function is a branch of [`call`].

use std::borrow::Cow;

use super::expression::{self, Piece};
use super::functions::Style;
use super::patterns::Pattern;
use super::request::{Facts, Source, Value};
use super::roles::{Closure, RoleGraphs};

/// The matcher, parsed.
#[derive(Clone, Debug)]
pub enum Template {
    /// A text.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
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
    /// `a == b`, or `a != b`.
    Equal(Box<Self>, Box<Self>, bool),
    /// `a + b`
    Concat(Box<Self>, Box<Self>),
    /// A function.
    Call(String, Vec<Self>),
}

/// What a row still asks of a request.
#[derive(Debug)]
pub enum Residual {
    /// A text.
    Text(String),
    /// `true` or `false`.
    Boolean(bool),
    /// A request token, or a field of it.
    Request(Source),
    /// `!a`
    Not(Box<Self>),
    /// `a && b`
    And(Box<Self>, Box<Self>),
    /// `a || b`
    Or(Box<Self>, Box<Self>),
    /// `a == b`, or `a != b`.
    Equal(Box<Self>, Box<Self>, bool),
    /// A text held against a pattern.
    Matches(Source, Pattern),
    /// `keyGet2`: the pattern, and which of its parameters.
    Get(Source, Pattern, usize),
    /// A role definition, the name, the role.
    Linked(String, Source, String),
}

/// What a request brings to a residual.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The request.
    pub facts: &'a Facts,
    /// The subject's roles.
    pub subject: &'a Closure,
    /// The files' role graphs.
    pub graphs: &'a RoleGraphs,
}

/// How the tokens of a matcher are read.
pub struct Names<'a> {
    /// The columns of `p`.
    pub columns: &'a [String],
    /// A token of the request, or a field of it; `None`: only rhai reads it.
    pub source: &'a dyn Fn(&str, Option<&str>) -> Option<Source>,
}

impl Template {
    /// Parses a matcher; `None` when it holds something that only rhai evaluates.
    pub fn parse(text: &str, names: &Names<'_>) -> Option<Self> {
        let pieces = expression::pieces(text);
        let mut parser = Parser { pieces: &pieces, names };
        let template = parser.or()?;
        parser.pieces.is_empty().then_some(template)
    }

    /// Fills in a row.
    pub fn fold(&self, row: &[String]) -> Option<Residual> {
        let boxed = |term: &Self| term.fold(row).map(Box::new);
        Some(match self {
            Self::Text(text) => Residual::Text(text.clone()),
            Self::Boolean(value) => Residual::Boolean(*value),
            Self::Request(source) => Residual::Request(source.clone()),
            Self::Column(column) => Residual::Text(row.get(*column)?.clone()),
            Self::Not(term) => match term.fold(row)? {
                Residual::Boolean(value) => Residual::Boolean(!value),
                term => Residual::Not(Box::new(term)),
            },
            Self::And(left, right) => match left.fold(row)? {
                Residual::Boolean(false) => Residual::Boolean(false),
                left => Residual::And(Box::new(left), boxed(right)?),
            },
            Self::Or(left, right) => match left.fold(row)? {
                Residual::Boolean(true) => Residual::Boolean(true),
                left => Residual::Or(Box::new(left), boxed(right)?),
            },
            Self::Equal(left, right, equal) => match (left.fold(row)?, right.fold(row)?) {
                (Residual::Text(left), Residual::Text(right)) => Residual::Boolean((left == right) == *equal),
                (left, right) => Residual::Equal(Box::new(left), Box::new(right), *equal),
            },
            Self::Concat(left, right) => match (left.fold(row)?, right.fold(row)?) {
                (Residual::Text(left), Residual::Text(right)) => Residual::Text(left + right.as_str()),
                _ => return None,
            },
            Self::Call(function, arguments) => {
                let folded: Option<Vec<Residual>> = arguments.iter().map(|term| term.fold(row)).collect();
                call(function, folded?)?
            }
        })
    }
}

fn call(function: &str, arguments: Vec<Residual>) -> Option<Residual> {
    let mut arguments = arguments.into_iter();
    let (Residual::Request(value), Residual::Text(second)) = (arguments.next()?, arguments.next()?) else {
        return None;
    };
    Some(match (function, arguments.next()) {
        ("keyMatch", None) => Residual::Matches(value, Pattern::prefix(&second)),
        ("keyMatch2", None) => Residual::Matches(value, Pattern::compile(Style::Colon, &second)?),
        ("regexMatch", None) => Residual::Matches(value, Pattern::compile(Style::Regex, &second)?),
        ("keyGet2", Some(Residual::Text(name))) => match Style::Colon.parameter(&second, &name) {
            None => Residual::Text(String::new()),
            Some(at) => Residual::Get(value, Pattern::compile(Style::ColonGroups, &second)?, at),
        },
        (definition, None) if super::functions::ROLE_DEFINITIONS.contains(&definition) => {
            Residual::Linked(definition.to_owned(), value, second)
        }
        _ => return None,
    })
}

impl Residual {
    /// Whether the row holds; `None`: ask rhai.
    pub fn holds(&self, given: Given<'_>) -> Option<bool> {
        match self.value(given)? {
            Value::Boolean(value) => Some(value),
            Value::Text(_) => None,
        }
    }

    fn value<'a>(&'a self, given: Given<'a>) -> Option<Value<'a>> {
        let text = |source| match given.facts.read(source)? {
            Value::Text(text) => Some(text),
            Value::Boolean(_) => None,
        };
        Some(match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Boolean(value) => Value::Boolean(*value),
            Self::Request(source) => given.facts.read(source)?,
            Self::Not(term) => Value::Boolean(!term.holds(given)?),
            Self::And(left, right) => Value::Boolean(left.holds(given)? && right.holds(given)?),
            Self::Or(left, right) => Value::Boolean(left.holds(given)? || right.holds(given)?),
            Self::Equal(left, right, equal) => {
                let same = match (left.value(given)?, right.value(given)?) {
                    (Value::Text(left), Value::Text(right)) => left == right,
                    (Value::Boolean(left), Value::Boolean(right)) => left == right,
                    _ => return None,
                };
                Value::Boolean(same == *equal)
            }
            Self::Matches(source, pattern) => Value::Boolean(pattern.holds(&text(source)?)?),
            Self::Get(source, pattern, at) => Value::Text(Cow::Owned(pattern.get(&text(source)?, *at)?)),
            Self::Linked(definition, source, role) => {
                Value::Boolean(given.graphs.has(definition, given.subject, &text(source)?, role, ""))
            }
        })
    }
}

/// Recursive descent over the pieces of an expression, in rhai's precedence.
struct Parser<'a> {
    pieces: &'a [(usize, Piece<'a>)],
    names: &'a Names<'a>,
}

impl<'a> Parser<'a> {
    /// Takes a sign.
    fn sign(&mut self, sign: char) -> Option<()> {
        let ((_, Piece::Sign(next)), rest) = self.pieces.split_first()? else { return None };
        (*next == sign).then(|| self.pieces = rest)
    }

    /// Takes an operator of two signs that stand side by side.
    fn pair(&mut self, first: char, second: char) -> Option<()> {
        let [(at, Piece::Sign(one)), (next, Piece::Sign(two)), rest @ ..] = self.pieces else { return None };
        (*one == first && *two == second && *next == at + 1).then(|| self.pieces = rest)
    }

    fn word(&mut self) -> Option<&'a str> {
        let ((_, Piece::Word(word)), rest) = self.pieces.split_first()? else { return None };
        self.pieces = rest;
        Some(word)
    }

    fn or(&mut self) -> Option<Template> {
        let mut left = self.and()?;
        while self.pair('|', '|').is_some() {
            left = Template::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Template> {
        let mut left = self.equal()?;
        while self.pair('&', '&').is_some() {
            left = Template::And(Box::new(left), Box::new(self.equal()?));
        }
        Some(left)
    }

    fn equal(&mut self) -> Option<Template> {
        let left = self.sum()?;
        let equal = match (self.pair('=', '='), self.pair('!', '=')) {
            (Some(()), _) => true,
            (None, Some(())) => false,
            (None, None) => return Some(left),
        };
        Some(Template::Equal(Box::new(left), Box::new(self.sum()?), equal))
    }

    fn sum(&mut self) -> Option<Template> {
        let mut left = self.term()?;
        while self.sign('+').is_some() {
            left = Template::Concat(Box::new(left), Box::new(self.term()?));
        }
        Some(left)
    }

    fn term(&mut self) -> Option<Template> {
        if self.sign('!').is_some() {
            return Some(Template::Not(Box::new(self.term()?)));
        }
        if self.sign('(').is_some() {
            let inner = self.or()?;
            self.sign(')')?;
            return Some(inner);
        }
        if let Some(((_, Piece::Quoted(quoted)), rest)) = self.pieces.split_first() {
            self.pieces = rest;
            return text(quoted).map(Template::Text);
        }
        let word = self.word()?;
        match word {
            "true" => return Some(Template::Boolean(true)),
            "false" => return Some(Template::Boolean(false)),
            _ => {}
        }
        if self.sign('(').is_some() {
            let mut arguments = vec![self.or()?];
            while self.sign(',').is_some() {
                arguments.push(self.or()?);
            }
            self.sign(')')?;
            return Some(Template::Call(word.to_owned(), arguments));
        }
        self.sign('.')?;
        let token = self.word()?;
        match word {
            "p" => self.names.columns.iter().position(|column| column == token).map(Template::Column),
            "r" => {
                let field = match self.sign('.') {
                    Some(()) => Some(self.word()?),
                    None => None,
                };
                (self.names.source)(token, field).map(Template::Request)
            }
            _ => None,
        }
    }
}

/// A quoted text that means what it says: no escapes, and nothing that casbin would rewrite in it (`p.x`).
fn text(quoted: &str) -> Option<String> {
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let rewritten = text.contains('.') && text.contains(['r', 'p']);
    (!rewritten && !text.contains('\\')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Template> {
        let columns = ["sub".to_owned(), "obj".to_owned(), "act".to_owned()];
        let source = |token: &str, field: Option<&str>| match (token, field) {
            ("obj", None) => Some(Source::Object),
            ("sub", Some(field)) => Some(Source::Subject(field.to_owned())),
            _ => None,
        };
        Template::parse(text, &Names { columns: &columns, source: &source })
    }

    #[test]
    fn only_what_has_one_certain_meaning_is_parsed() {
        for good in [
            "r.obj == p.obj",
            "!(r.obj != p.obj) && true",
            "(p.sub == \"*\" || g(r.sub.name, p.sub)) && keyMatch2(r.obj, p.obj)",
            "regexMatch(r.obj, \"^(\" + p.act + \")$\")",
        ] {
            assert!(parsed(good).is_some(), "{good}");
        }
        for only_rhai in [
            "r.obj == p.obj == true",
            "r.obj = p.obj",
            "r.obj | p.obj",
            "r.obj & & p.obj",
            "r.sub.level > 3",
            "r.sub == p.sub",
            "r.obj.len() == 3",
            "r.obj[0] == p.obj",
            "r.obj == \"p.x\"",
            "r.obj == \"a\\n\"",
            "r.obj == 'a'",
            "r.obj == 3",
            "q.obj == p.obj",
            "r.obj == p.obj)",
            "f()",
            "",
        ] {
            assert!(parsed(only_rhai).is_none(), "{only_rhai}");
        }
    }

    #[test]
    fn what_a_row_settles_is_settled_once() {
        let row = ["reader".to_owned(), "/a/:id".to_owned(), "GET|HEAD".to_owned()];
        let fold = |text| parsed(text).unwrap().fold(&row);
        assert!(matches!(fold("p.sub == \"admin\" && r.obj == p.obj"), Some(Residual::Boolean(false))));
        assert!(matches!(fold("!(p.sub == \"admin\")"), Some(Residual::Boolean(true))));
        assert!(matches!(fold("keyGet2(r.obj, p.obj, \"x\") == \"\""), Some(Residual::Boolean(true))));
        assert!(fold("keyMatch3(r.obj, p.obj)").is_none());
        assert!(fold("keyMatch2(p.obj, r.obj)").is_none());
    }
}
