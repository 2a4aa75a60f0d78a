//! How long a connection may be quiet: `listen.limits.head_timeout` until a head is complete, `keep_alive` between requests,
//! [`STALL`] while the answers of HTTP/2 wait for the client to take them.
//!
//! `socket` says when bytes come and go, `service` when a request begins and its answer ends, `connection` asks for the
//! deadline.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::model::{Body, BoxError};

/// How long a client of HTTP/2 may leave all answers that it asked for waiting: it can do so with a window of 0 while its
/// connection is alive, where no write ever blocks.
const STALL: Duration = Duration::from_secs(60);

/// Bytes to the client that count as taking an answer: control frames, which it can ask for, are smaller.
const TAKEN: usize = 1024;

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
    /// HTTP/2: what comes are frames.
    http2: AtomicBool,
    /// Answers whose next part nobody has asked for since the last one.
    waiting: AtomicUsize,
    /// Milliseconds after `start` at which an answer was last asked for more, or taken.
    taken: AtomicU64,
    /// Bytes to the client since then.
    written: AtomicUsize,
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
            http2: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            written: AtomicUsize::new(0),
        })
    }

    /// HTTP/2 has pings and settings: its bytes say nothing of a head, and it may stay without a request for `keep_alive`.
    pub(super) fn multiplexed(&self) {
        self.http1.store(false, Ordering::Relaxed);
        self.http2.store(true, Ordering::Relaxed);
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

    /// Bytes went to the client.
    pub(super) fn wrote(&self, count: usize) {
        if self.written.fetch_add(count, Ordering::Relaxed) >= TAKEN {
            self.took();
        }
    }

    /// The client takes its answers.
    fn took(&self) {
        self.written.store(0, Ordering::Relaxed);
        self.taken.store(self.millis(), Ordering::Relaxed);
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

    /// When the connection has been quiet for too long; `None` while a request is active and its answer is not left waiting.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.active.load(Ordering::Relaxed) > 0 {
            let stalls = self.http2.load(Ordering::Relaxed) && self.waiting.load(Ordering::Relaxed) > 0;
            return stalls
                .then(|| self.start + Duration::from_millis(self.taken.load(Ordering::Relaxed)) + STALL);
        }
        let limit = if self.head.load(Ordering::Relaxed) { self.head_timeout } else { self.keep_alive };
        Some(self.start + Duration::from_millis(self.since.load(Ordering::Relaxed)) + limit)
    }

    /// The shortest time after which asking again makes sense while a request is active.
    pub(super) const fn pause(&self) -> Duration {
        self.keep_alive
    }

    fn mark(&self) {
        self.since.store(self.millis(), Ordering::Relaxed);
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
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
    active: ActiveRequest,
    /// Counted as waiting for the client.
    waits: bool,
}

impl AnswerBody {
    pub(super) const fn new(inner: Body, active: ActiveRequest) -> Self {
        Self { inner, active, waits: false }
    }

    fn wait(&mut self, waits: bool) {
        let activity = &self.active.0;
        match (self.waits, waits) {
            (false, true) => drop(activity.waiting.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(activity.waiting.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.waits = waits;
        activity.took();
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.wait(false);
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        // Whoever asks again takes it: while `Pending`, it is the upstream that is waited for.
        self.wait(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
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
    use http_body::Body as _;
    use http_body_util::{BodyExt as _, StreamBody};

    /// Asks the answer for its next part once.
    fn poll(body: &mut AnswerBody) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        Pin::new(body).poll_frame(&mut cx).is_ready()
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends_a_connection_of_http_2() {
        let activity = Activity::new(Duration::from_secs(5), Duration::from_secs(30));
        activity.multiplexed();
        let parts = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"a")))]);
        let parts = futures_util::StreamExt::chain(parts, futures_util::stream::pending());
        let mut body = AnswerBody::new(StreamBody::new(parts).boxed_unsync(), activity.begin());
        assert_eq!(activity.deadline(), None, "the upstream is waited for");
        assert!(poll(&mut body));
        let deadline = activity.deadline().unwrap();
        assert!(deadline >= activity.start + STALL && deadline <= Instant::now() + STALL);
        tokio::time::sleep(Duration::from_millis(20)).await;
        activity.wrote(17);
        assert_eq!(activity.deadline(), Some(deadline), "a control frame takes nothing");
        activity.wrote(TAKEN);
        activity.wrote(1);
        assert!(activity.deadline().unwrap() > deadline, "the client takes it");
        assert!(!poll(&mut body));
        assert_eq!(activity.deadline(), None, "the upstream is waited for again");
        activity.http2.store(false, Ordering::Relaxed);
        activity.waiting.store(1, Ordering::Relaxed);
        assert_eq!(activity.deadline(), None, "in HTTP/1 a write blocks, and has its own limit");
    }

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
