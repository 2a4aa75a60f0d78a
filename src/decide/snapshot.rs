//! An immutable snapshot: model, rows with their places, role graphs, the index over the rows, and casbin's interpreter for
//! what the index has no answer to.
//!
//! Built by `load`, evaluated by `Decider` (inline or on the pool) and by `explain` and the policy tests.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;
use casbin::rhai::Dynamic;
use casbin::{CoreApi as _, DefaultModel, Enforcer, Model as _};
use futures_util::FutureExt as _;

use super::Question;
use super::call::{self, Context};
use super::compiled::Given;
use super::definition::Definition;
use super::effect::{COLLECT, RecordingEffector};
use super::functions;
use super::index::{Candidates, Index};
use super::interpreter::Interpreter;
use super::load::{Fields, Settings};
use super::memo::Memo;
use super::request::Facts;
use super::roles::{Closure, RoleGraphs};
use super::source::Row;
use super::subjects::{Subject, Subjects};
use super::table::Table;
use crate::config::RoleSource;
use crate::model::{Principal, RuleRef};

/// Most `p` rows that are evaluated for one request.
pub const MAX_ROWS: usize = 20_000;
/// Up to this many rows are evaluated on the asking thread.
pub const INLINE_ROWS: usize = 200;

/// One state of the policy directory.
pub struct Snapshot {
    /// The model.
    pub definition: Definition,
    /// The `p` rows in evaluation order.
    pub rows: Table,
    /// The rows of role definitions, for the places of links.
    pub links: Vec<Row>,
    /// The role graphs.
    pub graphs: Arc<RoleGraphs>,
    /// Which request tokens are objects, and what is read of them.
    pub fields: Fields,
    /// Short digest of the files.
    pub digest: Arc<str>,
    /// Request tokens by the name they are bound to, in order.
    pub bound: Vec<String>,
    /// Rows that stand again later: the earlier and the later one.
    pub duplicates: Vec<(Row, Row)>,
    /// Verdicts that were given before.
    pub memo: Memo,
    source: RoleSource,
    node: Arc<str>,
    index: Index,
    interpreter: Interpreter,
    subjects: Subjects,
}

/// A request, ready to be evaluated.
#[derive(Clone)]
pub struct Prepared {
    facts: Facts,
    candidates: Candidates,
    /// How many rows have to be evaluated.
    pub cost: usize,
    /// Who asks, as this snapshot knows it.
    pub subject: Arc<Subject>,
}

/// What an evaluation yields; [`Default`] denies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// The policy allows.
    pub allow: bool,
    /// The deciding row's index.
    pub row: Option<usize>,
    /// Why the evaluation itself failed; then `allow` is false.
    pub error: Option<String>,
}

impl Snapshot {
    /// Builds the snapshot and its index.
    ///
    /// # Errors
    /// What casbin refuses.
    pub fn build(
        definition: Definition,
        rows: Vec<Row>,
        links: Vec<Row>,
        graphs: RoleGraphs,
        fields: Fields,
        digest: Arc<str>,
        settings: &Settings,
    ) -> Result<Self, String> {
        let (rows, duplicates) = in_casbins_order(rows);
        let bound = definition.request.iter();
        let bound: Vec<String> =
            bound.map(|token| settings.bind.get(token).unwrap_or(token).clone()).collect();
        let rows = Table::new(&rows, definition.policy.len())?;
        let index = Index::plan(&definition, &bound, &fields, &rows);
        if index.evaluates_every_row() && rows.len() > MAX_ROWS {
            return Err(format!(
                "{} `p` rows, and every one is evaluated for this matcher, at most {MAX_ROWS}; begin it with \
                 g(r.sub, p.sub) && … or keyMatch2(r.obj, p.obj) && …, or split the policy by node",
                rows.len()
            ));
        }
        let interpreter = Interpreter::new(&definition)?;
        let worth_keeping = index.interprets() || index.evaluates_every_row();
        Ok(Self {
            rows,
            links,
            graphs: Arc::new(graphs),
            memo: Memo::new(&fields, worth_keeping),
            fields,
            digest,
            bound,
            duplicates,
            source: settings.roles,
            node: settings.node.as_deref().unwrap_or_default().into(),
            definition,
            index,
            interpreter,
            subjects: Subjects::default(),
        })
    }

    /// The roles that count for a principal.
    pub fn closure(&self, principal: &Principal) -> Closure {
        let domain = principal.tenant.clone().unwrap_or_default();
        let domains = self.definition.roles.get("g") == Some(&3);
        self.graphs.closure(&principal.name, &principal.roles, &domain, self.source, domains)
    }

    /// True when every row is evaluated, because the matcher has no term that rows can be found by.
    pub fn evaluates_every_row(&self) -> bool {
        self.index.evaluates_every_row()
    }

    /// What rows are found by.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Makes a request ready.
    pub fn prepare(
        &self,
        principal: &Arc<Principal>,
        question: &Question<'_>,
        at: crate::model::Timestamp,
    ) -> Prepared {
        let subject = self.subjects.of(principal, || self.subject(principal));
        self.prepared(subject, principal, question, at)
    }

    /// The same for a principal that does not come again: nothing of it is kept.
    pub fn prepare_once(
        &self,
        principal: &Arc<Principal>,
        question: &Question<'_>,
        at: crate::model::Timestamp,
    ) -> Prepared {
        self.prepared(Arc::new(self.subject(principal)), principal, question, at)
    }

    fn subject(&self, principal: &Arc<Principal>) -> Subject {
        let closure = self.closure(principal);
        let groups = self.index.groups(&self.rows, &closure);
        Subject::new(principal, closure, groups)
    }

    fn prepared(
        &self,
        subject: Arc<Subject>,
        principal: &Arc<Principal>,
        question: &Question<'_>,
        at: crate::model::Timestamp,
    ) -> Prepared {
        let facts = Facts::of(principal, question, at, &self.node);
        let candidates = self.index.candidates(&self.rows, &subject.groups, self.given(&facts, &subject));
        let cost = match &candidates {
            Candidates::All => self.rows.len(),
            Candidates::Some(rows) => rows.len(),
        };
        Prepared { facts, candidates, cost, subject }
    }

    fn given<'a>(&'a self, facts: &'a Facts, subject: &'a Subject) -> Given<'a> {
        Given { facts, subject: &subject.closure, graphs: &self.graphs, table: &self.rows, row: 0 }
    }

    /// True when the files give others this name as a role.
    pub fn is_role(&self, name: &str) -> bool {
        self.graphs.0.get("g").is_some_and(|graph| graph.roles().contains(name))
    }

    /// The request as rhai's values.
    pub fn values(&self, prepared: &Prepared) -> Vec<Dynamic> {
        prepared.facts.values(&self.bound, &self.fields, &prepared.subject.closure)
    }

    /// Evaluates; never panics, every failure denies.
    pub fn evaluate(&self, prepared: &Prepared) -> Verdict {
        let failed = |error: String| Verdict { error: Some(error), ..Verdict::default() };
        if self.is_role(&prepared.subject.closure.name) {
            return failed(format!("the subject `{}` has the name of a role", prepared.subject.closure.name));
        }
        if self.rows.is_empty() {
            return Verdict::default();
        }
        if prepared.cost > MAX_ROWS {
            return failed(format!(
                "{} rows would have to be evaluated, at most {MAX_ROWS} are",
                prepared.cost
            ));
        }
        let mut scope = None;
        let ask = |row| {
            let (answer, _) = run(&self.graphs, &prepared.subject.closure, None, || {
                let scope = scope.get_or_insert_with(|| self.interpreter.scope(self.values(prepared)));
                self.interpreter.holds(scope, &self.rows, row)
            });
            answer
        };
        let given = self.given(&prepared.facts, &prepared.subject);
        match self.index.evaluate(&self.rows, &prepared.candidates, given, ask) {
            Ok((allow, row)) => Verdict { allow, row, error: None },
            Err(error) => failed(error),
        }
    }

    /// For every row, whether `term` of the matcher holds for the request.
    ///
    /// # Errors
    /// When the term cannot be evaluated.
    pub fn holds(&self, term: &str, rows: &[Row], prepared: &Prepared) -> Result<Vec<bool>, String> {
        let enforcer = enforcer(&self.definition, term, COLLECT, rows)?;
        let (answer, context) =
            run(&self.graphs, &prepared.subject.closure, Some(Vec::with_capacity(rows.len())), || {
                enforcer.enforce(self.values(prepared)).map_err(|cause| cause.to_string())
            });
        answer.map(|_| context.matched.unwrap_or_default())
    }

    /// Every row of the snapshot with its kind: `p` rows, then those of the role definitions.
    pub fn all_rows(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        let policies = (0..self.rows.len()).map(|row| ("p", self.rows.values(row).collect()));
        let links = self.links.iter();
        policies.chain(links.map(|row| (row.kind.as_str(), row.values.iter().map(String::as_str).collect())))
    }

    /// The place of a row.
    pub fn rule(&self, index: usize) -> Option<RuleRef> {
        self.rows.rule(index)
    }
}

/// casbin keeps each row once, where it came last.
fn in_casbins_order(rows: Vec<Row>) -> (Vec<Row>, Vec<(Row, Row)>) {
    let mut last: HashMap<&[String], usize, RandomState> = HashMap::default();
    for (at, row) in rows.iter().enumerate() {
        last.insert(&row.values, at);
    }
    if last.len() == rows.len() {
        return (rows, Vec::new());
    }
    let last = |row: &Row| last.get(row.values.as_slice()).copied();
    let (mut kept, mut duplicates) = (Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        match last(row).filter(|last| *last != at).and_then(|last| rows.get(last)) {
            Some(later) => duplicates.push((row.clone(), later.clone())),
            None => kept.push(row.clone()),
        }
    }
    (kept, duplicates)
}

/// An `Enforcer` of these rows, with our functions and effects.
///
/// # Errors
/// What casbin refuses.
pub fn enforcer(
    definition: &Definition,
    matcher: &str,
    effect: &str,
    rows: &[Row],
) -> Result<Enforcer, String> {
    let mut model = DefaultModel::default();
    for (section, key, value) in [
        ("r", "r", definition.request.join(", ")),
        ("p", "p", definition.policy.join(", ")),
        ("e", "e", effect.to_owned()),
        ("m", "m", matcher.to_owned()),
    ] {
        if !model.add_def(section, key, &value) {
            return Err(format!("the definition `{key}` is empty"));
        }
    }
    if let Some(table) = model.get_mut_model().get_mut("p").and_then(|section| section.get_mut("p")) {
        for row in rows {
            table.get_mut_policy().insert(row.values.clone());
        }
    }
    let building = Enforcer::new_raw(model, ()).now_or_never();
    let mut enforcer = building.ok_or("casbin waits for input")?.map_err(|cause| cause.to_string())?;
    enforcer.set_effector(Box::new(RecordingEffector));
    functions::register(&mut enforcer, &definition.roles);
    Ok(enforcer)
}

/// Runs an evaluation with its context: the answer, or what went wrong.
pub fn run(
    graphs: &Arc<RoleGraphs>,
    subject: &Arc<Closure>,
    matched: Option<Vec<bool>>,
    evaluation: impl FnOnce() -> Result<bool, String>,
) -> (Result<bool, String>, Context) {
    let context =
        Context { graphs: Arc::clone(graphs), subject: Arc::clone(subject), matched, ..Context::default() };
    let (answer, context) = call::enter(context, || call::caught(evaluation));
    let answer = match (answer, &context.failure) {
        (_, Some(failure)) => Err(failure.clone()),
        (Ok(answer), None) => answer,
        (Err(why), None) => Err(format!("the evaluation panicked: {why}")),
    };
    (answer, context)
}
