//! Taking turns with wrk, and the processor time that each subject's own processes spend.

use std::process::Command;

/// What is asked of a subject.
pub struct Target {
    pub url: String,
    /// Header lines.
    pub headers: Vec<String>,
    /// The process, and those it started.
    pub pid: u32,
}

/// One turn of one subject.
pub struct Round {
    pub per_second: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Microseconds of user and system time for each request.
    pub cpu: f64,
}

/// Lets the subjects take turns.
pub fn rounds<const N: usize>(subjects: &[(&str, Target); N]) -> [Vec<Round>; N] {
    let setting = |name: &str, default: u32| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let (rounds, seconds, connections) =
        (setting("ROUNDS", 5), setting("SECONDS", 4), setting("CONNECTIONS", 32));
    let mut results = std::array::from_fn(|_| Vec::new());
    for (_, target) in subjects {
        wrk(target, 1, connections);
    }
    for _ in 0..rounds {
        for ((_, target), results) in subjects.iter().zip(&mut results) {
            results.push(wrk(target, seconds, connections));
        }
    }
    results
}

/// The middle of what the rounds say.
pub fn median(rounds: &[Round], what: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn wrk(target: &Target, seconds: u32, connections: u32) -> Round {
    let before = cpu_ticks(target.pid);
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"]);
    for header in &target.headers {
        command.args(["-H", header]);
    }
    let output = command.arg(&target.url).output().expect("wrk, from the Debian package wrk");
    let spent = cpu_ticks(target.pid) - before;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{}: {text}", target.url);
    let word_after = |label: &str| {
        let (_, rest) = text.split_once(label).unwrap_or_else(|| panic!("no {label} in {text}"));
        rest.split_whitespace().next().expect("a word").to_owned()
    };
    let requests: f64 = {
        let (head, _) = text.split_once(" requests in").expect("a count");
        head.split_whitespace().next_back().expect("a word").parse().expect("a number")
    };
    Round {
        per_second: word_after("Requests/sec:").parse().expect("a number"),
        p50: milliseconds(&word_after("\n     50%")),
        p99: milliseconds(&word_after("\n     99%")),
        // A tick is a hundredth of a second for every program on Linux.
        cpu: spent * 10_000.0 / requests,
    }
}

fn milliseconds(text: &str) -> f64 {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let value: f64 = digits.parse().expect("a number");
    match text.get(digits.len()..) {
        Some("us") => value / 1000.0,
        Some("s") => value * 1000.0,
        _ => value,
    }
}

/// User and system time of a process and its children, in ticks.
fn cpu_ticks(pid: u32) -> f64 {
    let own = |pid: u32| -> Option<(u32, f64)> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some((fields.get(1)?.parse().ok()?, number(11)? + number(12)?))
    };
    let all = std::fs::read_dir("/proc").expect("/proc");
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|each| own(each).filter(|(parent, _)| each == pid || *parent == pid))
        .map(|(_, ticks)| ticks)
        .sum()
}
