//! Both bodies of an exchange, watched while they pass: how far the upload is, and whether the answer was whole.
//!
//! Used by `forward` only.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::connection::{Connection, Idle};
use crate::model::{BoxError, Refusal, RefusalKind};

/// How far the request's body is.
#[derive(Debug)]
pub(super) struct Upload {
    began: Instant,
    sent: AtomicBool,
    /// The client is waited for, rather than the server.
    waiting: AtomicBool,
    /// The client said how long the body is: `listen` holds it to a rate.
    rated: bool,
    /// Milliseconds after `began`.
    progress: AtomicU64,
    failure: Mutex<Option<Refusal>>,
}

impl Upload {
    pub(super) fn new(rated: bool) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            sent: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            rated,
            progress: AtomicU64::new(0),
            failure: Mutex::new(None),
        })
    }

    /// True when the whole body was taken.
    pub(super) fn is_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    /// How long the rest of the body may keep everyone waiting, and the refusal when that is over: a client that sends
    /// nothing has `stream` (`None`: as long as its rate allows), a server that takes nothing has `idle`.
    pub(super) fn patience(&self, idle: Duration, stream: Duration) -> (Option<Duration>, Refusal) {
        if !self.waiting.load(Ordering::Relaxed) {
            let detail = format!("the upstream took nothing of the request for {idle:?}");
            return (Some(idle), Refusal::new(RefusalKind::UpstreamTimeout, detail));
        }
        let detail = format!("the client sent nothing of its request for {stream:?}");
        ((!self.rated).then_some(stream), Refusal::new(RefusalKind::RequestTimeout, detail))
    }

    /// Time since the last bytes were taken.
    pub(super) fn quiet_for(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.progress.load(Ordering::Relaxed)))
    }

    /// Why the body broke off, if it did.
    pub(super) fn failure(&self) -> Option<Refusal> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn advance(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(now, Ordering::Relaxed);
    }

    fn fail(&self, error: &BoxError) {
        let refusal = error.downcast_ref::<Refusal>().cloned().unwrap_or_else(|| {
            let kind = if is_malformed(error) { RefusalKind::BadRequest } else { RefusalKind::Interrupted };
            Refusal::new(kind, format!("the request's body broke off: {error}"))
        });
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

/// True when the bytes of a body were wrong; otherwise they ended.
fn is_malformed(error: &BoxError) -> bool {
    let first: &(dyn std::error::Error + 'static) = &**error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// The request's body on its way.
pub(super) struct Uploading<B> {
    pub(super) inner: B,
    pub(super) upload: Arc<Upload>,
}

impl<B> http_body::Body for Uploading<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        self.upload.waiting.store(polled.is_pending(), Ordering::Relaxed);
        match ready!(polled) {
            Some(Ok(frame)) => {
                self.upload.advance();
                if frame.is_trailers() || self.inner.is_end_stream() {
                    self.upload.sent.store(true, Ordering::Relaxed);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let error = error.into();
                self.upload.fail(&error);
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.upload.sent.store(true, Ordering::Relaxed);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A connection in use, and where it goes when the exchange was complete.
pub(super) struct Lease {
    pub(super) connection: Connection,
    pub(super) idle: Arc<Idle>,
    pub(super) upload: Option<Arc<Upload>>,
}

impl Lease {
    /// The answer was read to its end: keeps the connection if the request was sent to its end too.
    pub(super) fn complete(self) {
        if self.upload.as_ref().is_none_or(|upload| upload.is_sent()) {
            self.idle.settle(self.connection);
        }
    }
}

/// Why an answer's body broke off.
fn broken(kind: RefusalKind, detail: String) -> BoxError {
    Box::new(Refusal::new(kind, detail))
}

/// The answer's body on its way. Dropped early, it takes its connection with it.
pub(super) struct Downloading {
    incoming: Incoming,
    lease: Option<Lease>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    armed: bool,
}

impl Downloading {
    pub(super) fn new(incoming: Incoming, lease: Lease, idle: Duration) -> Self {
        Self { incoming, lease: Some(lease), idle, timer: None, armed: false }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.complete();
        }
    }

    /// True when nothing came for the whole idle time.
    fn stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let idle = self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        if !self.armed {
            if let Some(deadline) = tokio::time::Instant::now().checked_add(idle) {
                timer.as_mut().reset(deadline);
            }
            self.armed = true;
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Downloading {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.armed = false;
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                let detail = format!("the upstream broke off its answer: {error}");
                tracing::warn!("{detail}");
                Poll::Ready(Some(Err(broken(RefusalKind::UpstreamFailed, detail))))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending if self.lease.is_some() && self.stalled(cx) => {
                self.lease = None;
                let detail = format!("the upstream sent nothing for {:?}", self.idle);
                Poll::Ready(Some(Err(broken(RefusalKind::UpstreamTimeout, detail))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
