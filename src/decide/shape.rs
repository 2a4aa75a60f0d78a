//! What rows can be found by: which columns the matcher compares with the subject and with the object, in terms that
//! neither fail nor stand behind one that can.
//!
//! Used by `index`. Another way to write such a term is an arm of [`BySubject::of`] or [`of_object`].

use super::compiled::{Kind, Node, Relation};
use super::expression;
use super::functions::Style;
use super::paths::Comparison;
use super::reader::Names;
use super::request::Source;

/// What the matcher says about the columns.
pub struct Shape {
    /// A term of the request alone that lets every row hold, as `r.sub == "root" ||` at the matcher's beginning.
    pub guard: Option<Node>,
    /// The column that says for which subjects a row is; its term holds for every row that is found by it, and is not in `terms`.
    pub subject: Option<BySubject>,
    /// The column that is held against the object.
    pub object: Option<(usize, Comparison)>,
    /// What else is to be asked, in order; `None`: rhai has to be.
    pub terms: Vec<Option<Node>>,
    /// The terms that rhai has to be asked for, as written.
    pub interpreted: Vec<String>,
}

/// How the subject column is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BySubject {
    /// The column.
    pub column: usize,
    /// Texts that hold for everyone, as `*` in `p.sub == "*" || g(r.sub, p.sub)`.
    pub everyone: Vec<String>,
    /// The subject's name holds.
    pub name: bool,
    /// Its roles hold.
    pub roles: bool,
}

impl Shape {
    /// Reads the matcher.
    pub fn of(matcher: &str, names: Names<'_>) -> Self {
        let written = expression::terms(matcher);
        let (guard, mut terms) = match written.as_slice() {
            [only] => match Node::parse(only, names) {
                Some(Node::Or(guard, rest))
                    if guard.is_of_request() && guard.kind() == Some(Kind::Boolean) =>
                {
                    let mut terms = Vec::new();
                    conjuncts(*rest, &mut terms);
                    (Some(*guard), terms)
                }
                node => (None, vec![node]),
            },
            terms => (None, terms.iter().map(|term| Node::parse(term, names)).collect()),
        };
        let unread = |(_, node): &(&String, &Option<Node>)| node.is_none();
        let interpreted = written.iter().zip(&terms).filter(unread).map(|(term, _)| term.clone()).collect();
        let (mut subject, mut object) = (None, None);
        let mut at = 0;
        while let Some(Some(term)) = terms.get(at) {
            let of_subject = BySubject::of(term).filter(|_| subject.is_none());
            object = object.or_else(|| of_object(term));
            let certain = term.kind().is_some();
            match of_subject {
                Some(by) => {
                    subject = Some(by);
                    terms.remove(at);
                    continue;
                }
                None if !certain => break,
                None => {}
            }
            at += 1;
        }
        Self { guard, subject, object, terms, interpreted }
    }
}

/// The parts of a conjunction.
fn conjuncts(node: Node, into: &mut Vec<Option<Node>>) {
    match node {
        Node::And(left, right) => {
            conjuncts(*left, into);
            conjuncts(*right, into);
        }
        node => into.push(Some(node)),
    }
}

impl BySubject {
    /// `g(r.sub, p.x)`, with `r.dom` or without; `r.sub == p.x`; several of them and `p.x == "…"` joined by `||`.
    fn of(node: &Node) -> Option<Self> {
        let is_subject = |node: &Node| match node {
            Node::Request(Source::Name) => true,
            Node::Request(Source::Subject(field)) => field == "name",
            _ => false,
        };
        match node {
            Node::Linked(definition, name, role, domain) if definition == "g" && is_subject(name) => {
                let own = domain.as_deref().is_none_or(|node| matches!(node, Node::Request(Source::Domain)));
                match **role {
                    Node::Column(column) if own => {
                        Some(Self { column, everyone: Vec::new(), name: true, roles: true })
                    }
                    _ => None,
                }
            }
            Node::Compare(Relation::Equal, left, right) => match (&**left, &**right) {
                (Node::Column(column), other) | (other, Node::Column(column)) if is_subject(other) => {
                    Some(Self { column: *column, everyone: Vec::new(), name: true, roles: false })
                }
                (Node::Column(column), Node::Text(text)) | (Node::Text(text), Node::Column(column)) => {
                    Some(Self { column: *column, everyone: vec![text.clone()], name: false, roles: false })
                }
                _ => None,
            },
            Node::Or(left, right) => {
                let (left, right) = (Self::of(left)?, Self::of(right)?);
                let everyone = [left.everyone, right.everyone].concat();
                let (name, roles) = (left.name || right.name, left.roles || right.roles);
                (left.column == right.column).then_some(Self { column: left.column, everyone, name, roles })
            }
            _ => None,
        }
    }
}

/// The column that the object is held against.
fn of_object(node: &Node) -> Option<(usize, Comparison)> {
    let is_object = |node: &Node| matches!(node, Node::Request(Source::Object));
    match node {
        Node::Matches(value, patterns) if is_object(value) => {
            let (column, style) = patterns.is_of_column()?;
            (style != Style::Regex).then_some((column, Comparison::Pattern(style)))
        }
        Node::Prefix(value, pattern) if is_object(value) => match **pattern {
            Node::Column(column) => Some((column, Comparison::Prefix)),
            _ => None,
        },
        Node::Compare(Relation::Equal, left, right) => match (&**left, &**right) {
            (Node::Column(column), other) | (other, Node::Column(column)) if is_object(other) => {
                Some((*column, Comparison::Equal))
            }
            _ => None,
        },
        _ => None,
    }
}
