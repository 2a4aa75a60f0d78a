//! What we remember while a browser is away at a provider: kept in the store once, under the hash of `state`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::http::answer::store_refusal;
use crate::http::landing::{Destination, hash};
use crate::http::{Caller, Services};
use crate::model::{Refusal, RefusalKind, random_token};
use crate::store::{Expect, Table};

const LIFETIME: Duration = Duration::from_secs(600);

/// One visit to a provider.
#[derive(Debug, Serialize, Deserialize)]
pub struct Away {
    provider: String,
    browser: String,
    /// The nonce that the ID token must hold.
    pub nonce: String,
    /// The PKCE code verifier (RFC 7636).
    pub verifier: String,
    return_to: Option<String>,
    carry: Option<String>,
}

impl Away {
    /// A new visit with its own nonce and verifier, bound to the browser's cookie.
    pub fn new(provider: &str, destination: &Destination, browser: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            browser: hash(browser),
            nonce: random_token::<32>(),
            verifier: random_token::<32>(),
            return_to: destination.url.as_ref().map(url::Url::to_string),
            carry: destination.carry.clone(),
        }
    }

    /// Stores it; the `state` to send.
    ///
    /// # Errors
    /// When the store is away.
    pub async fn put(&self, services: &Services) -> Result<String, Refusal> {
        let state = random_token::<32>();
        let value = serde_json::to_vec(self)
            .map_err(|error| Refusal::new(RefusalKind::Internal, error.to_string()))?;
        let expires = services.clock.now().plus(LIFETIME);
        let records = &services.store.records;
        let written = records.put(Table::Once, &key(&state), &value, Some(expires), Expect::Absent).await;
        match written.map_err(store_refusal)? {
            Some(_) => Ok(state),
            None => Err(Refusal::new(RefusalKind::Internal, "a state was made twice")),
        }
    }

    /// Takes it: works once, for this provider and this browser.
    ///
    /// # Errors
    /// 401 when there is none or it is another's, 503 when the store is away.
    pub async fn take(
        services: &Services,
        state: &str,
        provider: &str,
        browser: &str,
    ) -> Result<Self, Refusal> {
        let wrong = |detail: &'static str| Refusal::new(RefusalKind::Unauthenticated, detail);
        let found = services.store.records.take(Table::Once, &key(state)).await.map_err(store_refusal)?;
        let record = found.ok_or_else(|| wrong("the state is unknown, used or too old"))?;
        let away: Self =
            serde_json::from_slice(&record.value).map_err(|_| wrong("the stored state is not readable"))?;
        if !away.belongs(provider, browser) {
            return Err(wrong("the state belongs to another provider or browser"));
        }
        Ok(away)
    }

    fn belongs(&self, provider: &str, browser: &str) -> bool {
        self.provider == provider && self.browser == hash(browser)
    }

    /// Where the browser wanted to go; checked again, as the configuration may have changed.
    pub fn destination(&self, services: &Services, caller: &Caller) -> Destination {
        Destination::checked(services, caller, self.return_to.as_deref(), self.carry.as_deref())
    }
}

fn key(state: &str) -> String {
    format!("sso:{}", hash(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visit_belongs_to_one_browser_and_provider() {
        let away = Away::new("corp", &Destination::default(), "cookie");
        assert!(away.belongs("corp", "cookie"));
        assert!(!away.belongs("corp", "other"));
        assert!(!away.belongs("corp2", "cookie"));
        assert!(!serde_json::to_string(&away).unwrap().contains("cookie\""));
        assert!(away.verifier.len() >= 43);
    }
}
