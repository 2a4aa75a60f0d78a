//! The path over an opened node without sockets: what happens between its stages.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Frame;
use serde_json::Value;

use super::super::admit::Purpose;
use super::super::seen::Seen;
use super::super::{Gateway, Open};
use crate::forward::Pool;
use crate::http::{Caller, Services};
use crate::model::{
    AuthMethod, BoxError, Connection, Principal, PrincipalKind, RequestId, RoleName, Target, body,
};
use crate::store::Revoked;

struct World {
    services: Arc<Services>,
    gateway: Arc<Gateway>,
    upstream: TcpListener,
    token: String,
    _directory: tempfile::TempDir,
}

/// A node with one route and an upstream that notes who connects, and a token for an admin.
async fn world() -> World {
    let directory = tempfile::tempdir().unwrap();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    upstream.set_nonblocking(true).unwrap();
    std::fs::create_dir(directory.path().join("policies")).unwrap();
    let model = include_str!("../../../policies/model.conf");
    std::fs::write(directory.path().join("policies/model.conf"), model).unwrap();
    std::fs::write(directory.path().join("policies/policy.csv"), "p, admin, /*, .*, allow\n").unwrap();
    let file = directory.path().join("portcullis.toml");
    let text = format!(
        "[node]\nname = \"gate-1\"\n[policy]\ndirectory = \"policies\"\n[audit]\nlog_size = \"1MiB\"\n\
         [[upstream]]\nname = \"main\"\nservers = [\"http://{}\"]\n\
         [[route]]\nname = \"all\"\npath = \"/{{rest*}}\"\nupstream = \"main\"\n",
        upstream.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let services = crate::app::open(crate::config::load(&file, &Vec::new).unwrap()).await.unwrap();
    let gateway = Gateway::new(Arc::clone(&services)).unwrap();
    let mut principal = Principal::new("alice", PrincipalKind::User, AuthMethod::Password);
    principal.roles = vec![RoleName::parse("admin").unwrap().shared()];
    let issued = services.tokens.issue(&principal, "portcullis", &[], false).await.unwrap();
    World { services, gateway, upstream, token: issued.access_token, _directory: directory }
}

impl World {
    fn caller(&self) -> Caller {
        let headers = self.headers();
        let target = Target::from_request(&Method::POST, &"/x".parse().unwrap(), &headers, false).unwrap();
        let connection = Connection {
            peer: "192.0.2.1:4000".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            secure: false,
            server_name: None,
            client_rule: None,
            certificate: None,
        };
        Caller {
            connection: Arc::new(connection),
            request_id: RequestId::new(self.services.clock.now()),
            client_ip: "192.0.2.1".parse().unwrap(),
            target,
            secure: false,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("host", "localhost".parse().unwrap());
        headers.insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        headers
    }

    fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = "/x".parse().unwrap();
        *request.headers_mut() = self.headers();
        request
    }

    /// Decision, reason and status of every access event.
    async fn recorded(&self) -> Vec<(Value, Value, Value)> {
        self.services.recorder.close(std::time::Duration::from_secs(10)).await;
        let stored = self.services.store.audit.read("gate-1", 1, 1000).await.unwrap();
        let events = stored.iter().map(|entry| serde_json::from_str::<Value>(&entry.json).unwrap());
        let access = events.filter(|event| event["kind"] == "access");
        access
            .map(|event| (event["decision"].clone(), event["reason"].clone(), event["status"].clone()))
            .collect()
    }

    fn was_asked(&self) -> bool {
        self.upstream.accept().is_ok()
    }
}

/// A body that panics when it is looked at.
struct Panicking;

impl http_body::Body for Panicking {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        panic!("a test")
    }

    fn is_end_stream(&self) -> bool {
        panic!("a test")
    }
}

#[tokio::test]
async fn a_panic_is_an_error_that_is_recorded_and_nothing_is_sent() {
    let world = world().await;
    let answer = world.gateway.serve(&Pool::new(), world.caller(), world.request(Panicking)).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!world.was_asked());
    assert_eq!(world.recorded().await, [("allow".into(), "internal".into(), 500.into())]);
}

#[tokio::test]
async fn what_is_revoked_between_the_decision_and_the_first_byte_is_not_sent() {
    let world = world().await;
    let (pool, caller, open) = (Pool::new(), world.caller(), Open::default());
    let routing = world.gateway.routing.load_full();
    let mut seen = Seen::new(&caller, &world.headers(), world.services.clock.now());
    let admitted =
        world.gateway.admit(&routing, &caller, &world.headers(), Purpose::Forward, &mut seen).await;
    let until = world.services.clock.now().plus(std::time::Duration::from_secs(60));
    world.services.revocations.revoke(Revoked::Subject("alice".to_owned()), until).await.unwrap();
    let admitted = admitted.unwrap_or_else(|(refusal, _)| panic!("{refusal}"));
    let request = world.request(body::empty());
    let answer = world.gateway.go_on(&routing, &pool, &caller, request, admitted, &seen, &open).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(!world.was_asked());
    assert_eq!(world.recorded().await, [("allow".into(), "invalid-token".into(), 401.into())]);
}

#[tokio::test]
async fn what_is_no_longer_known_before_the_first_byte_is_not_sent() {
    let world = world().await;
    let (pool, caller, open) = (Pool::new(), world.caller(), Open::default());
    let routing = world.gateway.routing.load_full();
    let mut seen = Seen::new(&caller, &world.headers(), world.services.clock.now());
    let admitted =
        world.gateway.admit(&routing, &caller, &world.headers(), Purpose::Forward, &mut seen).await;
    world.services.revocations.distrust();
    let admitted = admitted.unwrap_or_else(|(refusal, _)| panic!("{refusal}"));
    let request = world.request(body::empty());
    let answer = world.gateway.go_on(&routing, &pool, &caller, request, admitted, &seen, &open).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(!world.was_asked());
    assert_eq!(world.recorded().await, [("allow".into(), "store-unavailable".into(), 503.into())]);
}
