//! Policy tests: `tests/*.yaml`, each case a subject, an object and the methods that are allowed, all others refused.
//!
//! Called by `check`, at every load, and by `policy test` through [`fn@test`]. A new member of a case is one more field of
//! [`Case`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::load::{Settings, load};
use super::snapshot::Snapshot;
use super::source::{SourceFile, Sources, error};
use super::{Problem, Question};
use crate::model::{Attributes, AuthMethod, Clock as _, Principal, PrincipalKind, SystemClock, Timestamp};

/// The methods that a case asks about, besides those it lists.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    name: Option<String>,
    /// Only with the rows of this node.
    node: Option<String>,
    now: Option<String>,
    #[serde(default)]
    subjects: BTreeMap<String, Subject>,
    #[serde(default)]
    tests: Vec<Spanned<Case>>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
struct Subject {
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    attrs: Attributes,
    kind: Option<PrincipalKind>,
    dom: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    sub: String,
    obj: String,
    allow: Vec<String>,
    dom: Option<String>,
    host: Option<String>,
    ip: Option<IpAddr>,
    #[serde(default)]
    secure: bool,
}

/// One case and how it went.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// The test file, the directory as given in front.
    pub file: String,
    /// Where the case begins.
    pub line: u32,
    /// The file's name and the case's.
    pub name: String,
    /// Every verdict was as expected.
    pub ok: bool,
    /// What was not.
    pub failures: Vec<String>,
    /// How long its decisions took, in microseconds.
    pub duration_us: u64,
}

/// How the tests of a directory went.
#[derive(Clone, Debug, Serialize)]
pub struct TestReport {
    /// Nothing failed, and nothing kept the policy from loading.
    pub ok: bool,
    /// What kept the policy or a test file from loading, and failed cases.
    pub problems: Vec<Problem>,
    /// Each case that ran.
    pub cases: Vec<CaseReport>,
    /// Rows that decided in some case.
    pub rows_covered: usize,
    /// All `p` rows.
    pub rows: usize,
    #[serde(skip)]
    covered: Vec<String>,
    /// `file:line` of each `p` row that decided in no case.
    pub uncovered: Vec<String>,
}

/// Runs the tests of a directory as a node of these settings would; `filter` keeps those whose name or subject contains
/// it. Without a node, suites that name one run with that node's rows.
pub fn test(directory: &Path, settings: &Settings, filter: Option<&str>) -> TestReport {
    let mut report = test_one(directory, settings, filter, false);
    for node in settings.other_nodes(directory) {
        let of_node = test_one(directory, &settings.for_node(&node), filter, true);
        report.ok &= of_node.ok;
        let new = of_node.problems.into_iter().filter(|problem| !report.problems.contains(problem));
        report.problems.extend(new.collect::<Vec<_>>());
        report.cases.extend(of_node.cases);
        // Rows that count for every node were counted above.
        let own = format!("nodes/{node}/");
        report.rows_covered += of_node.covered.iter().filter(|row| row.starts_with(&own)).count();
        report.uncovered.extend(of_node.uncovered.into_iter().filter(|row| row.starts_with(&own)));
        report.rows = report.rows_covered + report.uncovered.len();
    }
    report
}

/// A fingerprint of everything that [`fn@test`] reads; another one means another outcome is possible.
pub fn fingerprint(directory: &Path, settings: &Settings) -> Vec<Result<[u8; 32], Vec<Problem>>> {
    let read = |node: Option<&str>| Sources::read(directory, node).map(|sources| sources.fingerprint());
    let others = settings.other_nodes(directory);
    let others = others.iter().map(|node| read(Some(node)));
    std::iter::once(read(settings.node.as_deref())).chain(others).collect()
}

fn test_one(directory: &Path, settings: &Settings, filter: Option<&str>, own_alone: bool) -> TestReport {
    let node = settings.node.as_deref();
    let loaded = Sources::read(directory, node)
        .and_then(|sources| load(directory, &sources, settings).map(|snapshot| (sources, snapshot)));
    match loaded {
        Ok((sources, snapshot)) => run(directory, &sources, &snapshot, node, filter, own_alone),
        Err(problems) => TestReport {
            ok: false,
            problems,
            cases: Vec::new(),
            rows_covered: 0,
            rows: 0,
            covered: Vec::new(),
            uncovered: Vec::new(),
        },
    }
}

/// What the tests find wrong with a snapshot of this node.
pub fn problems(
    directory: &Path,
    sources: &Sources,
    snapshot: &Snapshot,
    node: Option<&str>,
) -> Vec<Problem> {
    run(directory, sources, snapshot, node, None, false).problems
}

/// `own_alone`: only the suites that name the node.
fn run(
    directory: &Path,
    sources: &Sources,
    snapshot: &Snapshot,
    node: Option<&str>,
    filter: Option<&str>,
    own_alone: bool,
) -> TestReport {
    let mut problems = Vec::new();
    let mut cases = Vec::new();
    let mut covered = vec![false; snapshot.rows.len()];
    for file in &sources.tests {
        match read(directory, file) {
            Ok((suite, _)) if suite.node.as_deref().map_or(own_alone, |named| node != Some(named)) => {}
            Ok((suite, now)) => {
                for case in &suite.tests {
                    let line = u32::try_from(case.referenced.line()).unwrap_or(u32::MAX);
                    let name = [suite.name.as_deref(), case.value.name.as_deref()];
                    let name = name.into_iter().flatten().collect::<Vec<_>>().join(": ");
                    let shown =
                        if name.is_empty() { format!("{} {}", case.value.sub, case.value.obj) } else { name };
                    if filter
                        .is_some_and(|filter| !shown.contains(filter) && !case.value.sub.contains(filter))
                    {
                        continue;
                    }
                    let begun = Instant::now();
                    let failures = ask(snapshot, &suite, &case.value, now, &mut covered);
                    problems.extend(
                        failures
                            .iter()
                            .map(|failure| error(directory, &file.name, line, "test", failure.clone())),
                    );
                    cases.push(CaseReport {
                        file: directory.join(&*file.name).display().to_string(),
                        line,
                        name: shown,
                        ok: failures.is_empty(),
                        failures,
                        duration_us: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
                    });
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    let places = |wanted: bool| {
        let rows = snapshot.rows.iter().zip(&covered).filter(|(_, covered)| **covered == wanted);
        rows.map(|(row, _)| format!("{}:{}", row.file, row.line)).collect::<Vec<_>>()
    };
    TestReport {
        ok: problems.is_empty(),
        problems,
        cases,
        rows_covered: covered.iter().filter(|covered| **covered).count(),
        rows: snapshot.rows.len(),
        covered: places(true),
        uncovered: places(false),
    }
}

fn read(directory: &Path, file: &SourceFile) -> Result<(Suite, Timestamp), Problem> {
    let fail = |line, message: String| error(directory, &file.name, line, "test-file", message);
    let text = std::str::from_utf8(&file.bytes).map_err(|_| fail(1, "is not UTF-8".to_owned()))?;
    let suite: Suite = serde_saphyr::from_str(text).map_err(|cause| {
        let line = cause.location().map_or(1, |at| u32::try_from(at.line()).unwrap_or(u32::MAX));
        let message = cause.without_snippet().to_string();
        fail(line, message.lines().next().unwrap_or_default().to_owned())
    })?;
    let now = match &suite.now {
        None => SystemClock.now(),
        Some(text) => Timestamp::parse_rfc3339(text)
            .ok_or_else(|| fail(1, format!("`now: {text}` is not a time such as 2026-01-05T10:00:00Z")))?,
    };
    Ok((suite, now))
}

fn principal(suite: &Suite, case: &Case) -> Principal {
    let mut principal = if case.sub == "anonymous" {
        Principal::anonymous()
    } else {
        Principal::new(case.sub.as_str(), PrincipalKind::User, AuthMethod::Session)
    };
    let subject = suite.subjects.get(&case.sub).cloned().unwrap_or_default();
    principal.roles = subject.roles.iter().map(|role| Arc::from(role.as_str())).collect();
    principal.roles.sort();
    principal.roles.dedup();
    principal.attributes = subject.attrs;
    principal.tenant = case.dom.as_deref().or(subject.dom.as_deref()).map(Arc::from);
    principal.kind = subject.kind.unwrap_or(principal.kind);
    principal
}

fn ask(snapshot: &Snapshot, suite: &Suite, case: &Case, now: Timestamp, covered: &mut [bool]) -> Vec<String> {
    let principal = Arc::new(principal(suite, case));
    let mut failures = Vec::new();
    let more = case.allow.iter().map(String::as_str).filter(|method| !METHODS.contains(method));
    for action in METHODS.into_iter().chain(more) {
        let question = Question {
            object: &case.obj,
            action,
            host: case.host.as_deref().unwrap_or("localhost"),
            ip: case.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            secure: case.secure,
        };
        let verdict = snapshot.evaluate(&snapshot.prepare(&principal, &question, now));
        if let Some(covered) = verdict.row.and_then(|row| covered.get_mut(row)) {
            *covered = true;
        }
        let expected = case.allow.iter().any(|allowed| allowed == action);
        let rule = verdict.row.and_then(|row| snapshot.rule(row));
        let rule = rule.map_or_else(|| "no rule".to_owned(), |rule| rule.to_string());
        if let Some(cause) = &verdict.error {
            failures.push(format!("{} {action} {}: the evaluation failed: {cause}", case.sub, case.obj));
        } else if verdict.allow && !expected {
            failures.push(format!("{} may {action} {}, expected to be refused ({rule})", case.sub, case.obj));
        } else if !verdict.allow && expected {
            failures
                .push(format!("{} may not {action} {}, expected to be allowed ({rule})", case.sub, case.obj));
        }
    }
    failures
}
