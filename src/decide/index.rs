//! The index: which rows can be true for a subject, by their subject column; and the evaluation of those alone.
//!
//! A row whose matcher is false changes nothing under any of casbin's effects, so it may be left out when it is certain
//! that it is false *without error*. That is certain where the matcher is a conjunction whose first term is about the
//! subject (see [`Index::plan`]): `&&` stops there, and the term itself cannot fail. Every other matcher is evaluated by
//! plain casbin, row by row. `oracle` holds both against casbin.

use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, OnceLock};

use casbin::function_map::OperatorFunction;
use casbin::rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicMapPackage, LogicPackage, Package as _,
};
use casbin::rhai::{AST, Dynamic, Engine, ImmutableString, Scope};
use casbin::{DefaultModel, EffectKind, Effector as _, Model as _};
use regex::Regex;

use super::call;
use super::definition::Definition;
use super::effect::RecordingEffector;
use super::expression;
use super::functions;
use super::load::Fields;
use super::request::Source;
use super::residual::{Given, Names, Residual, Template};
use super::roles::Closure;
use super::source::Row;

/// Rows by their subject column, and the compiled matcher.
pub struct Index {
    rows_of: HashMap<String, Vec<usize>>,
    /// Values of the subject column that hold for everyone, as `*` in `p.sub == "*" || g(r.sub, p.sub)`.
    everyone: Vec<String>,
    /// The subject's roles count besides its name.
    roles: bool,
    engine: Engine,
    matcher: AST,
    /// The matcher after its first term, which holds for every candidate, when it can be answered without rhai; and
    /// what is left of it for each row.
    template: Option<Template>,
    residuals: Vec<OnceLock<Option<Residual>>>,
    request: Vec<String>,
    policy: Vec<String>,
    effect: String,
    effect_column: Option<usize>,
}

struct Shape {
    column: usize,
    everyone: Vec<String>,
    roles: bool,
}

impl Index {
    /// The index for a model and its rows; `None` when the matcher does not begin with a term that it understands:
    /// `g(r.sub, p.x)`, `g(r.sub.name, p.x)`, either with `r.dom`, `r.sub == p.x`, and `(p.x == "…" || g(…))`.
    ///
    /// # Errors
    /// What rhai refuses in the matcher.
    pub fn plan(
        definition: &Definition,
        bound: &[String],
        fields: &Fields,
        rows: &[Row],
    ) -> Result<Option<Self>, String> {
        let Some(shape) = shape(definition, bound) else { return Ok(None) };
        let mut rows_of: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, row) in rows.iter().enumerate() {
            let Some(subject) = row.values.get(shape.column) else { return Ok(None) };
            rows_of.entry(subject.clone()).or_default().push(index);
        }
        let engine = engine(definition);
        let mut model = DefaultModel::default();
        model.add_def("m", "m", &definition.matcher);
        let escaped = model
            .get_model()
            .get("m")
            .and_then(|section| section.get("m"))
            .map(|matcher| matcher.value.clone());
        let escaped = escape_eval(&escaped.ok_or("the matcher is empty")?);
        let matcher = engine.compile_expression(escaped).map_err(|cause| cause.to_string())?;
        let named = |prefix: &str, tokens: &[String]| {
            tokens.iter().map(|token| format!("{prefix}_{token}")).collect()
        };
        let source = |token: &str, field: Option<&str>| {
            let at = definition.request.iter().position(|known| known == token)?;
            let bound = bound.get(at)?;
            Source::of(bound, field, fields.get(bound).and_then(Option::as_deref))
        };
        let names = Names { columns: &definition.policy, source: &source };
        Ok(Some(Self {
            rows_of,
            everyone: shape.everyone,
            roles: shape.roles,
            engine,
            matcher,
            template: rest(&definition.matcher, &names),
            residuals: rows.iter().map(|_| OnceLock::new()).collect(),
            request: named("r", &definition.request),
            policy: named("p", &definition.policy),
            effect: definition.effect.clone(),
            effect_column: definition.column("eft"),
        }))
    }

    /// True when rows are evaluated by the interpreter.
    pub fn interprets(&self) -> bool {
        self.template.is_none()
    }

    /// The rows that can be true for a subject, in their order.
    pub fn candidates(&self, subject: &Closure) -> Vec<usize> {
        let mut names: BTreeSet<&str> = self.everyone.iter().map(String::as_str).collect();
        names.insert(&subject.name);
        if self.roles {
            names.extend(subject.roles.iter().map(|role| &**role));
        }
        let mut found: Vec<usize> =
            names.iter().filter_map(|name| self.rows_of.get(*name)).flatten().copied().collect();
        found.sort_unstable();
        found
    }

    /// Evaluates the matcher for `candidates`, as casbin does for all rows; the deciding row is noted in the context
    /// as its position among the candidates. `values`: the request for rhai, where it has to be asked.
    ///
    /// # Errors
    /// What makes an evaluation fail.
    pub fn evaluate(
        &self,
        rows: &[Row],
        candidates: &[usize],
        given: Given<'_>,
        values: impl Fn() -> Vec<Dynamic>,
    ) -> Result<bool, String> {
        let mut stream = RecordingEffector.new_stream(&self.effect, candidates.len());
        if candidates.is_empty() {
            // No row can be true: what the effect says when nothing matched.
            stream.push_effect(EffectKind::Indeterminate);
        }
        let mut scope = None;
        for index in candidates {
            let Some(row) = rows.get(*index) else { continue };
            let holds = match self.residual(*index, row).and_then(|residual| residual.holds(given)) {
                Some(holds) => holds,
                None => self.ask_rhai(scope.get_or_insert_with(|| self.scope(values())), row)?,
            };
            let effect =
                match self.effect_column.and_then(|column| row.values.get(column)).map(String::as_str) {
                    _ if !holds => EffectKind::Indeterminate,
                    None | Some("allow") => EffectKind::Allow,
                    Some("deny") => EffectKind::Deny,
                    Some(_) => EffectKind::Indeterminate,
                };
            if stream.push_effect(effect) {
                break;
            }
        }
        let allow = stream.next();
        // Nothing may be decided from a context that is gone.
        call::with(|_| allow).ok_or_else(|| "no evaluation context".to_owned())
    }

    fn residual(&self, index: usize, row: &Row) -> Option<&Residual> {
        let template = self.template.as_ref()?;
        self.residuals.get(index)?.get_or_init(|| template.fold(&row.values)).as_ref()
    }

    fn scope(&self, values: Vec<Dynamic>) -> Scope<'_> {
        let mut scope = Scope::new();
        for (token, value) in self.request.iter().zip(values) {
            scope.push_constant_dynamic(token.as_str(), value);
        }
        scope
    }

    fn ask_rhai(&self, scope: &mut Scope<'_>, row: &Row) -> Result<bool, String> {
        scope.rewind(self.request.len());
        for (token, value) in self.policy.iter().zip(&row.values) {
            scope.push_constant(token.clone(), value.clone());
        }
        self.engine.eval_ast_with_scope::<bool>(scope, &self.matcher).map_err(|cause| cause.to_string())
    }
}

/// The matcher without its first term.
fn rest(matcher: &str, names: &Names<'_>) -> Option<Template> {
    let terms = expression::terms(matcher);
    match terms.get(1..) {
        None | Some([]) => Some(Template::Boolean(true)),
        Some(rest) => Template::parse(&rest.join(" && "), names),
    }
}

/// Compiles an `eval` rule as it will be at every request.
///
/// # Errors
/// What rhai refuses in it.
pub fn compile_rule(engine: &Engine, rule: &str) -> Result<(), String> {
    engine.compile_expression(escape_assertion(rule)).map(drop).map_err(|cause| cause.to_string())
}

/// What the matcher's first term says about the subject column.
fn shape(definition: &Definition, bound: &[String]) -> Option<Shape> {
    let terms = expression::terms(&definition.matcher);
    let first = terms.first()?.as_str();
    let token = |name: &str| {
        let at = bound.iter().position(|bound| bound == name)?;
        definition.request.get(at).map(String::as_str)
    };
    let subject = token("sub")?;
    let names = [format!("r.{subject}"), format!("r.{subject}.name")];
    let column = |text: &str| expression::token_of(text, "p").and_then(|token| definition.column(token));
    let link = |text: &str| {
        let calls = expression::calls(text);
        let [call] = calls.as_slice() else { return None };
        let whole = text.starts_with("g(") && text.ends_with(')') && text.matches(')').count() == 1;
        if !whole || call.function != "g" || !definition.roles.contains_key("g") {
            return None;
        }
        match call.arguments.as_slice() {
            [name, role] if names.contains(name) => column(role),
            [name, role, domain] if names.contains(name) && *domain == format!("r.{}", token("dom")?) => {
                column(role)
            }
            _ => None,
        }
    };
    if let Some(column) = link(first) {
        return Some(Shape { column, everyone: Vec::new(), roles: true });
    }
    if let Some((left, right)) = first.split_once("==")
        && names.iter().any(|name| name == left.trim())
        && let Some(column) = column(right)
    {
        return Some(Shape { column, everyone: Vec::new(), roles: false });
    }
    let inner = first.strip_prefix('(')?.strip_suffix(')')?;
    let (literal, call) = inner.split_once("||")?;
    let (left, right) = literal.split_once("==")?;
    let everyone = right.trim().strip_prefix('"')?.strip_suffix('"')?;
    let plain =
        !everyone.is_empty() && everyone.chars().all(|c| c.is_ascii_alphanumeric() || "*_-".contains(c));
    let of_literal = column(left)?;
    let of_call = link(call.trim())?;
    (plain && of_literal == of_call).then(|| Shape {
        column: of_call,
        everyone: vec![everyone.to_owned()],
        roles: true,
    })
}

/// An engine like casbin's own: the same packages and functions, nothing else.
pub fn engine(definition: &Definition) -> Engine {
    let mut engine = Engine::new_raw();
    ArithmeticPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    engine.register_fn("escape_assertion", |text: ImmutableString| -> String { escape_assertion(&text) });
    for (name, function) in functions::all(&definition.roles) {
        match function {
            OperatorFunction::Arg2(function) => engine.register_fn(name, function),
            OperatorFunction::Arg3(function) => engine.register_fn(name, function),
            _ => &mut engine,
        };
    }
    engine
}

fn escape_assertion(text: &str) -> String {
    static TOKEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\b(r\d*|p\d*)\.").ok());
    TOKEN.as_ref().map_or_else(|| text.to_owned(), |token| token.replace_all(text, "${1}_").into_owned())
}

fn escape_eval(text: &str) -> String {
    static EVAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\beval\(([^)]*)\)").ok());
    let replaced =
        EVAL.as_ref().map(|eval| eval.replace_all(text, "eval(escape_assertion(${1}))").into_owned());
    replaced.unwrap_or_else(|| text.to_owned())
}
