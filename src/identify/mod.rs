//! Who is asking: each way to prove identity answers, refuses, or says "not mine"; one [`Principal`] comes out.
//!
//! `gateway` calls [`Identifier::identify`] for routes, doors the single ways (password, certificate, client). A new way
//! is one file here and one line in [`Identifier::identify`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

use crate::accounts::{Account, Directory};
use crate::config;
use crate::model::{
    Acr, AuthMethod, Connection, Principal, PrincipalKind, Refusal, RefusalKind, RoleName, SharedClock,
    Timestamp, random_bytes,
};
use crate::revocation::{Credential, Revocations, Standing};
use crate::sessions::Sessions;
use crate::store::StoreError;
use crate::tokens::cache::Cache;
use crate::tokens::trusted::TrustedIssuers;
use crate::tokens::{PrincipalSource, Tokens};

mod basic;
mod bearer;
mod limits;
mod password;
mod pool;
mod session;
mod settings;
#[cfg(test)]
mod tests;

use pool::Pool;
use settings::Settings;

/// How many client certificates, passwords of HTTP Basic and principals of sessions are remembered.
const REMEMBERED: usize = 4_096;

/// What identification may look at.
pub struct Asking<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The connection that it came on.
    pub connection: &'a Connection,
    /// The canonical host.
    pub host: &'a str,
    /// The route's `authenticate`.
    pub listed: &'a [AuthMethod],
    /// For the limits of failed sign-ins.
    pub client_ip: std::net::IpAddr,
    /// For how long a bearer token that was verified before passes while revocations are not known
    /// (`when_store_is_down = "allow_known"`).
    pub allow_known: Option<Duration>,
}

/// The answer.
#[derive(Debug)]
pub struct Identified {
    /// Who.
    pub principal: Arc<Principal>,
    /// The request brought a session cookie that counts as absent and is to be cleared.
    pub clear_cookie: bool,
    /// When the bearer token was made.
    pub token_issued: Option<Timestamp>,
    /// It passed because it was verified before; whether it is revoked is not known now.
    pub store_is_down: bool,
}

/// Why a sign-in with a password failed.
#[derive(Debug)]
pub enum SignInError {
    /// unknown, wrong, disabled: the client sees one 401
    Wrong,
    /// 429
    TooOften {
        /// Seconds.
        retry_after: u32,
    },
    /// the pool's queue is full: 503
    Overloaded,
    /// The store did not answer: 503
    Store(StoreError),
}

/// Knows every way to prove identity.
pub struct Identifier {
    tokens: Arc<Tokens>,
    sessions: Arc<Sessions>,
    directory: Arc<Directory>,
    revocations: Arc<Revocations>,
    clock: SharedClock,
    settings: ArcSwap<Settings>,
    trusted: ArcSwap<TrustedIssuers>,
    generations: AtomicU64,
    pool: Pool,
    basic: Cache<basic::Remembered>,
    basic_key: hmac::Key,
    certificates: Cache<(u64, Arc<Principal>)>,
    looked_up: Cache<session::LookedUp>,
    anonymous: Arc<Principal>,
}

/// What [`Identifier::prepare`] read.
pub struct Prepared(TrustedIssuers);

/// What one way to prove identity says.
enum Found {
    /// This principal.
    Is(Identified),
    /// The request brings nothing of this kind; a session cookie may be there to be cleared.
    NotMine { clear_cookie: bool },
}

impl Identifier {
    /// Starts the password pool; the number of its threads and the length of its queue stay.
    ///
    /// # Errors
    /// When the keys of a trusted issuer cannot be used.
    pub fn new(
        config: &config::Config,
        tokens: Arc<Tokens>,
        sessions: Arc<Sessions>,
        directory: Arc<Directory>,
        revocations: Arc<Revocations>,
        clock: SharedClock,
    ) -> Result<Arc<Self>, String> {
        let trusted = TrustedIssuers::open(config, None, Arc::clone(&clock))?;
        Ok(Arc::new(Self {
            tokens,
            sessions,
            directory,
            revocations,
            clock,
            settings: ArcSwap::from_pointee(Settings::of(config, 0)),
            trusted: ArcSwap::from_pointee(trusted),
            generations: AtomicU64::new(0),
            pool: Pool::new(&config.passwords.hashing),
            basic: Cache::new(REMEMBERED),
            basic_key: hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()),
            certificates: Cache::new(REMEMBERED),
            looked_up: Cache::new(REMEMBERED),
            anonymous: Arc::new(Principal::anonymous()),
        }))
    }

    /// Reads what a reloaded configuration names (keys of trusted issuers); nothing changes before [`Self::commit`].
    ///
    /// # Errors
    /// When the keys of a trusted issuer cannot be used.
    pub fn prepare(&self, config: &config::Config) -> Result<Prepared, String> {
        TrustedIssuers::open(config, Some(&self.trusted.load()), Arc::clone(&self.clock)).map(Prepared)
    }

    /// Applies a reloaded configuration (trusted issuers, certificate principals, clients, hashing cost).
    pub fn commit(&self, config: &config::Config, prepared: Prepared) {
        let generation = self.generations.fetch_add(1, Ordering::AcqRel) + 1;
        self.trusted.store(Arc::new(prepared.0));
        self.settings.store(Arc::new(Settings::of(config, generation)));
    }

    /// Exactly one principal: `Authorization`, else session, else certificate, else `anonymous` when listed.
    ///
    /// # Errors
    /// 400 for two `Authorization` headers, 401 for a wrong one of a listed kind or for no credential, 429 and 503 of
    /// sign-ins, 503 when the answer depends on a store that is away.
    pub async fn identify(&self, asking: &Asking<'_>) -> Result<Identified, Refusal> {
        let listed = |method| asking.listed.contains(&method);
        if let Some((scheme, credentials)) = authorization(asking.headers)? {
            if scheme == "bearer" && listed(AuthMethod::Bearer) {
                return self.bearer(credentials, asking).await;
            }
            if scheme == "basic" && listed(AuthMethod::Password) {
                let found = Box::pin(self.basic(credentials, asking)).await;
                return found.map(|principal| identified(principal, false));
            }
        }
        let mut clear_cookie = false;
        if listed(AuthMethod::Session) {
            match Box::pin(self.session(asking)).await? {
                Found::Is(identified) => return Ok(identified),
                Found::NotMine { clear_cookie: stale } => clear_cookie = stale,
            }
        }
        if listed(AuthMethod::Certificate) {
            let found = Box::pin(self.certified(asking.connection)).await;
            match found.map_err(|refusal| Refusal { clear_cookie, ..refusal })? {
                Found::Is(found) => return Ok(Identified { clear_cookie, ..found }),
                Found::NotMine { .. } => {}
            }
        }
        if listed(AuthMethod::None) {
            return Ok(identified(Arc::clone(&self.anonymous), clear_cookie));
        }
        let none = Refusal::new(RefusalKind::Unauthenticated, "no credential that the route takes");
        Err(Refusal { clear_cookie, ..none })
    }

    /// Validity and revocation of the certificate are looked at for each request, not each connection.
    async fn certified(&self, connection: &Connection) -> Result<Found, Refusal> {
        let Some(certificate) = &connection.certificate else {
            return Ok(Found::NotMine { clear_cookie: false });
        };
        let generation = self.settings.load().generation;
        let known = self.certificates.get(&certificate.thumbprint).filter(|(of, _)| *of == generation);
        let principal = match known {
            Some((_, principal)) => principal,
            None => {
                let Some(principal) = self.settings.load().certificate(certificate) else {
                    return Ok(Found::NotMine { clear_cookie: false });
                };
                let admitted = self.directory.admit(&principal.name, PrincipalKind::Certificate).await;
                admitted.map_err(|error| match error {
                    crate::accounts::AccountError::Store(error) => away(error),
                    other => Refusal::new(RefusalKind::Unauthenticated, other.to_string()),
                })?;
                let principal = Arc::new(principal);
                self.certificates.put(&certificate.thumbprint, (generation, Arc::clone(&principal)));
                principal
            }
        };
        match self.certificate_standing(connection, &principal.name) {
            Standing::Good => Ok(Found::Is(identified(principal, false))),
            Standing::Revoked => {
                Err(Refusal::new(RefusalKind::Unauthenticated, "the certificate has expired or is revoked"))
            }
            Standing::Unknown => {
                Err(Refusal::new(RefusalKind::StoreUnavailable, "revocations are not known"))
            }
        }
    }

    /// The principal of a verified client certificate by `[[certificate_principal]]`, if any rule matches and it is
    /// neither expired nor revoked. A door that issues tokens for it admits the name first (`Directory::admit`).
    pub fn certificate(&self, connection: &Connection) -> Option<Principal> {
        let mut principal = self.settings.load().certificate(connection.certificate.as_ref()?)?;
        let good = self.certificate_standing(connection, &principal.name) == Standing::Good;
        principal.auth_time = Some(self.clock.now());
        good.then_some(principal)
    }

    /// Expired counts as revoked.
    fn certificate_standing(&self, connection: &Connection, name: &str) -> Standing {
        let Some(certificate) = &connection.certificate else { return Standing::Revoked };
        let now = self.clock.now();
        if now < certificate.not_before || now > certificate.not_after {
            return Standing::Revoked;
        }
        let id = format!("{}#{}", certificate.issuer, certificate.serial);
        // A principal's earlier credentials may be revoked; the certificate itself is proved anew now.
        let credential =
            Credential { certificate: Some(&id), subject: Some(name), issued: now, ..Credential::default() };
        self.revocations.standing(&credential)
    }

    /// Argon2id PHC string with the configured parameters, in the pool.
    ///
    /// # Errors
    /// [`SignInError::Overloaded`] when the queue is full.
    pub async fn hash(&self, password: &str) -> Result<String, SignInError> {
        let hashing = self.settings.load().hashing.clone();
        self.pool.hash(password, &hashing).await
    }

    /// `[[client]]` secret in constant time: its principal `client:<id>`. A client without a secret (public) proves
    /// nothing here. Guesses are limited per client and address.
    ///
    /// # Errors
    /// [`SignInError::Wrong`], [`SignInError::TooOften`], or the store is away.
    pub async fn client(
        &self,
        id: &str,
        secret: &str,
        client_ip: std::net::IpAddr,
    ) -> Result<Principal, SignInError> {
        let limits = limits::Limits::of_client(self.counters(), id, client_ip);
        limits.check().await?;
        let settings = self.settings.load_full();
        let client = settings.client(id);
        let known = client.and_then(|client| client.secret.as_ref());
        match client.filter(|_| known.is_some_and(|known| known.equals(secret.as_bytes()))) {
            Some(client) => Ok(principal_of_client(client)),
            None => Err(limits.failed().await),
        }
    }
}

#[async_trait::async_trait]
impl PrincipalSource for Identifier {
    /// Accounts, configured clients and certificate principals as they are now; of a provider's subject only that the
    /// provider is still configured.
    async fn current(&self, name: &str) -> Result<Option<Principal>, StoreError> {
        let settings = self.settings.load_full();
        if let Some(id) = name.strip_prefix("client:") {
            return Ok(settings.client(id).map(principal_of_client));
        }
        if let Some(account) = self.directory.find(name).await? {
            return Ok((!account.disabled).then(|| principal_of(&account)));
        }
        if let Some((provider, _)) = name.split_once(':')
            && settings.has_provider(provider)
        {
            return Ok(Some(Principal::new(name, PrincipalKind::User, AuthMethod::Bearer)));
        }
        Ok(settings.certificate_named(name))
    }
}

/// An account as the principal it becomes after a password.
pub fn principal_of(account: &Account) -> Principal {
    let mut principal = Principal::new(account.name.as_str(), PrincipalKind::User, AuthMethod::Password);
    principal.roles = role_names(&account.roles);
    principal.attributes = account.attributes.clone();
    principal.tenant = account.tenant.as_deref().map(Arc::from);
    principal.acr = Acr::One;
    principal.amr = vec![Arc::from("pwd")];
    principal.email = account.email.as_deref().filter(|_| account.email_verified).map(Arc::from);
    principal
}

fn principal_of_client(client: &config::Client) -> Principal {
    let mut principal =
        Principal::new(format!("client:{}", client.id), PrincipalKind::Client, AuthMethod::Password);
    principal.roles = role_names(&client.roles);
    principal.attributes = client.attributes.clone();
    principal.acr = Acr::One;
    principal.client_id = Some(Arc::from(client.id.as_str()));
    principal.scope = client.scopes.iter().map(|scope| Arc::from(scope.as_str())).collect();
    principal
}

/// Sorted, each once.
fn role_names(roles: &[RoleName]) -> Vec<Arc<str>> {
    let mut names: Vec<_> = roles.iter().map(RoleName::shared).collect();
    names.sort();
    names.dedup();
    names
}

fn identified(principal: Arc<Principal>, clear_cookie: bool) -> Identified {
    Identified { principal, clear_cookie, token_issued: None, store_is_down: false }
}

fn away(error: StoreError) -> Refusal {
    Refusal::new(RefusalKind::StoreUnavailable, error.to_string())
}

/// The scheme in lower case and what follows it (RFC 9110 §11.4).
fn authorization(headers: &HeaderMap) -> Result<Option<(String, &str)>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(RefusalKind::NotCanonical, "two Authorization headers"));
    }
    // Bytes beyond ASCII are in no token: what follows the scheme is then empty, and wrong.
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
    let scheme = String::from_utf8_lossy(scheme).to_ascii_lowercase();
    let credentials = std::str::from_utf8(rest).unwrap_or_default().trim_matches(' ');
    Ok(Some((scheme, credentials)))
}

enum CookieIs {
    Absent,
    /// Several of the name: none is ours for certain.
    Ambiguous,
    One(String),
}

/// The cookie of exactly this name over all `Cookie` headers (RFC 6265 §5.4).
fn cookie(headers: &HeaderMap, name: &str) -> CookieIs {
    let mut found = CookieIs::Absent;
    for header in headers.get_all(COOKIE) {
        for pair in header.as_bytes().split(|byte| *byte == b';') {
            let Ok(pair) = std::str::from_utf8(pair) else { continue };
            let Some((key, value)) = pair.trim_matches([' ', '\t']).split_once('=') else { continue };
            if key.trim_end_matches([' ', '\t']) != name {
                continue;
            }
            if !matches!(found, CookieIs::Absent) {
                return CookieIs::Ambiguous;
            }
            found = CookieIs::One(value.trim_matches([' ', '\t']).to_owned());
        }
    }
    found
}
