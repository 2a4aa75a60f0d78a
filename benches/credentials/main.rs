//! What credentials and decisions cost: `cargo bench --bench credentials`.
//!
//! In process: verifying a token the first time and from then on, decisions of the shipped policies and of larger ones.
//! Against a node: sign-ins per second beside bare Argon2id on as many threads, and what they do to the latency of bearer
//! requests; both take turns for `ROUNDS` rounds of `SECONDS`, and the medians are compared. A figure is a line in [`main`].
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on fails"
)]

mod node;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use portcullis::config::{self, Policy};
use portcullis::decide::{Decider, Question};
use portcullis::http::Services;
use portcullis::model::{AttributeValue, AuthMethod, Principal, PrincipalKind, SystemClock};

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags of their own; a test run only proves that this compiles.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        tokens().await;
        decisions().await;
    });
    drop(runtime);
    node::sign_ins();
}

/// Nanoseconds of one run of `work`, the middle of nine batches.
fn nanos(batch: u32, mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            (0..batch).for_each(|_| work());
            begun.elapsed().as_secs_f64() * 1e9 / f64::from(batch)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn user(name: &str, roles: &[&str]) -> Arc<Principal> {
    let mut principal = Principal::new(name, PrincipalKind::User, AuthMethod::Password);
    principal.roles = roles.iter().map(|role| Arc::from(*role)).collect();
    principal.attributes.0.insert("department".to_owned(), AttributeValue::Text("sales".to_owned()));
    Arc::new(principal)
}

async fn tokens() {
    println!("tokens");
    for algorithm in ["ES256", "EdDSA", "RS256"] {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("portcullis.toml");
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:0\"\npublic_url = \"http://localhost\"\n\
             [policy]\ndirectory = \"{}/policies\"\n[tokens]\nalgorithm = \"{algorithm}\"\n",
            env!("CARGO_MANIFEST_DIR")
        );
        std::fs::write(&file, text).expect("a file");
        let loaded = config::load(&file, &Vec::new).unwrap_or_else(|problems| panic!("{problems:?}"));
        let services: Arc<Services> = portcullis::app::open(loaded).await.expect("a store");
        let (bob, tokens) = (user("bob", &["reader"]), &services.tokens);
        let mut all = Vec::new();
        for _ in 0..9 * 200 {
            all.push(tokens.issue(&bob, "portcullis", &[], false).await.expect("a token").access_token);
        }
        let mut fresh = all.iter();
        let first =
            nanos(200, || drop(black_box(tokens.verify(fresh.next().expect("one more")).expect("right"))));
        let again = nanos(20_000, || drop(black_box(tokens.verify(&all[0]).expect("right"))));
        println!(
            "  {algorithm:<6} first {:>8.1} µs   again {:>6.2} µs   ({:.0} times faster)",
            first / 1e3,
            again / 1e3,
            first / again
        );
    }
}

async fn decisions() {
    println!("\ndecisions");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    measure("the shipped policies", &shipped, &user("bob", &["reader"]), "/orders/7", "/orders/7/x").await;
    for rows in [1_000, 10_000] {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::copy(shipped.join("model.conf"), dir.path().join("model.conf")).expect("a model");
        // Ten rows for each role, as roles have; the subject has the last one.
        let text: String =
            (0..rows).map(|row| format!("p, role{}, /r/{row}/:id, GET|HEAD, allow\n", row / 10)).collect();
        std::fs::write(dir.path().join("policy.csv"), text).expect("rows");
        let role = format!("role{}", rows / 10 - 1);
        let path = format!("/r/{}/7", rows - 1);
        measure(&format!("{rows} rows"), dir.path(), &user("bob", &[&role]), &path, "/r/0/7").await;
    }
}

async fn measure(what: &str, directory: &Path, who: &Arc<Principal>, allowed: &str, denied: &str) {
    let policy = Policy { directory: directory.to_owned(), ..Policy::default() };
    let begun = Instant::now();
    let opened = Decider::open_policy(&policy, "", Arc::new(SystemClock), Arc::new(|_| false));
    let decider = opened.unwrap_or_else(|problems| panic!("{problems:?}"));
    let load = begun.elapsed();
    let ask = |who: &Arc<Principal>, object: &str| {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let question = Question { object, action: "GET", host: "localhost", ip, secure: true };
        futures_util::FutureExt::now_or_never(decider.decide(who, &question))
            .expect("at once")
            .permit
            .is_some()
    };
    assert!(ask(who, allowed) && !ask(who, denied), "{what}: the verdicts are right");
    let hit = nanos(20_000, || assert!(ask(who, allowed)));
    let miss = nanos(20_000, || assert!(!ask(who, denied)));
    let mut strangers = (0..).map(|number: u32| user(&format!("stranger{number}"), &[]));
    let stranger = nanos(1_000, || assert!(!ask(&strangers.next().expect("endless"), allowed)));
    println!(
        "  {what:<22} allow {:>6.2} µs   deny {:>6.2} µs   a new subject {:>6.2} µs   load {:>6.1} ms",
        hit / 1e3,
        miss / 1e3,
        stranger / 1e3,
        load.as_secs_f64() * 1e3
    );
}
