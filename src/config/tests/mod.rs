//! Loading as a user meets it: a file, variables, and what comes back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::model::AuthMethod;

mod checks;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

fn load_text(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), text, env)
}

/// Loads the text as `portcullis.toml` in the folder; problems are shown without the folder.
fn load_in(folder: &Path, text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let file = folder.join("portcullis.toml");
    fs::write(&file, text).unwrap();
    let env: Vec<(String, String)> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let prefix = format!("{}/", folder.display());
    load(&file, &|| env.clone())
        .map_err(|problems| problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect())
}

/// The one mistake of the text.
fn mistake(text: &str) -> String {
    let mut problems = load_text(text, &[]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

fn assert_mistake(text: &str, expected: &str) {
    assert_eq!(mistake(text), format!("portcullis.toml:{expected}"));
}

#[test]
fn the_reference_is_what_the_declarations_say() {
    let path = Path::new(REPOSITORY).join("docs/configuration.md");
    let made = reference();
    if std::env::var_os("PORTCULLIS_RENEW_REFERENCE").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "docs/configuration.md is out of date; PORTCULLIS_RENEW_REFERENCE=1 cargo test the_reference renews it"
    );
}

#[test]
fn the_committed_example_loads() {
    let path = Path::new(REPOSITORY).join("config/portcullis.toml");
    let loaded = load(&path, &Vec::new).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.routes.len(), 3);
    assert_eq!(loaded.config.routes[0].authenticate, [AuthMethod::None]);
    assert_eq!(loaded.config.routes[2].timeout.first_byte, Duration::from_secs(120));
    assert_eq!(loaded.config.policy.directory, Path::new(REPOSITORY).join("policies"));
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = load_text("", &[]).unwrap().config;
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:9080");
    assert_eq!(config.tokens.issuer, "http://localhost:8080");
    assert_eq!(config.tokens.audience, ["http://localhost:8080"]);
    assert_eq!(config.tokens.cache, 10_000);
    assert_eq!(config.listen.limits.head, 32 << 10);
    assert_eq!(config.listen.limits.body_rate, 1024);
    assert_eq!(config.listen.limits.drain, Duration::from_secs(30));
    assert_eq!(config.store.redis.timeout, Duration::from_secs(2));
    assert_eq!(config.audit.log_size, 64 << 20);
    assert_eq!(config.passwords.hashing.memory_kib, 19 << 10);
    assert!(!config.node.name.is_empty());
}

#[test]
fn the_default_configuration_needs_no_file() {
    let config = Config::default();
    assert_eq!(config.listen.public_url.as_str(), "http://localhost:8080/");
    assert_eq!(config.tokens.issuer, "http://localhost:8080");
    assert_eq!(config.tokens.audience, Tokens::default().audience);
    assert_eq!(config.session.idle, Duration::from_secs(12 * 3600));
    assert_eq!(Timeouts::default().stream_idle, Duration::from_secs(3600));
    assert!(config.upstreams.is_empty() && config.routes.is_empty() && config.admin.tls.is_none());
}

#[test]
fn every_mistake_is_reported_in_one_run() {
    let text = r#"
[listen]
adress = "127.0.0.1:1"
public_url = "http://gate.example.com"
trusted_proxies = ["10.0.0.0/8", "0.0.0.0/0", "nowhere"]

[session]
idle = "5 minutes"

[[upstream]]
name = "orders"
servers = ["http://127.0.0.1:9000"]

[[upstream]]
name = "billing"
servers = []

[[route]]
name = "orders"
path = "/orders/{rest*}"
upstream = "order"
"#;
    assert_eq!(
        load_text(text, &[]).unwrap_err(),
        [
            "portcullis.toml:3: unknown key `adress` in [listen]; did you mean `address`?",
            "portcullis.toml:4: `public_url`: `http://gate.example.com` must be https://; http:// is for loopback only",
            "portcullis.toml:5: `trusted_proxies`: `0.0.0.0/0` is every address; name the networks that are meant",
            "portcullis.toml:5: `trusted_proxies`: `nowhere` is not a network, as in \"10.0.0.0/8\"",
            "portcullis.toml:8: `idle`: `5 minutes` is not a duration; write a whole number and ms, s, m, h or d, as in \"5m\"",
            "portcullis.toml:16: `servers` must not be empty",
            "portcullis.toml:21: upstream `order` of route `orders` does not exist; known: orders, billing",
        ]
    );
}

#[test]
fn unknown_keys_name_the_nearest_one_wherever_they_are() {
    assert_mistake("[listne]", "1: unknown key `listne`; did you mean `listen`?");
    assert_mistake(
        "\n[listen.limits]\nheads = 1",
        "3: unknown key `heads` in [listen.limits]; did you mean `head`?",
    );
    assert_mistake(
        "[[route]]\nname = \"a\"\npath = \"/a\"\ntimeout = { conect = \"1s\" }",
        "4: unknown key `conect` in [route.timeout]; did you mean `connect`?",
    );
}

#[test]
fn syntax_errors_have_their_lines() {
    let problems = load_text("[node]\nname = \n[listen]\naddress = \"x\n", &[]).unwrap_err();
    assert!(problems[0].starts_with("portcullis.toml:2: "), "{problems:?}");
    assert!(problems.iter().any(|problem| problem.starts_with("portcullis.toml:4: ")), "{problems:?}");
    let nowhere = load(Path::new("/nonexistent/portcullis.toml"), &Vec::new).unwrap_err();
    assert_eq!(
        nowhere[0].to_string(),
        "/nonexistent/portcullis.toml: does not exist; name another with --config, or write one with `portcullis init`"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "[listen]\naddress = \"127.0.0.1:1\"\n[node]\nname = \"a\"";
    let env = [
        ("PORTCULLIS__LISTEN__ADDRESS", "127.0.0.1:2"),
        ("PORTCULLIS__LISTEN__LIMITS__HEAD", "64KiB"),
        ("PORTCULLIS__LISTEN__LIMITS__FIELDS", "50"),
        ("PORTCULLIS__LISTEN__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
        ("PORTCULLIS__NODE__NAME", "7"),
        ("PORTCULLIS__POLICY__BIND__WHO", "sub"),
        ("PORTCULLIS_ADMIN_TOKEN", "ignored"),
    ];
    let loaded = load_text(text, &env).unwrap();
    assert_eq!(loaded.config.listen.address.port(), 2);
    assert_eq!(loaded.config.listen.limits.head, 65536);
    assert_eq!(loaded.config.listen.limits.fields, 50);
    assert_eq!(loaded.config.listen.trusted_proxies.len(), 1);
    assert_eq!(loaded.config.node.name, "7");
    assert_eq!(loaded.config.policy.bind["who"], "sub");
    let shown = show(&loaded);
    assert!(
        shown.contains("listen.address = \"127.0.0.1:2\"  # env PORTCULLIS__LISTEN__ADDRESS\n"),
        "{shown}"
    );
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let env = [
        ("PORTCULLIS__LISTEN__ADRESS", "127.0.0.1:2"),
        ("PORTCULLIS__ROUTE", "[{ name = \"x\" }]"),
        ("PORTCULLIS__SESSION__IDLE", "soon"),
    ];
    let problems = load_text("", &env).unwrap_err();
    assert_eq!(
        problems,
        [
            "PORTCULLIS__LISTEN__ADRESS: unknown key `adress` in [listen]; did you mean `address`?",
            "PORTCULLIS__ROUTE: tables and lists of tables are set in the file only",
            "PORTCULLIS__SESSION__IDLE: `idle`: `soon` is not a duration; write a whole number and ms, s, m, h or d, as in \"5m\"",
        ]
    );
}

fn secret(folder: &Path, name: &str, text: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(folder.join(name), text).unwrap();
    fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_secret_that_others_can_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[client]]\nid = \"robot\"\nsecret_file = \"robot.secret\"\n\
                grant_types = [\"client_credentials\"]\n";
    for (mode, told) in [(0o644, "everyone (0644)"), (0o440, "its group (0440)")] {
        secret(folder.path(), "robot.secret", "s3cret", mode);
        let warnings = load_in(folder.path(), text, &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].to_string().contains(&format!("robot.secret is readable by {told}")),
            "{}",
            warnings[0]
        );
    }
    secret(folder.path(), "robot.secret", "s3cret", 0o600);
    assert!(load_in(folder.path(), text, &[]).unwrap().warnings.is_empty());
}

#[test]
fn secrets_come_from_the_file_a_variable_or_a_file_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    secret(folder.path(), "robot.secret", "from-file\n", 0o600);
    let text = r#"
[store]
kind = "redis"
[store.redis]
urls = ["redis://me:hunter2@127.0.0.1:6379"]
password = "in-clear"
[[client]]
id = "robot"
secret_file = "robot.secret"
grant_types = ["client_credentials"]
[[client]]
id = "dash"
secret = "env:DASH"
grant_types = ["client_credentials"]
"#;
    let loaded = load_in(folder.path(), text, &[("DASH", "from-variable")]).unwrap();
    let clients = &loaded.config.clients;
    assert_eq!(clients[0].secret.as_ref().unwrap().expose(), "from-file");
    assert_eq!(clients[1].secret.as_ref().unwrap().expose(), "from-variable");
    assert_eq!(loaded.config.store.redis.password.as_ref().unwrap().expose(), "in-clear");
    let shown = show(&loaded);
    for secret in ["hunter2", "in-clear", "from-file", "from-variable"] {
        assert!(!shown.contains(secret) && !format!("{loaded:?}").contains("in-clear"), "{shown}");
    }
    assert!(shown.contains("store.redis.password = \"******\""), "{shown}");
    assert!(loaded.watched.contains(&folder.path().join("robot.secret")));

    // The environment wins over the file, whichever way either of them has the secret.
    secret(folder.path(), "redis.secret", "from-a-file", 0o600);
    for (text, variable, value) in [
        ("password = \"in-clear\"", "PORTCULLIS__STORE__REDIS__PASSWORD_FILE", "redis.secret"),
        ("password_file = \"not-there\"", "PORTCULLIS__STORE__REDIS__PASSWORD", "from-a-file"),
    ] {
        let loaded = load_in(folder.path(), &format!("[store.redis]\n{text}"), &[(variable, value)]).unwrap();
        assert_eq!(loaded.config.store.redis.password.as_ref().unwrap().expose(), "from-a-file");
    }
    assert_mistake(
        "[[client]]\nid = \"a\"\ngrant_types = [\"client_credentials\"]\nsecret = \"env:\"",
        "4: `secret`: `env:` names no variable; write \"env:NAME\"",
    );

    assert_mistake(
        "[[client]]\nid = \"a\"\ngrant_types = [\"client_credentials\"]\nsecret = \"env:NOT_THERE\"",
        "4: `secret`: the environment variable NOT_THERE is not set",
    );
    assert_mistake(
        "[[client]]\nid = \"a\"\ngrant_types = [\"client_credentials\"]\nsecret = \"x\"\nsecret_file = \"y\"",
        "5: `secret_file`: is set beside `secret`; keep one of the two",
    );
}

#[test]
fn what_is_shown_is_what_counts() {
    let loaded = load_text("[listen]\npublic_url = \"https://gate.example.com\"", &[]).unwrap();
    let shown = show(&loaded);
    assert!(shown.contains("tokens.issuer = \"https://gate.example.com\"  # default\n"), "{shown}");
    assert!(shown.contains("tokens.audience = [\"https://gate.example.com\"]  # default\n"), "{shown}");
    assert!(shown.contains("portcullis.toml:2\n"), "{shown}");
    assert!(shown.contains("# listen.redirect_http is not set  # default\n"), "{shown}");
}
