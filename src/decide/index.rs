//! The index: which rows can be true for a subject and an object, and the evaluation of those alone.
//!
//! A row whose matcher is false changes nothing under any of casbin's effects, so it may be left out when it is certain
//! that it is false *without error*. That is certain where a term of the matcher's conjunction is false and neither it nor
//! a term before it can fail ([`Node::kind`]). Rows are grouped by their subject column, and large groups by the patterns
//! of their object column (`paths`). What is left is asked of the compiled terms, and of rhai where they have no answer.
//! `oracle` holds all of it against casbin. Another term that rows can be found by is one more part of `shape`.

use std::collections::HashMap;

use ahash::RandomState;
use casbin::EffectKind;

use super::compiled::{Given, Node};
use super::definition::Definition;
use super::effect::Stream;
use super::load::Fields;
use super::paths::{Building, Comparison, Paths};
use super::reader::Names;
use super::request::Source;
use super::roles::Closure;
use super::shape::{BySubject, Shape};
use super::table::{Symbol, Table};

/// Groups of more rows than this are looked through by the object; in tests all that can be.
const SMALL: usize = if cfg!(test) { 1 } else { 8 };

/// Every row, where the matcher has no term about the subject.
const ALL: Symbol = Symbol::MAX;

/// Rows by subject and object, and the compiled matcher.
pub struct Index {
    subject: Option<BySubject>,
    groups: HashMap<Symbol, Group, RandomState>,
    /// The rows of the groups, each group's in order.
    members: Vec<u32>,
    paths: Option<Paths>,
    object: Option<(usize, Comparison)>,
    guard: Option<Node>,
    terms: Vec<Option<Node>>,
    interpreted: Vec<String>,
    effect: String,
    effect_column: Option<usize>,
}

/// The rows of one subject.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    symbol: Symbol,
    start: u32,
    len: u32,
}

/// Which rows are to be evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Candidates {
    /// Every row.
    All,
    /// These, in order.
    Some(Vec<u32>),
}

impl Index {
    /// The index for a model and its rows.
    pub fn plan(definition: &Definition, bound: &[String], fields: &Fields, table: &Table) -> Self {
        let source = |token: &str, field: Option<&str>| {
            let at = definition.request.iter().position(|known| known == token)?;
            let bound = bound.get(at)?;
            Source::of(bound, field, fields.get(bound).and_then(Option::as_deref))
        };
        let names = Names { columns: &definition.policy, source: &source, table };
        let shape = Shape::of(&definition.matcher, names);
        let (groups, members) = groups(table, shape.subject.as_ref());
        let paths = shape.object.map(|(column, comparison)| {
            let mut building = Building::new(comparison);
            for group in groups.values().filter(|group| group.len as usize > SMALL) {
                for row in run(&members, *group) {
                    building.add(group.symbol, *row, table.value(*row as usize, column).unwrap_or_default());
                }
            }
            building.finish()
        });
        Self {
            subject: shape.subject,
            groups,
            members,
            paths,
            object: shape.object,
            guard: shape.guard,
            terms: shape.terms,
            interpreted: shape.interpreted,
            effect: definition.effect.clone(),
            effect_column: definition.column("eft"),
        }
    }

    /// True when rows may be evaluated by the interpreter.
    pub fn interprets(&self) -> bool {
        !self.interpreted.is_empty()
    }

    /// The terms that only the interpreter evaluates.
    pub fn interpreted(&self) -> &[String] {
        &self.interpreted
    }

    /// The column that says for which subjects a row is.
    pub fn subject(&self) -> Option<&BySubject> {
        self.subject.as_ref()
    }

    /// The column that is held against the object, and how.
    pub fn object(&self) -> Option<(usize, Comparison)> {
        self.object
    }

    /// True when a term of the request alone can make every row hold.
    pub fn has_guard(&self) -> bool {
        self.guard.is_some()
    }

    /// True when every row is evaluated, whoever asks for whatever.
    pub fn evaluates_every_row(&self) -> bool {
        self.subject.is_none() && self.paths.is_none()
    }

    /// The groups of rows that can be true for a subject.
    pub fn groups(&self, table: &Table, subject: &Closure) -> Box<[Group]> {
        let Some(by) = &self.subject else {
            return self.groups.get(&ALL).copied().into_iter().collect();
        };
        let group = |name: &str| self.groups.get(&table.texts().find(name)?).copied();
        let own = by.everyone.iter().map(String::as_str).chain(by.name.then_some(&*subject.name));
        let roles = subject.roles.iter().filter(|_| by.roles).map(|role| &**role);
        let mut found: Vec<Group> = own.chain(roles).filter_map(group).collect();
        found.sort_unstable_by_key(|group| group.symbol);
        found.dedup_by_key(|group| group.symbol);
        found.into_boxed_slice()
    }

    /// The rows of these groups that can be true for a request.
    pub fn candidates(&self, table: &Table, groups: &[Group], given: Given<'_>) -> Candidates {
        if self.evaluates_every_row()
            || self.guard.as_ref().is_some_and(|guard| guard.holds(given) != Some(false))
        {
            return Candidates::All;
        }
        let object = given.facts.object();
        let paths = self.paths.as_ref().filter(|paths| paths.is_certain(object));
        if paths.is_none() && groups.iter().map(|group| group.len as usize).sum::<usize>() == table.len() {
            return Candidates::All;
        }
        let mut found = Vec::new();
        for group in groups {
            match paths.filter(|_| group.len as usize > SMALL) {
                Some(paths) => paths.find(group.symbol, object, &mut found),
                None => found.extend_from_slice(run(&self.members, *group)),
            }
        }
        found.sort_unstable();
        Candidates::Some(found)
    }

    /// Evaluates the matcher for the candidates as casbin does for all rows: whether it allows, and the deciding row.
    /// `ask`: rhai's answer for a row.
    ///
    /// # Errors
    /// What makes an evaluation fail.
    pub fn evaluate(
        &self,
        table: &Table,
        candidates: &Candidates,
        given: Given<'_>,
        mut ask: impl FnMut(usize) -> Result<bool, String>,
    ) -> Result<(bool, Option<usize>), String> {
        let all = 0..u32::try_from(table.len()).unwrap_or(u32::MAX);
        let rows: &mut dyn ExactSizeIterator<Item = u32> = match candidates {
            Candidates::All => &mut { all },
            Candidates::Some(rows) => &mut rows.iter().copied(),
        };
        let mut stream = Stream::new(&self.effect, rows.len());
        if rows.len() == 0 {
            // No row can be true: what the effect says when nothing matched.
            stream.push(EffectKind::Indeterminate);
        }
        for row in rows {
            let row = row as usize;
            let given = Given { row, ..given };
            let holds = match self.holds(given) {
                Some(holds) => holds,
                None => ask(row)?,
            };
            let effect = match self.effect_column.and_then(|column| table.value(row, column)) {
                _ if !holds => EffectKind::Indeterminate,
                None | Some("allow") => EffectKind::Allow,
                Some("deny") => EffectKind::Deny,
                Some(_) => EffectKind::Indeterminate,
            };
            if stream.push(effect) {
                break;
            }
        }
        let (allow, at) = stream.outcome();
        let row = |at: usize| match candidates {
            Candidates::All => Some(at),
            Candidates::Some(rows) => rows.get(at).map(|row| *row as usize),
        };
        Ok((allow, at.and_then(row)))
    }

    /// Whether the matcher holds for the row; `None`: ask rhai.
    fn holds(&self, given: Given<'_>) -> Option<bool> {
        if let Some(guard) = &self.guard
            && guard.holds(given)?
        {
            return Some(true);
        }
        for term in &self.terms {
            if !term.as_ref()?.holds(given)? {
                return Some(false);
            }
        }
        Some(true)
    }
}

/// The rows by subject; all in one group when there is no such column.
fn groups(table: &Table, by: Option<&BySubject>) -> (HashMap<Symbol, Group, RandomState>, Vec<u32>) {
    let rows = u32::try_from(table.len()).unwrap_or(u32::MAX);
    let symbol = |row: u32| match by {
        Some(by) => table.symbol(row as usize, by.column).unwrap_or(ALL),
        None => ALL,
    };
    let mut members: Vec<u32> = (0..rows).collect();
    members.sort_by_key(|row| symbol(*row));
    let mut groups: HashMap<Symbol, Group, RandomState> = HashMap::default();
    for (at, row) in (0_u32..).zip(&members) {
        let symbol = symbol(*row);
        groups.entry(symbol).or_insert(Group { symbol, start: at, len: 0 }).len += 1;
    }
    groups.shrink_to_fit();
    (groups, members)
}

fn run(members: &[u32], group: Group) -> &[u32] {
    let start = group.start as usize;
    members.get(start..start + group.len as usize).unwrap_or_default()
}
