//! What changes while the node runs: everything that the configuration names, as a whole or not at all, whichever way
//! the files are replaced; and whoever is no longer configured holds nothing any longer.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::{Builder, Node, PASSWORD, Reply, Upstream, client, client_builder, curl, eventually};

fn hello() -> Upstream {
    Upstream::start(|_| Reply::ok("hello"))
}

fn metric(node: &Node, name: &str) -> u64 {
    let text = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
    line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect("a number")
}

/// Configurations that went live, and that were refused.
fn counted(node: &Node) -> (u64, u64) {
    (metric(node, "portcullis_config_reloads_total"), metric(node, "portcullis_config_reload_failures_total"))
}

fn config(node: &Node) -> String {
    fs::read_to_string(node.directory().join("portcullis.toml")).expect("a configuration")
}

/// Changes the configuration and writes it.
fn configure(node: &Node, change: impl FnOnce(&mut toml::Table)) {
    let mut table: toml::Table = config(node).parse().expect("TOML");
    change(&mut table);
    node.write("portcullis.toml", table.to_string());
}

fn set(table: &mut toml::Table, path: &str, value: impl Into<toml::Value>) {
    let (sections, key) = path.rsplit_once('.').expect("a section");
    let mut at = table;
    for section in sections.split('.') {
        let entry = at.entry(section.to_owned()).or_insert_with(|| toml::Table::new().into());
        at = entry.as_table_mut().expect("a table");
    }
    at.insert(key.to_owned(), value.into());
}

fn tables<'t>(table: &'t mut toml::Table, name: &str) -> &'t mut Vec<toml::Value> {
    let entry = table.entry(name.to_owned()).or_insert_with(|| toml::value::Array::new().into());
    entry.as_array_mut().expect("tables")
}

fn add(table: &mut toml::Table, name: &str, text: &str) {
    let one: toml::Table = text.parse().expect("TOML");
    tables(table, name).push(one.into());
}

/// Waits until one more configuration went live.
fn live(node: &Node, change: impl FnOnce()) {
    let before = counted(node);
    change();
    eventually("the change is live", || (counted(node).0 > before.0).then_some(()));
    assert_eq!(counted(node).1, before.1, "{}", node.log());
}

/// Waits until one more configuration was refused; what the log says of it.
fn refused(node: &Node, change: impl FnOnce()) -> String {
    let (before, said) = (counted(node), node.log().len());
    change();
    eventually("the change is refused", || (counted(node).1 > before.1).then_some(()));
    assert_eq!(counted(node).0, before.0, "{}", node.log());
    eventually("it is in the log", || {
        let log = node.log().get(said..).unwrap_or_default().to_owned();
        log.contains("configuration not loaded").then_some(log)
    })
}

fn status(node: &Node, path: &str, token: &str) -> u16 {
    node.ask("GET", path, token).status().as_u16()
}

fn user_and_clients(upstream: &Upstream) -> Builder {
    Node::with().upstream(&upstream.url()).config(
        "[[route]]\nname = \"basic\"\npath = \"/basic\"\nupstream = \"main\"\nauthenticate = [\"password\"]\n\
         [[client]]\nid = \"pep\"\nsecret = \"a-secret-of-some-length\"\ngrant_types = [\"client_credentials\"]\n\
         roles = [\"reader\"]\n",
    )
}

fn machine_token(node: &Node) -> String {
    let answer = client()
        .post(node.url("/auth/token"))
        .basic_auth("pep", Some("a-secret-of-some-length"))
        .form(&[("grant_type", "client_credentials")])
        .send()
        .expect("an answer");
    assert_eq!(answer.status(), 200, "{}", node.log());
    answer.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned()
}

fn basic(node: &Node, name: &str) -> u16 {
    let asked = client().get(node.url("/basic")).basic_auth(name, Some(PASSWORD));
    asked.send().expect("an answer").status().as_u16()
}

fn browser(node: &Node, cookie: &str) -> u16 {
    let asked = client().get(node.url("/page")).header("cookie", cookie);
    asked.send().expect("an answer").status().as_u16()
}

#[test]
fn routes_upstreams_and_clients_change_while_it_runs() {
    let (first, second) = (hello(), Upstream::start(|_| Reply::ok("moved")));
    let node = user_and_clients(&first).start();
    let bob = node.token("bob");
    assert_eq!(node.ask("GET", "/a", &bob).text().expect("text"), "hello");
    live(&node, || configure(&node, |table| set_servers(table, &second.url())));
    assert_eq!(node.ask("GET", "/a", &bob).text().expect("text"), "moved");
    live(&node, || {
        configure(&node, |table| {
            tables(table, "route").retain(|route| route["name"].as_str() == Some("basic"));
            add(table, "route", "name = \"b\"\npath = \"/b\"\nupstream = \"main\"");
        });
    });
    assert_eq!((status(&node, "/a", &bob), status(&node, "/b", &bob)), (404, 200));
    let metrics = client().get(node.admin("/metrics")).send().expect("an answer").text().expect("text");
    assert!(metrics.contains("route=\"b\""), "{metrics}");
    let token = machine_token(&node);
    assert_eq!(status(&node, "/b", &token), 200);
    live(&node, || configure(&node, |table| tables(table, "client").clear()));
    assert_eq!(status(&node, "/b", &token), 401, "a token of a client that is gone");
    let events = node.audit(&["--since", "1h"]);
    let loads: Vec<_> = events.iter().filter(|event| event["reason"] == "configuration_loaded").collect();
    assert_eq!(loads.len(), 3);
    for event in loads {
        assert_eq!((&event["kind"], &event["decision"]), (&json!("node"), &json!("allow")));
        assert!(event["policy"].is_string(), "{event}");
    }
}

fn set_servers(table: &mut toml::Table, url: &str) {
    let upstream = tables(table, "upstream")[0].as_table_mut().expect("a table");
    upstream.insert("servers".to_owned(), toml::Value::Array(vec![url.into()]));
}

#[test]
fn what_is_live_or_refused_is_so_within_two_seconds() {
    let upstream = hello();
    let node = user_and_clients(&upstream).start();
    let bob = node.token("bob");
    // The machine may be busy: the promise is that of the best try.
    let best = |what: &str, tries: &dyn Fn(usize)| {
        let took = (0..4).map(|number| {
            let began = Instant::now();
            tries(number);
            began.elapsed()
        });
        let best = took.min().expect("a try");
        assert!(best <= Duration::from_secs(2), "{what} took {best:?}");
    };
    best("a route", &|number| {
        let path = format!("/only-{number}");
        configure(&node, |table| {
            let route = tables(table, "route").iter_mut().find(|r| r["name"].as_str() == Some("all"));
            let route = route.and_then(toml::Value::as_table_mut).expect("a route");
            route.insert("path".to_owned(), path.clone().into());
        });
        eventually("the route is live", || (status(&node, &path, &bob) == 200).then_some(()));
    });
    best("a mistake", &|number| {
        let before = counted(&node).1;
        node.write("portcullis.toml", format!("{}\n# {number}\n[nonsense]\n", config(&node)));
        eventually("it is refused", || (counted(&node).1 > before).then_some(()));
        let whole = config(&node).replace("[nonsense]\n", "");
        live(&node, || node.write("portcullis.toml", whole));
    });
    best("a policy", &|number| {
        let rows =
            format!("p, admin, /*, .*, allow\np, reader, /*, GET|HEAD, allow\np, r, /{number}, GET, allow\n");
        let before = metric(&node, "portcullis_policy_reloads_total");
        node.write("policies/policy.csv", rows);
        eventually("it is live", || {
            (metric(&node, "portcullis_policy_reloads_total") > before).then_some(())
        });
    });
}

#[test]
fn a_bad_file_changes_nothing_and_is_counted() {
    let upstream = hello();
    let node = user_and_clients(&upstream)
        .file("jwks.json", "{\"keys\": [{\"kid\": \"a\", \"kty\": \"EC\", \"crv\": \"P-256\", \"alg\": \"ES256\", \
             \"x\": \"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\", \"y\": \"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}")
        .config(
            "[[trusted_issuer]]\nname = \"old\"\nissuer = \"https://old.example\"\njwks_file = \"jwks.json\"\n\
             audience = [\"api\"]\nalgorithms = [\"ES256\"]\n",
        )
        .start();
    let bob = node.token("bob");
    let (good, users) = (config(&node), fs::read(node.directory().join("users.toml")).expect("accounts"));
    let works = || assert_eq!((status(&node, "/a", &bob), basic(&node, "bob")), (200, 200));
    works();
    let half = good.get(..good.len() - 12).expect("text").to_owned();
    for (wrong, said) in [
        (half, "portcullis.toml:"),
        (String::new(), "portcullis.toml"),
        (format!("{good}\n[listn]\n"), "did you mean `listen`"),
        (good.replace("upstream = \"main\"", "upstream = \"mian\""), "mian"),
        (good.replace("path = \"/basic\"", "path = \"/auth/x\""), "is below `/auth`"),
        (good.replace("users.toml", "nowhere.toml"), "nowhere.toml"),
        (good.replace("roles = [\"reader\"]", "roles = [\"bob\"]"), "bob"),
    ] {
        assert_ne!(wrong, good);
        let log = refused(&node, || node.write("portcullis.toml", &wrong));
        assert!(log.contains(said), "{said}: {log}");
        works();
    }
    live(&node, || node.write("portcullis.toml", &good));
    for (file, wrong) in [
        ("users.toml", b"[[user]]\nname = \"bob\"\nroles = [".as_slice()),
        ("users.toml", b""),
        ("users.toml", b"[[user]]\nname = \"bo b\"\n"),
        ("users.toml", b"[[user]]\nname = \"admin\"\nroles = [\"admin\"]\n"),
        ("jwks.json", b"{\"keys\": ["),
        ("jwks.json", b""),
    ] {
        let was = fs::read(node.directory().join(file)).expect("a file");
        refused(&node, || node.write(file, wrong));
        works();
        live(&node, || node.write(file, &was));
    }
    for file in ["portcullis.toml", "users.toml", "jwks.json"] {
        let was = fs::read(node.directory().join(file)).expect("a file");
        let log = refused(&node, || fs::remove_file(node.directory().join(file)).expect("removed"));
        assert!(log.contains(file), "{log}");
        works();
        live(&node, || node.write(file, &was));
    }
    assert_eq!(fs::read(node.directory().join("users.toml")).expect("accounts"), users);
    let refusals = |event: &&Value| event["reason"] == "configuration_refused";
    let events = node.audit(&["--since", "1h"]);
    assert_eq!(events.iter().filter(refusals).count() as u64, counted(&node).1);
    assert!(
        events.iter().filter(refusals).all(|event| event["decision"] == "deny" && event["kind"] == "node")
    );
}

#[test]
fn a_setting_that_needs_a_restart_is_refused_and_named() {
    let upstream = hello();
    let node = user_and_clients(&upstream).start();
    let (good, bob) = (config(&node), node.token("bob"));
    for (setting, value, said) in [
        ("node.name", toml::Value::from("gate-9"), "[node]"),
        ("listen.address", "127.0.0.1:1".into(), "[listen]"),
        ("listen.limits.fields", 12.into(), "[listen]"),
        ("admin.address", "127.0.0.1:1".into(), "[admin]"),
        ("tokens.access_ttl", "1m".into(), "[tokens]"),
        ("session.idle", "1h".into(), "[session]"),
        ("passwords.hashing.threads", 7.into(), "[passwords.hashing]"),
        ("passwords.hashing.queue", 7.into(), "[passwords.hashing]"),
        ("policy.roles", "files".into(), "[policy]"),
        ("audit.durability", "durable".into(), "[audit]"),
        ("store.redis.prefix", "other:".into(), "[store]"),
    ] {
        let log = refused(&node, || {
            configure(&node, |table| {
                set(table, setting, value);
                // What could change does not either.
                tables(table, "route").clear();
            });
        });
        assert!(log.contains(said) && log.contains("needs a restart"), "{setting}: {log}");
        assert_eq!(status(&node, "/a", &bob), 200, "{setting}");
        live(&node, || node.write("portcullis.toml", &good));
    }
}

/// Makes the node's files what Kubernetes makes of a mounted ConfigMap: links through one link that is exchanged.
fn mount(node: &Node) -> impl Fn(usize, &[(&str, &str)]) + use<> {
    let root = node.directory().to_path_buf();
    let files = ["portcullis.toml", "users.toml", "policies/policy.csv", "policies/model.conf"];
    let contents: Vec<_> =
        files.iter().map(|file| (*file, fs::read_to_string(root.join(file)).expect("a file"))).collect();
    let linked = root.clone();
    let exchange = move |version: usize, changed: &[(&str, &str)]| {
        let folder = format!("..version_{version}");
        fs::create_dir(root.join(&folder)).expect("a folder");
        for (file, content) in &contents {
            let content = changed.iter().find(|(name, _)| name == file).map_or(content.as_str(), |(_, c)| c);
            fs::write(root.join(&folder).join(file.replace('/', "_")), content).expect("written");
        }
        symlink(&folder, root.join("..data_tmp")).expect("a link");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    };
    exchange(0, &[]);
    for file in files {
        let up = if file.contains('/') { "../" } else { "" };
        fs::remove_file(linked.join(file)).expect("removed");
        symlink(format!("{up}..data/{}", file.replace('/', "_")), linked.join(file)).expect("a link");
    }
    exchange
}

#[test]
fn files_behind_links_that_are_exchanged_at_once_are_seen() {
    let upstream = hello();
    let mut node = user_and_clients(&upstream).write();
    let exchange = mount(&node);
    node.start_again();
    let bob = node.token("bob");
    let moved = config(&node).replace("/basic", "/other");
    live(&node, || exchange(1, &[("portcullis.toml", &moved)]));
    assert_eq!(status(&node, "/basic", &bob), 200, "it is of the other route now");
    let users = "[[user]]\nname = \"dora\"\nroles = [\"reader\"]\n";
    live(&node, || exchange(2, &[("portcullis.toml", &moved), ("users.toml", users)]));
    assert_eq!(status(&node, "/a", &bob), 401, "bob is gone");
    // Everything at once, and everything back.
    let rows = "p, reader, /*, GET|HEAD, allow\np, admin, /*, .*, allow\np, reader, /b, PUT, allow\n";
    let before = metric(&node, "portcullis_policy_reloads_total");
    live(&node, || exchange(3, &[("policies/policy.csv", rows)]));
    eventually("the policy is live", || {
        (metric(&node, "portcullis_policy_reloads_total") > before).then_some(())
    });
    let bob = node.token("bob");
    assert_eq!(node.ask("PUT", "/b", &bob).status(), 200);
    assert_eq!(basic(&node, "bob"), 200);
}

#[test]
fn who_is_no_longer_configured_holds_nothing_any_longer() {
    let upstream = hello();
    let mut node = user_and_clients(&upstream)
        .config("[[route]]\nname = \"page\"\npath = \"/page\"\nupstream = \"main\"\nauthenticate = [\"session\"]\n")
        .start();
    let users = fs::read_to_string(node.directory().join("users.toml")).expect("accounts");
    let held = |node: &Node, name: &str| {
        let body: Value = node.sign_in(name, PASSWORD).json().expect("JSON");
        let text = |member: &str| body[member].as_str().expect("a text").to_owned();
        (text("access_token"), text("refresh_token"), node.session(name))
    };
    let refresh = |node: &Node, token: &str| {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        client().post(node.url("/auth/token")).form(&form).send().expect("an answer").status().as_u16()
    };
    let (alice, bob, machine) = (held(&node, "alice"), held(&node, "bob"), machine_token(&node));
    // All of it is in caches.
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2), basic(&node, "bob")), (200, 200, 200));
    assert_eq!((status(&node, "/a", &alice.0), browser(&node, &alice.2)), (200, 200));
    assert_eq!(status(&node, "/a", &machine), 200);
    let without_bob: String = without(&users, "bob");
    live(&node, || node.write("users.toml", &without_bob));
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2), basic(&node, "bob")), (401, 401, 401));
    assert_eq!(refresh(&node, &bob.1), 400);
    assert_eq!(node.sign_in("bob", PASSWORD).status(), 401);
    assert_eq!((status(&node, "/a", &alice.0), browser(&node, &alice.2)), (200, 200), "others stay");
    assert_eq!(status(&node, "/a", &machine), 200);
    // Back again: what was issued before stays ended.
    live(&node, || node.write("users.toml", &users));
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2), basic(&node, "bob")), (401, 401, 200));
    // Fewer roles count at once, too.
    let bob = held(&node, "bob");
    live(&node, || node.write("users.toml", users.replace("\"reader\"", "\"guest\"")));
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2), basic(&node, "bob")), (401, 401, 403));
    live(&node, || node.write("users.toml", &users));
    // And what changed while it did not run.
    let bob = held(&node, "bob");
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2)), (200, 200));
    assert_eq!(node.stop(), 0);
    node.write("users.toml", &without_bob);
    configure(&node, |table| tables(table, "client").clear());
    node.start_again();
    assert_eq!((status(&node, "/a", &bob.0), browser(&node, &bob.2)), (401, 401));
    assert_eq!(status(&node, "/a", &machine), 401);
    assert_eq!((status(&node, "/a", &alice.0), browser(&node, &alice.2)), (200, 200));
    node.kill();
    node.start_again();
    assert_eq!((status(&node, "/a", &alice.0), browser(&node, &alice.2)), (200, 200), "nothing changed");
}

fn without(users: &str, name: &str) -> String {
    let mut table: toml::Table = users.parse().expect("TOML");
    tables(&mut table, "user").retain(|user| user["name"].as_str() != Some(name));
    table.to_string()
}

#[test]
fn names_and_roles_of_accounts_configuration_and_policies_do_not_meet() {
    let upstream = hello();
    let node = user_and_clients(&upstream).policy("p, reader, /*, GET, allow\ng, bob, staff\n").start();
    let users = fs::read_to_string(node.directory().join("users.toml")).expect("accounts");
    let (code, out, errors) =
        node.cli_with(&["user", "add", "carol", "--password-stdin"], "a long password\n");
    assert_eq!(code, 0, "{out}{errors}");
    // A role of the policies as an account.
    let staff = format!("{users}\n[[user]]\nname = \"staff\"\n");
    let log = refused(&node, || node.write("users.toml", &staff));
    assert!(log.contains("staff"), "{log}");
    // The policies let go of the name: the accounts file is taken without being written again.
    live(&node, || node.write("policies/policy.csv", "p, reader, /*, GET, allow\ng, bob, crew\n"));
    // An account as a role of the policies.
    let before = metric(&node, "portcullis_policy_reload_failures_total");
    node.write("policies/policy.csv", "p, reader, /*, GET, allow\ng, bob, staff\n");
    eventually("the policy is refused", || {
        (metric(&node, "portcullis_policy_reload_failures_total") > before).then_some(())
    });
    // A new account of the file lets go of it.
    live(&node, || node.write("users.toml", &users));
    // An account of the store as a role of a client.
    let good = config(&node);
    let given = good.replace("roles = [\"reader\"]", "roles = [\"carol\"]");
    assert_ne!(given, good);
    let log = refused(&node, || node.write("portcullis.toml", &given));
    assert!(log.contains("`carol` has the name of an existing principal"), "{log}");
    live(&node, || node.write("portcullis.toml", &good));
    // And as a role of an account of the file.
    let log = refused(&node, || node.write("users.toml", users.replace("\"admin\"", "\"carol\"")));
    assert!(log.contains("carol"), "{log}");
}

#[test]
fn a_signal_loads_everything_at_once() {
    let upstream = hello();
    let node = user_and_clients(&upstream).start();
    let bob = node.token("bob");
    let (before, policies) = (counted(&node).0, metric(&node, "portcullis_policy_reloads_total"));
    node.signal(Signal::HUP);
    eventually("it is loaded again", || (counted(&node).0 > before).then_some(()));
    assert_eq!(metric(&node, "portcullis_policy_reloads_total"), policies, "the same policy is no new one");
    assert_eq!(status(&node, "/a", &bob), 200, "what did not change counts on");
    // Most rows go, confirmed by the signal before the watcher could hold it.
    node.write("policies/policy.csv", "p, nobody, /none, GET, allow\n");
    node.signal(Signal::HUP);
    eventually("the policy is live", || (status(&node, "/a", &bob) == 403).then_some(()));
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let upstream = hello();
    let node = user_and_clients(&upstream).start();
    let bob = node.token("bob");
    let (ended, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let good = config(&node);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = client();
                while !ended.load(Ordering::Relaxed) {
                    let answer = client.get(node.url("/load")).bearer_auth(&bob).send();
                    assert_eq!(answer.expect("an answer").status(), 200);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..6 {
                let path = format!("path = \"/basic-{number}\"");
                live(&node, || node.write("portcullis.toml", good.replace("path = \"/basic\"", &path)));
                let before = counted(&node).0;
                node.signal(Signal::HUP);
                eventually("the signal is followed", || (counted(&node).0 > before).then_some(()));
                let rows = format!(
                    "p, admin, /*, .*, allow\np, reader, /*, GET|HEAD, allow\np, reader, /{number}, GET, allow\n"
                );
                let before = metric(&node, "portcullis_policy_reloads_total");
                node.write("policies/policy.csv", rows);
                eventually("the policy is live", || {
                    (metric(&node, "portcullis_policy_reloads_total") > before).then_some(())
                });
            }
        }));
        ended.store(true, Ordering::Relaxed);
        watched.expect("every reload is followed");
    });
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent > 100, "{sent}");
    eventually("each request has its event", || {
        let events = node.audit(&["--since", "1h", "--path", "/load", "--limit", "50000"]);
        (events.iter().filter(|event| event["kind"] == "access").count() == sent).then_some(())
    });
    let (code, out, errors) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{errors}");
}

#[test]
fn certificates_lists_and_rules_are_replaced_and_open_connections_stay() {
    let (servers, renewed, clients) =
        (Authority::new("servers"), Authority::new("renewed"), Authority::new("clients"));
    let upstream = Upstream::start(|request| Reply::ok(request.header("portcullis-user")));
    let first = servers.server(&["localhost"]);
    let operators = servers.server(&["localhost"]);
    let node = Node::with()
        .tls(&first.certificate, &first.key)
        .file("ca.pem", servers.pem())
        .file("renewed.pem", renewed.pem())
        .file("admin.pem", &operators.certificate)
        .secret_file("admin.key", &operators.key)
        .file("clients.pem", clients.pem())
        .file("clients.crl", clients.list(&[66]))
        .config(&format!(
            "[admin]\ntls = {{ certificate = \"admin.pem\", key = \"admin.key\" }}\n\
             [[upstream]]\nname = \"main\"\nservers = [\"{}\"]\n\
             [[listen.tls.client]]\nhosts = [\"*\"]\nauth = \"optional\"\nca = \"clients.pem\"\ncrl = \"clients.crl\"\n\
             [[certificate_principal]]\nmatches = \"cn:svc\"\nname = \"svc\"\n\
             [[route]]\nname = \"m\"\npath = \"/m\"\nupstream = \"main\"\nauthenticate = [\"certificate\"]\n\
             [[route]]\nname = \"t\"\npath = \"/t\"\nupstream = \"main\"\n",
            upstream.url()
        ))
        .policy("p, svc, /*, GET, allow\np, other, /*, GET, allow")
        .start();
    let trusting = |pem: &str| {
        let root = reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate");
        client_builder().add_root_certificate(root)
    };
    let identity = |name: &str, serial: u8| {
        let pair = clients.issue(name, |parameters| {
            parameters.serial_number = Some(rcgen::SerialNumber::from(vec![serial]));
        });
        reqwest::Identity::from_pem(format!("{}{}", pair.certificate, pair.key).as_bytes()).expect("PEM")
    };
    let open = trusting(&servers.pem()).identity(identity("svc", 7)).build().expect("a client");
    let ask = |client: &reqwest::blocking::Client, path: &str| {
        let answer = client.get(node.url(path)).send().expect("an answer");
        (answer.status().as_u16(), answer.text().expect("text"))
    };
    assert_eq!(ask(&open, "/m"), (200, "svc".to_owned()));
    let issued = open.post(node.url("/auth/certificate")).send().expect("an answer");
    let token = issued.json::<Value>().expect("JSON")["access_token"].as_str().expect("a token").to_owned();
    let with_token = |client: &reqwest::blocking::Client| {
        let answer = client.get(node.url("/t")).bearer_auth(&token).send().expect("an answer");
        answer.status().as_u16()
    };
    assert_eq!(with_token(&open), 200);
    // Counted through the operators' listener, whose certificate is the same authority's.
    let operator = trusting(&servers.pem()).build().expect("a client");
    let count = |client: &reqwest::blocking::Client, name: &str| -> Option<u64> {
        let url = node.admin("/metrics").replace("127.0.0.1", "localhost");
        let text = client.get(url).send().ok()?.text().ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    assert_eq!(count(&operator, "portcullis_config_reloads_total"), Some(0));
    // A key that does not belong to the certificate: nothing changes, on either listener.
    let next = renewed.server(&["localhost"]);
    node.write("tls/server.pem", &next.certificate);
    eventually("it is refused", || {
        count(&operator, "portcullis_config_reload_failures_total").filter(|count| *count > 0)
    });
    assert_eq!(curl(&node, "localhost", "/m", &[]).status, "401 2", "the old one is shown");
    // Both files, one after the other as a person copies them.
    write_secret(&node, "tls/server.key", &next.key);
    eventually("the new one is shown", || {
        (curl(&node, "localhost", "/m", &["--cacert", "renewed.pem"]).status == "401 2").then_some(())
    });
    assert_eq!(ask(&open, "/m"), (200, "svc".to_owned()), "the open connection stays");
    // The operators' listener.
    let next = renewed.server(&["localhost"]);
    node.write("admin.pem", &next.certificate);
    write_secret(&node, "admin.key", &next.key);
    let renewed_operator = trusting(&renewed.pem()).build().expect("a client");
    eventually("the operators' listener shows the new one", || {
        count(&renewed_operator, "portcullis_config_reloads_total")
    });
    // The list names the certificate: no new connection.
    let fresh = || trusting(&renewed.pem()).identity(identity("svc", 7)).build().expect("a client");
    assert_eq!(ask(&fresh(), "/m").0, 200);
    node.write("clients.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    let failures = count(&renewed_operator, "portcullis_config_reload_failures_total").expect("a number");
    eventually("a broken list is refused", || {
        count(&renewed_operator, "portcullis_config_reload_failures_total").filter(|count| *count > failures)
    });
    assert_eq!(ask(&fresh(), "/m").0, 200, "the last good list counts");
    node.write("clients.crl", clients.list(&[7]));
    eventually("the list counts", || fresh().get(node.url("/m")).send().is_err().then_some(()));
    // The rule is gone: on the open connection too, and for the token that it gave.
    assert_eq!(with_token(&open), 200);
    configure(&node, |table| {
        tables(table, "certificate_principal").clear();
        add(table, "certificate_principal", "matches = \"cn:other\"\nname = \"other\"");
    });
    eventually("the rule is gone", || (ask(&open, "/m").0 == 401).then_some(()));
    eventually("what it gave is gone", || (with_token(&open) == 401).then_some(()));
}

fn write_secret(node: &Node, name: &str, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let beside = node.directory().join("secret.new");
    fs::write(&beside, content).expect("written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).expect("permissions");
    fs::rename(beside, node.directory().join(name)).expect("renamed");
}
