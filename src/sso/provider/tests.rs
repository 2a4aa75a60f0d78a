//! The provider against a small one on loopback.

use super::*;
use crate::http::landing::Destination;
use crate::sso::claims::tests::provider;
use serde_json::json;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// A provider that answers discovery, keys and the token endpoint.
struct Fake {
    issuer: String,
    key: rcgen::KeyPair,
    token: Mutex<String>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let fake = Arc::new(Self { issuer, key, token: Mutex::default(), asked: Mutex::default() });
        let serving = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = vec![0; 16 * 1024];
                let mut length = 0;
                while !complete(&bytes[..length]) {
                    length += stream.read(&mut bytes[length..]).await.unwrap();
                }
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                let body = serving.answer(&text).to_string();
                serving.asked.lock().unwrap().push(text);
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        fake
    }

    fn answer(&self, request: &str) -> Value {
        let issuer = &self.issuer;
        match request.split(' ').nth(1).unwrap() {
            "/.well-known/openid-configuration" => json!({
                "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
                "response_types_supported": ["code"], "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256", "HS256", "none"],
            }),
            "/jwks" => {
                let raw = self.key.public_key_raw();
                json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k",
                    "x": URL_SAFE_NO_PAD.encode(&raw[1..33]), "y": URL_SAFE_NO_PAD.encode(&raw[33..65])}]})
            }
            _ => {
                json!({"access_token": "x", "token_type": "Bearer", "id_token": *self.token.lock().unwrap()})
            }
        }
    }

    /// The ID token that the next exchange gives.
    fn give(&self, header: jsonwebtoken::Header, key: &jsonwebtoken::EncodingKey, claims: &Value) {
        *self.token.lock().unwrap() = jsonwebtoken::encode(&header, claims, key).unwrap();
    }

    fn signer(&self) -> jsonwebtoken::EncodingKey {
        jsonwebtoken::EncodingKey::from_ec_der(&self.key.serialize_der())
    }

    fn claims(&self, nonce: &str) -> Value {
        let now = crate::model::Clock::now(&crate::model::SystemClock).seconds();
        json!({"iss": self.issuer, "sub": "1234", "aud": "portcullis", "iat": now, "exp": now + 60,
            "nonce": nonce, "groups": ["a"]})
    }
}

fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn es256() -> jsonwebtoken::Header {
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some("k".to_owned());
    header
}

#[tokio::test]
async fn a_code_becomes_verified_claims() {
    let fake = Fake::start().await;
    let provider = provider(&fake.issuer);
    let now = Timestamp::from_seconds(1000);
    let away = Away::new("corp", &Destination::default(), "cookie");
    let redirect: Url = "https://gate.example/auth/sso/corp/callback".parse().unwrap();
    let known = Known::of(&provider, now).await.unwrap();

    let url = known.authorize(&provider, &redirect, &away, "the-state").unwrap();
    let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    assert_eq!(query["code_challenge_method"], "S256");
    assert_eq!(query["state"], "the-state");
    assert_eq!(query["nonce"], away.nonce);
    assert_eq!(query["redirect_uri"], redirect.as_str());
    assert_eq!(query["scope"], "openid email");
    assert!(!url.as_str().contains(&away.verifier));

    let good = fake.claims(&away.nonce);
    fake.give(es256(), &fake.signer(), &good);
    let claims = known.exchange(&provider, &redirect, &away, "c", now, |_| true).await.unwrap();
    assert_eq!(claims["sub"], "1234");
    let asked = fake.asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.contains(&format!("code_verifier={}", away.verifier)) && asked.contains("code=c"));
    assert!(asked.to_lowercase().contains("authorization: basic "));

    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for bad in [
        with("nonce", json!("other")),
        with("aud", json!("other")),
        with("aud", json!(["portcullis", "other"])),
        with("iss", json!("https://evil.example")),
        with("exp", json!(1)),
        with("exp", json!("text")),
    ] {
        fake.give(es256(), &fake.signer(), &bad);
        assert!(known.exchange(&provider, &redirect, &away, "c", now, |_| true).await.is_err(), "{bad}");
    }
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let other = jsonwebtoken::EncodingKey::from_ec_der(&other.serialize_der());
    fake.give(es256(), &other, &good);
    assert!(known.exchange(&provider, &redirect, &away, "c", now, |_| true).await.is_err());
    let symmetric = jsonwebtoken::EncodingKey::from_secret(b"secret");
    fake.give(jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256), &symmetric, &good);
    assert!(known.exchange(&provider, &redirect, &away, "c", now, |_| true).await.is_err());
    let payload = URL_SAFE_NO_PAD.encode(good.to_string());
    *fake.token.lock().unwrap() = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    assert!(known.exchange(&provider, &redirect, &away, "c", now, |_| true).await.is_err());
}

#[tokio::test]
async fn documents_are_kept_and_keys_asked_for_once_a_minute() {
    let fake = Fake::start().await;
    let provider = provider(&fake.issuer);
    let at = |seconds| Timestamp::from_seconds(seconds);
    let away = Away::new("corp", &Destination::default(), "cookie");
    let redirect: Url = "https://gate.example/cb".parse().unwrap();
    let known = Known::of(&provider, at(1000)).await.unwrap();
    Known::of(&provider, at(4000)).await.unwrap();
    assert_eq!(fake.asked.lock().unwrap().len(), 2);
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let other = jsonwebtoken::EncodingKey::from_ec_der(&other.serialize_der());
    fake.give(es256(), &other, &fake.claims(&away.nonce));
    for (seconds, asked) in [(1010, 3), (1070, 6), (1071, 7)] {
        assert!(known.exchange(&provider, &redirect, &away, "c", at(seconds), |_| true).await.is_err());
        assert_eq!(fake.asked.lock().unwrap().len(), asked, "at {seconds}");
    }
}

#[tokio::test]
async fn a_provider_that_failed_is_left_alone_for_a_moment() {
    let provider = provider("http://127.0.0.1:1/");
    let at = |seconds| Timestamp::from_seconds(seconds);
    for seconds in [1000, 1001, 1006] {
        let refusal = Known::of(&provider, at(seconds)).await.err().unwrap();
        assert_eq!(refusal.kind, RefusalKind::Overloaded);
        assert_eq!(refusal.detail.contains("moment ago"), seconds == 1001, "{}", refusal.detail);
    }
}
