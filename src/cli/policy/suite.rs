//! `policy test`: once or at every change, for people, as JSON or as JUnit's XML.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::scope;
use crate::cli::{Context, Done, Failure, Output, emit};
use crate::decide::{self, CaseReport, Settings, TestReport};
use crate::record::printable;

/// How often `--watch` looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What to test, and how.
#[derive(clap::Args, Debug)]
pub struct Suite {
    /// The policy directory; by default the configuration's, or `policies`.
    dir: Option<PathBuf>,
    /// Include this node's own rows.
    #[arg(long)]
    node: Option<String>,
    /// Only cases whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Show the rows that decided in no case.
    #[arg(long)]
    coverage: bool,
    /// Run again whenever a file changes, until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

/// Runs the command.
pub fn run(context: &Context, suite: &Suite) -> Done {
    let (dir, settings) = scope(context, suite.dir.as_deref(), suite.node.as_deref())?;
    let once = || {
        let report = decide::test(&dir, &settings, suite.filter.as_deref());
        print(context, &dir, &report, suite.coverage);
        outcome(&report)
    };
    if suite.watch { watch(&dir, &settings, once) } else { once() }
}

/// Runs at every change of the files that two looks saw.
fn watch(dir: &Path, settings: &Settings, once: impl Fn() -> Done) -> Done {
    let mut tested = None;
    let mut before = None;
    loop {
        let seen = Some(decide::fingerprint(dir, settings));
        if seen != tested && (tested.is_none() || seen == before) {
            // What failed is printed; only Ctrl-C ends it.
            let _failed = once().is_err();
            tested.clone_from(&seen);
        }
        before = seen;
        std::thread::sleep(LOOK_EVERY);
    }
}

fn outcome(report: &TestReport) -> Done {
    let broken = report.problems.iter().any(|p| p.severity == "error" && p.code != "test");
    match (report.ok, broken && report.cases.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(Failure { code: 2, name: "policy", message: String::new() }),
        (false, false) => Err(Failure::no("")),
    }
}

fn print(context: &Context, dir: &Path, report: &TestReport, coverage: bool) {
    if context.junit {
        return emit(junit(dir, report).trim_end());
    }
    if context.output == Output::Json {
        let mut document = json!({"ok": report.ok, "problems": report.problems, "cases": report.cases});
        if coverage && let Some(members) = document.as_object_mut() {
            members.insert("rows".into(), json!(report.rows));
            members.insert("rows_covered".into(), json!(report.rows_covered));
            members.insert("uncovered".into(), json!(report.uncovered));
        }
        return emit(document);
    }
    for case in &report.cases {
        let word = if case.ok { "ok    " } else { "FAILED" };
        emit(printable(&format!("{word} {}", case.name)));
    }
    for problem in &report.problems {
        emit(printable(&format!("{}:{}: {}", problem.file, problem.line, problem.message)));
    }
    if coverage {
        emit(format!("{} of {} rows decided in some case", report.rows_covered, report.rows));
        report.uncovered.iter().for_each(|row| emit(printable(&format!("  not covered: {row}"))));
    }
    let failed = report.cases.iter().filter(|case| !case.ok).count();
    if report.cases.is_empty() && !report.ok {
        emit("no case was run");
    } else {
        emit(format!("{} cases, {failed} failed", report.cases.len()));
    }
}

/// A suite for each file, and one for what kept the policy or a file from loading.
fn junit(dir: &Path, report: &TestReport) -> String {
    let mut suites = String::new();
    for cases in report.cases.chunk_by(|one, next| one.file == next.file) {
        let Some(file) = cases.first().map(|case| case.file.as_str()) else { continue };
        let failed = cases.iter().filter(|case| !case.ok).count();
        let head = format!("tests=\"{}\" failures=\"{failed}\" errors=\"0\"", cases.len());
        let time: u64 = cases.iter().map(|case| case.duration_us).sum();
        tagged(&mut suites, file, &head, time, &cases.iter().map(case).collect::<String>());
    }
    let broken: Vec<_> =
        report.problems.iter().filter(|one| one.severity == "error" && one.code != "test").collect();
    if !broken.is_empty() {
        let cases: String = broken
            .iter()
            .map(|one| {
                let (name, message) = (escaped(&format!("{}:{}", one.file, one.line)), escaped(&one.message));
                format!(
                    "    <testcase name=\"{name}\" classname=\"{}\"><error message=\"{message}\"/></testcase>\n",
                    one.code
                )
            })
            .collect();
        let head = format!("tests=\"{0}\" failures=\"0\" errors=\"{0}\"", broken.len());
        tagged(&mut suites, &dir.display().to_string(), &head, 0, &cases);
    }
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}

fn tagged(into: &mut String, name: &str, head: &str, microseconds: u64, cases: &str) {
    let (name, time) = (escaped(name), seconds(microseconds));
    into.push_str(&format!("  <testsuite name=\"{name}\" {head} time=\"{time}\">\n{cases}  </testsuite>\n"));
}

fn case(case: &CaseReport) -> String {
    let mut text = format!(
        "    <testcase name=\"{}\" classname=\"{}\" file=\"{1}\" line=\"{}\" time=\"{}\"",
        escaped(&case.name),
        escaped(&case.file),
        case.line,
        seconds(case.duration_us)
    );
    if case.failures.is_empty() {
        text.push_str("/>\n");
        return text;
    }
    text.push_str(">\n");
    for failure in &case.failures {
        // Writing to a text cannot fail.
        let _written = writeln!(text, "      <failure message=\"{}\"/>", escaped(failure)).is_ok();
    }
    text + "    </testcase>\n"
}

fn seconds(microseconds: u64) -> String {
    format!("{}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000)
}

/// A text in an attribute; what XML cannot hold is replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_replaced() {
        assert_eq!(escaped("a<b> & \"c\"\n\u{1b}"), "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{fffd}");
        assert_eq!(seconds(1_000_042), "1.000042");
    }
}
