//! A CORS preflight: answered by the route's origins, without authentication, and recorded like everything else.
//!
//! Called by `gateway` before the stages, as a browser sends no credentials with it.

use http::{HeaderMap, Method, Response, StatusCode};

use super::seen::Seen;
use super::{Gateway, Routing, answers, browser};
use crate::http::Caller;
use crate::model::{Body, Refusal, RefusalKind};
use crate::record::Outcome;

impl Gateway {
    /// A CORS preflight: answered by the route's origins, without authentication.
    pub(super) async fn preflight(
        &self,
        routing: &Routing,
        caller: &Caller,
        headers: &HeaderMap,
        asked: &Method,
        seen: &mut Seen,
    ) -> Response<Body> {
        let entry = match self.route(routing, caller, asked, seen) {
            Ok(entry) => entry,
            Err((refusal, _)) => return Box::pin(self.failed(caller, seen, None, &refusal)).await,
        };
        let Some(origin) = browser::listed_origin(entry, headers) else {
            let refusal =
                Refusal::new(RefusalKind::CrossSite, "the origin is not in the route's cors.origins");
            return Box::pin(self.failed(caller, seen, None, &refusal)).await;
        };
        let status = StatusCode::NO_CONTENT;
        if let Err(error) = self.services.recorder.refused(&seen.event(Outcome::Allow, None), 204).await {
            let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
            return answers::problem(&refusal, caller.request_id, false);
        }
        self.measure(seen, "allow", status.as_u16());
        let mut answer = answers::bare(status, caller.request_id);
        browser::answer_preflight(entry, asked, headers, answer.headers_mut());
        browser::allow_origin(entry, Some(origin), answer.headers_mut());
        answer
    }
}
