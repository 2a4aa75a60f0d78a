//! `policy plan` and `policy bench`: how a policy is answered, and what that costs.

use std::path::Path;

use serde_json::json;

use super::{scope, shown, unusable};
use crate::cli::{Context, Done, Failure, table};
use crate::decide::{self, Measured};

/// Prints how each matcher is answered.
pub fn plan(context: &Context, dir: Option<&Path>, node: Option<&str>) -> Done {
    let (dir, settings) = scope(context, dir, node)?;
    let plans = decide::plan(&dir, &settings).map_err(|problems| unusable(&problems))?;
    let lines: Vec<String> =
        plans.iter().map(|plan| format!("{}\n  {}: {}", plan.matcher, plan.by, plan.why)).collect();
    context.print(&json!(plans), &shown(&lines.join("\n")));
    Ok(())
}

/// Measures, and says where casbin answers otherwise.
pub fn bench(context: &Context, dir: Option<&Path>, node: Option<&str>) -> Done {
    let (dir, settings) = scope(context, dir, node)?;
    let measured = decide::bench(&dir, &settings).map_err(|problems| unusable(&problems))?;
    context.print(&json!(measured), &in_words(&measured));
    match measured.differences.as_slice() {
        [] => Ok(()),
        differences => Err(Failure::no(format!("casbin answers otherwise:\n{}", differences.join("\n")))),
    }
}

fn in_words(measured: &Measured) -> String {
    let micro = |nanoseconds: u64| format!("{:.2} µs", nanoseconds as f64 / 1e3);
    let casbin = measured.casbin_p50_ns.map_or_else(|| "not asked".to_owned(), micro);
    let rows = [
        ("rows", measured.rows.to_string()),
        ("load", format!("{:.1} ms", measured.load_ms)),
        ("memory", format!("{:.1} MiB", measured.memory_bytes as f64 / f64::from(1 << 20))),
        ("decisions", measured.decisions.to_string()),
        ("per second", measured.per_second.to_string()),
        ("median", micro(measured.p50_ns)),
        ("99 %", micro(measured.p99_ns)),
        ("hits", format!("{:.1} %", measured.hit_ratio * 100.0)),
        ("casbin's median", casbin),
    ];
    table(&rows.map(|(name, value)| vec![name.to_owned(), value]))
}
