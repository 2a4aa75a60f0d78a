//! HTTP Basic (RFC 7617) on routes that list `password`. What was verified is remembered for a minute, so that not each
//! request costs a password hash; the account is looked at again every second.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Asking, Identifier, SignInError, principal_of};
use crate::model::{Principal, Refusal, RefusalKind, Timestamp};
use crate::revocation::{Credential, Standing};

/// How long a verified password is believed.
const VERIFIED: Duration = Duration::from_secs(60);

/// How long the account is believed to be as it was read.
const ACCOUNT: Duration = Duration::from_secs(1);

/// A verified pair of name and password; the pair itself is only in the key, as a keyed hash.
#[derive(Clone)]
pub(super) struct Remembered {
    principal: Arc<Principal>,
    password_hash: Option<String>,
    verified: Timestamp,
    looked: Timestamp,
    epoch: u64,
}

impl Identifier {
    /// The principal of a `Basic` credential; `credentials` is what follows the scheme.
    pub(super) async fn basic(
        &self,
        credentials: &str,
        asking: &Asking<'_>,
    ) -> Result<Arc<Principal>, Refusal> {
        let decoded = STANDARD.decode(credentials).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = Zeroizing::new(decoded.ok_or_else(|| wrong("malformed Basic credentials"))?);
        let (username, password) = pair.split_once(':').ok_or_else(|| wrong("no `:` in them"))?;
        let key = hex::encode(hmac::sign(&self.basic_key, pair.as_bytes()));
        if let Some(remembered) = self.remembered(&key, username).await? {
            return Ok(remembered);
        }
        let epoch = self.revocations.epoch();
        let principal = Arc::new(self.password(username, password, asking.client_ip).await.map_err(refusal)?);
        let account = self.directory.find(username).await.map_err(super::away)?;
        let now = self.clock.now();
        let remembered = Remembered {
            principal: Arc::clone(&principal),
            password_hash: account.and_then(|account| account.password_hash),
            verified: now,
            looked: now,
            epoch,
        };
        self.basic.put(&key, remembered);
        Ok(principal)
    }

    /// The principal that this pair was verified for, if neither time nor a change ended that.
    async fn remembered(&self, key: &str, username: &str) -> Result<Option<Arc<Principal>>, Refusal> {
        let Some(mut known) = self.basic.get(key) else { return Ok(None) };
        let now = self.clock.now();
        if now < known.verified || now.since(known.verified) >= VERIFIED {
            self.basic.remove(key);
            return Ok(None);
        }
        let epoch = self.revocations.epoch();
        if epoch != known.epoch || now.since(known.looked) >= ACCOUNT {
            let account = self.directory.find(username).await.map_err(super::away)?;
            let same =
                account.filter(|account| !account.disabled && account.password_hash == known.password_hash);
            let Some(account) = same else {
                self.basic.remove(key);
                return Ok(None);
            };
            let mut principal = principal_of(&account);
            principal.auth_time = known.principal.auth_time;
            if *known.principal != principal {
                known.principal = Arc::new(principal);
            }
            (known.looked, known.epoch) = (now, epoch);
            self.basic.put(key, known.clone());
        }
        let credential = Credential {
            subject: Some(&known.principal.name),
            issued: known.verified,
            ..Credential::default()
        };
        match self.revocations.standing(&credential) {
            Standing::Good => Ok(Some(known.principal)),
            Standing::Revoked => {
                self.basic.remove(key);
                Ok(None)
            }
            Standing::Unknown => {
                Err(Refusal::new(RefusalKind::StoreUnavailable, "revocations are not known"))
            }
        }
    }
}

fn wrong(detail: &'static str) -> Refusal {
    Refusal::new(RefusalKind::Unauthenticated, detail)
}

fn refusal(error: SignInError) -> Refusal {
    match error {
        SignInError::Wrong => wrong("wrong name or password"),
        SignInError::TooOften { retry_after } => {
            Refusal::new(RefusalKind::RateLimited, "too many failed sign-ins").retry_after(retry_after)
        }
        SignInError::Overloaded => Refusal::new(RefusalKind::Overloaded, "the password queue is full"),
        SignInError::Store(error) => super::away(error),
    }
}
