//! Every check, with the mistake that it finds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::{assert_mistake, load_in, load_text, mistake};
use crate::model::RoleName;

fn write_key(folder: &Path, mode: u32) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["gate.example.com".to_owned()]).unwrap();
    let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
    (certificate, key)
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let route = "[[route]]\nname = \"a\"\npath = \"/a\"\n";
    assert_mistake(
        &format!("{route}shadow = \"next\""),
        "4: key `shadow` in [[route]] is not supported by this version",
    );
    assert_mistake(
        &format!("{route}authenticate = [\"bearer\", \"api_key\"]"),
        "4: `authenticate`: `api_key` is not supported by this version; a machine is a [[client]] and brings its token as `bearer`",
    );
    for (text, word) in [
        ("[store.redis]\nmode = \"sentinel\"", "sentinel"),
        ("[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\nbalance = \"random\"", "random"),
        ("[[upstream]]\nname = \"a\"\nservers = [\"http://a\"]\n[upstream.health]\npath = \"/\"", "health"),
        (
            "[[provider]]\nname = \"a\"\nissuer = \"https://a\"\nclient_id = \"c\"\nkind = \"github\"",
            "github",
        ),
    ] {
        let found = mistake(text);
        assert!(
            found.contains(&format!("`{word}`")) && found.contains("not supported by this version"),
            "{found}"
        );
    }
}

#[test]
fn routes_that_cannot_be_are_refused() {
    let route = |name: &str, path: &str, more: &str| {
        format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\n{more}\n")
    };
    assert_mistake(
        &(route("a", "/x/{y}", "") + route("b", "/x/{z}", "").as_str()),
        "7: route `b` is equal to route `a`: same hosts, path and methods",
    );
    assert_mistake(
        &(route("a", "/x", "") + route("a", "/y", "").as_str()),
        "6: there are two routes `a`; names are unique",
    );
    let apart = route("a", "/x", "methods = [\"GET\"]") + route("b", "/x", "methods = [\"POST\"]").as_str();
    assert!(load_text(&apart, &[]).is_ok());
    for reserved in
        ["/auth", "/auth/{rest*}", "/.well-known/jwks.json", "/.well-known/oauth-protected-resource/{rest*}"]
    {
        assert!(mistake(&route("a", reserved, "")).contains("which is this gateway's own"), "{reserved}");
    }
    assert!(
        load_text(&(route("a", "/authors", "") + route("b", "/.well-known/security.txt", "").as_str()), &[])
            .is_ok()
    );
    assert!(mistake(&route("a", "/{rest*}/x", "")).contains("`{rest*}` must be the last segment"));
    assert_mistake(
        &route("a", "/x", "authenticate = [\"none\", \"bearer\"]"),
        "4: `none` must be last in `authenticate` of route `a`: it ends the search",
    );
    assert!(mistake(&route("a", "/x", "authenticate = [\"cookie\"]")).contains("known: bearer, session"));
    assert!(mistake(&route("a", "/x", "authenticate = []")).contains("is empty"));
    assert!(mistake(&route("a", "/x", "authenticate = [\"certificate\"]")).contains("asks for them"));
    assert!(mistake(&route("a", "/x", "cors = { origins = [\"*\"] }")).contains("is not an origin"));
    assert!(mistake(&route("a", "/x", "methods = [\"get\"]")).contains("upper case"));
    assert!(mistake(&route("a", "/x", "require_acr = \"2\"")).contains("known: urn:portcullis:acr:1"));
    let unlimited = load_text(&route("a", "/x", "body_limit = \"none\""), &[]).unwrap();
    assert_eq!(unlimited.config.routes[0].body_limit, None);
    let encoded = load_text(&route("a", "/x", "allow_encoded = [\"slash\"]"), &[]).unwrap();
    assert!(encoded.config.routes[0].allow_encoded_slash && !encoded.config.routes[0].allow_encoded_percent);
}

#[test]
fn a_route_with_certificates_needs_hosts_that_ask_for_them() {
    let folder = tempfile::tempdir().unwrap();
    write_key(folder.path(), 0o600);
    let text = |host: &str| {
        format!(
            r#"
[[listen.tls.certificate]]
certificate = "server.pem"
key = "server.key"
[[listen.tls.client]]
hosts = ["*.example.com"]
auth = "required"
ca = "server.pem"
[[listen.tls.client]]
hosts = ["open.example.com"]
auth = "off"
[[route]]
name = "a"
hosts = ["{host}"]
path = "/x"
authenticate = ["certificate"]
"#
        )
    };
    assert!(load_in(folder.path(), &text("api.example.com"), &[]).is_ok());
    for host in ["open.example.com", "example.com", "other.org"] {
        let problems = load_in(folder.path(), &text(host), &[]).unwrap_err();
        let expected = format!("asks for them on `{host}`");
        assert!(problems.len() == 1 && problems[0].contains(&expected), "{problems:?}");
    }
}

#[test]
fn files_must_be_there_and_keys_private() {
    let folder = tempfile::tempdir().unwrap();
    write_key(folder.path(), 0o644);
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    let text = r#"
[[listen.tls.certificate]]
certificate = "server.pem"
key = "server.key"
[[listen.tls.certificate]]
certificate = "empty.pem"
key = "none.key"
[[listen.tls.certificate]]
certificate = "server.key"
key = "server.pem"
"#;
    assert_eq!(
        load_in(folder.path(), text, &[]).unwrap_err(),
        [
            "portcullis.toml:4: server.key is readable by everyone (0644); chmod 600 server.key",
            "portcullis.toml:6: empty.pem is empty",
            "portcullis.toml:7: none.key does not exist",
            "portcullis.toml:9: server.key holds no certificate in PEM form",
            "portcullis.toml:10: server.pem holds no private key in PEM form",
        ]
    );
    write_key(folder.path(), 0o640);
    let first = text.split("[[listen").take(2).collect::<Vec<_>>().join("[[listen");
    let problems = load_in(folder.path(), &first, &[]).unwrap_err();
    assert!(problems[0].contains("is readable by its group (0640)"), "{problems:?}");
}

#[test]
fn listeners_are_safe() {
    assert_mistake(
        "[admin]\naddress = \"0.0.0.0:9080\"",
        "2: `0.0.0.0:9080` is not loopback: the operators' listener needs [admin.tls] there",
    );
    assert!(mistake("[admin]\naddress = \"127.0.0.1:8080\"").contains("same address"));
    assert!(mistake("[forward_auth]\ncallers = [\"::/0\"]").contains("is every address"));
    assert!(mistake("[listen]\npublic_url = \"https://a.example/x\"").contains("must end after the host"));
    assert!(mistake("[listen]\nprefix = \"/\"").contains("`prefix`"));
    assert!(mistake("[listen]\nredirect_http = \"0.0.0.0:80\"").contains("https:// `public_url`"));
    assert!(mistake("[session]\nidle = \"8d\"").contains("longer than `absolute`"));
    for good in ["http://127.0.0.1:8080", "http://[::1]:1", "https://gate.example.com"] {
        assert!(load_text(&format!("[listen]\npublic_url = \"{good}\""), &[]).is_ok(), "{good}");
    }
}

#[test]
fn names_of_outside_sources_are_ours_to_tell_apart() {
    let provider = |name: &str| {
        format!("[[provider]]\nname = \"{name}\"\nissuer = \"https://id.example\"\nclient_id = \"c\"\n")
    };
    let issuer = |name: &str, more: &str| {
        format!(
            "[[trusted_issuer]]\nname = \"{name}\"\nissuer = \"https://old.example\"\naudience = [\"api\"]\n{more}"
        )
    };
    let keys = "jwks_uri = \"https://old.example/jwks\"\n";
    let rs256 = "algorithms = [\"RS256\"]\n";
    for name in ["client", "cli", "portcullis", "Corp", "a:b", "a_b"] {
        assert_eq!(load_text(&provider(name), &[]).unwrap_err().len(), 1, "{name}");
    }
    assert!(load_text(&(provider("corp") + issuer("old", keys).as_str() + rs256), &[]).is_ok());
    let twice = provider("corp") + issuer("corp", keys).as_str() + rs256;
    assert!(mistake(&twice).contains("two providers or trusted issuers `corp`"));
    assert!(mistake(&issuer("old", keys)).contains("`algorithms` is missing"));
    assert!(
        mistake(&(issuer("old", keys) + "algorithms = [\"HS256\"]")).contains("not an asymmetric algorithm")
    );
    assert!(mistake(&(issuer("old", rs256))).contains("`jwks_uri` or `jwks_file` is missing"));
    let both =
        load_text(&(issuer("old", keys) + rs256 + "jwks_file = \"portcullis.toml\""), &[]).unwrap_err();
    assert!(both[0].contains("keep one of the two"), "{both:?}");
    let broken = load_text(&(issuer("old", rs256) + "jwks_file = \"portcullis.toml\""), &[]).unwrap_err();
    assert!(broken[0].contains("is no key set"), "{broken:?}");
    let mapped = provider("corp") + "roles_claim = \"groups\"\nroles = { a = \"portcullis:viewer\" }";
    assert!(mistake(&mapped).contains("role `portcullis:viewer` is an operator's"));
    let own = issuer("old", keys) + rs256 + "[tokens]\nissuer = \"https://old.example\"";
    assert!(mistake(&own).contains("is this gateway's own"));
}

#[test]
fn clients_are_checked() {
    let client = |id: &str, more: &str| {
        format!("[[client]]\nid = \"{id}\"\nsecret = \"s\"\ngrant_types = [\"client_credentials\"]\n{more}\n")
    };
    for bad in ["a b", "a:b", "", "portcullis"] {
        assert!(mistake(&client(bad, "")).contains("`id`"), "{bad}");
    }
    let machine = "[[client]]\nid = \"a\"\ngrant_types = [\"client_credentials\"]\n";
    assert!(mistake(machine).contains("needs a `secret`"));
    assert!(mistake(&client("a", "roles = [\"portcullis:administrator\"]")).contains("an operator's"));
    // Applications that people sign in to are for later.
    for (application, word) in [
        ("", "`grant_types` is missing"),
        (
            "redirect_uris = [\"https://dash.example.com/callback\"]",
            "`redirect_uris` is not supported by this version",
        ),
        ("grant_types = [\"authorization_code\"]", "`authorization_code` is not supported by this version"),
        ("grant_types = [\"refresh_token\"]", "`refresh_token` is not supported by this version"),
    ] {
        let found = mistake(&format!("[[client]]\nid = \"dashboard\"\n{application}\nsecret = \"s\"\n"));
        assert!(found.contains(word), "{found}");
    }
    let full = client("a", "roles = [\"reader\"]\nattributes = { level = 3, tags = [\"x\"] }\n");
    let config = load_text(&full, &[]).unwrap().config;
    assert_eq!(config.clients[0].attributes.0.len(), 2);
    assert!(config.given_roles().contains("reader"));
}

#[test]
fn certificates_become_principals_by_rules() {
    let text = "[[certificate_principal]]\nmatches = \"cn:robot\"\nname = \"{cn}\"\nroles = [\"reader\"]";
    let config = load_text(text, &[]).unwrap().config;
    assert_eq!(config.certificate_principals[0].roles, [RoleName::parse("reader").unwrap()]);
    assert!(mistake(&text.replace("{cn}", "client:x")).contains("is not an account name"));
}

#[test]
fn accounts_come_from_their_file_with_the_same_problems() {
    let folder = tempfile::tempdir().unwrap();
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
    let users = format!(
        "[[user]]\nname = \"alice\"\npassword_hash = \"{hash}\"\nroles = [\"admin\", \"portcullis:viewer\"]\n\
         attributes = {{ department = \"engineering\" }}\nemail = \"alice@example.com\"\nemail_verified = true\n"
    );
    fs::write(folder.path().join("users.toml"), &users).unwrap();
    let loaded = load_in(folder.path(), "[accounts]\nfile = \"users.toml\"", &[]).unwrap();
    assert_eq!(loaded.accounts.len(), 1);
    assert_eq!(loaded.accounts[0].password_hash.as_deref(), Some(hash));
    assert_eq!(loaded.accounts[0].origin, crate::model::Origin::File);

    let bad = users
        + "[[user]]\nname = \"bob\"\npassword = \"hunter2\"\nrole = \"x\"\n\
           [[user]]\nname = \"alice\"\npassword_hash = \"hunter2\"\nroles = [\"bob\"]\n";
    fs::write(folder.path().join("users.toml"), bad).unwrap();
    let problems = load_in(folder.path(), "[accounts]\nfile = \"users.toml\"", &[]).unwrap_err();
    let places: Vec<&str> =
        problems.iter().filter_map(|text| text.split_once(": ").map(|(at, _)| at)).collect();
    assert_eq!(
        places,
        ["users.toml:10", "users.toml:11", "users.toml:13", "users.toml:14", "users.toml:15"],
        "{problems:?}"
    );
    assert!(!problems.concat().contains("hunter2"), "{problems:?}");
}

#[test]
fn a_role_cannot_have_the_name_of_a_principal() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users.toml"), "[[user]]\nname = \"alice\"\n").unwrap();
    let text = "[accounts]\nfile = \"users.toml\"\n[[client]]\nid = \"a\"\nroles = [\"alice\", \"client:a\"]\n\
                grant_types = [\"client_credentials\"]\nsecret = \"s\"";
    assert_eq!(
        load_in(folder.path(), text, &[]).unwrap_err(),
        ["portcullis.toml:5: role `alice` has the name of an existing principal"]
    );
}
