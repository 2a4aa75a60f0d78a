//! An immutable snapshot: model, rows with their places, role graphs, and the casbin `Enforcer` of exactly those rows.
//!
//! Built by `load`, evaluated by `Decider` (inline or on the pool) and by `explain` and the policy tests.

use std::collections::HashMap;
use std::sync::Arc;

use casbin::rhai::Dynamic;
use casbin::{CoreApi as _, DefaultModel, Enforcer, Model as _};
use futures_util::FutureExt as _;

use super::Question;
use super::call::{self, Context};
use super::definition::Definition;
use super::effect::{COLLECT, RecordingEffector};
use super::functions;
use super::index::Index;
use super::load::{Fields, Settings};
use super::memo::Memo;
use super::request::Facts;
use super::residual::Given;
use super::roles::{Closure, RoleGraphs};
use super::source::Row;
use super::subjects::{Subject, Subjects};
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
    pub rows: Vec<Row>,
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
    plan: Plan,
    subjects: Subjects,
}

/// How requests are answered.
enum Plan {
    /// The rows that can be true for the subject.
    Index(Index),
    /// Every row, by plain casbin.
    Full(Enforcer),
}

/// A request, ready to be evaluated.
pub struct Prepared {
    facts: Facts,
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
    /// Builds the snapshot and its enforcer.
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
        let plan = match Index::plan(&definition, &bound, &fields, &rows)? {
            Some(index) => Plan::Index(index),
            None if rows.len() > MAX_ROWS => {
                return Err(format!(
                    "{} `p` rows, and every one is evaluated for this matcher, at most {MAX_ROWS}; begin it with \
                     g(r.sub, p.sub) && …, or split the policy by node",
                    rows.len()
                ));
            }
            None => Plan::Full(enforcer(&definition, &definition.matcher, &definition.effect, &rows)?),
        };
        let interpreted = match &plan {
            Plan::Index(index) => index.interprets(),
            Plan::Full(_) => true,
        };
        Ok(Self {
            rows,
            links,
            graphs: Arc::new(graphs),
            memo: Memo::new(&fields, interpreted),
            fields,
            digest,
            bound,
            duplicates,
            source: settings.roles,
            node: settings.node.as_deref().unwrap_or_default().into(),
            definition,
            plan,
            subjects: Subjects::default(),
        })
    }

    /// The roles that count for a principal.
    fn closure(&self, principal: &Principal) -> Closure {
        let domain = principal.tenant.clone().unwrap_or_default();
        let domains = self.definition.roles.get("g") == Some(&3);
        self.graphs.closure(&principal.name, &principal.roles, &domain, self.source, domains)
    }

    /// True when every row is evaluated by plain casbin, because the matcher does not begin with the subject.
    pub fn evaluates_every_row(&self) -> bool {
        matches!(self.plan, Plan::Full(_))
    }

    /// Makes a request ready.
    pub fn prepare(
        &self,
        principal: &Arc<Principal>,
        question: &Question<'_>,
        at: crate::model::Timestamp,
    ) -> Prepared {
        let subject = self.subjects.of(principal, || {
            let closure = self.closure(principal);
            let candidates = match &self.plan {
                Plan::Index(index) => Some(index.candidates(&closure)),
                Plan::Full(_) => None,
            };
            Subject::new(principal, closure, candidates)
        });
        let cost = subject.candidates.as_ref().map_or(self.rows.len(), |rows| rows.len());
        Prepared { facts: Facts::of(principal, question, at, &self.node), cost, subject }
    }

    /// The request as rhai's values.
    fn values(&self, prepared: &Prepared) -> Vec<Dynamic> {
        prepared.facts.values(&self.bound, &self.fields, &prepared.subject.closure)
    }

    /// Evaluates; never panics, every failure denies.
    pub fn evaluate(&self, prepared: &Prepared) -> Verdict {
        let failed = |error: String| Verdict { error: Some(error), ..Verdict::default() };
        if self.graphs.0.get("g").is_some_and(|graph| graph.roles().contains(&*prepared.subject.closure.name))
        {
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
        let candidates = prepared.subject.candidates.as_deref();
        let closure = &prepared.subject.closure;
        let (answer, context) = match &self.plan {
            Plan::Full(enforcer) => run(&self.graphs, closure, None, || {
                enforcer.enforce(self.values(prepared)).map_err(|cause| cause.to_string())
            }),
            Plan::Index(index) => run(&self.graphs, closure, None, || {
                let given = Given { facts: &prepared.facts, subject: closure, graphs: &self.graphs };
                index.evaluate(&self.rows, candidates.unwrap_or_default(), given, || self.values(prepared))
            }),
        };
        let row = context.deciding.and_then(|at| candidates.map_or(Some(at), |rows| rows.get(at).copied()));
        match answer {
            Ok(allow) => Verdict { allow, row, error: None },
            Err(error) => failed(error),
        }
    }

    /// The answer of plain casbin over every row, for the tests that hold the index against it.
    #[cfg(test)]
    pub fn plain(&self, prepared: &Prepared) -> Verdict {
        let definition = &self.definition;
        let enforcer = enforcer(definition, &definition.matcher, &definition.effect, &self.rows).unwrap();
        let (answer, context) = run(&self.graphs, &prepared.subject.closure, None, || {
            enforcer.enforce(self.values(prepared)).map_err(|cause| cause.to_string())
        });
        match answer {
            Ok(allow) => Verdict { allow, row: context.deciding, error: None },
            Err(error) => Verdict { error: Some(error), ..Verdict::default() },
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
    pub fn all_rows(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.rows.iter().chain(&self.links).map(|row| (row.kind.as_str(), row.values.as_slice()))
    }

    /// The place of a row.
    pub fn rule(&self, index: usize) -> Option<RuleRef> {
        self.rows.get(index).map(|row| RuleRef { file: Arc::clone(&row.file), line: row.line })
    }
}

/// casbin keeps each row once, where it came last.
fn in_casbins_order(rows: Vec<Row>) -> (Vec<Row>, Vec<(Row, Row)>) {
    let last: HashMap<Vec<String>, Row> = rows.iter().map(|row| (row.values.clone(), row.clone())).collect();
    let (mut kept, mut duplicates) = (Vec::new(), Vec::new());
    for row in rows {
        match last.get(&row.values) {
            Some(later) if (&later.file, later.line) != (&row.file, row.line) => {
                duplicates.push((row, later.clone()))
            }
            _ => kept.push(row),
        }
    }
    (kept, duplicates)
}

fn enforcer(definition: &Definition, matcher: &str, effect: &str, rows: &[Row]) -> Result<Enforcer, String> {
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

fn run(
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
