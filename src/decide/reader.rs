//! An expression of the matcher as a [`Node`]: recursive descent over its pieces, in rhai's precedence.
//!
//! Called by `shape` for the matcher, and by itself for `eval` rules. Another function is a branch of [`Reader::call`].

use std::collections::HashMap;

use super::compiled::{Node, Relation};
use super::expression::{self, Piece};
use super::functions::{ROLE_DEFINITIONS, Style};
use super::patterns::Patterns;
use super::request::Source;
use super::table::{Symbol, Table};

/// How the tokens of a matcher are read.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// The columns of `p`.
    pub columns: &'a [String],
    /// A token of the request, or a field of it; `None`: only rhai reads it.
    pub source: &'a dyn Fn(&str, Option<&str>) -> Option<Source>,
    /// The rows, for the patterns and rules in them.
    pub table: &'a Table,
}

impl Node {
    /// Compiles an expression; `None` when it holds something that only rhai evaluates.
    pub fn parse(text: &str, names: Names<'_>) -> Option<Self> {
        let pieces = expression::pieces(text);
        let mut reader = Reader { pieces: &pieces, names };
        let node = reader.or()?;
        reader.pieces.is_empty().then_some(node)
    }
}

/// What of an expression is still to be read.
struct Reader<'a> {
    pieces: &'a [(usize, Piece<'a>)],
    names: Names<'a>,
}

impl<'a> Reader<'a> {
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

    fn or(&mut self) -> Option<Node> {
        let mut left = self.and()?;
        while self.pair('|', '|').is_some() {
            left = Node::Or(Box::new(left), Box::new(self.and()?));
        }
        Some(left)
    }

    fn and(&mut self) -> Option<Node> {
        let mut left = self.equal()?;
        while self.pair('&', '&').is_some() {
            left = Node::And(Box::new(left), Box::new(self.equal()?));
        }
        Some(left)
    }

    fn equal(&mut self) -> Option<Node> {
        let left = self.order()?;
        let relation = match (self.pair('=', '='), self.pair('!', '=')) {
            (Some(()), _) => Relation::Equal,
            (None, Some(())) => Relation::Unequal,
            (None, None) => return Some(left),
        };
        Some(Node::Compare(relation, Box::new(left), Box::new(self.order()?)))
    }

    fn order(&mut self) -> Option<Node> {
        let left = self.sum()?;
        let relation = if self.pair('<', '=').is_some() {
            Relation::AtMost
        } else if self.pair('>', '=').is_some() {
            Relation::AtLeast
        } else if self.sign('<').is_some() {
            Relation::Less
        } else if self.sign('>').is_some() {
            Relation::Greater
        } else {
            return Some(left);
        };
        Some(Node::Compare(relation, Box::new(left), Box::new(self.sum()?)))
    }

    fn sum(&mut self) -> Option<Node> {
        let mut left = self.term()?;
        while self.sign('+').is_some() {
            left = Node::Concat(Box::new(left), Box::new(self.term()?));
        }
        Some(left)
    }

    fn term(&mut self) -> Option<Node> {
        if self.sign('!').is_some() {
            return Some(Node::Not(Box::new(self.term()?)));
        }
        if self.sign('(').is_some() {
            let inner = self.or()?;
            self.sign(')')?;
            return Some(inner);
        }
        if let Some(((_, Piece::Quoted(quoted)), rest)) = self.pieces.split_first() {
            self.pieces = rest;
            return text(quoted).map(Node::Text);
        }
        let word = self.word()?;
        match word {
            "true" => return Some(Node::Boolean(true)),
            "false" => return Some(Node::Boolean(false)),
            _ => {}
        }
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            return word.parse::<i32>().ok().map(|number| Node::Number(i64::from(number)));
        }
        if self.sign('(').is_some() {
            let mut arguments = vec![self.or()?];
            while self.sign(',').is_some() {
                arguments.push(self.or()?);
            }
            self.sign(')')?;
            return self.call(word, arguments);
        }
        self.sign('.')?;
        let token = self.word()?;
        match word {
            "p" => self.names.columns.iter().position(|column| column == token).map(Node::Column),
            "r" => {
                let field = match self.sign('.') {
                    Some(()) => Some(self.word()?),
                    None => None,
                };
                (self.names.source)(token, field).map(Node::Request)
            }
            _ => None,
        }
    }

    fn call(&self, function: &str, arguments: Vec<Node>) -> Option<Node> {
        let table = self.names.table;
        let mut arguments = arguments.into_iter();
        let first = arguments.next()?;
        if function == "eval" {
            let Node::Column(column) = first else { return None };
            return Some(Node::Rule(column, self.rules(column)));
        }
        let (second, third) = (arguments.next()?, arguments.next());
        Some(match (function, third) {
            ("keyMatch", None) => Node::Prefix(Box::new(first), Box::new(second)),
            ("keyMatch2" | "keyMatch3" | "keyMatch5" | "regexMatch", None) => {
                Node::Matches(Box::new(first), Patterns::new(Style::of(function)?, second, None, table)?)
            }
            ("keyGet2", Some(Node::Text(name))) => {
                let patterns = Patterns::new(Style::ColonGroups, second, Some(&name), table)?;
                Node::Get(Box::new(first), patterns)
            }
            (definition, domain) if ROLE_DEFINITIONS.contains(&definition) => {
                Node::Linked(definition.to_owned(), Box::new(first), Box::new(second), domain.map(Box::new))
            }
            _ => return None,
        })
    }

    /// What each text of a column means as an expression.
    fn rules(&self, column: usize) -> HashMap<Symbol, Option<Node>> {
        let table = self.names.table;
        let mut rules = HashMap::new();
        for row in 0..table.len() {
            if let Some(symbol) = table.symbol(row, column) {
                rules.entry(symbol).or_insert_with(|| Node::parse(table.texts().text(symbol), self.names));
            }
        }
        rules
    }
}

/// A quoted text that means what it says: no escapes, and nothing that casbin would rewrite in it (`p.x`).
fn text(quoted: &str) -> Option<String> {
    let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let rewritten = text.contains('.') && text.contains(['r', 'p']);
    (!rewritten && !text.contains('\\')).then(|| text.to_owned())
}
