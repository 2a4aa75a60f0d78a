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
    CoreAuthDisplay, CoreAuthenticationFlow, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
    CoreGrantType, CoreIdToken, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType,
};
use openidconnect::{
    AccessToken, AccessTokenHash, AdditionalProviderMetadata, ClaimsVerificationError, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, ProviderMetadata, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
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

/// What a UserInfo answer never says: that is about the sign-in, not about the person.
const NOT_ABOUT_PEOPLE: [&str; 11] =
    ["iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "azp", "auth_time", "acr", "amr"];

/// Members of the discovery document that OpenID Connect Discovery does not have.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct More {
    /// RFC 9207 §3.
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for More {}

type Metadata = ProviderMetadata<
    More,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// What is known of a provider.
pub struct Known {
    metadata: Metadata,
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

    /// True when `iss` of the browser's return (RFC 9207) is this provider's, or is missing where it may be.
    pub fn sent(&self, iss: Option<&str>) -> bool {
        match iss {
            Some(iss) => iss == self.metadata.issuer().as_str(),
            None => !self.metadata.additional_metadata().authorization_response_iss_parameter_supported,
        }
    }

    /// Exchanges the code; the claims of the ID token, verified: signature by the provider's keys with an asymmetric
    /// algorithm, issuer, audience, authorized party, expiry, nonce, access token. When they are not
    /// `complete`, the UserInfo endpoint is asked for the others.
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
        complete: impl Fn(&Map<String, Value>) -> bool,
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
                error @ oauth2::RequestTokenError::Parse(..) => {
                    wrong(format!("the token answer is wrong: {}", chain(&error)))
                }
                other => away_detail(&chain(&other)),
            })?;
        let token = answer.id_token().ok_or_else(|| wrong("no ID token"))?;
        let access = answer.access_token();
        match self.verify(provider, token, access, &away.nonce) {
            Err(ClaimsVerificationError::SignatureVerification(_)) if now.since(self.fetched) >= AGAIN => {
                let newer = Self::newer_than(provider, now, AGAIN).await?;
                newer.verify(provider, token, access, &away.nonce)
            }
            result => result,
        }
        .map_err(|error| wrong(format!("the ID token is wrong: {}", chain(&error))))?;
        let claims = payload(&token.to_string()).ok_or_else(|| wrong("the ID token is not readable"))?;
        if complete(&claims) { Ok(claims) } else { self.with_user_info(claims, access).await }
    }

    /// Adds what the UserInfo endpoint knows of the same subject (OpenID Connect Core §5.3); the ID token's own claims
    /// stay, and an address is never called verified by another document than the one that has it.
    async fn with_user_info(
        &self,
        mut claims: Map<String, Value>,
        access: &AccessToken,
    ) -> Result<Map<String, Value>, Refusal> {
        let Some(endpoint) = self.metadata.userinfo_endpoint() else { return Ok(claims) };
        let request = http::Request::get(endpoint.as_str())
            .header("authorization", format!("Bearer {}", access.secret()))
            .header("accept", "application/json")
            .body(Vec::new())
            .map_err(|_| away_detail("its UserInfo endpoint cannot be called"))?;
        let answer = self.http.send(request).await.map_err(|error| away_detail(&error.to_string()))?;
        if answer.status() != http::StatusCode::OK {
            return Err(away_detail(&format!("its UserInfo endpoint answered {}", answer.status())));
        }
        let more: Map<String, Value> = serde_json::from_slice(answer.body())
            .map_err(|_| away_detail("its UserInfo endpoint did not answer JSON"))?;
        if more.get("sub") != claims.get("sub") {
            return Err(wrong("UserInfo is about another subject than the ID token"));
        }
        let has_email = claims.contains_key("email");
        for (name, value) in more {
            let of_another_address = has_email && name == "email_verified";
            if !of_another_address && !NOT_ABOUT_PEOPLE.contains(&name.as_str()) {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(claims)
    }

    fn verify(
        &self,
        provider: &Provider,
        token: &CoreIdToken,
        access: &AccessToken,
        nonce: &str,
    ) -> Result<(), ClaimsVerificationError> {
        let other = |text: &str| ClaimsVerificationError::Other(text.to_owned());
        let client = CoreClient::from_provider_metadata(
            self.metadata.clone(),
            ClientId::new(provider.client_id.clone()),
            None,
        );
        let verifier = client.id_token_verifier().set_allowed_algs(self.algorithms());
        let claims = token.claims(&verifier, &Nonce::new(nonce.to_owned()))?;
        if claims.authorized_party().is_some_and(|party| party.as_str() != provider.client_id) {
            return Err(other("it was issued to another client"));
        }
        if let Some(expected) = claims.access_token_hash() {
            let algorithm = token.signing_alg().map_err(ClaimsVerificationError::SignatureVerification)?;
            let key = token.signing_key(&verifier).map_err(ClaimsVerificationError::SignatureVerification)?;
            let hash = AccessTokenHash::from_token(access, algorithm, key)
                .map_err(|_| other("its at_hash cannot be checked"))?;
            if hash != *expected {
                return Err(other("it belongs to another access token"));
            }
        }
        Ok(())
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
        match Metadata::discover_async(issuer, &http).await {
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
