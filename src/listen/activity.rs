//! How long a connection may be quiet: `listen.limits.head_timeout` until a head is complete, `keep_alive` between requests.
//!
//! `socket` says when bytes come, `service` when a request begins and its answer ends, `connection` asks for the deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::model::{Body, BoxError};

/// What one connection is doing. Only the connection's own thread uses it; it is shared with what hyper wants `Send`.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    head_timeout: Duration,
    keep_alive: Duration,
    /// Requests whose answer has not ended.
    active: AtomicUsize,
    /// Milliseconds after `start` at which the present quiet or head began.
    since: AtomicU64,
    /// A head has begun; true on a new connection, whose first byte is due.
    head: AtomicBool,
    /// A request has come.
    served: AtomicBool,
    /// HTTP/1: what comes are requests, until another protocol takes over.
    http1: AtomicBool,
}

impl Activity {
    pub(super) fn new(head_timeout: Duration, keep_alive: Duration) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            head_timeout,
            keep_alive,
            active: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            head: AtomicBool::new(true),
            served: AtomicBool::new(false),
            http1: AtomicBool::new(true),
        })
    }

    /// HTTP/2 has pings and settings: its bytes say nothing of a head, and it may stay without a request for `keep_alive`.
    pub(super) fn multiplexed(&self) {
        self.http1.store(false, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        self.mark();
    }

    /// Another protocol took over (101).
    pub(super) fn upgraded(&self) {
        self.http1.store(false, Ordering::Relaxed);
    }

    /// True while the bytes are HTTP/1 requests.
    pub(super) fn is_http1(&self) -> bool {
        self.http1.load(Ordering::Relaxed)
    }

    /// Bytes came from the client.
    pub(super) fn read(&self) {
        if self.http1.load(Ordering::Relaxed)
            && self.active.load(Ordering::Relaxed) == 0
            && !self.head.swap(true, Ordering::Relaxed)
        {
            self.mark();
        }
    }

    /// A request's head is complete; it is active until the guard goes.
    pub(super) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.head.store(false, Ordering::Relaxed);
        self.served.store(true, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    /// True until the first request.
    pub(super) fn is_fresh(&self) -> bool {
        !self.served.load(Ordering::Relaxed)
    }

    /// When the connection has been quiet for too long; `None` while a request is active.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let limit = if self.head.load(Ordering::Relaxed) { self.head_timeout } else { self.keep_alive };
        Some(self.start + Duration::from_millis(self.since.load(Ordering::Relaxed)) + limit)
    }

    /// The shortest time after which asking again makes sense while a request is active.
    pub(super) const fn pause(&self) -> Duration {
        self.keep_alive
    }

    fn mark(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(millis, Ordering::Relaxed);
    }
}

/// One request whose answer has not ended.
#[derive(Debug)]
pub(super) struct ActiveRequest(Arc<Activity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.mark();
        }
    }
}

/// The body of an answer, which keeps its request active.
pub(super) struct AnswerBody {
    inner: Body,
    _active: ActiveRequest,
}

impl AnswerBody {
    pub(super) const fn new(inner: Body, active: ActiveRequest) -> Self {
        Self { inner, _active: active }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn heads_and_quiet_have_their_own_limits() {
        let (head, quiet) = (Duration::from_secs(5), Duration::from_secs(30));
        let activity = Activity::new(head, quiet);
        assert_eq!(activity.deadline(), Some(activity.start + head));
        let active = activity.begin();
        assert_eq!(activity.deadline(), None);
        drop(active);
        assert!(activity.deadline().unwrap() >= activity.start + quiet);
        activity.read();
        assert!(activity.deadline().unwrap() < activity.start + quiet);
        activity.multiplexed();
        activity.read();
        assert!(activity.deadline().unwrap() >= activity.start + quiet);
    }
}
