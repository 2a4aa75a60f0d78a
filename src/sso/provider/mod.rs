//! One OpenID provider: its discovery document and keys, kept for an hour; the request that we send browsers with;
//! the exchange of the code for a verified ID token.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::{AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, RedirectUrl, Scope};
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreIdToken, CoreJwsSigningAlgorithm,
    CoreProviderMetadata,
};
use openidconnect::{ClaimsVerificationError, IssuerUrl, Nonce, TokenResponse as _};
use serde_json::{Map, Value};
use url::Url;

use super::state::Away;
use crate::config::Provider;
use crate::model::{Refusal, RefusalKind, Timestamp};
use crate::outbound::Outbound;

const FRESH: Duration = Duration::from_secs(3600);
/// A provider is asked again for its keys at most this often, whatever tokens name.
const AGAIN: Duration = Duration::from_secs(60);
/// A provider that failed is left alone for this long.
const PAUSE: Duration = Duration::from_secs(5);

/// What is known of a provider.
pub struct Known {
    metadata: CoreProviderMetadata,
    http: Outbound,
    fetched: Timestamp,
}

#[derive(Default)]
struct Slot {
    known: Option<Arc<Known>>,
    failed: Option<Timestamp>,
}

type Slots = BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>;

/// By everything that the answer depends on; one fetch at a time for each.
static SLOTS: LazyLock<std::sync::Mutex<Slots>> = LazyLock::new(std::sync::Mutex::default);

impl Known {
    /// What is known of the provider, fetched when it is older than an hour.
    ///
    /// # Errors
    /// 503 when the provider cannot be reached or its documents are wrong.
    pub async fn of(provider: &Provider, now: Timestamp) -> Result<Arc<Self>, Refusal> {
        Self::newer_than(provider, now, FRESH).await
    }

    async fn newer_than(provider: &Provider, now: Timestamp, age: Duration) -> Result<Arc<Self>, Refusal> {
        let slot = slot(provider);
        let mut slot = slot.lock().await;
        if let Some(known) = slot.known.as_ref().filter(|known| now.since(known.fetched) < age) {
            return Ok(Arc::clone(known));
        }
        if slot.failed.is_some_and(|at| now.since(at) < PAUSE) {
            return Err(away_detail("it failed a moment ago"));
        }
        match discover(provider, now).await {
            Ok(known) => {
                let known = Arc::new(known);
                *slot = Slot { known: Some(Arc::clone(&known)), failed: None };
                Ok(known)
            }
            Err(refusal) => {
                slot.failed = Some(now);
                Err(refusal)
            }
        }
    }

    /// Where the browser is sent (OpenID Connect Core §3.1.2.1, RFC 7636).
    ///
    /// # Errors
    /// 500 when our own redirect URI cannot be used.
    pub fn authorize(
        &self,
        provider: &Provider,
        redirect: &Url,
        away: &Away,
        state: &str,
    ) -> Result<Url, Refusal> {
        let verifier = PkceCodeVerifier::new(away.verifier.clone());
        let client = CoreClient::from_provider_metadata(
            self.metadata.clone(),
            ClientId::new(provider.client_id.clone()),
            None,
        )
        .set_redirect_uri(RedirectUrl::from_url(redirect.clone()));
        let (state, nonce) = (state.to_owned(), away.nonce.clone());
        let mut request = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        for scope in provider.scopes.iter().filter(|scope| *scope != "openid") {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        Ok(request.url().0)
    }

    /// Exchanges the code; the claims of the ID token, verified: signature by the provider's keys with an asymmetric
    /// algorithm, issuer, audience, expiry, nonce.
    ///
    /// # Errors
    /// 401 when the code or the token is wrong, 503 when the provider cannot be reached.
    pub async fn exchange(
        self: &Arc<Self>,
        provider: &Provider,
        redirect: &Url,
        away: &Away,
        code: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, Refusal> {
        let secret = provider.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().clone()));
        let client = CoreClient::from_provider_metadata(
            self.metadata.clone(),
            ClientId::new(provider.client_id.clone()),
            secret,
        )
        .set_redirect_uri(RedirectUrl::from_url(redirect.clone()))
        .set_auth_type(self.auth_type());
        let answer = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| away_detail("it has no token endpoint"))?
            .set_pkce_verifier(PkceCodeVerifier::new(away.verifier.clone()))
            .request_async(&self.http)
            .await
            .map_err(|error| match error {
                oauth2::RequestTokenError::ServerResponse(response) => {
                    wrong(format!("the code was refused: {}", response.error()))
                }
                other => away_detail(&other.to_string()),
            })?;
        let token = answer.id_token().ok_or_else(|| wrong("no ID token"))?;
        match self.verify(provider, token, &away.nonce) {
            Err(ClaimsVerificationError::SignatureVerification(_)) if now.since(self.fetched) >= AGAIN => {
                let newer = Self::newer_than(provider, now, AGAIN).await?;
                newer.verify(provider, token, &away.nonce)
            }
            result => result,
        }
        .map_err(|error| wrong(format!("the ID token is wrong: {error}")))?;
        payload(&token.to_string()).ok_or_else(|| wrong("the ID token is not readable"))
    }

    fn verify(
        &self,
        provider: &Provider,
        token: &CoreIdToken,
        nonce: &str,
    ) -> Result<(), ClaimsVerificationError> {
        let client = CoreClient::from_provider_metadata(
            self.metadata.clone(),
            ClientId::new(provider.client_id.clone()),
            None,
        );
        let verifier = client.id_token_verifier().set_allowed_algs(self.algorithms());
        token.claims(&verifier, &Nonce::new(nonce.to_owned())).map(|_| ())
    }

    /// The provider's algorithms without `none` and without those whose key is our client secret.
    fn algorithms(&self) -> Vec<CoreJwsSigningAlgorithm> {
        use CoreJwsSigningAlgorithm::{HmacSha256, HmacSha384, HmacSha512, None};
        let listed = self.metadata.id_token_signing_alg_values_supported().iter();
        listed
            .filter(|known| !matches!(known, HmacSha256 | HmacSha384 | HmacSha512 | None))
            .cloned()
            .collect()
    }

    fn auth_type(&self) -> AuthType {
        let methods = self.metadata.token_endpoint_auth_methods_supported();
        let has = |method| methods.is_some_and(|methods| methods.contains(&method));
        if has(CoreClientAuthMethod::ClientSecretPost) && !has(CoreClientAuthMethod::ClientSecretBasic) {
            AuthType::RequestBody
        } else {
            AuthType::BasicAuth
        }
    }
}

async fn discover(provider: &Provider, now: Timestamp) -> Result<Known, Refusal> {
    let http = Outbound::new(provider.ca.as_deref(), provider.allow_private)
        .map_err(|error| away_detail(&error.to_string()))?;
    // An issuer without a path is written without the slash that the URL parser adds, and compared exactly.
    let text = provider.issuer.as_str();
    let bare = text.strip_suffix('/').filter(|_| provider.issuer.path() == "/").unwrap_or(text);
    let mut last = String::new();
    for issuer in [bare, text] {
        let issuer = IssuerUrl::new(issuer.to_owned()).map_err(|error| away_detail(&error.to_string()))?;
        match CoreProviderMetadata::discover_async(issuer, &http).await {
            Ok(metadata) => return Ok(Known { metadata, http, fetched: now }),
            Err(openidconnect::DiscoveryError::Validation(reason)) => last = reason,
            Err(error) => return Err(away_detail(&chain(&error))),
        }
    }
    Err(away_detail(&last))
}

fn slot(provider: &Provider) -> Arc<tokio::sync::Mutex<Slot>> {
    let key = format!("{} {:?} {}", provider.issuer, provider.ca, provider.allow_private);
    let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(slots.entry(key).or_default())
}

fn payload(token: &str) -> Option<Map<String, Value>> {
    let encoded = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn away_detail(detail: &str) -> Refusal {
    Refusal::new(RefusalKind::Overloaded, format!("the provider cannot be used: {detail}")).retry_after(5)
}

fn wrong(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, detail)
}

#[cfg(test)]
mod tests;
