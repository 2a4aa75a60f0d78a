//! rhai as casbin sets it up, for what is not compiled: the matcher for one row, and the check of `eval` rules.
//!
//! Used by `snapshot` and `load`. Functions are registered from `functions`.

use std::sync::LazyLock;

use casbin::function_map::OperatorFunction;
use casbin::rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicMapPackage, LogicPackage, Package as _,
};
use casbin::rhai::{AST, Dynamic, Engine, ImmutableString, Scope};
use casbin::{DefaultModel, Model as _};
use regex::Regex;

use super::definition::Definition;
use super::functions;
use super::table::Table;

/// The matcher as rhai evaluates it.
pub struct Interpreter {
    engine: Engine,
    matcher: AST,
    request: Vec<String>,
    policy: Vec<String>,
}

impl Interpreter {
    /// Compiles the matcher.
    ///
    /// # Errors
    /// What rhai refuses in it.
    pub fn new(definition: &Definition) -> Result<Self, String> {
        let engine = engine(definition);
        let mut model = DefaultModel::default();
        model.add_def("m", "m", &definition.matcher);
        let section = model.get_model().get("m").and_then(|section| section.get("m"));
        let escaped = escape_eval(&section.ok_or("the matcher is empty")?.value);
        let matcher = engine.compile_expression(escaped).map_err(|cause| cause.to_string())?;
        let named = |prefix: &str, tokens: &[String]| {
            tokens.iter().map(|token| format!("{prefix}_{token}")).collect()
        };
        let (request, policy) = (named("r", &definition.request), named("p", &definition.policy));
        Ok(Self { engine, matcher, request, policy })
    }

    /// The request as rhai sees it.
    pub fn scope(&self, values: Vec<Dynamic>) -> Scope<'_> {
        let mut scope = Scope::new();
        for (token, value) in self.request.iter().zip(values) {
            scope.push_constant_dynamic(token.as_str(), value);
        }
        scope
    }

    /// Whether the matcher holds for a row.
    ///
    /// # Errors
    /// What rhai says.
    pub fn holds<'a>(&'a self, scope: &mut Scope<'a>, table: &Table, row: usize) -> Result<bool, String> {
        scope.rewind(self.request.len());
        for (token, value) in self.policy.iter().zip(table.values(row)) {
            scope.push_constant(token.as_str(), value.to_owned());
        }
        self.engine.eval_ast_with_scope::<bool>(scope, &self.matcher).map_err(|cause| cause.to_string())
    }
}

/// Compiles an `eval` rule as it will be at every request.
///
/// # Errors
/// What rhai refuses in it.
pub fn compile_rule(engine: &Engine, rule: &str) -> Result<(), String> {
    engine.compile_expression(escape_assertion(rule)).map(drop).map_err(|cause| cause.to_string())
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
