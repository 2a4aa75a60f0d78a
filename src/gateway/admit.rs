//! The stages up to the permit, in order: route, identify, step-up, cross-site, decide. Both `serve` and `ask` go here.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method};

use super::identity::{Sign, Values};
use super::routes::{Entry, Found};
use super::seen::Seen;
use super::{Gateway, Routing, browser};
use crate::config::{is_access, is_reserved};
use crate::decide::{Decision, Permit, Question};
use crate::http::Caller;
use crate::identify::{Asking, Identified};
use crate::model::{Acr, AuthMethod, Principal, Refusal, RefusalKind};

/// What the permit is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// The request goes to the route's upstream; without one there is no route.
    Forward,
    /// Another door asks.
    Verdict,
}

/// What the permit stands on.
pub(super) struct Admitted<'r> {
    pub(super) entry: &'r Entry,
    pub(super) permit: Permit,
    pub(super) principal: Arc<Principal>,
    pub(super) roles: Arc<[Arc<str>]>,
    /// Of the revocations, when the identity was proved.
    pub(super) epoch: u64,
    /// The identity is known from before; whether it is revoked is not known.
    pub(super) store_is_down: bool,
}

/// A refusal, with its route when that is known.
pub(super) type Refused<'r> = (Refusal, Option<&'r Entry>);

impl Gateway {
    pub(super) async fn admit<'r>(
        &self,
        routing: &'r Routing,
        caller: &Caller,
        headers: &HeaderMap,
        purpose: Purpose,
        seen: &mut Seen,
    ) -> Result<Admitted<'r>, Refused<'r>> {
        let entry = self.route(routing, caller, &caller.target.method, seen)?;
        let refuse = |refusal| (refusal, Some(entry));
        if purpose == Purpose::Forward && entry.config.upstream.is_none() {
            let why = "the route has no upstream: it is for forward-auth only";
            return Err((Refusal::new(RefusalKind::NoRoute, why), None));
        }
        let epoch = self.services.revocations.epoch();
        let identified = self.identify(caller, headers, entry).await.map_err(refuse)?;
        seen.clear_cookie = identified.clear_cookie;
        seen.store_is_down = identified.store_is_down;
        seen.principal = Some(Arc::clone(&identified.principal));
        let principal = identified.principal;
        self.step_up(entry, &principal).map_err(refuse)?;
        if principal.method == AuthMethod::Session && !browser::may_act(caller, headers, entry) {
            return Err(refuse(Refusal::new(RefusalKind::CrossSite, "a session was used from another site")));
        }
        let permit = self.decide(caller, entry, &principal, seen).await.map_err(refuse)?;
        let roles = seen.decision.as_ref().map(|decision| Arc::clone(&decision.roles)).unwrap_or_default();
        let store_is_down = identified.store_is_down;
        Ok(Admitted { entry, permit, principal, roles, epoch, store_is_down })
    }

    /// The route that takes the target, with `method`.
    pub(super) fn route<'r>(
        &self,
        routing: &'r Routing,
        caller: &Caller,
        method: &Method,
        seen: &mut Seen,
    ) -> Result<&'r Entry, Refused<'r>> {
        let target = &caller.target;
        let encoded = || {
            let why = "the path has an encoded slash or percent, and no route takes it";
            Refusal::new(RefusalKind::NotCanonical, why)
        };
        let path = target.path.as_str();
        if is_reserved(path, &routing.prefix) || (routing.access && is_access(path)) {
            let why = "a path of our own, on a host that is neither that of public_url nor a route's";
            return Err((Refusal::new(RefusalKind::NoRoute, why), None));
        }
        match routing.routes.find(target.host.name(), target.path.as_str(), method) {
            Found::Nothing | Found::OtherMethods(..) if target.encoded.any() => {
                seen.not_canonical();
                Err((encoded(), None))
            }
            Found::Nothing => {
                Err((Refusal::new(RefusalKind::NoRoute, "no route takes this host and path"), None))
            }
            Found::OtherMethods(allow, entry) => {
                seen.mask(entry);
                let mut refusal =
                    Refusal::new(RefusalKind::MethodNotAllowed, "the route does not take this method");
                refusal.allow = Some(allow);
                Err((refusal, None))
            }
            Found::Route(entry) => {
                seen.routed(entry);
                let slash = target.encoded.slash && !entry.config.allow_encoded_slash;
                let percent = target.encoded.percent && !entry.config.allow_encoded_percent;
                if slash || percent {
                    seen.not_canonical();
                    return Err((encoded(), Some(entry)));
                }
                Ok(entry)
            }
        }
    }

    async fn identify(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        entry: &Entry,
    ) -> Result<Identified, Refusal> {
        let asking = Asking {
            headers,
            connection: &caller.connection,
            host: caller.target.host.name(),
            listed: &entry.config.authenticate,
            client_ip: caller.client_ip,
            allow_known: entry.allow_known(),
        };
        self.services.identifier.identify(&asking).await
    }

    /// Is the sign-in strong and recent enough for the route? (RFC 9470)
    fn step_up(&self, entry: &Entry, principal: &Principal) -> Result<(), Refusal> {
        let weak = entry.config.require_acr.filter(|required| principal.acr < *required);
        let old = entry.config.max_auth_age.filter(|age| {
            let now = self.services.clock.now();
            principal.auth_time.is_none_or(|time| now.since(time) > *age)
        });
        if weak.is_none() && old.is_none() {
            return Ok(());
        }
        if principal.is_anonymous() {
            return Err(Refusal::new(RefusalKind::Unauthenticated, "the route needs a sign-in"));
        }
        let mut refusal = Refusal::new(RefusalKind::StepUpRequired, "the sign-in is too weak or too old");
        let (acr, age) = (entry.config.require_acr, entry.config.max_auth_age);
        refusal.challenge = Some(step_up_challenge(acr, age));
        Err(refusal)
    }

    async fn decide(
        &self,
        caller: &Caller,
        entry: &Entry,
        principal: &Arc<Principal>,
        seen: &mut Seen,
    ) -> Result<Permit, Refusal> {
        let target = &caller.target;
        let question = Question {
            object: entry.config.resource.as_deref().unwrap_or(target.path.as_str()),
            action: target.method.as_str(),
            host: target.host.name(),
            ip: caller.client_ip,
            secure: caller.secure,
        };
        let began = Instant::now();
        let decision = self.services.decider.decide(principal, &question).await;
        self.decided(decision, began, seen)
    }

    /// What a decision is for the request.
    pub(super) fn decided(
        &self,
        mut decision: Decision,
        began: Instant,
        seen: &mut Seen,
    ) -> Result<Permit, Refusal> {
        self.services.metrics.decision(began.elapsed());
        let permit = decision.permit.take();
        let error = decision.error.take();
        seen.decision = Some(decision);
        match (permit, error) {
            (Some(permit), None) => Ok(permit),
            (_, Some(error)) => Err(Refusal::new(RefusalKind::Forbidden, error)),
            (None, None) => Err(Refusal::new(RefusalKind::Forbidden, "no rule allows it")),
        }
    }

    /// The last look before the first upstream byte: what was revoked meanwhile is refused, and so is what this
    /// node cannot know, but for what was admitted (and recorded) as such.
    pub(super) async fn still_stands(
        &self,
        caller: &Caller,
        headers: &HeaderMap,
        entry: &Entry,
        principal: &Arc<Principal>,
        epoch: u64,
        store_is_down: bool,
    ) -> Result<(), Refusal> {
        if principal.is_anonymous() {
            return Ok(());
        }
        let revocations = &self.services.revocations;
        if !store_is_down && !revocations.is_fresh() {
            return Err(Refusal::new(
                RefusalKind::StoreUnavailable,
                "revocations are not known at this moment",
            ));
        }
        if revocations.epoch() == epoch {
            return Ok(());
        }
        let again = Box::pin(self.identify(caller, headers, entry)).await?;
        if again.principal.name == principal.name {
            Ok(())
        } else {
            Err(Refusal::new(RefusalKind::Unauthenticated, "the credential was revoked meanwhile"))
        }
    }

    /// The identity headers' values, with an assertion where the route wants one.
    pub(super) fn identity(
        &self,
        entry: &Entry,
        principal: &Arc<Principal>,
        roles: &Arc<[Arc<str>]>,
    ) -> Result<Values, Refusal> {
        let sign: Sign<'_> =
            &|principal, roles, audience| self.services.tokens.sign_assertion(principal, roles, audience);
        let sign = entry.config.assertion.then_some(sign);
        let now = self.services.clock.now();
        self.identities
            .values(principal, roles, &entry.audience, now, sign)
            .map_err(|error| Refusal::new(RefusalKind::Internal, format!("no assertion: {error}")))
    }
}

/// All that the route requires: whoever signs in again for a part of it would be refused once more.
fn step_up_challenge(acr: Option<Acr>, age: Option<std::time::Duration>) -> String {
    let mut text = "error=\"insufficient_user_authentication\", \
                    error_description=\"a stronger or more recent sign-in is needed\""
        .to_owned();
    if let Some(acr) = acr {
        text.push_str(&format!(", acr_values=\"{acr}\""));
    }
    if let Some(age) = age {
        text.push_str(&format!(", max_age=\"{}\"", age.as_secs()));
    }
    text
}
