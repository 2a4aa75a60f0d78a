//! The verdict about somebody whom another program names: there is no credential to look at, so it is the policy's alone.
//! Another thing that can be asked about is a variant of [`Thing`].
//!
//! Called by the decision door, with its own caller proved and its question read.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use http::{HeaderMap, Method};

use super::Gateway;
use super::seen::Seen;
use crate::decide::{Permit, Question};
use crate::http::Caller;
use crate::model::{Principal, Refusal, RefusalKind, Target};
use crate::record::Outcome;

/// What somebody wants to act on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Thing {
    /// A path, as a request line has it.
    Path(String),
    /// Anything else, by its name in the policy.
    Named(String),
}

/// A question about somebody.
pub struct Evaluated<'a> {
    /// Who would act.
    pub principal: &'a Arc<Principal>,
    /// Why it may do nothing, whatever the policy says.
    pub barred: Option<&'static str>,
    /// On what.
    pub thing: &'a Thing,
    /// What it would do: a method, or a verb of the policy.
    pub action: &'a str,
    /// On which host.
    pub host: &'a str,
    /// From which address.
    pub ip: IpAddr,
    /// Over TLS.
    pub secure: bool,
}

impl Gateway {
    /// The verdict: nothing when it is allowed, else why not. It is in the log when this returns, as one access event.
    ///
    /// # Errors
    /// 503 when it cannot be recorded.
    pub async fn evaluate(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        asked: &Evaluated<'_>,
    ) -> Result<Option<RefusalKind>, Refusal> {
        let mut seen = self.seen_of(caller, headers, asked);
        let refusal = match self.weighed(caller, asked, &mut seen).await {
            Ok(_permit) => match self.services.recorder.begin(&seen.event(Outcome::Allow, None)).await {
                Ok(pending) => {
                    self.close(&seen, pending, 200, None);
                    return Ok(None);
                }
                Err(error) => Refusal::new(RefusalKind::AuditUnavailable, error.to_string()),
            },
            Err(refusal) => refusal,
        };
        let refusal = self.record_refusal(&seen, refusal, None).await;
        match refusal.kind {
            RefusalKind::AuditUnavailable => Err(refusal),
            kind => Ok(Some(kind)),
        }
    }

    /// The same verdict, for a search among many: nothing is recorded.
    pub async fn would_allow(&self, caller: &Caller, asked: &Evaluated<'_>) -> bool {
        let mut seen = self.seen_of(caller, &HeaderMap::new(), asked);
        self.weighed(caller, asked, &mut seen).await.is_ok()
    }

    /// Records that another program was answered, as an access of its own.
    ///
    /// # Errors
    /// 503 when it cannot be recorded.
    pub async fn record_call(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        client: &Arc<Principal>,
    ) -> Result<(), Refusal> {
        let mut seen = Seen::new(caller, headers, self.services.clock.now());
        seen.principal = Some(Arc::clone(client));
        match self.services.recorder.begin(&seen.event(Outcome::Allow, None)).await {
            Ok(pending) => {
                self.close(&seen, pending, 200, None);
                Ok(())
            }
            Err(error) => {
                let refusal = Refusal::new(RefusalKind::AuditUnavailable, error.to_string());
                Err(self.record_refusal(&seen, refusal, None).await)
            }
        }
    }

    /// Records that another program was refused, or one of its questions: what it is to be told.
    pub async fn record_refused_call(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        client: Option<&Arc<Principal>>,
        refusal: Refusal,
    ) -> Refusal {
        let mut seen = Seen::new(caller, headers, self.services.clock.now());
        seen.principal = client.cloned();
        self.record_refusal(&seen, refusal, None).await
    }

    fn seen_of(&self, caller: &Caller, headers: &HeaderMap, asked: &Evaluated<'_>) -> Seen {
        let now = self.services.clock.now();
        let mut seen = Seen::unread(caller.client_ip, caller.request_id, &Method::GET, headers, now);
        seen.principal = Some(Arc::clone(asked.principal));
        seen.named = Some(asked.action.into());
        seen
    }

    /// A panic denies, as everywhere.
    async fn weighed(
        &self,
        caller: &Caller,
        asked: &Evaluated<'_>,
        seen: &mut Seen,
    ) -> Result<Permit, Refusal> {
        let path = self.weigh(caller, asked, seen);
        AssertUnwindSafe(path).catch_unwind().await.unwrap_or_else(|_| {
            Err(Refusal::new(RefusalKind::Internal, "a panic while a decision was asked for"))
        })
    }

    async fn weigh(
        &self,
        caller: &Caller,
        asked: &Evaluated<'_>,
        seen: &mut Seen,
    ) -> Result<Permit, Refusal> {
        let mut host = Cow::Borrowed(asked.host);
        let object = match asked.thing {
            Thing::Named(name) => {
                seen.instead_of_a_path(name);
                Cow::Borrowed(name.as_str())
            }
            Thing::Path(path) => {
                // A verb that is no method has no route of its own.
                let method = Method::from_bytes(asked.action.as_bytes()).unwrap_or_default();
                let target = Target::from_parts(method.as_str(), asked.host, path, asked.secure)
                    .map_err(|error| Refusal::new(RefusalKind::NotCanonical, error.0))?;
                seen.canonical(&target);
                host = Cow::Owned(target.host.name().to_owned());
                let asking = Caller { target, ..caller.clone() };
                let routing = self.routing.load_full();
                match self.route(&routing, &asking, &method, seen) {
                    Ok(entry) if entry.config.resource.is_some() => {
                        Cow::Owned(entry.config.resource.clone().unwrap_or_default())
                    }
                    Err((refusal, _)) if refusal.kind == RefusalKind::NotCanonical => return Err(refusal),
                    // Paths without a route are those of whoever asks.
                    _ => Cow::Owned(asking.target.path.as_str().to_owned()),
                }
            }
        };
        if let Some(why) = asked.barred {
            return Err(Refusal::new(RefusalKind::Forbidden, why));
        }
        let question = Question {
            object: &object,
            action: asked.action,
            host: &host,
            ip: asked.ip,
            secure: asked.secure,
        };
        let began = Instant::now();
        let decision = self.services.decider.decide_once(asked.principal, &question).await;
        self.decided(decision, began, seen)
    }
}
