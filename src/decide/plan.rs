//! How a policy is answered, in words: by the index, or by every row.
//!
//! `policy plan` prints it. What the index can do is decided in `shape` and `index`; this only tells.

use std::path::Path;

use serde::Serialize;

use super::Problem;
use super::load::{Settings, load};
use super::paths::Comparison;
use super::snapshot::Snapshot;
use super::source::Sources;

/// How one matcher is answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// As written in the model.
    pub matcher: String,
    /// `index`: only rows that can be true are evaluated; `full`: every row is, for each request.
    pub by: &'static str,
    /// By which columns rows are found, and what is not compiled.
    pub why: String,
}

/// How the matchers of a directory are answered.
///
/// # Errors
/// Every mistake that keeps the directory from loading.
pub fn plan(directory: &Path, settings: &Settings) -> Result<Vec<Plan>, Vec<Problem>> {
    let sources = Sources::read(directory, settings.node.as_deref())?;
    Ok(vec![of_snapshot(&load(directory, &sources, settings)?)])
}

fn of_snapshot(snapshot: &Snapshot) -> Plan {
    let (definition, index) = (&snapshot.definition, snapshot.index());
    let column = |at: usize| definition.policy.get(at).map_or_else(String::new, |name| format!("p.{name}"));
    let mut found = Vec::new();
    if let Some(by) = index.subject() {
        let how = match (by.name, by.roles) {
            (_, true) => "the subject's name and roles",
            (true, false) => "the subject's name",
            (false, false) => "the rows that are for everyone",
        };
        found.push(format!("{} ({how})", column(by.column)));
    }
    if let Some((at, comparison)) = index.object() {
        let how = match comparison {
            Comparison::Equal => "the object itself",
            Comparison::Prefix => "the object's beginning, keyMatch",
            Comparison::Pattern(_) => "the object's segments, keyMatch2 to keyMatch5",
        };
        found.push(format!("{} ({how})", column(at)));
    }
    let mut why = if found.is_empty() {
        "every row is evaluated for each request: rows are found by a term about the subject or the object that cannot \
         fail and that nothing that can fail stands before; begin the matcher with g(r.sub, p.sub) && …"
            .to_owned()
    } else {
        format!("rows are found by {}", found.join(" and by "))
    };
    if index.has_guard() && !found.is_empty() {
        why.push_str("; every row is evaluated when the term before the first || is true");
    }
    match index.interpreted() {
        [] => why.push_str("; all terms are compiled"),
        terms => {
            let terms: Vec<String> = terms.iter().map(|term| format!("`{term}`")).collect();
            why.push_str(&format!("; interpreted for each row that is left: {}", terms.join(", ")));
        }
    }
    let by = if index.evaluates_every_row() { "full" } else { "index" };
    Plan { matcher: definition.matcher.clone(), by, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(matcher: &str) -> Plan {
        let files = tempfile::tempdir().unwrap();
        let model = format!(
            "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n\
             [role_definition]\ng = _, _\n[policy_effect]\ne = some(where (p.eft == allow))\n[matchers]\nm = {matcher}\n"
        );
        std::fs::write(files.path().join("model.conf"), model).unwrap();
        std::fs::write(files.path().join("policy.csv"), "p, bob, /a, GET\n").unwrap();
        let mut plans = plan(files.path(), &Settings::plain(None)).unwrap();
        assert_eq!(plans.len(), 1);
        plans.remove(0)
    }

    #[test]
    fn a_plan_says_what_rows_are_found_by_and_what_is_interpreted() {
        let whole = planned("g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && regexMatch(r.act, p.act)");
        assert_eq!(whole.by, "index");
        assert_eq!(
            whole.why,
            "rows are found by p.sub (the subject's name and roles) and by p.obj (the object's segments, keyMatch2 to \
             keyMatch5); all terms are compiled"
        );
        let guarded = planned("r.sub == \"root\" || r.sub == p.sub && r.obj == p.obj");
        assert!(
            guarded.why.contains("p.sub (the subject's name) and by p.obj (the object itself)"),
            "{guarded:?}"
        );
        assert!(guarded.why.contains("before the first ||"), "{guarded:?}");
        let some = planned("g(r.sub, p.sub) && r.act.len() > 2");
        assert_eq!(some.by, "index");
        assert!(some.why.contains("interpreted for each row that is left: `r.act.len() > 2`"), "{some:?}");
        let full = planned("regexMatch(r.act, p.act) || r.sub == p.sub");
        assert_eq!(full.by, "full");
        assert!(full.why.contains("begin the matcher with"), "{full:?}");
    }
}
