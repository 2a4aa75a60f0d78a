//! Requests through the gateway beside the proxies that it replaces, in one run: `cargo bench --bench gateway`.
//!
//! Needs the Debian packages nginx, haproxy, redis-server and wrk. Every subject forwards the same request to the same
//! nginx; they take turns for a few seconds each, several rounds, and the medians are compared. `ROUNDS`, `SECONDS` and
//! `CONNECTIONS` change how long. `docs/benchmarks.md` says how to read the figures. A subject is a line in [`main`].
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on fails"
)]

mod measure;
mod subjects;

use measure::{Round, median, rounds};
use subjects::{Haproxy, Nginx, Node, Redis, Upstream};

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags of their own; a test run only proves that this compiles.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let upstream = Upstream::start(dir.path());
    let redis = Redis::start(dir.path());
    let nginx = Nginx::proxy(dir.path(), &upstream);
    let embedded = Node::start(dir.path(), &upstream, "embedded", None);
    let on_redis = Node::start(dir.path(), &upstream, "redis", Some(&redis));
    let haproxy = Haproxy::start(dir.path(), &upstream, &embedded.jwks());

    let (ready, memory) = Node::idle(dir.path(), &upstream, 100);
    println!("ready after start {ready:>6.0} ms   (100 users; target: at most 300)");
    println!("idle memory       {memory:>6.1} MB   (100 users; target: at most 40)\n");

    let subjects = [
        ("nginx, plain proxy", nginx.target()),
        ("portcullis, embedded store", embedded.target()),
        ("portcullis, Redis", on_redis.target()),
        ("HAProxy, jwt_verify ES256", haproxy.target()),
    ];
    let results = rounds(&subjects);
    let [nginx, embedded, on_redis, haproxy] = &results;
    println!("{:<28} {:>9} {:>9} {:>9} {:>12}", "", "req/s", "p50 ms", "p99 ms", "CPU µs/req");
    for ((name, _), rounds) in subjects.iter().zip(&results) {
        println!(
            "{name:<28} {:>9.0} {:>9.2} {:>9.2} {:>12.1}",
            median(rounds, |round| round.per_second),
            median(rounds, |round| round.p50),
            median(rounds, |round| round.p99),
            median(rounds, |round| round.cpu),
        );
    }
    let ratio = |of: &[Round], to: &[Round], what: fn(&Round) -> f64| median(of, what) / median(to, what);
    println!();
    for (what, ratio, target) in [
        ("req/s, embedded : nginx", ratio(embedded, nginx, |round| round.per_second), "≥ 0.75"),
        ("req/s, Redis : nginx", ratio(on_redis, nginx, |round| round.per_second), "≥ 0.65"),
        ("req/s, embedded : HAProxy ES256", ratio(embedded, haproxy, |round| round.per_second), "≥ 2"),
        ("CPU per request, embedded : nginx", ratio(embedded, nginx, |round| round.cpu), "≤ 1.7"),
    ] {
        println!("{what:<36} {ratio:>6.2}   (target {target})");
    }
}
