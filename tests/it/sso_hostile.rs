//! Single sign-on with a provider that lies: every answer that is not exactly right is refused with a page, an event,
//! and no session.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::support::{Node, Reply, Upstream, client, eventually};

/// What a lie makes of good claims.
type Change<'a, T> = Box<dyn Fn(&Value) -> T + 'a>;

const SECRET: &str = "the gateway's secret";

/// What the provider answers next.
#[derive(Clone, Default)]
struct Plan {
    id_token: String,
    user_info: Value,
    token_status: u16,
    challenge: String,
    used: Vec<String>,
}

struct Hostile {
    server: Upstream,
    key: rcgen::KeyPair,
    plan: Arc<Mutex<Plan>>,
}

fn es256() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

impl Hostile {
    fn start() -> Self {
        let key = es256();
        let raw = key.public_key_raw().to_vec();
        let plan: Arc<Mutex<Plan>> = Arc::new(Mutex::new(Plan { token_status: 200, ..Plan::default() }));
        let shared = Arc::clone(&plan);
        let server = Upstream::start(move |request| {
            let issuer = format!("http://{}", request.header("host"));
            let mut plan = shared.lock().expect("the plan");
            let (status, body) = match request.target.as_str() {
                "/.well-known/openid-configuration" => (
                    200,
                    json!({
                        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
                        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
                        "userinfo_endpoint": format!("{issuer}/me"),
                        "response_types_supported": ["code"], "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
                        "authorization_response_iss_parameter_supported": true,
                    }),
                ),
                "/jwks" => (
                    200,
                    json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
                    "kid": "k", "x": URL_SAFE_NO_PAD.encode(&raw[1..33]), "y": URL_SAFE_NO_PAD.encode(&raw[33..65])}]}),
                ),
                "/token" => token(&mut plan, &request.body),
                "/me" => (200, plan.user_info.clone()),
                // Another issuer's document.
                "/lies/.well-known/openid-configuration" => (
                    200,
                    json!({
                        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
                        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
                        "response_types_supported": ["code"], "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["ES256"],
                    }),
                ),
                other => (404, json!({"path": other})),
            };
            Reply::new(status, &body.to_string()).header("content-type", "application/json")
        });
        Self { server, key, plan }
    }

    fn node(&self) -> Node {
        let provider = |name: &str, issuer: &str| {
            format!(
                "[[provider]]\nname = \"{name}\"\nissuer = \"{issuer}\"\nclient_id = \"portcullis\"\n\
                 client_secret = \"{SECRET}\"\nallow_private = true\nscopes = [\"openid\"]\nroles_claim = \"groups\"\n"
            )
        };
        Node::with()
            .upstream(&self.server.url())
            .config(&provider("corp", &self.server.url()))
            .config(&provider("twin", &self.server.url()))
            .config(&provider("liar", &format!("{}/lies", self.server.url())))
            .start()
    }

    fn signed(&self, claims: &Value) -> String {
        signed(&self.key, Algorithm::ES256, Some("k"), claims)
    }
}

fn signed(key: &rcgen::KeyPair, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&key.serialize_der())).expect("a token")
}

/// The token endpoint: holds the caller to PKCE and takes each code once, as a real one does.
fn token(plan: &mut Plan, body: &[u8]) -> (u16, Value) {
    let form: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    let get = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let verified = URL_SAFE_NO_PAD.encode(hash(get("code_verifier"))) == plan.challenge;
    let fresh = !plan.used.iter().any(|code| code == get("code"));
    plan.used.push(get("code").to_owned());
    if !verified || !fresh {
        return (400, json!({"error": "invalid_grant"}));
    }
    if plan.token_status != 200 {
        return (plan.token_status, json!({"error": "server_error"}));
    }
    (200, json!({"access_token": "access", "token_type": "Bearer", "id_token": plan.id_token}))
}

/// A browser's visit at the provider: what it was sent there with, and its cookie.
struct Visit {
    cookie: String,
    state: String,
    nonce: String,
    challenge: String,
}

fn visit(node: &Node, provider: &str) -> Visit {
    let answer = client()
        .get(node.url(&format!("/auth/sso/{provider}?return_to=/orders/7")))
        .send()
        .expect("an answer");
    assert_eq!(answer.status(), 302);
    let head = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    let url: Url = head("location").parse().expect("a URL");
    let get = |name: &str| {
        let found: Vec<_> = url.query_pairs().filter(|(key, _)| key == name).collect();
        assert_eq!(found.len(), 1, "{name}: {url}");
        found[0].1.clone().into_owned()
    };
    assert_eq!((get("response_type"), get("client_id")), ("code".to_owned(), "portcullis".to_owned()));
    assert_eq!(get("code_challenge_method"), "S256");
    assert_eq!(get("redirect_uri"), node.url(&format!("/auth/sso/{provider}/callback")));
    let cookie = head("set-cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    Visit {
        cookie: cookie.split(';').next().unwrap_or("").to_owned(),
        state: get("state"),
        nonce: get("nonce"),
        challenge: get("code_challenge"),
    }
}

fn claims(issuer: &str, nonce: &str) -> Value {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    json!({"iss": issuer, "sub": "1234", "aud": "portcullis", "iat": now, "exp": now + 60, "nonce": nonce,
        "groups": ["x"]})
}

fn come_back(
    node: &Node,
    provider: &str,
    cookie: &str,
    query: &[(&str, &str)],
) -> reqwest::blocking::Response {
    let url = node.url(&format!("/auth/sso/{provider}/callback"));
    let mut request = client().get(url).query(query);
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    request.send().expect("an answer")
}

/// Refused: a page that says so, an event, no session.
fn assert_refused(node: &Node, what: &str, answer: reqwest::blocking::Response) {
    assert_eq!(answer.status(), 401, "{what}");
    let cookies: Vec<_> =
        answer.headers().get_all("set-cookie").iter().filter_map(|c| c.to_str().ok()).collect();
    assert!(!cookies.iter().any(|cookie| cookie.starts_with("portcullis=")), "{what}: {cookies:?}");
    assert!(
        answer.headers()["content-security-policy"].to_str().expect("text").contains("default-src 'none'")
    );
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    let page = answer.text().expect("a page");
    assert!(page.contains("Not signed in") && page.contains("Start again"), "{what}: {page}");
    assert!(page.contains(&id), "{what}: the page names its reference");
    let events = node.events(&id, "login", 1);
    assert_eq!(events.len(), 1, "{what}: {events:?}");
    assert_eq!(
        (&events[0]["decision"], &events[0]["reason"]),
        (&json!("deny"), &json!("unauthenticated")),
        "{what}"
    );
    assert_eq!((&events[0]["auth"], &events[0]["principal"]), (&json!("sso"), &Value::Null), "{what}");
}

#[test]
fn every_id_token_that_is_not_exactly_right_is_refused() {
    let hostile = Hostile::start();
    let node = hostile.node();
    let issuer = hostile.server.url();
    let other = es256();
    let public = hostile.key.public_key_pem();
    let symmetric = |secret: &[u8], claims: &Value| {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret))
            .expect("a token")
    };
    let half = |text: &str| URL_SAFE_NO_PAD.encode(&hash(text)[..16]);
    let mut number = 0;
    let mut exchange = |token: &dyn Fn(&Value) -> String| {
        number += 1;
        let visit = visit(&node, "corp");
        let good = claims(&issuer, &visit.nonce);
        {
            let mut plan = hostile.plan.lock().expect("the plan");
            (plan.id_token, plan.challenge) = (token(&good), visit.challenge.clone());
        }
        let code = format!("code-{number}");
        come_back(&node, "corp", &visit.cookie, &[("code", &code), ("state", &visit.state), ("iss", &issuer)])
    };
    let with = |name: &str, value: Value| {
        let name = name.to_owned();
        move |good: &Value| {
            let mut claims = good.clone();
            claims[&name] = value.clone();
            claims
        }
    };
    let without = |name: &'static str| {
        move |good: &Value| {
            let mut claims = good.clone();
            claims.as_object_mut().expect("claims").remove(name);
            claims
        }
    };

    // The right one first, or nothing below means anything.
    let answer = exchange(&|good| hostile.signed(&with("at_hash", json!(half("access")))(good)));
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["location"].to_str().expect("text")),
        (303, node.url("/orders/7").as_str())
    );

    let wrong_claims: Vec<(&str, Change<'_, Value>)> = vec![
        ("another issuer", Box::new(with("iss", json!("https://evil.example")))),
        ("another audience", Box::new(with("aud", json!("someone-else")))),
        ("a second audience", Box::new(with("aud", json!(["portcullis", "someone-else"])))),
        ("no audience", Box::new(without("aud"))),
        ("another authorized party", Box::new(with("azp", json!("someone-else")))),
        ("another nonce", Box::new(with("nonce", json!("replayed")))),
        ("no nonce", Box::new(without("nonce"))),
        ("expired", Box::new(with("exp", json!(1_000_000)))),
        ("no expiry", Box::new(without("exp"))),
        ("an expiry that is text", Box::new(with("exp", json!("9999999999")))),
        ("another access token", Box::new(with("at_hash", json!(half("another"))))),
        ("no subject", Box::new(without("sub"))),
        ("a subject with a line break", Box::new(with("sub", json!("a\nb")))),
    ];
    for (what, change) in &wrong_claims {
        assert_refused(&node, what, exchange(&|good| hostile.signed(&change(good))));
    }
    let wrong_signatures: Vec<(&str, Change<'_, String>)> = vec![
        ("alg none", Box::new(|good| format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(good)))),
        (
            "alg none, spelled otherwise",
            Box::new(|good| format!("{}.{}.", encoded(&json!({"alg": "NoNe", "kid": "k"})), encoded(good))),
        ),
        (
            "no signature",
            Box::new(|good| format!("{}.{}.", encoded(&json!({"alg": "ES256", "kid": "k"})), encoded(good))),
        ),
        ("HS256 with the client's secret", Box::new(|good| symmetric(SECRET.as_bytes(), good))),
        ("HS256 with the public key", Box::new(|good| symmetric(public.as_bytes(), good))),
        ("an unknown kid", Box::new(|good| signed(&hostile.key, Algorithm::ES256, Some("unknown"), good))),
        ("another's key", Box::new(|good| signed(&other, Algorithm::ES256, Some("k"), good))),
        (
            "a key in the token",
            Box::new(|good| {
                let raw = other.public_key_raw();
                let jwk = json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(&raw[1..33]), "y": URL_SAFE_NO_PAD.encode(&raw[33..65])});
                let mut header = Header::new(Algorithm::ES256);
                header.kid = Some("k".to_owned());
                header.jwk = serde_json::from_value(jwk).ok();
                jsonwebtoken::encode(&header, good, &EncodingKey::from_ec_der(&other.serialize_der()))
                    .expect("a token")
            }),
        ),
        (
            "an access token",
            Box::new(|good| {
                let mut header = Header::new(Algorithm::ES256);
                (header.kid, header.typ) = (Some("k".to_owned()), Some("at+jwt".to_owned()));
                jsonwebtoken::encode(&header, good, &EncodingKey::from_ec_der(&hostile.key.serialize_der()))
                    .expect("a token")
            }),
        ),
        (
            "changed after signing",
            Box::new(|good| {
                let token = hostile.signed(good);
                let mut changed = good.clone();
                changed["sub"] = json!("admin");
                let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
                parts[1] = encoded(&changed);
                parts.join(".")
            }),
        ),
    ];
    for (what, make) in &wrong_signatures {
        assert_refused(&node, what, exchange(make.as_ref()));
    }
    for text in ["", "x", "a.b.c"] {
        assert_refused(&node, "no token at all", exchange(&|_| text.to_owned()));
    }
    hostile.plan.lock().expect("the plan").user_info = json!({"sub": "someone-else", "groups": ["x"]});
    let answer = exchange(&|good| hostile.signed(&without("groups")(good)));
    assert_refused(&node, "UserInfo of another subject", answer);
    hostile.plan.lock().expect("the plan").token_status = 500;
    let answer = exchange(&|good| hostile.signed(good));
    assert_refused(&node, "an error of the token endpoint", answer);
}

#[test]
fn an_answer_counts_once_in_the_browser_that_was_sent_and_for_the_provider_that_it_was_sent_to() {
    let hostile = Hostile::start();
    let node = hostile.node();
    let issuer = hostile.server.url();
    let prepare = |provider: &str, code: &str| {
        let visit = visit(&node, provider);
        let mut plan = hostile.plan.lock().expect("the plan");
        plan.id_token = hostile.signed(&claims(&issuer, &visit.nonce));
        plan.challenge.clone_from(&visit.challenge);
        assert!(!plan.used.iter().any(|used| used == code));
        visit
    };
    let back = |visit: &Visit, code: &str| {
        come_back(&node, "corp", &visit.cookie, &[("code", code), ("state", &visit.state), ("iss", &issuer)])
    };

    let first = prepare("corp", "a");
    assert_eq!(back(&first, "a").status(), 303);
    assert_refused(&node, "the same state again", back(&first, "other"));

    let second = prepare("corp", "b");
    assert_refused(&node, "a code that was used before", back(&second, "a"));

    // The last one prepared is the one that the provider answers for.
    let (victims, mine) = (prepare("corp", "c"), prepare("corp", "c"));
    let answer =
        come_back(&node, "corp", &victims.cookie, &[("code", "c"), ("state", &mine.state), ("iss", &issuer)]);
    assert_refused(&node, "another browser's state (login CSRF)", answer);

    let third = prepare("corp", "d");
    let answer = come_back(&node, "corp", "", &[("code", "d"), ("state", &third.state), ("iss", &issuer)]);
    assert_refused(&node, "no cookie", answer);
    assert_refused(
        &node,
        "a state of nobody",
        come_back(&node, "corp", &third.cookie, &[("code", "d"), ("state", "x")]),
    );
    assert_refused(&node, "no state", come_back(&node, "corp", &third.cookie, &[("code", "d")]));
    assert_refused(
        &node,
        "no code",
        come_back(&node, "corp", &third.cookie, &[("state", &third.state), ("iss", &issuer)]),
    );

    let twin = prepare("twin", "e");
    assert_refused(&node, "another provider's state (mix-up)", back(&twin, "e"));
    for iss in ["https://evil.example", ""] {
        let visit = prepare("corp", "f");
        let answer =
            come_back(&node, "corp", &visit.cookie, &[("code", "f"), ("state", &visit.state), ("iss", iss)]);
        assert_refused(
            &node,
            "another issuer's answer, or one without `iss` where the provider sends it",
            answer,
        );
    }
    let repeated = come_back(&node, "corp", &third.cookie, &[("code", "a"), ("code", "b"), ("state", "x")]);
    assert_eq!(repeated.status(), 400);
}

#[test]
fn a_discovery_document_of_another_issuer_is_not_believed() {
    let hostile = Hostile::start();
    let node = hostile.node();
    let answer = client().get(node.url("/auth/sso/liar")).send().expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().get("location").is_none());
}

#[test]
fn a_program_gets_tokens_where_a_browser_gets_a_session_and_both_end_with_their_provider() {
    let hostile = Hostile::start();
    let mut node = hostile.node();
    let issuer = hostile.server.url();
    let callback = |node: &Node, code: &str, accept: &str| {
        let visit = visit(node, "corp");
        {
            let mut plan = hostile.plan.lock().expect("the plan");
            plan.id_token = hostile.signed(&claims(&issuer, &visit.nonce));
            plan.challenge = visit.challenge;
        }
        let query = [("code", code), ("state", &visit.state), ("iss", &issuer)];
        let url = node.url("/auth/sso/corp/callback");
        let request = client().get(url).query(&query).header("cookie", visit.cookie).header("accept", accept);
        request.send().expect("an answer")
    };
    let answer = callback(&node, "program", "application/json");
    assert_eq!(answer.status(), 200);
    let set: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert!(
        set.iter().all(|cookie| cookie.to_str().is_ok_and(|text| text.starts_with("portcullis-sso=;"))),
        "{set:?}"
    );
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    let body: Value = answer.json().expect("JSON");
    let text = |name: &str| body[name].as_str().expect("text").to_owned();
    assert_eq!((text("token_type").as_str(), &body["expires_in"]), ("Bearer", &json!(300)));
    let event = node.events(&id, "login", 1).remove(0);
    assert_eq!((&event["principal"]["name"], &event["auth"]), (&json!("corp:1234"), &json!("sso")));
    assert_ne!(node.ask("GET", "/orders/7", &text("access_token")).status(), 401);
    let refresh = |node: &Node| {
        let form = [("grant_type", "refresh_token".to_owned()), ("refresh_token", text("refresh_token"))];
        client().post(node.url("/auth/token")).form(&form).send().expect("an answer").status().as_u16()
    };
    assert_eq!(refresh(&node), 200);
    // What is refused is a problem for a program.
    let refused = callback(&node, "program", "application/json");
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");

    let answer = callback(&node, "browser", "text/html");
    assert_eq!(answer.status(), 303);
    let cookies = answer.headers().get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let cookie = cookies.filter(|text| text.starts_with("portcullis=")).map(|text| text.split(';').next());
    let cookie = cookie.flatten().next().expect("a session").to_owned();
    let status = |node: &Node| {
        let request = client().get(node.url("/orders/7")).header("cookie", &cookie);
        request.send().expect("an answer").status().as_u16()
    };
    assert_ne!(status(&node), 401);
    let file = std::fs::read_to_string(node.directory().join("portcullis.toml")).expect("the file");
    let mut table: toml::Table = file.parse().expect("TOML");
    let providers = table["provider"].as_array_mut().expect("a list");
    providers.retain(|provider| provider["name"].as_str() != Some("corp"));
    node.write("portcullis.toml", table.to_string());
    eventually("the provider's sessions end", || (status(&node) == 401).then_some(()));
    assert_eq!(refresh(&node), 400);
    assert_eq!(node.stop(), 0);
}

#[test]
fn an_address_begins_only_so_many_visits() {
    let hostile = Hostile::start();
    let node = hostile.node();
    let client = client();
    let begin = || client.get(node.url("/auth/sso/corp")).send().expect("an answer");
    assert!((0..300).all(|_| begin().status() == 302));
    let refused = begin();
    let left: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert_eq!(refused.status(), 429);
    assert!((1..=300).contains(&left), "{left}");
    let id = refused.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(node.events(&id, "login", 1)[0]["reason"], "rate-limited");
}
