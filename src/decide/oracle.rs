//! Property tests: answers held against casbin's own functions, role manager and enforcer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use casbin::{CoreApi as _, DefaultModel, DefaultRoleManager, Enforcer, MgmtApi as _, RoleManager as _};
use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::Question;
use super::functions::Style;
use super::load::{Settings, load};
use super::plain::Plain;
use super::roles::RoleGraph;
use super::snapshot::{Snapshot, Verdict};
use super::source::{SourceFile, Sources};
use crate::model::{AttributeValue, AuthMethod, Principal, PrincipalKind, Timestamp};

const EFFECTS: [&str; 3] = [
    "some(where (p.eft == allow))",
    "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
    "priority(p.eft) || deny",
];
const MATCHERS: [&str; 25] = [
    "g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) && regexMatch(r.act, p.act)",
    "g(r.sub, p.sub) && keyMatch(r.obj, p.obj) && r.act == p.act",
    "r.sub == \"root\" || g(r.sub, p.sub) && keyMatch3(r.obj, p.obj) && r.act == p.act",
    "(p.sub == \"*\" || g(r.sub, p.sub)) && keyMatch5(r.obj, p.obj) && regexMatch(r.act, \"^(\" + p.act + \")$\")",
    "g(r.sub.name, p.sub) && keyMatch(r.obj, p.obj) && r.sub.level > 3 && r.act == p.act",
    "r.sub == p.sub && keyMatch4(r.obj, p.obj) && regexMatch(r.act, p.act)",
    "g(r.sub, p.sub) && keyMatch2(r.obj, p.obj) | r.act == p.act",
    "(p.sub == \"*\" || g(r.sub.name, p.sub)) && r.sub.level == r.obj && !(r.act == p.act)",
    "(p.sub == \"*\" || g(r.sub.name, p.sub)) && keyMatch2(r.obj, p.obj) && regexMatch(r.act, \"^(\" + p.act + \")$\") \
     && (keyGet2(r.obj, p.obj, \"x\") == \"\" || keyGet2(r.obj, p.obj, \"x\") == r.sub.department)",
    "g(r.sub.name, p.sub) && (r.sub.fired != true || r.sub.level == p.act) && keyMatch(r.obj, p.obj + \"*\")",
    "r.sub == p.sub && r.obj == p.obj && r.act == p.act",
    "r.act == p.act || g(r.sub, p.sub) && keyMatch2(r.obj, p.obj)",
    "r.sub == \"root\" || g(r.sub, p.sub) && r.obj == p.obj",
    "r.sub == \"root\" || keyMatch2(r.obj, p.obj) && (g(r.sub, p.sub) || p.sub == \"*\") && r.act == p.act",
    "keyMatch(r.obj, p.obj) && g(r.sub, p.sub)",
    "keyMatch3(r.obj, p.obj) && g(r.sub, p.sub) && regexMatch(r.act, p.act)",
    "keyMatch4(r.obj, p.obj) && r.act == p.act",
    "keyMatch5(r.obj, p.obj) && r.act == p.act && g(r.sub, p.sub)",
    "regexMatch(r.obj, p.obj) && g(r.sub, p.sub)",
    "p.sub == \"*\" && keyMatch2(r.obj, p.obj)",
    "g(r.sub.name, p.sub) && keyMatch2(r.obj, p.obj) && r.sub.level >= 5 && r.sub.absent < 3",
    "g(r.sub.name, p.sub) && p.act < r.sub.department && r.sub.level != \"5\" && r.sub.level < 2147483647",
    "(p.sub == \"*\" || p.sub == \"root\" || r.sub == p.sub) && keyMatch2(r.obj, p.obj)",
    "r.act == p.act && keyMatch2(r.obj, p.obj) && g(r.sub, p.sub)",
    "r.obj != p.obj && (r.sub == p.sub || r.act == \"GET\")",
];

/// How many policies each property draws; more by the environment variable `PORTCULLIS_ORACLE_CASES`.
fn cases() -> u32 {
    std::env::var("PORTCULLIS_ORACLE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
}

/// Requests for each policy.
const ASKED: usize = 80;

/// Of them those that casbin is asked with its own functions and role manager, which compile every pattern at every row.
const ASKED_OF_ITSELF: usize = 4;

/// Matchers of models with `eval`, domains and resource roles: the whole model but the effect, and what `p` has.
const MODELS: [(&str, &str, &str, &str); 4] = [
    (
        "sub, obj, act",
        "sub, obj, act, eft",
        "g = _, _\ng2 = _, _",
        "g(r.sub, p.sub) && g2(r.obj, p.obj) && r.act == p.act",
    ),
    (
        "sub, obj, act",
        "sub, obj, act, eft",
        "g = _, _",
        "eval(p.sub) && keyMatch2(r.obj, p.obj) && r.act == p.act",
    ),
    (
        "sub, dom, obj, act",
        "sub, obj, act, eft",
        "g = _, _, _",
        "g(r.sub, p.sub, r.dom) && keyMatch2(r.obj, p.obj) && (r.dom == p.act || r.act == p.act)",
    ),
    (
        "sub, dom, obj, act",
        "sub, obj, act, eft",
        "g = _, _, _",
        "r.dom == p.act && keyMatch(r.obj, p.obj) && g(r.sub, p.sub, r.dom)",
    ),
];

const RULES: [&str; 8] = [
    "r.sub.level > 3",
    "r.sub.name == \"\"u1\"\" && r.sub.fired == false",
    "r.sub.department == p.act",
    "r.sub.absent > 3 || r.act == \"\"GET\"\"",
    "true",
    "r.sub.level + 1 > 5",
    "r.sub.name",
    "keyMatch(r.obj, p.obj)",
];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["u1", "u2", "r1", "r2", "r3", "root", "*", ""]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let segments = vec!["a", "b", ":x", "{y}", "*", "é", "a.b", "7", "a%2Fb", ""];
    prop::collection::vec(prop::sample::select(segments), 0..4)
        .prop_map(|parts| format!("/{}", parts.join("/")))
}

fn action() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["GET", "POST", "GET|POST", ".*", "XGETX"]).prop_map(str::to_owned)
}

type Rule = (String, String, String, bool);

fn model(request: &str, policy: &str, roles: &str, effect: &str, matcher: &str) -> String {
    format!(
        "[request_definition]\nr = {request}\n[policy_definition]\np = {policy}\n\
         [role_definition]\n{roles}\n[policy_effect]\ne = {effect}\n[matchers]\nm = {matcher}\n"
    )
}

struct Both {
    snapshot: Snapshot,
    plain: Plain,
}

fn loaded(model: &str, rows: &str) -> Option<Both> {
    let file = |name: &str, text: &str| SourceFile { name: Arc::from(name), bytes: text.into() };
    let files = vec![file("model.conf", model), file("policy.csv", rows)];
    let sources = Sources { files, ..Sources::default() };
    let snapshot = load(Path::new("policies"), &sources, &Settings::plain(None)).ok()?;
    let plain = Plain::of(&snapshot).unwrap();
    Some(Both { snapshot, plain })
}

/// The verdict, which is plain casbin's, deciding row and error included.
fn verdict(Both { snapshot, plain }: &Both, sub: &str, dom: &str, obj: &str, act: &str) -> Verdict {
    let mut principal = Principal::new(sub, PrincipalKind::User, AuthMethod::Session);
    principal.tenant = Some(Arc::from(dom));
    for (name, value) in [
        ("level", AttributeValue::Integer(5)),
        ("fired", AttributeValue::Boolean(false)),
        ("department", AttributeValue::Text("a".to_owned())),
    ] {
        principal.attributes.0.insert(name.to_owned(), value);
    }
    let ip = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let question = Question { object: obj, action: act, host: "h", ip, secure: false };
    let prepared = snapshot.prepare(&Arc::new(principal), &question, Timestamp::from_seconds(0));
    let (ours, casbins) = (snapshot.evaluate(&prepared), plain.evaluate(snapshot, &prepared));
    // Of several errors casbin meets another one first than the index may.
    let agree = if ours.error.is_some() { casbins.error.is_some() } else { ours == casbins };
    assert!(agree, "{ours:?} and casbin {casbins:?} for {sub} {dom} {obj} {act}");
    ours
}

fn ours_and_casbins(
    matcher: &str,
    effect: &str,
    rows: &[Rule],
    links: &[(String, String)],
    asked: &[(String, String, String)],
) {
    let model = model("sub, obj, act", "sub, obj, act, eft", "g = _, _", effect, matcher);
    let Some(both) = loaded(&model, &text(rows, links, "g")) else { return };
    // A subject with the name of a role is refused here, and so is everything without rows.
    let asked =
        asked.iter().filter(|(sub, ..)| !rows.is_empty() && links.iter().all(|(_, role)| role != sub));
    let ours: Vec<_> =
        asked.map(|(sub, obj, act)| ((sub, obj, act), verdict(&both, sub, "", obj, act))).collect();
    if matcher.contains("r.sub.") || ours.is_empty() {
        return;
    }
    let model = DefaultModel::from_str(&model).now_or_never().unwrap().unwrap();
    let mut enforcer =
        Enforcer::new(model, casbin::MemoryAdapter::default()).now_or_never().unwrap().unwrap();
    enforcer.enable_auto_build_role_links(true);
    for row in both.snapshot.rows.iter() {
        enforcer.add_policy(row.values.clone()).now_or_never().unwrap().unwrap();
    }
    for (name, role) in links {
        enforcer.add_grouping_policy(vec![name.clone(), role.clone()]).now_or_never().unwrap().unwrap();
    }
    for (asked, ours) in ours.into_iter().take(ASKED_OF_ITSELF) {
        let plain = catch_unwind(AssertUnwindSafe(|| enforcer.enforce(asked).unwrap_or(false)));
        assert_eq!(ours.allow, plain.unwrap_or(false), "{asked:?}");
    }
}

fn text(rows: &[Rule], links: &[(String, String)], kind: &str) -> String {
    let mut text = String::new();
    for (sub, obj, act, allow) in rows {
        text += &format!("p, {sub}, {obj}, {act}, {}\n", if *allow { "allow" } else { "deny" });
    }
    for (name, role) in links {
        text += &format!("{kind}, {name}, {role}\n");
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn verdicts_are_casbins(
        matcher in prop::sample::select(MATCHERS.to_vec()),
        effect in prop::sample::select(EFFECTS.to_vec()),
        rows in prop::collection::vec((name(), path(), action(), prop::bool::weighted(0.8)), 0..30),
        links in prop::collection::vec((name(), name()), 0..6),
        asked in prop::collection::vec((name(), path(), action()), ASKED),
    ) {
        ours_and_casbins(matcher, effect, &rows, &links, &asked);
    }

    #[test]
    fn models_of_every_kind_answer_as_casbin_does(
        at in 0..MODELS.len(),
        effect in prop::sample::select(EFFECTS.to_vec()),
        mut rows in prop::collection::vec((name(), path(), action(), prop::bool::weighted(0.8)), 1..30),
        rules in prop::collection::vec(prop::sample::select(RULES.to_vec()), 30),
        links in prop::collection::vec((name(), name(), action()), 0..6),
        objects in prop::collection::vec((path(), path()), 0..4),
        asked in prop::collection::vec((name(), action(), path(), action()), ASKED),
    ) {
        let (request, policy, roles, matcher) = MODELS[at];
        let mut more = String::new();
        if matcher.starts_with("eval") {
            for (row, rule) in rows.iter_mut().zip(rules) {
                row.0 = format!("\"{rule}\"");
            }
        }
        for (name, role, domain) in &links {
            let domain = if roles == "g = _, _, _" { format!(", {domain}") } else { String::new() };
            more += &format!("g, {name}, {role}{domain}\n");
        }
        if roles.contains("g2") {
            for (object, role) in &objects {
                more += &format!("g2, {object}, {role}\n");
            }
        }
        let model = model(request, policy, roles, effect, matcher);
        let both = loaded(&model, &(text(&rows, &[], "g") + more.as_str()));
        for (sub, dom, obj, act) in asked.iter().filter(|(sub, ..)| links.iter().all(|(_, role, _)| role != sub)) {
            if let Some(both) = &both {
                verdict(both, sub, dom, obj, act);
            }
        }
    }

    #[test]
    fn role_links_are_casbins(links in prop::collection::vec((0..14_u8, 0..14_u8), 0..30), from in 0..14_u8, to in 0..14_u8) {
        let mut ours = RoleGraph::default();
        let mut casbins = DefaultRoleManager::new(super::roles::LEVELS);
        for (name, role) in links {
            ours.add(&name.to_string(), &role.to_string(), "");
            casbins.add_link(&name.to_string(), &role.to_string(), None);
        }
        let (from, to) = (from.to_string(), to.to_string());
        prop_assert_eq!(ours.has(&from, &to, ""), casbins.has_link(&from, &to, None));
    }

    #[test]
    fn patterns_are_casbins(path in path(), pattern in path()) {
        use casbin::function_map::{key_match2, key_match3, key_match5};
        for (style, function) in [
            (Style::Colon, key_match2 as fn(&str, &str) -> bool),
            (Style::Braces, key_match3),
            (Style::ShortBraces, key_match5),
        ] {
            if let Ok(expected) = catch_unwind(|| function(&path, &pattern)) {
                prop_assert_eq!(style.compile(&pattern).unwrap().is_match(&path), expected, "{:?}", style);
            }
        }
    }
}

#[test]
fn a_long_chain_of_roles_ends_where_casbins_does() {
    let mut ours = RoleGraph::default();
    let mut casbins = DefaultRoleManager::new(super::roles::LEVELS);
    for level in 0..15 {
        ours.add(&level.to_string(), &(level + 1).to_string(), "");
        casbins.add_link(&level.to_string(), &(level + 1).to_string(), None);
    }
    for level in 0..15 {
        let role = level.to_string();
        assert_eq!(ours.has("0", &role, ""), casbins.has_link("0", &role, None), "level {level}");
    }
}
