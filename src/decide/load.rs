//! From the files to an accepted snapshot: every mistake with its file and line, all of them at once.
//!
//! Called by `Decider::open`, `Decider::reload`, `check`, `test` and `explain`. A new refusal is one more step of [`load`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::Problem;
use super::definition::Definition;
use super::expression;
use super::functions::Style;
use super::roles::{RoleGraph, RoleGraphs};
use super::snapshot::Snapshot;
use super::source::{Row, Sources, error, rows};
use crate::config::{self, RoleSource};
use crate::model::is_operator_role;

/// Says whether a name belongs to a principal.
pub type IsPrincipal = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the configuration says about loading.
#[derive(Clone)]
pub struct Settings {
    /// Which roles count.
    pub roles: RoleSource,
    /// Other names of request tokens.
    pub bind: BTreeMap<String, String>,
    /// The node's name.
    pub node: Option<String>,
    /// Names that may not be roles.
    pub is_principal: IsPrincipal,
}

impl Settings {
    /// The defaults, for a directory without a node.
    pub fn plain(node: Option<&str>) -> Self {
        Self {
            roles: RoleSource::Union,
            bind: BTreeMap::new(),
            node: node.map(str::to_owned),
            is_principal: Arc::new(|_| false),
        }
    }

    /// What a configuration's section says, for one node.
    pub fn of(policy: &config::Policy, node: Option<&str>, is_principal: IsPrincipal) -> Self {
        let plain = Self::plain(node.filter(|node| !node.is_empty()));
        Self { roles: policy.roles, bind: policy.bind.clone(), is_principal, ..plain }
    }

    /// The same for another node.
    pub(super) fn for_node(&self, node: &str) -> Self {
        Self { node: Some(node.to_owned()), ..self.clone() }
    }

    /// The nodes that have rows of their own, when these settings are for none.
    pub(super) fn other_nodes(&self, directory: &Path) -> Vec<String> {
        if self.node.is_some() { Vec::new() } else { super::source::nodes(directory) }
    }
}

/// Reads, checks and builds.
///
/// # Errors
/// Every mistake found.
pub fn load(directory: &Path, sources: &Sources, settings: &Settings) -> Result<Snapshot, Vec<Problem>> {
    let Some((model, files)) = sources.files.split_first() else {
        return Err(vec![error(directory, "model.conf", 1, "unreadable", "is missing")]);
    };
    let mut problems = sources.check_manifest(directory);
    let mut all = Vec::new();
    for file in files {
        let (rows, unread) = rows(directory, file);
        all.extend(rows);
        problems.extend(unread);
    }
    let definition = match Definition::read(directory, model) {
        Ok(definition) => definition,
        Err(mut mistakes) => {
            mistakes.append(&mut problems);
            return Err(mistakes);
        }
    };
    let engine = super::interpreter::engine(&definition);
    let own_calls = expression::calls(&definition.matcher);
    let mut loading = Loading {
        directory,
        definition: &definition,
        settings,
        problems: &mut problems,
        engine,
        own_calls,
        compiled: HashSet::new(),
    };
    let fields = loading.fields(&all);
    let all: Vec<Row> = all.into_iter().filter(|row| loading.row(row)).collect();
    loading.names_in_two_graphs(&all);
    let graphs = loading.graphs(&all);
    let (policies, links): (Vec<Row>, Vec<Row>) = all.into_iter().partition(|row| row.kind == "p");
    if !problems.is_empty() {
        return Err(problems);
    }
    let line = definition.matcher_line;
    Snapshot::build(definition, policies, links, graphs, fields, sources.digest(), settings)
        .map_err(|message| vec![error(directory, &model.name, line, "matcher", message)])
}

/// Fields that expressions read of the object tokens, by bound name (`sub`, `env`); `None`: the token is a text.
pub type Fields = HashMap<String, Option<Vec<String>>>;

struct Loading<'a> {
    directory: &'a Path,
    definition: &'a Definition,
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
    engine: casbin::rhai::Engine,
    /// The matcher's calls, read once.
    own_calls: Vec<expression::Call>,
    /// Patterns that compile: most rows of large policies repeat those of others.
    compiled: HashSet<(Style, String)>,
}

impl Loading<'_> {
    fn at(&mut self, row: &Row, code: &'static str, message: String) {
        self.problems.push(error(self.directory, &row.file, row.line, code, message));
    }

    fn model(&mut self, code: &'static str, message: String) {
        let line = self.definition.matcher_line;
        self.problems.push(error(self.directory, "model.conf", line, code, message));
    }

    /// Which request tokens are objects, over the matcher and every `eval` rule.
    fn fields(&mut self, rows: &[Row]) -> Fields {
        let mut fields = Fields::new();
        for token in &self.definition.request {
            let bound = self.settings.bind.get(token).unwrap_or(token).clone();
            if !["sub", "dom", "obj", "act", "env"].contains(&bound.as_str()) {
                self.model("binding", format!(
                    "`{token}` of [request_definition] is none of sub, dom, obj, act, env; name it in [policy.bind]"
                ));
                continue;
            }
            let mut usage = self.definition.usage(token);
            let rules = rows.iter().filter(|row| row.kind == "p").flat_map(|row| {
                self.definition.eval_columns.iter().filter_map(|column| row.values.get(*column))
            });
            for rule in rules {
                let more = expression::usage(rule, "r", token);
                usage.whole |= more.whole;
                usage.fields.extend(more.fields);
            }
            let object = !usage.fields.is_empty();
            match bound.as_str() {
                "sub" if object && usage.whole => self.model("expression", format!(
                    "`r.{token}` is used both as a name and as an object; write r.{token}.name for the name"
                )),
                "env" if usage.whole => {
                    self.model("expression", format!("`r.{token}` is an object; read a field of it, as in r.{token}.time"));
                }
                "sub" | "env" => {}
                _ if object => self.model("expression", format!("`r.{token}` is a text and has no fields")),
                _ => {}
            }
            let object = object || bound == "env";
            fields.insert(bound, object.then(|| usage.fields.into_iter().collect()));
        }
        fields
    }

    /// Checks one row; false when it cannot be used further.
    fn row(&mut self, row: &Row) -> bool {
        let before = self.problems.len();
        if row.kind == "p" {
            self.policy_row(row);
        } else if let Some(count) = self.definition.roles.get(&row.kind).copied() {
            if row.values.len() != count {
                let message =
                    format!("{} columns, the model's `{}` needs {count}", row.values.len(), row.kind);
                self.at(row, "columns", message);
            } else if row.kind == "g" {
                let role = row.values.get(1).cloned().unwrap_or_default();
                if (self.settings.is_principal)(&role) {
                    self.at(
                        row,
                        "role-is-principal",
                        format!("`{role}` is the name of a principal and cannot be a role; rename the role"),
                    );
                } else if role == "anonymous" {
                    self.at(row, "role-is-principal", "`anonymous` cannot be a role".to_owned());
                }
            }
        } else {
            let known: Vec<&str> =
                std::iter::once("p").chain(self.definition.roles.keys().map(String::as_str)).collect();
            let message = format!("`{}` is not defined by the model; known: {}", row.kind, known.join(", "));
            self.at(row, "section", message);
        }
        before == self.problems.len()
    }

    fn policy_row(&mut self, row: &Row) {
        let definition = self.definition;
        if row.values.len() != definition.policy.len() {
            let message = format!(
                "{} columns, the model's `p` needs {} ({})",
                row.values.len(),
                definition.policy.len(),
                definition.policy.join(", ")
            );
            return self.at(row, "columns", message);
        }
        if let Some(effect) = definition.column("eft").and_then(|column| row.values.get(column))
            && effect != "allow"
            && effect != "deny"
        {
            self.at(row, "eft", format!("`{effect}` is not an effect; write allow or deny"));
        }
        let mut calls = std::mem::take(&mut self.own_calls);
        let own = calls.len();
        for column in &definition.eval_columns {
            let Some(rule) = row.values.get(*column) else { continue };
            if let Err(message) = expression::bounded(rule, false) {
                self.at(row, "expression", format!("the rule {message}"));
                continue;
            }
            let more = expression::calls(rule);
            for call in &more {
                if let Some(message) = definition.unknown_function(call) {
                    self.at(row, "function", message);
                }
            }
            for (name, known) in [("r", &definition.request), ("p", &definition.policy)] {
                for token in
                    super::definition::mentioned(rule, name).iter().filter(|token| !known.contains(token))
                {
                    self.at(
                        row,
                        "expression",
                        format!("the rule reads `{name}.{token}`, which is not defined"),
                    );
                }
            }
            if let Err(cause) = super::interpreter::compile_rule(&self.engine, rule) {
                self.at(row, "expression", format!("the rule is not an expression: {cause}"));
            }
            calls.extend(more);
        }
        self.patterns(row, &calls);
        calls.truncate(own);
        self.own_calls = calls;
    }

    /// Compiles the patterns that a row gives to pattern functions.
    fn patterns(&mut self, row: &Row, calls: &[expression::Call]) {
        let definition = self.definition;
        let mut seen = HashSet::new();
        for call in calls {
            let Some(style) = Style::of(&call.function) else { continue };
            let Some(argument) = call.arguments.get(1) else { continue };
            for token in super::definition::mentioned(argument, "p") {
                let Some(value) = definition.column(&token).and_then(|column| row.values.get(column)) else {
                    continue;
                };
                if style.plainly_valid(value) || !seen.insert((style, token.clone())) {
                    continue;
                }
                let known = (style, value.clone());
                if self.compiled.contains(&known) {
                    continue;
                }
                match style.compile(value) {
                    Ok(_) => drop(self.compiled.insert(known)),
                    Err(cause) => {
                        self.at(row, "pattern", format!("`{value}` is not a regular expression: {cause}"));
                    }
                }
            }
        }
    }

    /// casbin for Rust keeps `g`, `g2`, … in one graph, casbin for Go in several: shared names would differ.
    fn names_in_two_graphs(&mut self, rows: &[Row]) {
        let mut owner: HashMap<&str, &str> = HashMap::new();
        for row in rows.iter().filter(|row| row.kind != "p") {
            for name in row.values.iter().take(2) {
                let first = *owner.entry(name.as_str()).or_insert(row.kind.as_str());
                if first != row.kind {
                    self.at(
                        row,
                        "shared-name",
                        format!("`{name}` stands in `{first}` and in `{}`; rename one", row.kind),
                    );
                }
            }
        }
    }

    fn graphs(&self, rows: &[Row]) -> RoleGraphs {
        let mut graphs: HashMap<String, RoleGraph> =
            self.definition.roles.keys().map(|name| (name.clone(), RoleGraph::default())).collect();
        for row in rows.iter().filter(|row| row.kind != "p") {
            if let (Some(graph), [name, role, rest @ ..]) = (graphs.get_mut(&row.kind), row.values.as_slice())
            {
                // An operator's role is given by `user set` or the accounts file alone; `warnings` says so.
                if row.kind == "g" && is_operator_role(role) {
                    continue;
                }
                graph.add(name, role, rest.first().map_or("", String::as_str));
            }
        }
        RoleGraphs(graphs)
    }
}
