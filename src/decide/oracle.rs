//! Property tests: answers held against casbin's own functions, role manager and enforcer.

use std::panic::catch_unwind;

use casbin::{CoreApi as _, DefaultModel, DefaultRoleManager, Enforcer, MgmtApi as _, RoleManager as _};
use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::Question;
use super::functions::Style;
use super::load::{Settings, load};
use super::roles::RoleGraph;
use super::source::Sources;
use crate::model::{AttributeValue, AuthMethod, Principal, PrincipalKind, Timestamp};

const EFFECTS: [&str; 3] = [
    "some(where (p.eft == allow))",
    "some(where (p.eft == allow)) && !some(where (p.eft == deny))",
    "priority(p.eft) || deny",
];
const MATCHERS: [&str; 10] = [
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

fn ours_and_casbins(
    matcher: &str,
    effect: &str,
    rows: &[Rule],
    links: &[(String, String)],
    asked: &Rule,
) -> Option<(bool, bool)> {
    let model = format!(
        "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act, eft\n\
         [role_definition]\ng = _, _\n[policy_effect]\ne = {effect}\n[matchers]\nm = {matcher}\n"
    );
    let eft = |allow: bool| if allow { "allow" } else { "deny" };
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("model.conf"), &model).unwrap();
    let mut text = String::new();
    for (sub, obj, act, allow) in rows {
        text += &format!("p, {sub}, {obj}, {act}, {}\n", eft(*allow));
    }
    for (name, role) in links {
        text += &format!("g, {name}, {role}\n");
    }
    std::fs::write(files.path().join("policy.csv"), text).unwrap();
    let sources = Sources::read(files.path(), None).unwrap();
    let snapshot = load(files.path(), &sources, &Settings::plain(None)).ok()?;
    let (sub, obj, act, _) = asked;
    if rows.is_empty() || links.iter().any(|(_, role)| role == sub) {
        return None;
    }
    let mut principal = Principal::new(sub.as_str(), PrincipalKind::User, AuthMethod::Session);
    for (name, value) in [
        ("level", AttributeValue::Integer(5)),
        ("fired", AttributeValue::Boolean(false)),
        ("department", AttributeValue::Text("a".to_owned())),
    ] {
        principal.attributes.0.insert(name.to_owned(), value);
    }
    let principal = std::sync::Arc::new(principal);
    let ip = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    let question = Question { object: obj, action: act, host: "h", ip, secure: false };
    let prepared = snapshot.prepare(&principal, &question, Timestamp::from_seconds(0));
    let ours = snapshot.evaluate(&prepared);
    assert_eq!(
        ours,
        snapshot.plain(&prepared),
        "the index and plain casbin, deciding row and error included"
    );
    if matcher.contains("r.sub.") {
        return None;
    }

    let plain = catch_unwind(|| {
        let model = DefaultModel::from_str(&model).now_or_never().unwrap().unwrap();
        let mut enforcer =
            Enforcer::new(model, casbin::MemoryAdapter::default()).now_or_never().unwrap().unwrap();
        enforcer.enable_auto_build_role_links(true);
        for row in &snapshot.rows {
            enforcer.add_policy(row.values.clone()).now_or_never().unwrap().unwrap();
        }
        for (name, role) in links {
            enforcer.add_grouping_policy(vec![name.clone(), role.clone()]).now_or_never().unwrap().unwrap();
        }
        enforcer.enforce((sub, obj, act)).unwrap_or(false)
    });
    Some((ours.allow, plain.unwrap_or(false)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn verdicts_are_casbins(
        matcher in prop::sample::select(MATCHERS.to_vec()),
        effect in prop::sample::select(EFFECTS.to_vec()),
        rows in prop::collection::vec((name(), path(), action(), prop::bool::weighted(0.8)), 0..8),
        links in prop::collection::vec((name(), name()), 0..6),
        asked in (name(), path(), action(), Just(true)),
    ) {
        if let Some((ours, casbins)) = ours_and_casbins(matcher, effect, &rows, &links, &asked) {
            prop_assert_eq!(ours, casbins);
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
