//! The slowest that a request body of known length may arrive. Wrapped around each request's body by `service`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::model::{BoxError, Refusal, RefusalKind};

/// How long a body may be waited for, whatever its rate.
const GRACE: Duration = Duration::from_secs(10);

/// A body that fails with [`RefusalKind::RequestTimeout`] once the time spent waiting for the client is more than the
/// grace and the time that its bytes may take at the rate. Time in which nobody asked for bytes does not count.
pub struct RatedBody<B> {
    inner: B,
    /// Bytes per second; 0: no limit.
    rate: u64,
    received: u64,
    waited: Duration,
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    read: Option<Arc<AtomicBool>>,
}

impl<B: Body> RatedBody<B> {
    /// Holds `inner` to `rate` bytes per second when its length is known.
    pub fn new(inner: B, rate: u64) -> Self {
        let rate = if inner.size_hint().exact().is_some() { rate } else { 0 };
        Self::always(inner, rate)
    }

    /// Holds `inner` to the rate whatever its length: for readers that want all of it before they do anything.
    pub fn always(inner: B, rate: u64) -> Self {
        let read = (!inner.is_end_stream()).then(Arc::default);
        Self { inner, rate, received: 0, waited: Duration::ZERO, since: None, alarm: None, read }
    }

    /// Turns true when the whole body was read; `None` when there is nothing to read.
    pub fn read_flag(&self) -> Option<Arc<AtomicBool>> {
        self.read.clone()
    }

    fn allowed(&self) -> Duration {
        let micros = u128::from(self.received).saturating_mul(1_000_000) / u128::from(self.rate.max(1));
        GRACE.saturating_add(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }
}

impl<B> Body for RatedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) {
            if let Some(since) = this.since.take() {
                this.waited += since.elapsed();
            }
            if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
                let length = data.map_or(0, Bytes::len);
                this.received = this.received.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            }
            // Nothing follows trailers, and nobody asks again after them.
            let last = match &frame {
                None => true,
                Some(Ok(frame)) => frame.is_trailers() || this.inner.is_end_stream(),
                Some(Err(_)) => this.inner.is_end_stream(),
            };
            if let Some(read) = this.read.as_ref().filter(|_| last) {
                read.store(true, Ordering::Relaxed);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.rate == 0 {
            return Poll::Pending;
        }
        if this.since.is_none() {
            let now = Instant::now();
            this.since = Some(now);
            let deadline = now + this.allowed().saturating_sub(this.waited).min(Duration::from_secs(86_400));
            match &mut this.alarm {
                Some(alarm) => alarm.as_mut().reset(deadline),
                alarm => *alarm = Some(Box::pin(sleep_until(deadline))),
            }
        }
        if let Some(alarm) = &mut this.alarm {
            ready!(alarm.as_mut().poll(cx));
            let refusal = Refusal::new(
                RefusalKind::RequestTimeout,
                "the body came slower than listen.limits.body_rate",
            );
            return Poll::Ready(Some(Err(Box::new(refusal))));
        }
        Poll::Pending
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
    use http_body_util::{BodyExt as _, Full};

    /// A body of known length that never comes.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(100)
        }
    }

    #[tokio::test]
    async fn a_body_that_is_too_slow_is_an_error() {
        let mut body = RatedBody::new(Silent, 1024);
        body.waited = GRACE;
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.downcast_ref::<Refusal>().unwrap().kind, RefusalKind::RequestTimeout);
    }

    #[tokio::test]
    async fn bytes_that_came_buy_time() {
        let mut body = RatedBody::new(Silent, 1024);
        body.waited = GRACE;
        body.received = 1024 * 1024;
        assert_eq!(body.allowed(), GRACE + Duration::from_secs(1024));
        assert!(tokio::time::timeout(Duration::from_millis(20), body.frame()).await.is_err());
    }

    #[tokio::test]
    async fn a_body_that_comes_is_passed_on() {
        let body = RatedBody::new(Full::new(Bytes::from_static(b"abc")), 1);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abc");
    }
}
