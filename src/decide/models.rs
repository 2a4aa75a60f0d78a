//! Models of casbin's documentation, as they stand there: each loads and gives the answers that the documentation says,
//! or is refused with the reason. Verdicts are also remembered for the same question and nothing else.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::{Decider, Decision, Problem, Question};
use crate::config::Policy;
use crate::model::{AttributeValue, AuthMethod, ManualClock, Principal, PrincipalKind, Timestamp};

struct Asked<'a> {
    sub: &'a str,
    roles: &'a [&'a str],
    attributes: &'a [(&'a str, AttributeValue)],
    dom: &'a str,
    obj: &'a str,
    act: &'a str,
    ip: IpAddr,
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NOBODY: Asked<'static> =
    Asked { sub: "", roles: &[], attributes: &[], dom: "", obj: "", act: "", ip: LOCAL };

fn opened(
    model: &str,
    rows: &str,
    policy: Policy,
) -> Result<(Arc<Decider>, tempfile::TempDir), Vec<Problem>> {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("model.conf"), model).unwrap();
    fs::write(files.path().join("policy.csv"), rows).unwrap();
    let clock = ManualClock::at(Timestamp::parse_rfc3339("2026-01-05T10:00:00Z").unwrap());
    let policy = Policy { directory: files.path().to_owned(), ..policy };
    let decider = Decider::open_policy(&policy, "gate-1", Arc::new(clock), Arc::new(|_| false))?;
    Ok((decider, files))
}

fn open(model: &str, rows: &str) -> Arc<Decider> {
    opened(model, rows, Policy::default()).unwrap().0
}

fn principal(asked: &Asked<'_>) -> Arc<Principal> {
    let mut principal = Principal::new(asked.sub, PrincipalKind::User, AuthMethod::Session);
    principal.roles = asked.roles.iter().map(|role| Arc::from(*role)).collect();
    principal.tenant = Some(Arc::from(asked.dom));
    for (name, value) in asked.attributes {
        principal.attributes.0.insert((*name).to_owned(), value.clone());
    }
    Arc::new(principal)
}

fn decide(decider: &Decider, principal: &Arc<Principal>, asked: &Asked<'_>) -> Decision {
    let question = Question { object: asked.obj, action: asked.act, host: "h", ip: asked.ip, secure: true };
    decider.decide(principal, &question).now_or_never().unwrap()
}

/// The same answer the first time and from what was remembered.
fn allows(decider: &Decider, asked: &Asked<'_>) -> bool {
    let principal = principal(asked);
    let [first, again] = [0, 1].map(|_| decide(decider, &principal, asked));
    assert_eq!((&first.error, &first.rule, &first.roles), (&again.error, &again.rule, &again.roles));
    assert_eq!(first.permit.is_some(), again.permit.is_some());
    first.permit.is_some()
}

fn model(request: &str, policy: &str, roles: &str, effect: &str, matcher: &str) -> String {
    let roles = if roles.is_empty() { String::new() } else { format!("[role_definition]\n{roles}\n\n") };
    format!(
        "[request_definition]\nr = {request}\n\n[policy_definition]\np = {policy}\n\n{roles}\
         [policy_effect]\ne = {effect}\n\n[matchers]\nm = {matcher}\n"
    )
}

const SOME: &str = "some(where (p.eft == allow))";
const NO_DENY: &str = "some(where (p.eft == allow)) && !some(where (p.eft == deny))";

fn verdicts(decider: &Decider, asked: &[(&str, &str, &str, bool)]) {
    for (sub, obj, act, expected) in asked {
        assert_eq!(allows(decider, &Asked { sub, obj, act, ..NOBODY }), *expected, "{sub} {obj} {act}");
    }
}

#[test]
fn access_control_lists() {
    let matcher = "r.sub == p.sub && r.obj == p.obj && r.act == p.act";
    let rows = "p, alice, data1, read\np, bob, data2, write\n";
    let plain = open(&model("sub, obj, act", "sub, obj, act", "", SOME, matcher), rows);
    verdicts(
        &plain,
        &[
            ("alice", "data1", "read", true),
            ("alice", "data1", "write", false),
            ("root", "data1", "read", false),
        ],
    );
    let root = format!("{matcher} || r.sub == \"root\"");
    let superuser = open(&model("sub, obj, act", "sub, obj, act", "", SOME, &root), rows);
    verdicts(
        &superuser,
        &[("root", "data9", "write", true), ("bob", "data2", "write", true), ("bob", "data1", "read", false)],
    );
    let without_users = model("obj, act", "obj, act", "", SOME, "r.obj == p.obj && r.act == p.act");
    verdicts(
        &open(&without_users, "p, data1, read\n"),
        &[("x", "data1", "read", true), ("x", "data2", "read", false)],
    );
    let without_objects = model("sub, act", "sub, act", "", SOME, "r.sub == p.sub && r.act == p.act");
    verdicts(
        &open(&without_objects, "p, alice, read\n"),
        &[("alice", "x", "read", true), ("bob", "x", "read", false)],
    );
}

#[test]
fn roles_resources_in_roles_and_domains() {
    let rows = "p, alice, data1, read\np, bob, data2, write\np, data2_admin, data2, read\np, data2_admin, data2, write\n\
                g, alice, data2_admin\n";
    let matcher = "g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act";
    let roles = open(&model("sub, obj, act", "sub, obj, act", "g = _, _", SOME, matcher), rows);
    verdicts(
        &roles,
        &[
            ("alice", "data2", "read", true),
            ("alice", "data1", "read", true),
            ("bob", "data2", "read", false),
        ],
    );
    let matcher = "g(r.sub, p.sub) && g2(r.obj, p.obj) && r.act == p.act";
    let rows = "p, alice, data1, read\np, data_admin, data_group, write\ng, alice, data_admin\n\
                g2, data1, data_group\ng2, data2, data_group\n";
    let resources =
        open(&model("sub, obj, act", "sub, obj, act", "g = _, _\ng2 = _, _", SOME, matcher), rows);
    verdicts(
        &resources,
        &[
            ("alice", "data2", "write", true),
            ("alice", "data2", "read", false),
            ("bob", "data1", "write", false),
        ],
    );
    let matcher = "g(r.sub, p.sub, r.dom) && r.dom == p.dom && r.obj == p.obj && r.act == p.act";
    let rows = "p, admin, domain1, data1, read\np, admin, domain2, data2, read\n\
                g, alice, admin, domain1\ng, bob, admin, domain2\n";
    let domains =
        open(&model("sub, dom, obj, act", "sub, dom, obj, act", "g = _, _, _", SOME, matcher), rows);
    for (sub, dom, obj, expected) in [
        ("alice", "domain1", "data1", true),
        ("alice", "domain2", "data2", false),
        ("bob", "domain2", "data2", true),
        ("bob", "domain1", "data1", false),
    ] {
        assert_eq!(
            allows(&domains, &Asked { sub, dom, obj, act: "read", ..NOBODY }),
            expected,
            "{sub} {dom}"
        );
    }
}

#[test]
fn denials_and_the_order_of_rows() {
    let matcher = "g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act";
    let rows = "p, data2_admin, data2, write, allow\np, alice, data2, write, deny\ng, alice, data2_admin\ng, bob, data2_admin\n";
    let with =
        |effect| open(&model("sub, obj, act", "sub, obj, act, eft", "g = _, _", effect, matcher), rows);
    verdicts(
        &with(NO_DENY),
        &[
            ("alice", "data2", "write", false),
            ("bob", "data2", "write", true),
            ("carol", "data2", "write", false),
        ],
    );
    verdicts(
        &with("priority(p.eft) || deny"),
        &[("alice", "data2", "write", true), ("carol", "data2", "write", false)],
    );
    let text =
        model("sub, obj, act", "sub, obj, act, eft", "g = _, _", "!some(where (p.eft == deny))", matcher);
    let refused = opened(&text, rows, Policy::default()).err().unwrap();
    assert_eq!(refused[0].code, "allows-by-default");
    let (meant, _files) =
        opened(&text, rows, Policy { allow_by_default: true, ..Policy::default() }).unwrap();
    verdicts(&meant, &[("alice", "data2", "write", false), ("carol", "data9", "read", true)]);
}

#[test]
fn paths_patterns_and_addresses() {
    let matcher = "r.sub == p.sub && keyMatch(r.obj, p.obj) && regexMatch(r.act, p.act)";
    let rows = "p, alice, /alice_data/*, GET\np, alice, /alice_data/resource1, POST\np, cathy, /cathy_data, (GET)|(POST)\n";
    let restful = open(&model("sub, obj, act", "sub, obj, act", "", SOME, matcher), rows);
    verdicts(
        &restful,
        &[
            ("alice", "/alice_data/resource2", "GET", true),
            ("alice", "/alice_data/resource2", "POST", false),
            ("cathy", "/cathy_data", "POST", true),
            ("cathy", "/cathy_data", "DELETE", false),
        ],
    );
    let matcher = "r.sub == p.sub && keyMatch2(r.obj, p.obj) && regexMatch(r.act, p.act)";
    let rows = "p, alice, /alice_data/:resource, GET\np, alice, /alice_data2/:id/using/:resId, GET\n";
    let named = open(&model("sub, obj, act", "sub, obj, act", "", SOME, matcher), rows);
    verdicts(
        &named,
        &[
            ("alice", "/alice_data/hello", "GET", true),
            ("alice", "/alice_data/hello/more", "GET", false),
            ("alice", "/alice_data2/1/using/2", "GET", true),
        ],
    );
    let matcher = "ipMatch(r.env.ip, p.net) && r.obj == p.obj && r.act == p.act";
    let nets =
        open(&model("env, obj, act", "net, obj, act", "", SOME, matcher), "p, 192.168.2.0/24, data1, read\n");
    for (ip, expected) in [
        ("192.168.2.123", true),
        ("192.168.0.1", false),
        ("::ffff:192.168.2.9", true),
        ("2001:db8::1", false),
    ] {
        let asked = Asked { obj: "data1", act: "read", ip: ip.parse().unwrap(), ..NOBODY };
        assert_eq!(allows(&nets, &asked), expected, "{ip}");
    }
}

#[test]
fn attributes_and_rules_in_rows() {
    let matcher = "eval(p.sub_rule) && r.obj == p.obj && r.act == p.act";
    let rows = "p, r.sub.Age > 18 && r.sub.Age < 60, /data1, read\np, r.sub.department == \"sales\" && r.sub.level >= 3, /data2, read\n";
    let rules = open(&model("sub, obj, act", "sub_rule, obj, act", "", SOME, matcher), rows);
    let age = |years| [("Age", AttributeValue::Integer(years))];
    for (years, expected) in [(19, true), (60, false), (18, false)] {
        let asked = Asked { sub: "x", attributes: &age(years), obj: "/data1", act: "read", ..NOBODY };
        assert_eq!(allows(&rules, &asked), expected, "{years}");
    }
    let seller =
        [("department", AttributeValue::Text("sales".to_owned())), ("level", AttributeValue::Integer(3))];
    assert!(allows(&rules, &Asked { sub: "x", attributes: &seller, obj: "/data2", act: "read", ..NOBODY }));
    assert!(!allows(
        &rules,
        &Asked { sub: "x", attributes: &seller[..1], obj: "/data2", act: "read", ..NOBODY }
    ));
    // The object of a request is its path: it has no owner. The documentation's model says so with its line.
    let refused = opened(
        &model("sub, obj, act", "sub, obj, act", "", SOME, "r.sub == r.obj.Owner"),
        "p, a, b, c\n",
        Policy::default(),
    );
    let refused = refused.err().unwrap();
    assert!(refused.iter().any(|problem| problem.message.contains("`r.obj` is a text")), "{refused:?}");
}

#[test]
fn what_is_remembered_depends_on_everything_that_was_asked() {
    // A matcher that is interpreted: only its verdicts are kept.
    let matcher = "ipMatch(r.env.ip, p.net) && r.sub == p.sub && keyMatch(r.obj, p.obj) && r.act == p.act";
    let text = model("sub, obj, act, env", "sub, obj, act, net", "", SOME, matcher);
    let decider = open(&text, "p, alice, /a, GET, 10.0.0.0/8\n");
    let ask = |sub, obj, act, ip: &str| {
        allows(&decider, &Asked { sub, obj, act, ip: ip.parse().unwrap(), ..NOBODY })
    };
    assert!(ask("alice", "/a", "GET", "10.0.0.1"));
    for (sub, obj, act, ip) in [
        ("bob", "/a", "GET", "10.0.0.1"),
        ("alice", "/b", "GET", "10.0.0.1"),
        ("alice", "/a", "PUT", "10.0.0.1"),
        ("alice", "/a", "GET", "11.0.0.1"),
    ] {
        assert!(!ask(sub, obj, act, ip), "{sub} {obj} {act} {ip}");
    }
    // One `Arc` and the same words cut elsewhere.
    let alice = principal(&Asked { sub: "alice", ..NOBODY });
    let at =
        |obj, act| decide(&decider, &alice, &Asked { obj, act, ip: "10.0.0.1".parse().unwrap(), ..NOBODY });
    assert!(at("/a", "GET").permit.is_some());
    assert!(at("GET /a", "").permit.is_none() && at("/a", "GET GET").permit.is_none());
    assert!(at("/a", "PUT").permit.is_none() && at("/b", "GET").permit.is_none());
    let elsewhere = Asked { obj: "/a", act: "GET", ip: "11.0.0.1".parse().unwrap(), ..NOBODY };
    assert!(decide(&decider, &alice, &elsewhere).permit.is_none());
}

#[test]
fn a_new_policy_forgets_what_was_remembered_and_the_hour_is_never_remembered() {
    let matcher = "keyMatch(r.obj, p.obj) && r.sub == p.sub && r.act == p.act";
    let rows = |first: &str| format!("{first}p, bob, /b, GET\np, bob, /c, GET\n");
    let text = model("sub, obj, act", "sub, obj, act", "", SOME, matcher);
    let (decider, files) = opened(&text, &rows("p, alice, /a, GET\n"), Policy::default()).unwrap();
    let asked = Asked { sub: "alice", obj: "/a", act: "GET", ..NOBODY };
    let alice = principal(&asked);
    assert!(decide(&decider, &alice, &asked).permit.is_some());
    fs::write(files.path().join("policy.csv"), rows("")).unwrap();
    assert!(decider.reload(false).unwrap());
    assert!(decide(&decider, &alice, &asked).permit.is_none());

    let clock = Arc::new(ManualClock::at(Timestamp::parse_rfc3339("2026-01-05T10:00:00Z").unwrap()));
    let text = model("sub, obj, act, env", "sub, obj, act", "", SOME, "r.env.time < 601 && r.sub == p.sub");
    fs::write(files.path().join("model.conf"), text).unwrap();
    fs::write(files.path().join("policy.csv"), rows("p, alice, /a, GET\n")).unwrap();
    let policy = Policy { directory: files.path().to_owned(), ..Policy::default() };
    let decider = Decider::open_policy(&policy, "", clock.clone(), Arc::new(|_| false)).unwrap();
    assert!(decide(&decider, &alice, &asked).permit.is_some());
    clock.advance(std::time::Duration::from_secs(60));
    assert!(decide(&decider, &alice, &asked).permit.is_none());
}
