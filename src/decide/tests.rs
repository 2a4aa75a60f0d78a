//! The decider over whole directories: the shipped policies, hostile requests, broken files.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::{Decider, Decision, Problem, Query, Question, Settings, check, explain, test};
use crate::config::{Policy, RoleSource};
use crate::model::{AttributeValue, AuthMethod, ManualClock, Principal, PrincipalKind, Timestamp};

const MODEL: &str = "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act, eft\n\
    [role_definition]\ng = _, _\n[policy_effect]\ne = some(where (p.eft == allow)) && !some(where (p.eft == deny))\n\
    [matchers]\nm = g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && regexMatch(r.act, p.act)\n";

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")
}

fn directory(model: &str, policy: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("model.conf"), model).unwrap();
    fs::write(directory.path().join("policy.csv"), policy).unwrap();
    directory
}

struct Config {
    policy: Policy,
    node: &'static str,
}

fn config(directory: &Path) -> Config {
    Config { policy: Policy { directory: directory.to_owned(), ..Policy::default() }, node: "" }
}

fn open(config: &Config) -> Result<Arc<Decider>, Vec<Problem>> {
    let clock = ManualClock::at(Timestamp::parse_rfc3339("2026-01-05T10:00:00Z").unwrap());
    Decider::open_policy(&config.policy, config.node, Arc::new(clock), Arc::new(|name| name == "alice"))
}

fn user(name: &str, roles: &[&str], department: Option<&str>) -> Arc<Principal> {
    let mut principal = Principal::new(name, PrincipalKind::User, AuthMethod::Session);
    principal.roles = roles.iter().map(|role| Arc::from(*role)).collect();
    if let Some(department) = department {
        principal.attributes.0.insert("department".to_owned(), AttributeValue::Text(department.to_owned()));
    }
    Arc::new(principal)
}

fn ask(decider: &Decider, principal: &Arc<Principal>, action: &str, object: &str) -> Decision {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let question = Question { object, action, host: "h", ip, secure: false };
    decider.decide(principal, &question).now_or_never().unwrap()
}

fn allows(decider: &Decider, principal: &Arc<Principal>, action: &str, object: &str) -> bool {
    ask(decider, principal, action, object).permit.is_some()
}

fn codes(problems: &[Problem]) -> Vec<(&str, u32)> {
    problems.iter().map(|problem| (problem.code, problem.line)).collect()
}

#[test]
fn the_shipped_policies_give_the_demo_verdicts() {
    let decider = open(&config(&shipped())).unwrap();
    let bob = user("bob", &["reader"], Some("sales"));
    let alice = user("alice", &["admin"], Some("engineering"));
    for (who, action, object, expected) in [
        (&bob, "GET", "/orders", true),
        (&bob, "GET", "/orders/7", true),
        (&bob, "DELETE", "/orders/7", false),
        (&bob, "XGETX", "/orders/7", false),
        (&bob, "GET", "/reports/engineering", false),
        (&bob, "GET", "/reports/sales", true),
        (&alice, "GET", "/orders", true),
        (&alice, "DELETE", "/orders/7", true),
        (&alice, "TRACE", "/orders/7", false),
        (&alice, "GET", "/reports/engineering", true),
        (&alice, "POST", "/echo", true),
        (&Arc::new(Principal::anonymous()), "GET", "/public/hello", true),
        (&Arc::new(Principal::anonymous()), "GET", "/orders", false),
        (&user("dave", &["reader"], Some("")), "GET", "/reports/sales", false),
    ] {
        let decision = ask(&decider, who, action, object);
        assert_eq!(decision.error, None);
        assert_eq!(decision.permit.is_some(), expected, "{} {action} {object}", who.name);
    }
    let decision = ask(&decider, &bob, "GET", "/orders/7");
    assert_eq!(decision.rule.unwrap().to_string(), "policy.csv:3");
    assert_eq!(decision.roles.iter().map(|role| &**role).collect::<Vec<_>>(), ["reader"]);
    assert_eq!(decision.digest.len(), 12);
}

#[test]
fn the_shipped_policies_have_no_problem_and_full_coverage() {
    assert_eq!(check(&shipped(), &Settings::plain(None), true), []);
    assert_eq!(check(&shipped(), &Settings::plain(Some("gate-1")), true), []);
    let report = test(&shipped(), &Settings::plain(None), None);
    assert!(report.ok, "{:?}", report.problems);
    assert!(report.uncovered.is_empty(), "{:?}", report.uncovered);
}

#[test]
fn rows_of_a_node_count_for_it_alone() {
    let mut config = config(&shipped());
    let probe = user("p1", &["probe"], None);
    assert!(!allows(&open(&config).unwrap(), &probe, "GET", "/status"));
    config.node = "gate-1";
    assert!(allows(&open(&config).unwrap(), &probe, "GET", "/status"));
}

#[test]
fn a_subject_named_like_a_role_is_denied() {
    let files = directory(MODEL, "p, admin, /*, .*, allow\ng, root, admin\n");
    let decider = open(&config(files.path())).unwrap();
    assert!(allows(&decider, &user("root", &[], None), "GET", "/x"));
    let decision = ask(&decider, &user("admin", &[], None), "GET", "/x");
    assert!(decision.permit.is_none() && decision.error.unwrap().contains("name of a role"));
    assert_eq!(decider.role_names().into_iter().collect::<Vec<_>>(), ["admin"]);
}

#[test]
fn a_role_named_like_a_principal_does_not_load() {
    let files = directory(MODEL, "p, admin, /*, .*, allow\ng, bob, alice\n");
    assert_eq!(codes(&open(&config(files.path())).err().unwrap()), [("role-is-principal", 2)]);
}

#[test]
fn carried_roles_count_for_their_request_only_and_as_the_setting_says() {
    let files = directory(
        MODEL,
        "p, reader, /r, GET, allow\np, writer, /w, GET, allow\ng, bob, writer\ng, admin, reader\n",
    );
    let mut config = config(files.path());
    let (carrying, bare) = (user("bob", &["admin"], None), user("bob", &[], None));
    for (source, expected) in [
        (RoleSource::Union, [true, true, false, true]),
        (RoleSource::Files, [false, true, false, true]),
        (RoleSource::Token, [true, false, false, false]),
    ] {
        config.policy.roles = source;
        let decider = open(&config).unwrap();
        let asked = [(&carrying, "/r"), (&carrying, "/w"), (&bare, "/r"), (&bare, "/w")];
        assert_eq!(asked.map(|(who, object)| allows(&decider, who, "GET", object)), expected, "{source:?}");
    }
}

#[test]
fn what_casbin_panics_on_denies() {
    let files = directory(MODEL, "p, bob, /a*, GET, allow\np, bob, /*, GET, allow\n");
    let decider = open(&config(files.path())).unwrap();
    let bob = user("bob", &[], None);
    assert!(allows(&decider, &bob, "GET", "/b"));
    let decision = ask(&decider, &bob, "GET", "é");
    assert!(decision.permit.is_none() && decision.error.unwrap().contains("inside a character"));
    let files = directory(MODEL, "p, bob, /ab*, GET, allow\np, bob, /*, GET, allow\n");
    let decider = open(&config(files.path())).unwrap();
    assert!(ask(&decider, &bob, "GET", "/aé").error.unwrap().contains("inside a character"));
    let model = MODEL.replace("&& keyMatch(", "&& 1 / 0 == 1 && keyMatch(");
    let files = directory(&model, "p, bob, /*, GET, allow\n");
    let decision = ask(&open(&config(files.path())).unwrap(), &bob, "GET", "/b");
    assert!(decision.permit.is_none() && decision.error.is_some());
}

#[test]
fn every_mistake_is_found_at_once_with_its_line() {
    let files = directory(
        MODEL,
        "p, a, /x, GET\nq, a, b\np, a, /x, (GET, allow\np, a, /x, GET, maybe\ng, a\nP, a, /x, GET, deny\n",
    );
    assert_eq!(
        codes(&check(files.path(), &Settings::plain(None), true)),
        [("columns", 1), ("section", 2), ("pattern", 3), ("eft", 4), ("columns", 5), ("section", 6)]
    );
    fs::write(files.path().join("z.csv"), b"p, a, /x, GET, allow\np, \xff").unwrap();
    assert!(
        check(files.path(), &Settings::plain(None), true)
            .iter()
            .any(|problem| problem.code == "not-utf-8" && problem.line == 2)
    );
    for (model, code) in [
        (MODEL.replace("&& !some(where (p.eft == deny))", "|| deny"), "effect"),
        (MODEL.replace("keyMatch(r.obj, p.obj)", "nope(r.obj)"), "function"),
        (
            MODEL.replace("g(r.sub, p.sub)", &format!("{}true{}", "(".repeat(50), ")".repeat(50))),
            "expression",
        ),
        (MODEL.replace("r.obj", "r.sub.x"), "expression"),
        (MODEL.replace("r.obj", "r.object"), "expression"),
        (MODEL.replace("[matchers]", "[matcher]"), "model"),
    ] {
        let files = directory(&model, "p, a, /x, GET, allow\n");
        let problems = check(files.path(), &Settings::plain(None), true);
        assert!(problems.iter().any(|problem| problem.code == code), "{code}: {problems:?}");
    }
    let both = MODEL.replace("g = _, _", "g = _, _\ng2 = _, _");
    let files = directory(&both, "p, a, /x, GET, allow\ng2, mallory, admin\ng, bob, admin\n");
    assert_eq!(codes(&check(files.path(), &Settings::plain(None), true)), [("shared-name", 3)]);
}

#[test]
fn without_rows_or_meant_effect_nothing_is_allowed() {
    let open_by_default = MODEL.replace("some(where (p.eft == allow)) && ", "");
    let files = directory(&open_by_default, "p, mallory, /*, .*, deny\n");
    let mut config = config(files.path());
    assert_eq!(codes(&open(&config).err().unwrap()), [("allows-by-default", 8)]);
    assert_eq!(
        check(files.path(), &Settings::plain(None), true).first().map(|problem| problem.severity),
        Some("warning")
    );
    config.policy.allow_by_default = true;
    let decider = open(&config).unwrap();
    assert!(allows(&decider, &user("bob", &[], None), "GET", "/x"));
    assert!(!allows(&decider, &user("mallory", &[], None), "GET", "/x"));
    fs::write(files.path().join("policy.csv"), "# nothing\n").unwrap();
    assert!(decider.reload(true).unwrap());
    assert!(!allows(&decider, &user("bob", &[], None), "GET", "/x"));
}

#[test]
fn attributes_and_environment_reach_the_rules() {
    let model = MODEL
        .replace("r = sub, obj, act", "r = sub, obj, act, env")
        .replace("p = sub, obj, act, eft", "p = rule, obj, act, eft")
        .replace("g(r.sub, p.sub)", "eval(p.rule)");
    let policy = "p, r.sub.level > 3 && r.env.time == 600 && r.env.weekday == 1, /a, GET, allow\n\
        p, r.sub.big == \"5000000000\" && r.sub.score == \"1.5\", /b, GET, allow\n\
        p, \"g(r.sub.name, \"\"x\"\")\", /c, GET, deny\n";
    let policy = policy.lines().take(2).collect::<Vec<_>>().join("\n");
    let files = directory(&model, &policy);
    let decider = open(&config(files.path())).unwrap();
    let mut principal = Principal::new("bob", PrincipalKind::User, AuthMethod::Session);
    principal.attributes.0.insert("level".to_owned(), AttributeValue::Integer(5));
    principal.attributes.0.insert("big".to_owned(), AttributeValue::Integer(5_000_000_000));
    principal.attributes.0.insert("score".to_owned(), AttributeValue::Float(1.5));
    let bob = Arc::new(principal);
    assert!(allows(&decider, &bob, "GET", "/a"));
    assert!(allows(&decider, &bob, "GET", "/b"));
    let decision = ask(&decider, &user("carol", &[], None), "GET", "/a");
    assert!(decision.permit.is_none(), "a missing attribute denies");
    assert_eq!(decision.error, None, "and is no error");
    fs::write(files.path().join("policy.csv"), "p, r.sub.level > 3 && nope(1), /a, GET, allow\n").unwrap();
    assert_eq!(codes(&decider.reload(true).unwrap_err()), [("function", 1)]);
}

#[test]
fn broken_files_keep_the_last_good_policy() {
    let files = directory(MODEL, "p, bob, /a, GET, allow\np, bob, /b, GET, allow\np, bob, /c, GET, allow\n");
    let decider = open(&config(files.path())).unwrap();
    let bob = user("bob", &[], None);
    let digest = decider.digest();
    let policy = files.path().join("policy.csv");
    for broken in ["p, bob, /a\n", "p, bob, /a, (, allow\n", "p, bob, /a, GET, allow\n"] {
        fs::write(&policy, broken).unwrap();
        assert!(decider.reload(false).is_err(), "{broken}");
        assert!(allows(&decider, &bob, "GET", "/b"));
        assert_eq!(decider.digest(), digest);
    }
    assert_eq!(decider.failures(), (0, 3));
    assert!(decider.reload(true).unwrap(), "confirmed");
    assert_eq!((decider.rows(), allows(&decider, &bob, "GET", "/b")), (1, false));
    fs::create_dir(files.path().join("tests")).unwrap();
    let suite = "tests:\n  - {sub: bob, obj: /a, allow: []}\n";
    fs::write(files.path().join("tests/a.yaml"), suite).unwrap();
    assert_eq!(codes(&decider.reload(false).unwrap_err()), [("test", 2)]);
}

#[test]
fn a_manifest_must_match_and_allows_any_size() {
    use sha2::Digest as _;
    let files = directory(MODEL, "p, bob, /a, GET, allow\np, bob, /b, GET, allow\np, bob, /c, GET, allow\n");
    let decider = open(&config(files.path())).unwrap();
    fs::write(files.path().join("policy.csv"), "p, bob, /a, GET, allow\n").unwrap();
    let sum = |name: &str| {
        let bytes = fs::read(files.path().join(name)).unwrap();
        format!("{}  {name}\n", hex::encode(sha2::Sha256::digest(bytes)))
    };
    let manifest = files.path().join("MANIFEST");
    fs::write(&manifest, sum("model.conf")).unwrap();
    assert_eq!(codes(&decider.reload(false).unwrap_err()), [("manifest", 1)]);
    fs::write(&manifest, [sum("model.conf"), sum("policy.csv")].concat()).unwrap();
    assert!(decider.reload(false).unwrap());
    assert_eq!(decider.rows(), 1);
}

#[test]
fn many_rows_are_evaluated_on_the_pool() {
    let rows: String = (0..500).map(|n| format!("p, role{n}, /r/{n}, GET, allow\n")).collect();
    let matcher = "keyMatch(r.obj, p.obj) && g(r.sub, p.sub) && regexMatch(r.act, p.act)";
    let model =
        MODEL.replace("g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && regexMatch(r.act, p.act)", matcher);
    let files = directory(&model, &rows);
    let decider = open(&config(files.path())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let bob = user("bob", &["role499"], None);
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let question = Question { object: "/r/499", action: "GET", host: "h", ip, secure: false };
    let decision = runtime.block_on(decider.decide(&bob, &question));
    assert_eq!(decision.rule.unwrap().line, 500);
    assert!(decision.permit.is_some());
}

#[test]
fn an_explanation_names_the_row_and_the_missing_term() {
    let query = |action: &str| Query {
        principal: Arc::unwrap_or_clone(user("bob", &["reader"], Some("sales"))),
        object: "/orders/7".to_owned(),
        action: action.to_owned(),
        host: "h".to_owned(),
        ip: None,
        secure: false,
        at: Timestamp::from_seconds(0),
    };
    let allowed = explain(&shipped(), &Settings::plain(None), &query("GET")).unwrap();
    assert_eq!(allowed.hint(), "p, reader, /orders/:id, GET|HEAD, allow");
    assert_eq!((&*allowed.decision, allowed.rule.unwrap().line), ("allow", 3));
    let denied = explain(&shipped(), &Settings::plain(None), &query("DELETE")).unwrap();
    assert_eq!(denied.decision, "deny");
    let lines: Vec<u32> = denied.near.iter().map(|near| near.line).collect();
    assert_eq!(lines, [5, 3], "what the subject lacks comes before what the row is for");
    assert_eq!(denied.hint(), "nearest: policy.csv:5 needs role admin");
    let failed: Vec<&str> = denied
        .near
        .iter()
        .flat_map(|near| &near.terms)
        .filter(|term| !term.holds)
        .map(|term| term.why.as_str())
        .collect();
    assert_eq!(failed, ["bob has role reader, needs admin", "DELETE is not GET or HEAD"]);
    let json = serde_json::to_value(&denied).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["decision", "rule", "roles", "near", "digest"]);
    let text = denied.to_string();
    assert!(text.starts_with("DENY  bob DELETE /orders/7"), "{text}");
    assert!(text.contains("✗ act   DELETE is not GET or HEAD"), "{text}");
}

#[test]
fn the_watcher_waits_for_two_equal_scans_and_reports_a_mistake_once() {
    let files = directory(MODEL, "p, bob, /a, GET, allow\n");
    let decider = open(&config(files.path())).unwrap();
    let policy = files.path().join("policy.csv");
    let mut watch = super::decider::Watch::default();
    assert!(watch.step(&decider).is_none());
    fs::write(&policy, "p, bob, /a, GET, allow\np, bob, /b, GET, allow\n").unwrap();
    assert!(watch.step(&decider).is_none(), "one scan is not enough");
    assert!(watch.step(&decider).unwrap().is_ok());
    assert_eq!(decider.rows(), 2);
    assert!(watch.step(&decider).is_none());
    fs::write(&policy, "p, bob\n").unwrap();
    assert!(watch.step(&decider).is_none());
    assert_eq!(codes(&watch.step(&decider).unwrap().unwrap_err()), [("columns", 1)]);
    assert!(watch.step(&decider).is_none(), "reported once");
    fs::write(&policy, "p, eve\n").unwrap();
    assert_eq!(codes(&decider.reload(true).unwrap_err()), [("columns", 1)]);
    assert!(watch.step(&decider).is_none() && watch.step(&decider).is_none(), "known already");
    fs::remove_file(&policy).unwrap();
    assert!(watch.step(&decider).is_none());
    assert_eq!(codes(&watch.step(&decider).unwrap().unwrap_err()), [("held", 1)]);
    assert_eq!((decider.rows(), decider.failures()), (2, (1, 3)));
}

#[test]
fn warnings_name_what_surprises() {
    let rows = "p, a, /x*y, GET, allow\np, a, /b, ^GET$, allow\np, a, /b, ^GET$, deny\np, a, /c, ^GET$, allow\n\
        p, a, /c, ^GET$, allow\np, a, /*, ^GET$, allow\n";
    let files = directory(MODEL, rows);
    let mut found = check(files.path(), &Settings::plain(None), true);
    found.sort_by_key(|problem| (problem.line, problem.code));
    assert!(found.iter().all(|problem| problem.severity == "warning"));
    assert_eq!(
        codes(&found),
        [("broad", 1), ("unanchored", 1), ("unreachable", 2), ("duplicate", 4), ("broad", 6)]
    );
}

#[test]
fn a_domain_is_the_principals_tenant() {
    let model = MODEL
        .replace("r = sub, obj, act", "r = sub, tenant, obj, act")
        .replace("p = sub,", "p = sub, dom,")
        .replace("g = _, _", "g = _, _, _")
        .replace("g(r.sub, p.sub)", "g(r.sub, p.sub, r.tenant) && r.tenant == p.dom");
    let files = directory(
        &model,
        "p, admin, acme, /*, GET, allow\np, admin, evil, /*, GET, allow\ng, eve, admin, evil\n",
    );
    let mut config = config(files.path());
    assert_eq!(codes(&open(&config).err().unwrap()), [("binding", 10)]);
    config.policy.bind.insert("tenant".to_owned(), "dom".to_owned());
    let decider = open(&config).unwrap();
    let of = |name: &str, roles: &[&str], tenant: &str| {
        let mut principal = Arc::unwrap_or_clone(user(name, roles, None));
        principal.tenant = Some(Arc::from(tenant));
        Arc::new(principal)
    };
    assert!(allows(&decider, &of("eve", &[], "evil"), "GET", "/a"));
    assert!(!allows(&decider, &of("eve", &[], "acme"), "GET", "/a"));
    assert!(allows(&decider, &of("ann", &["admin"], "acme"), "GET", "/a"));
    assert!(!allows(&decider, &of("ann", &["admin"], ""), "GET", "/a"));
}
