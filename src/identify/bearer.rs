//! `Authorization: Bearer`: access tokens of ours, and of the issuers that the configuration trusts (RFC 6750).

use std::sync::Arc;
use std::time::Duration;

use super::{Asking, Identified, Identifier};
use crate::accounts::AccountError;
use crate::model::{Refusal, RefusalKind};
use crate::revocation::{Credential, Standing};
use crate::tokens::trusted::TrustedError;
use crate::tokens::{TokenError, Verified};

impl Identifier {
    pub(super) async fn bearer(&self, token: &str, asking: &Asking<'_>) -> Result<Identified, Refusal> {
        let (verified, store_is_down) = self.verified(token, asking.allow_known).await?;
        if let Some(thumbprint) = &verified.bound_to_certificate {
            let shown = asking.connection.certificate.as_ref().map(|certificate| &certificate.thumbprint);
            if shown != Some(thumbprint) {
                return Err(invalid("it is bound to another client certificate".to_owned()));
            }
        }
        let principal = Arc::clone(&verified.principal);
        Ok(Identified { principal, clear_cookie: false, token_issued: Some(verified.issued), store_is_down })
    }

    /// The token as our own, else as a trusted issuer's. One of theirs never counts as ours, nor the other way: each is
    /// verified with the keys of the one issuer that it names, and has a cache of its own. With it, whether it counts
    /// although the store is away: one of ours that was verified before, on a route that allows that.
    async fn verified(
        &self,
        token: &str,
        allow_known: Option<Duration>,
    ) -> Result<(Arc<Verified>, bool), Refusal> {
        let trusted = self.trusted.load_full();
        if let Some(verified) = trusted.known(token) {
            return self.stands(verified).map(|verified| (verified, false));
        }
        let error = match (self.tokens.verify(token), allow_known) {
            (Ok(verified), _) => return Ok((verified, false)),
            (Err(TokenError::Unknown), Some(within)) => match self.tokens.verify_known(token, within) {
                Ok(verified) => return Ok((verified, true)),
                Err(error) => error,
            },
            (Err(error), _) => error,
        };
        let claimed = match &error {
            TokenError::Invalid(_) if !trusted.is_empty() => trusted.claimed(token),
            _ => None,
        };
        let Some(claimed) = claimed else {
            return Err(match error {
                TokenError::Unknown | TokenError::Store(_) => {
                    Refusal::new(RefusalKind::StoreUnavailable, error.to_string())
                }
                TokenError::Invalid(_) | TokenError::TooLong(_) | TokenError::Key(_) => {
                    invalid(error.to_string())
                }
            });
        };
        let proved = trusted.prove(claimed).await.map_err(|error| match error {
            TrustedError::Invalid(why) => invalid(why),
            TrustedError::NoKeys { issuer, retry_after } => {
                let detail = format!("the keys of the trusted issuer `{issuer}` are not known");
                Refusal::new(RefusalKind::Overloaded, detail).retry_after(retry_after)
            }
        })?;
        let verified = Arc::clone(proved.verified());
        let principal = &verified.principal;
        match self.directory.admit(&principal.name, principal.kind).await {
            Ok(()) => {}
            Err(AccountError::Store(error)) => return Err(super::away(error)),
            Err(error) => return Err(invalid(error.to_string())),
        }
        trusted.remember(proved);
        self.stands(verified).map(|verified| (verified, false))
    }

    /// Whether an operator revoked the principal, session or token here; the issuer's own revocations are not told.
    fn stands(&self, verified: Arc<Verified>) -> Result<Arc<Verified>, Refusal> {
        let principal = &verified.principal;
        let credential = Credential {
            jti: Some(&*verified.jti).filter(|jti| !jti.is_empty()),
            sid: principal.sid.as_deref(),
            subject: Some(&principal.name),
            issued: verified.issued,
            ..Credential::default()
        };
        match self.revocations.standing(&credential) {
            Standing::Good => Ok(verified),
            Standing::Revoked => Err(invalid("it is revoked".to_owned())),
            Standing::Unknown => {
                Err(Refusal::new(RefusalKind::StoreUnavailable, "revocations are not known"))
            }
        }
    }
}

fn invalid(detail: String) -> Refusal {
    let mut refusal = Refusal::new(RefusalKind::InvalidToken, detail);
    refusal.challenge = Some(r#"error="invalid_token""#.to_owned());
    refusal
}
