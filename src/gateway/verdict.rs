//! The verdict for another door, which forwards nothing.
//!
//! Called by `gateway::ask`, and so by forward-auth and the decision API.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::admit::{Admitted, Purpose};
use super::seen::Seen;
use super::{Asked, Gateway, Routing, Verdict, browser, login};
use crate::model::{Refusal, RefusalKind, RequestId};
use crate::record::{Outcome, RecordError};

impl Gateway {
    /// Records the refusal of a request that has no target: what is to be answered, which is another refusal when it
    /// cannot be recorded.
    pub async fn record_unread(
        &self,
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        refusal: Refusal,
    ) -> Refusal {
        let seen = Seen::unread(client_ip, request_id, method, headers, self.services.clock.now());
        self.record_refusal(&seen, refusal, None).await
    }

    /// Records what would have been said of an original request that cannot be read, and was let pass.
    ///
    /// # Errors
    /// When it is not in the log.
    pub async fn observe_unread(
        &self,
        client_ip: IpAddr,
        request_id: RequestId,
        method: &Method,
        headers: &HeaderMap,
        refusal: &Refusal,
    ) -> Result<(), RecordError> {
        let mut seen = Seen::unread(client_ip, request_id, method, headers, self.services.clock.now());
        seen.shadow = Some("deny");
        let event = seen.event(Outcome::Allow, Some(refusal.kind.name()));
        self.services.recorder.refused(&event, 200).await?;
        self.measure(&seen, "allow", 200);
        Ok(())
    }

    /// The verdict for another door, with its event.
    pub(super) async fn consider(&self, routing: &Routing, asked: &Asked<'_>, seen: &mut Seen) -> Verdict {
        let caller = asked.caller;
        let verdict = match self.admit(routing, caller, asked.headers, Purpose::Verdict, seen).await {
            Ok(admitted) => {
                let Admitted { entry, principal, roles, epoch, store_is_down, .. } = admitted;
                let set = match self.identity(entry, &principal, &roles) {
                    Ok(identity) => self
                        .still_stands(caller, asked.headers, entry, &principal, epoch, store_is_down)
                        .await
                        .map(|()| identity),
                    Err(refusal) => Err(refusal),
                };
                set.map(|identity| {
                    let mut headers = HeaderMap::new();
                    identity.set(entry.config.identity_headers, &mut headers);
                    Verdict::Allowed { principal, roles, headers }
                })
            }
            Err((refusal, entry)) => {
                let login = login(routing, caller, entry, &refusal, seen);
                let navigates = browser::is_navigation(&caller.target.method, asked.headers);
                let roles = seen.decision.as_ref().map(|decision| Arc::clone(&decision.roles));
                let (principal, roles) = (seen.principal.clone(), roles.unwrap_or_default());
                Ok(Verdict::Refused { refusal, login, navigates, principal, roles })
            }
        };
        let verdict = verdict.unwrap_or_else(Verdict::unknown);
        self.record_verdict(asked, seen, verdict).await
    }

    /// Records what another door was told.
    async fn record_verdict(&self, asked: &Asked<'_>, seen: &mut Seen, verdict: Verdict) -> Verdict {
        if asked.observe {
            seen.shadow = Some(match &verdict {
                Verdict::Allowed { .. } => "allow",
                Verdict::Refused { .. } => "deny",
            });
        }
        match verdict {
            Verdict::Refused { refusal, login, navigates, principal, roles } if !asked.observe => {
                let status = login.as_ref().filter(|_| navigates).map(|_| 302);
                let refusal = self.record_refusal(seen, refusal, status).await;
                let login = login.filter(|_| refusal.kind.status().is_client_error());
                Verdict::Refused { refusal, login, navigates, principal, roles }
            }
            verdict => match self.services.recorder.begin(&seen.event(Outcome::Allow, None)).await {
                Ok(pending) => {
                    self.close(seen, pending, 200, None);
                    verdict
                }
                Err(error) => {
                    let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
                    let refusal = self.record_refusal(seen, refusal, None).await;
                    Verdict::unknown(refusal)
                }
            },
        }
    }
}
