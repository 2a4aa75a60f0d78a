//! The end of a request: the refusal or failure, the log, the metrics.
//!
//! Called by `gateway` once per request, whichever way it ends.

use http::Response;

use super::seen::Seen;
use super::{Gateway, answers};
use crate::http::Caller;
use crate::model::{Body, Refusal, RefusalKind};
use crate::record::{Outcome, Pending};

impl Gateway {
    /// The answer of a request that failed: after the permit it ends the open decision, before it a refusal is recorded.
    pub(super) async fn failed(
        &self,
        caller: &Caller,
        seen: &Seen,
        pending: Option<Pending>,
        refusal: &Refusal,
    ) -> Response<Body> {
        let refusal = match pending {
            Some(pending) => {
                tracing::warn!(request_id = %caller.request_id, route = seen.route_name(), %refusal, "failed");
                self.close(seen, pending, refusal.kind.status().as_u16(), Some(refusal.kind.name()));
                refusal.clone()
            }
            None => self.record_refusal(seen, refusal.clone(), None).await,
        };
        answers::problem(&refusal, caller.request_id, false)
    }

    /// Records a refusal; what cannot be recorded is answered as such. `status`: when the answer has another one.
    pub(super) async fn record_refusal(&self, seen: &Seen, refusal: Refusal, status: Option<u16>) -> Refusal {
        let (decision, label) = match refusal.kind.status().is_server_error() {
            true => (Outcome::Error, "error"),
            false => (Outcome::Deny, "deny"),
        };
        let status = status.unwrap_or(refusal.kind.status().as_u16());
        match decision {
            Outcome::Error => {
                tracing::warn!(request_id = %seen.request_id, route = seen.route_name(), %refusal, "failed");
            }
            _ => {
                tracing::debug!(request_id = %seen.request_id, route = seen.route_name(), %refusal, "refused")
            }
        }
        let event = seen.event(decision, Some(refusal.kind.name()));
        match self.services.recorder.refused(&event, status).await {
            Ok(()) => {
                self.measure(seen, label, status);
                refusal
            }
            Err(error) => {
                tracing::error!(request_id = %seen.request_id, %error, "a refusal cannot be recorded");
                let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
                self.measure(seen, "error", refusal.kind.status().as_u16());
                refusal
            }
        }
    }

    /// Ends the open decision, before the answer's head leaves.
    pub(super) fn close(&self, seen: &Seen, pending: Pending, status: u16, reason: Option<&str>) {
        pending.finish(status, self.services.clock.now(), reason);
        self.measure(seen, "allow", status);
    }

    pub(super) fn measure(&self, seen: &Seen, decision: &'static str, status: u16) {
        let took = self.services.clock.now().since(seen.time);
        self.services.metrics.request(seen.route_name(), decision, status, took);
    }
}
