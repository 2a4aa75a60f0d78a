//! Groups of others as roles here: only what a mapping names becomes a role.
//!
//! Used by `trusted` for tokens and by `sso` for providers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::model::RoleName;

/// Groups that are mapped, as roles, sorted, each once; and those that are not. Operators' roles never come from outside.
pub fn mapped(roles: &BTreeMap<String, RoleName>, groups: Vec<String>) -> (Vec<Arc<str>>, Vec<String>) {
    let mut given: Vec<Arc<str>> = Vec::new();
    let mut unmapped = Vec::new();
    for group in groups {
        match roles.get(&group) {
            Some(role) if !role.is_operator() => given.push(role.shared()),
            Some(_) => {}
            None => unmapped.push(group),
        }
    }
    given.sort_unstable();
    given.dedup();
    (given, unmapped)
}

/// A claim by its name, or by a path with dots (`realm_access.roles`).
pub fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

/// A text or a list of texts.
pub fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
