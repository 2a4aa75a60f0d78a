//! What decisions of a policy cost: requests drawn from its rows, each decision measured, a sample held against casbin.
//!
//! `policy bench` prints it. A decision is what [`Decider::decide`](super::Decider::decide) does on the asking thread;
//! where it would go to the pool, the evaluation is done here instead.

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ask::{Asked, ask, decided};
use super::draw::{Draw, Drawn};
use super::load::{Settings, load};
use super::plain::Plain;
use super::snapshot::Snapshot;
use super::source::Sources;
use super::{Decision, Problem, Question};
use crate::model::{Clock as _, RuleRef, SystemClock, Timestamp};

/// Requests that are drawn.
const DECISIONS: usize = 100_000;
/// Requests that plain casbin is asked.
const SAMPLE: usize = 200;
/// How long plain casbin is asked.
const SAMPLE_WITHIN: Duration = Duration::from_secs(20);
/// From this many rows on plain casbin is not asked.
const TOO_MANY: usize = 1_000_000;
/// Snapshots that the memory is divided by.
const COPIES: u64 = 2;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `p` and `g` rows.
    pub rows: usize,
    /// Reading, checking and indexing the files, in milliseconds.
    pub load_ms: f64,
    /// What a snapshot adds to the process.
    pub memory_bytes: u64,
    /// Decisions that were measured.
    pub decisions: usize,
    /// Decisions of one thread in a second.
    pub per_second: u64,
    /// The median of a decision.
    pub p50_ns: u64,
    /// What 99 of 100 decisions stay below.
    pub p99_ns: u64,
    /// The share of requests that a row decided.
    pub hit_ratio: f64,
    /// The median of plain casbin, when it was asked.
    pub casbin_p50_ns: Option<u64>,
    /// Requests that plain casbin answers otherwise.
    #[serde(skip)]
    pub differences: Vec<String>,
}

/// Measures the decisions of a directory.
///
/// # Errors
/// Every mistake that keeps the directory from loading.
pub fn bench(directory: &Path, settings: &Settings) -> Result<Measured, Vec<Problem>> {
    let begun = Instant::now();
    let snapshot = read(directory, settings)?;
    let load_ms = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    let memory_bytes = memory(directory, settings)?;
    let at = SystemClock.now();
    let mut draw = Draw::new(&snapshot);
    let requests: Vec<Drawn> = (0..DECISIONS).map(|_| draw.request()).collect();
    let mut times = Vec::with_capacity(requests.len());
    let mut verdicts = Vec::with_capacity(requests.len());
    for request in &requests {
        let begun = Instant::now();
        let decision = black_box(decide(&snapshot, request, at));
        times.push(nanoseconds(begun.elapsed()));
        verdicts.push((decision.permit.is_some(), decision.rule));
    }
    let whole: u64 = times.iter().sum();
    let hits = verdicts.iter().filter(|(_, rule)| rule.is_some()).count();
    let rows = snapshot.rows.len() + snapshot.links.len();
    let (casbin_p50_ns, differences) = if rows >= TOO_MANY {
        (None, Vec::new())
    } else {
        against_casbin(&snapshot, &requests, &verdicts, at)
    };
    times.sort_unstable();
    let share = |part: usize, of: usize| (part as f64 / of.max(1) as f64 * 1e4).round() / 1e4;
    Ok(Measured {
        rows,
        load_ms,
        memory_bytes,
        decisions: times.len(),
        per_second: (u128::from(u64::try_from(times.len()).unwrap_or(0)) * 1_000_000_000
            / u128::from(whole.max(1)))
        .try_into()
        .unwrap_or(u64::MAX),
        p50_ns: at_percent(&times, 50),
        p99_ns: at_percent(&times, 99),
        hit_ratio: share(hits, verdicts.len()),
        casbin_p50_ns,
        differences,
    })
}

fn read(directory: &Path, settings: &Settings) -> Result<Snapshot, Vec<Problem>> {
    let sources = Sources::read(directory, settings.node.as_deref())?;
    load(directory, &sources, settings)
}

/// What a snapshot adds to the resident memory: further ones are loaded beside the first. What loading takes for a while
/// was taken by the first and is there again, so that what grows is what stays.
fn memory(directory: &Path, settings: &Settings) -> Result<u64, Vec<Problem>> {
    let before = resident();
    let copies = (0..COPIES).map(|_| read(directory, settings)).collect::<Result<Vec<_>, _>>()?;
    let after = resident();
    drop(black_box(copies));
    Ok(after.saturating_sub(before) / COPIES)
}

/// The resident memory of this process in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

fn question(request: &Drawn) -> Question<'_> {
    Question {
        object: &request.object,
        action: &request.action,
        host: "localhost",
        ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        secure: request.secure,
    }
}

fn decide(snapshot: &Snapshot, request: &Drawn, at: Timestamp) -> Decision {
    match ask(snapshot, &request.principal, &question(request), at) {
        Asked::Decided(decision) => decision,
        Asked::Many(prepared, key) => {
            let verdict = snapshot.evaluate(&prepared);
            let roles = Arc::clone(&prepared.subject.roles);
            decided(snapshot, &request.principal, key, verdict, roles)
        }
    }
}

/// The median of plain casbin over a sample, and where it answers otherwise.
fn against_casbin(
    snapshot: &Snapshot,
    requests: &[Drawn],
    verdicts: &[(bool, Option<RuleRef>)],
    at: Timestamp,
) -> (Option<u64>, Vec<String>) {
    let plain = match Plain::of(snapshot) {
        Ok(plain) => plain,
        Err(cause) => return (None, vec![format!("casbin does not take the rows: {cause}")]),
    };
    let (mut times, mut differences) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let step = (requests.len() / SAMPLE).max(1);
    for (request, (allow, rule)) in requests.iter().zip(verdicts).step_by(step) {
        if times.len() >= SAMPLE || begun.elapsed() > SAMPLE_WITHIN {
            break;
        }
        let prepared = snapshot.prepare(&request.principal, &question(request), at);
        let own = snapshot.evaluate(&prepared);
        let asked = Instant::now();
        let verdict = plain.evaluate(snapshot, &prepared);
        times.push(nanoseconds(asked.elapsed()));
        let theirs = verdict.row.and_then(|row| snapshot.rule(row));
        // Where casbin errs, or is not asked at all, the answer is a refusal.
        let same = match (&own.error, &verdict.error) {
            (None, None) => (*allow, rule) == (verdict.allow, &theirs),
            _ => !allow,
        };
        if !same {
            let said = |allow: bool, rule: &Option<RuleRef>| {
                let word = if allow { "allow" } else { "deny" };
                rule.as_ref().map_or_else(|| word.to_owned(), |rule| format!("{word} ({rule})"))
            };
            differences.push(format!(
                "{} {} {}: {} here, {} by casbin",
                request.principal.name,
                request.action,
                request.object,
                said(*allow, rule),
                verdict.error.unwrap_or_else(|| said(verdict.allow, &theirs)),
            ));
        }
    }
    times.sort_unstable();
    ((!times.is_empty()).then(|| at_percent(&times, 50)), differences)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The time that so many of a hundred are not above; `times` in order.
fn at_percent(times: &[u64], percent: usize) -> u64 {
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(0)
}
