//! Commands without a node: on the store itself, with the same record; and never beside another process that holds it.

use serde_json::Value;

use crate::support::{Node, PASSWORD, Reply, Upstream, eventually};

#[test]
fn what_is_changed_without_a_node_is_there_and_recorded_when_one_starts() {
    let upstream = Upstream::start(|_| Reply::ok("hello"));
    let mut node = Node::with().upstream(&upstream.url()).write();
    let add = ["-o", "json", "user", "add", "carol", "--role", "reader", "--password-stdin"];
    let (code, out, err) = node.cli_with(&add, &format!("{PASSWORD}\n"));
    assert_eq!(code, 0, "{err}");
    let added: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((added["name"].as_str(), added["password"].as_bool()), (Some("carol"), Some(true)));
    let notice: Value = serde_json::from_str(&err).expect("a notice");
    assert_eq!(notice["notice"]["code"], "offline");
    let (code, out, _) = node.cli(&["key", "rotate"]);
    assert_eq!(code, 0, "{out}");
    let (code, _, err) = node.cli(&["user", "add", "carol"]);
    assert_eq!(code, 1, "{err}");
    assert_eq!(node.cli(&["user", "add", "carol", "--if-missing"]).0, 0);
    let (code, _, err) = node.cli(&["user", "show", "nobody"]);
    assert_eq!((code, err.contains("there is no account `nobody`")), (1, true), "{err}");

    node.start_again();
    let token = node.token("carol");
    assert_eq!(node.ask("GET", "/a", &token).status(), 200);
    let events = node.audit(&["--since", "1h"]);
    let offline: Vec<_> = events
        .iter()
        .filter(|event| event["principal"]["name"].as_str().is_some_and(|name| name.starts_with("cli:")))
        .map(|event| (event["kind"].as_str().expect("a kind"), event["path"].as_str().expect("a path")))
        .collect();
    assert_eq!(offline[0], ("admin", "/api/v1/users/carol"));
    assert_eq!(offline[1], ("admin", "/api/v1/keys/rotate"));
    assert_eq!(offline[2].0, "key");
    let (code, out, err) = node.cli(&["audit", "verify"]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn a_store_that_a_node_holds_is_not_opened_and_the_holder_is_named() {
    let node = Node::with().start();
    // Without the variables that name its listener: the configuration's port 0 leads nowhere.
    let ask = |arguments: &[&str]| {
        let output = std::process::Command::new(crate::support::PORTCULLIS)
            .arg("-c")
            .arg(node.directory().join("portcullis.toml"))
            .args(arguments)
            .env_remove("PORTCULLIS_ADMIN_URL")
            .output()
            .expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, err) = ask(&["user", "list"]);
    assert_eq!(code, Some(3), "{err}");
    assert!(err.contains(&format!("process {}", node.pid())) && err.contains("--admin-url"), "{err}");
    let (code, err) = ask(&["-o", "json", "user", "list"]);
    let error: Value = serde_json::from_str(&err).expect("one document");
    assert_eq!((code, error["error"]["code"].as_str()), (Some(3), Some("held")));
}

#[test]
fn a_node_that_is_named_is_meant_and_no_store_is_opened_instead() {
    let node = Node::with().write();
    let (code, _, err) = node.cli(&["--admin-url", "http://127.0.0.1:1", "user", "list"]);
    assert_eq!(code, 3, "{err}");
    assert!(!node.directory().join("data").exists());
    assert_eq!(node.cli(&["--admin-url", "ftp://127.0.0.1:1", "user", "list"]).0, 2);
    assert_eq!(node.cli(&["--admin-url", "http://127.0.0.1:1", "healthcheck"]).0, 1);
}

#[test]
fn following_resumes_after_a_restart_and_prints_each_event_once() {
    let port = crate::support::free_port();
    let mut node = Node::with().config(&format!("[admin]\naddress = \"127.0.0.1:{port}\"")).start();
    let refused = |node: &Node| assert_eq!(node.sign_in("alice", "wrong password").status(), 401);
    refused(&node);
    let out = node.directory().join("followed");
    let mut following = std::process::Command::new(crate::support::PORTCULLIS)
        .arg("-c")
        .arg(node.directory().join("portcullis.toml"))
        .args(["-o", "json", "audit", "tail", "--follow", "-n", "1"])
        .env_remove("PORTCULLIS_ADMIN_URL")
        .env_remove("PORTCULLIS_ADMIN_TOKEN")
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the program runs");
    let followed = || -> Vec<u64> {
        let text = std::fs::read_to_string(&out).expect("a file");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        lines.map(|event| event["seq"].as_u64().expect("a sequence")).collect()
    };
    eventually("the newest event is printed", || (followed().len() == 1).then_some(()));
    (0..5).for_each(|_| refused(&node));
    eventually("further events are printed", || (followed().len() >= 6).then_some(()));
    assert_eq!(node.stop(), 0);
    node.start_again();
    (0..3).for_each(|_| refused(&node));
    let (_, last, _) = node.cli(&["-o", "json", "audit", "tail", "-n", "1"]);
    let last: Value = serde_json::from_str(&last).expect("an event");
    let last = last["seq"].as_u64().expect("a sequence");
    let seen = eventually("what a new start recorded is printed", || {
        let seen = followed();
        (seen.last() == Some(&last)).then_some(seen)
    });
    drop(following.kill());
    drop(following.wait());
    let first = *seen.first().expect("events");
    assert_eq!(seen, (first..=last).collect::<Vec<_>>());
}

#[test]
fn operators_roles_are_given_by_user_set_alone_and_only_those_that_there_are() {
    let node = Node::with().write();
    let (code, _, err) = node.cli(&["user", "add", "vera", "--role", "portcullis:viewer"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("portcullis user set vera --role portcullis:viewer"), "{err}");
    assert_eq!(node.cli(&["user", "show", "vera"]).0, 1, "nothing was added");
    assert_eq!(node.cli(&["user", "add", "vera", "--role", "reader"]).0, 0);
    let (code, _, err) = node.cli(&["user", "set", "vera", "--role", "portcullis:root"]);
    assert_eq!((code, err.contains("is no operator's role")), (2, true), "{err}");
    let (code, out, err) = node.cli(&["-o", "json", "user", "set", "vera", "--role", "portcullis:viewer"]);
    assert_eq!(code, 0, "{err}");
    let set: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(set["roles"], serde_json::json!(["portcullis:viewer"]));
    for (arguments, says) in [
        (["user", "add", "a:b", "--email", "a@b"], "`a:b` is not an account name"),
        (["user", "add", "walter", "--role", "a,b"], "`a,b` is not a role name"),
        (["user", "set", "vera", "--role", "a,b"], "`a,b` is not a role name"),
    ] {
        let (code, _, err) = node.cli(&arguments);
        assert_eq!((code, err.starts_with(says)), (2, true), "{err}");
    }
}

#[test]
fn nothing_in_the_data_directory_is_for_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let node = Node::with().start();
    let mut folders = vec![node.directory().join("data")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a directory") {
            let (path, kind) = entry.map(|one| (one.path(), one.metadata().expect("metadata"))).expect("one");
            let (mode, allowed) =
                (kind.permissions().mode() & 0o777, if kind.is_dir() { 0o700 } else { 0o600 });
            assert_eq!(mode, allowed, "{}", path.display());
            count += 1;
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    assert!(count > 5, "{count}");
}
