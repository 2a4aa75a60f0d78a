//! Answers that last: the credential is looked at again while they do, and their end is in the audit.
//!
//! `send` wraps the body of a long answer in [`Watched`]; `tunnel` uses the same [`Guard`] and [`StreamEnd`]. What else
//! can end a stream is one more check in [`Held::still_good`].

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;

use super::routes::Entry;
use super::seen::Seen;
use crate::http::{Caller, Services};
use crate::identify::Asking;
use crate::model::{AuthMethod, Body, BoxError, Connection, Principal, Refusal, RefusalKind};
use crate::record::{Kind, Outcome};
use crate::revocation::{Credential, Standing};

/// An answer of any kind that took this long is a stream to the audit.
const LONG: Duration = Duration::from_secs(10);
/// How soon after its head an answer is guarded; one that is over by then is not worth it.
const SETTLED: Duration = Duration::from_millis(500);
/// How often a guard looks.
const TICK: Duration = Duration::from_millis(200);
/// How long a stream is held while revocations are not known, before it is cut.
const PATIENCE: Duration = Duration::from_secs(10);

const INTERRUPTED: &str = RefusalKind::Interrupted.name();

/// The headers of a request that prove identity, kept while the request goes on without them.
pub(super) struct Credentials(Vec<(HeaderName, HeaderValue)>);

impl Credentials {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let proves =
            |name: &HeaderName| name == AUTHORIZATION || name == COOKIE || name.as_str() == "x-api-key";
        let kept = headers.iter().filter(|(name, _)| proves(name));
        Self(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
    }
}

/// What a credential can be looked at again with, once its request is gone.
pub(super) struct Held {
    connection: Arc<Connection>,
    client_ip: std::net::IpAddr,
    host: String,
    headers: HeaderMap,
    listed: Vec<AuthMethod>,
    /// For how long it goes on while this node cannot know (`allow_known`).
    allow_known: Option<Duration>,
    principal: Arc<Principal>,
    unknown: Arc<AtomicBool>,
}

impl Held {
    pub(super) fn new(
        caller: &Caller,
        credentials: Credentials,
        entry: &Entry,
        principal: &Arc<Principal>,
    ) -> Self {
        Self {
            connection: Arc::clone(&caller.connection),
            client_ip: caller.client_ip,
            host: caller.target.host.name().to_owned(),
            headers: credentials.0.into_iter().collect(),
            listed: entry.config.authenticate.clone(),
            allow_known: entry.allow_known(),
            principal: Arc::clone(principal),
            unknown: Arc::default(),
        }
    }

    /// Set once the stream went on while this node could not know whether its credential is revoked (`allow_known`).
    pub(super) fn unknown(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unknown)
    }

    /// Starts to look after it.
    pub(super) fn guard(self, services: &Arc<Services>) -> Guard {
        let shared = Arc::new(Shared {
            closed: AtomicBool::new(!self.principal.is_anonymous()),
            refusal: Mutex::new(None),
            waker: AtomicWaker::new(),
        });
        if self.principal.is_anonymous() {
            return Guard { shared, task: None };
        }
        let task = tokio::spawn(look_after(self, Arc::clone(services), Arc::clone(&shared)));
        Guard { shared, task: Some(task.abort_handle()) }
    }

    /// A credential that expired while the stream went on ends nothing; one that was revoked does.
    async fn still_good(&self, services: &Services) -> Result<(), Refusal> {
        let principal = &self.principal;
        if principal.expires.is_some_and(|expires| expires <= services.clock.now()) {
            let credential = Credential {
                sid: principal.sid.as_deref(),
                subject: Some(&principal.name),
                client: principal.client_id.as_deref(),
                issued: principal.auth_time.unwrap_or_default(),
                ..Credential::default()
            };
            return match services.revocations.standing(&credential) {
                Standing::Good => Ok(()),
                Standing::Revoked => Err(Refusal::new(RefusalKind::InvalidToken, "revoked meanwhile")),
                Standing::Unknown => Err(blind()),
            };
        }
        let asking = Asking {
            headers: &self.headers,
            connection: &self.connection,
            host: &self.host,
            listed: &self.listed,
            client_ip: self.client_ip,
            allow_known: self.allow_known,
        };
        let again = services.identifier.identify(&asking).await?;
        if again.principal.name == principal.name {
            if again.store_is_down {
                self.unknown.store(true, Ordering::Relaxed);
            }
            Ok(())
        } else {
            Err(Refusal::new(RefusalKind::Unauthenticated, "the credential was revoked meanwhile"))
        }
    }
}

fn blind() -> Refusal {
    Refusal::new(RefusalKind::StoreUnavailable, "revocations are not known at this moment")
}

struct Shared {
    /// Nothing passes now.
    closed: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    waker: AtomicWaker,
}

impl Shared {
    fn close(&self, closed: bool) {
        if self.closed.swap(closed, Ordering::AcqRel) != closed {
            self.waker.wake();
        }
    }
}

/// Looks again whenever something was revoked; holds the stream while this node cannot know, and ends it in the end.
async fn look_after(held: Held, services: Arc<Services>, shared: Arc<Shared>) {
    let mut looked = None;
    let mut blind_since: Option<Instant> = None;
    let refusal = loop {
        let epoch = services.revocations.epoch();
        let standing = match (services.revocations.is_fresh(), looked == Some(epoch)) {
            (false, _) if held.allow_known.is_none() => Err(blind()),
            (true, true) => Ok(()),
            _ => held.still_good(&services).await,
        };
        match standing {
            Ok(()) => {
                looked = Some(epoch);
                blind_since = None;
                shared.close(false);
            }
            Err(refusal) if refusal.kind == RefusalKind::StoreUnavailable => {
                shared.close(true);
                if blind_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    break refusal;
                }
            }
            Err(refusal) => break refusal,
        }
        tokio::time::sleep(TICK).await;
    };
    *shared.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    shared.waker.wake();
}

/// Lets a stream's bytes pass, holds them, or ends it. For the task that polls it; dropped, it stops looking.
pub(super) struct Guard {
    shared: Arc<Shared>,
    task: Option<AbortHandle>,
}

impl Guard {
    /// Ready when bytes may pass; an error ends the stream.
    pub(super) fn poll_pass(&self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.shared.waker.register(cx.waker());
        if let Some(refusal) = self.shared.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Poll::Ready(Err(refusal));
        }
        if self.shared.closed.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The end of a stream: one event when it was long, with `interrupted` unless it is told another end. Where it went on
/// under `allow_known`, that is said rather than that the client went away.
pub(super) struct StreamEnd {
    services: Arc<Services>,
    seen: Seen,
    status: u16,
    always: bool,
    reason: Option<&'static str>,
    unknown: Arc<AtomicBool>,
}

impl StreamEnd {
    /// `unknown`: of [`Held::unknown`].
    pub(super) fn new(services: &Arc<Services>, seen: Seen, status: u16, unknown: Arc<AtomicBool>) -> Self {
        let services = Arc::clone(services);
        Self { services, seen, status, always: false, reason: Some(INTERRUPTED), unknown }
    }

    /// The stream is one by its nature, however long it lasts.
    pub(super) fn always(mut self) -> Self {
        self.always = true;
        self
    }

    /// It ended as it should.
    pub(super) fn whole(&mut self) {
        self.reason = None;
    }

    /// It broke off.
    pub(super) fn broke(&mut self, error: &BoxError) {
        self.reason = Some(match error.downcast_ref::<Refusal>() {
            Some(refusal) => refusal.kind.name(),
            None => RefusalKind::UpstreamFailed.name(),
        });
    }
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        let lasted = self.services.clock.now().since(self.seen.time);
        if !self.always && lasted < LONG {
            return;
        }
        self.seen.store_is_down |= self.unknown.load(Ordering::Relaxed);
        let reason = self.reason.filter(|reason| !self.seen.store_is_down || *reason != INTERRUPTED);
        let mut event = self.seen.event(Outcome::Allow, reason);
        event.kind = Kind::Stream;
        if let Err(error) = self.services.recorder.stream(&event, self.status, lasted) {
            tracing::error!(request_id = %self.seen.request_id, %error, "the end of a stream is not recorded");
        }
    }
}

/// The body of a long answer.
pub(super) struct Watched {
    inner: Body,
    services: Arc<Services>,
    /// Until there is a guard.
    held: Option<Held>,
    guard: Option<Guard>,
    epoch: u64,
    began: Instant,
    end: StreamEnd,
}

impl Watched {
    pub(super) fn new(inner: Body, services: &Arc<Services>, held: Held, end: StreamEnd) -> Self {
        Self {
            inner,
            services: Arc::clone(services),
            held: Some(held),
            guard: None,
            epoch: services.revocations.epoch(),
            began: Instant::now(),
            end,
        }
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        if self.guard.is_none() {
            let due = self.end.always
                || self.began.elapsed() >= SETTLED
                || self.services.revocations.epoch() != self.epoch;
            self.guard = self.held.take_if(|_| due).map(|held| held.guard(&self.services));
        }
        self.guard.as_ref().map_or(Poll::Ready(Ok(())), |guard| guard.poll_pass(cx))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(self.poll_pass(cx)) {
            Ok(()) => ready!(Pin::new(&mut self.inner).poll_frame(cx)),
            Err(refusal) => Some(Err(BoxError::from(refusal))),
        };
        match &frame {
            Some(Ok(_)) if self.inner.is_end_stream() => self.end.whole(),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(request_id = %self.end.seen.request_id, %error, "an answer broke off");
                self.end.broke(error);
            }
            None => self.end.whole(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
