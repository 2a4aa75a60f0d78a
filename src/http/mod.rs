//! What doors share: services, the caller, answers, pages, cookies, CSRF, `return_to`, the end of a
//! sign-in, security events.
//!
//! A door is a module with `pub fn routes(&mut web::ServiceConfig)`; `app` registers all of them. One more door is one
//! more module and one line there. Endpoints are registered under `/auth`, where `listen` puts what comes to
//! `listen.prefix`; what is written into answers is made with `Listen::endpoint`.
pub mod answer;
pub mod body;
pub mod caller;
pub mod cookies;
pub mod csrf;
pub mod event;
pub mod landing;
pub mod origin;
pub mod page;
pub mod return_to;

use crate::model::{Connection, RequestId, SharedClock, Target};
use arc_swap::ArcSwap;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything that a door may need; `web::Data<Services>`.
pub struct Services {
    /// The live configuration.
    pub config: ArcSwap<crate::config::Config>,
    /// Accounts and principal names.
    pub directory: Arc<crate::accounts::Directory>,
    /// Our signing keys.
    pub keys: Arc<crate::keys::KeyRing>,
    /// Which nodes live.
    pub members: Arc<crate::cluster::Members>,
    /// Tokens: issue, verify, refresh, revoke.
    pub tokens: Arc<crate::tokens::Tokens>,
    /// Browser sessions.
    pub sessions: Arc<crate::sessions::Sessions>,
    /// Who is asking.
    pub identifier: Arc<crate::identify::Identifier>,
    /// May they.
    pub decider: Arc<crate::decide::Decider>,
    /// The audit log.
    pub recorder: Arc<crate::record::Recorder>,
    /// What is revoked.
    pub revocations: Arc<crate::revocation::Revocations>,
    /// What nodes share.
    pub store: crate::store::Store,
    /// Counters and histograms.
    pub metrics: Arc<crate::metrics::Metrics>,
    /// The time.
    pub clock: SharedClock,
}

/// Put into the request's extensions by `listen` (actix: `req.extensions().get::<Caller>()`); handlers of doors take
/// it as an argument.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The connection that the request came on.
    pub connection: Arc<Connection>,
    /// The new id of this request.
    pub request_id: RequestId,
    /// The client's address, past trusted proxies.
    pub client_ip: IpAddr,
    /// What is asked for, in its one reading.
    pub target: Target,
    /// https, also when a trusted proxy says so.
    pub secure: bool,
}
