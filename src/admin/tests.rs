//! The API over an opened node without sockets: what is recorded before what happens, and readiness.

use std::path::Path;
use std::sync::Arc;

use actix_web::HttpMessage as _;
use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, web};
use serde_json::{Value, json};

use super::endpoint;
use super::{Operator, Rank};
use crate::http::Services;
use crate::model::Timestamp;
use crate::revocation::{Credential, Standing};

fn write(directory: &Path) -> std::path::PathBuf {
    std::fs::create_dir(directory.join("policies")).unwrap();
    let model = include_str!("../../policies/model.conf");
    std::fs::write(directory.join("policies/model.conf"), model).unwrap();
    std::fs::write(directory.join("policies/policy.csv"), "p, admin, /*, .*, allow\n").unwrap();
    let config = directory.join("portcullis.toml");
    let text = "[node]\nname = \"gate-1\"\n[passwords.hashing]\nmemory = \"1MiB\"\npasses = 1\n\
                [policy]\ndirectory = \"policies\"\n[audit]\nlog_size = \"1MiB\"\n\
                [[client]]\nid = \"dash\"\nsecret = \"s\"\ngrant_types = [\"client_credentials\"]\n";
    std::fs::write(&config, text).unwrap();
    config
}

async fn opened(directory: &Path) -> Arc<Services> {
    let loaded = crate::config::load(&write(directory), &Vec::new).unwrap();
    crate::app::open(loaded).await.unwrap()
}

/// One call as an operator of this rank: status and body.
async fn call(
    services: &Arc<Services>,
    rank: Rank,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let app = App::new().app_data(web::Data::from(Arc::clone(services))).configure(super::configure);
    let app = init_service(app).await;
    let mut request = TestRequest::with_uri(&format!("{}{path}", endpoint::PREFIX))
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .insert_header(("host", "localhost"));
    if let Some(body) = body {
        request = request.set_json(body);
    }
    let request = request.to_request();
    request.extensions_mut().insert(Operator { name: "cli:tester".into(), rank, auth: None });
    let answer = call_service(&app, request).await;
    let status = answer.status();
    let text = read_body(answer).await;
    (status, serde_json::from_slice(&text).unwrap_or_default())
}

/// The `admin` events so far: decision and path.
async fn recorded(services: &Arc<Services>) -> Vec<(String, String)> {
    let stored = services.store.audit.read("gate-1", 1, 1000).await.unwrap();
    let mut all: Vec<Value> = stored.iter().map(|entry| serde_json::from_str(&entry.json).unwrap()).collect();
    let next = all.len() as u64 + 1;
    let waiting = services.recorder.unshipped();
    let waiting = waiting.iter().map(|json| serde_json::from_str::<Value>(json).unwrap());
    all.extend(waiting.filter(|event| event["seq"].as_u64().unwrap() >= next));
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
    all.iter()
        .filter(|event| event["kind"] == "admin")
        .inspect(|event| assert_eq!(event["principal"]["name"], "cli:tester"))
        .map(|event| (text(event, "decision"), text(event, "path")))
        .collect()
}

/// A call of every changing endpoint that succeeds, in an order in which they do.
async fn changes(services: &Arc<Services>) -> Vec<(&'static str, &'static str, String, Option<Value>)> {
    let kid = services.keys.list()[0].kid.clone();
    let user = json!({"name": "ann", "password": "long enough", "roles": ["admin"]});
    vec![
        ("POST", "/users", "/users".to_owned(), Some(user)),
        ("PATCH", "/users/{name}", "/users/ann".to_owned(), Some(json!({"tenant": "t"}))),
        ("POST", "/users/{name}/unlock", "/users/ann/unlock".to_owned(), None),
        ("POST", "/tokens", "/tokens".to_owned(), Some(json!({"subject": "ann"}))),
        ("POST", "/tokens/revoke", "/tokens/revoke".to_owned(), None),
        ("DELETE", "/sessions/{sid}", "/sessions/".to_owned(), None),
        ("DELETE", "/sessions", "/sessions?subject=ann".to_owned(), None),
        ("POST", "/keys/rotate", "/keys/rotate".to_owned(), None),
        ("POST", "/keys/{kid}/retire", format!("/keys/{kid}/retire"), None),
        ("POST", "/policy/reload", "/policy/reload".to_owned(), None),
        ("DELETE", "/users/{name}", "/users/ann".to_owned(), None),
    ]
}

#[actix_web::test]
async fn every_changing_call_is_recorded_once_and_refused_to_a_lower_rank() {
    let directory = tempfile::tempdir().unwrap();
    let services = opened(directory.path()).await;
    let calls = changes(&services).await;
    for endpoint in endpoint::all().filter(|endpoint| endpoint.changes) {
        let known =
            calls.iter().any(|(method, path, ..)| *method == endpoint.method && *path == endpoint.path);
        assert!(known, "{} {} has no call in this test", endpoint.method, endpoint.path);
    }
    let mut token = String::new();
    for (method, pattern, mut path, mut body) in calls {
        let endpoint = endpoint::find(method, &format!("{}{pattern}", endpoint::PREFIX)).unwrap();
        assert!(endpoint.rank > Rank::Viewer, "{method} {pattern}");
        if pattern == "/tokens/revoke" {
            body = Some(json!({"token": token}));
        }
        if pattern == "/sessions/{sid}" {
            let ann = crate::model::Principal::new(
                "ann",
                crate::model::PrincipalKind::User,
                crate::model::AuthMethod::Password,
            );
            path.push_str(&services.sessions.create(ann, "localhost").await.unwrap().1.sid);
        }
        let before = recorded(&services).await;
        let (status, _) = call(&services, Rank::Viewer, method, &path, body.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        let refused = recorded(&services).await;
        assert_eq!(refused.len(), before.len() + 1, "{method} {path}");
        assert_eq!(refused.last().unwrap().0, "deny");

        let (status, answer) = call(&services, Rank::Administrator, method, &path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {answer}");
        let after = recorded(&services).await;
        assert_eq!(after.len(), refused.len() + 1, "{method} {path}");
        assert_eq!(after.last().unwrap().0, "allow");
        if let Some(issued) = answer["access_token"].as_str() {
            token = issued.to_owned();
        }
    }
}

#[actix_web::test]
async fn nothing_changes_when_the_log_takes_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let services = opened(directory.path()).await;
    services.recorder.close(std::time::Duration::from_secs(5)).await;
    let body = json!({"name": "ann"});
    let (status, _) = call(&services, Rank::Administrator, "POST", "/users", Some(body)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(services.directory.find("ann").await.unwrap().is_none());
}

#[actix_web::test]
async fn retiring_a_key_revokes_it_for_nodes_that_read_the_ring_later() {
    let directory = tempfile::tempdir().unwrap();
    let services = opened(directory.path()).await;
    let kid = services.keys.list()[0].kid.clone();
    let retire = format!("/keys/{kid}/retire");
    let (status, answer) = call(&services, Rank::Administrator, "POST", &retire, None).await;
    assert_eq!(status, StatusCode::CONFLICT, "{answer}");
    let credential = Credential {
        kid: Some(&kid),
        issued: Timestamp::from_seconds(i64::from(u32::MAX)),
        ..Credential::default()
    };
    assert_eq!(services.revocations.standing(&credential), Standing::Good);
    call(&services, Rank::Administrator, "POST", "/keys/rotate", None).await;
    let (status, answer) = call(&services, Rank::Administrator, "POST", &retire, None).await;
    assert_eq!((status, answer["state"].as_str()), (StatusCode::OK, Some("withdrawn")));
    assert_eq!(services.revocations.standing(&credential), Standing::Revoked);
    let log = services.store.revocations.after(Default::default(), 10).await.unwrap();
    assert!(log.iter().any(|(_, entry)| entry.what == crate::store::Revoked::Key(kid.clone())));
    // Again: an earlier try may have ended between the two.
    assert_eq!(call(&services, Rank::Administrator, "POST", &retire, None).await.0, StatusCode::OK);
}

#[actix_web::test]
async fn readiness_says_in_words_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let services = opened(directory.path()).await;
    let ask = async || {
        let app = App::new().app_data(web::Data::from(Arc::clone(&services))).configure(super::configure);
        let app = init_service(app).await;
        let answer = call_service(&app, TestRequest::with_uri("/readyz").to_request()).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_slice::<Value>(&read_body(answer).await).unwrap())
    };
    let (status, answer) = ask().await;
    assert_eq!((status, &answer["ready"], &answer["reasons"]), (200, &json!(true), &json!([])));
    services.revocations.distrust();
    let (status, answer) = ask().await;
    assert_eq!((status, &answer["ready"]), (503, &json!(false)));
    assert_eq!(answer["reasons"][0]["code"], "revocations-unknown");
    assert!(answer["reasons"][0]["message"].as_str().unwrap().contains("revocation log"));
}

#[actix_web::test]
async fn a_secret_is_in_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    let services = opened(directory.path()).await;
    let body = json!({"name": "ann", "password": "long enough"});
    let (_, added) = call(&services, Rank::Administrator, "POST", "/users", Some(body)).await;
    assert_eq!((&added["password"], added["password_hash"].is_null()), (&json!(true), true));
    for path in ["/users", "/users/ann", "/keys", "/keys/jwks", "/clients", "/clients/dash"] {
        let (status, answer) = call(&services, Rank::Viewer, "GET", path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        let text = answer.to_string();
        for secret in ["$argon2", "long enough", "\"d\":", "pkcs8"] {
            assert!(!text.contains(secret), "{path}: {text}");
        }
    }
}
