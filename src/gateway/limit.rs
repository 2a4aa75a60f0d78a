//! The request body as the upstream gets it: counted against the route's limit, its trailers cleaned, while it streams.
//!
//! Used by `gateway`; the refusal that breaks the body off is what `forward` returns.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::headers;
use crate::model::{BoxError, Refusal, RefusalKind};

/// A body that breaks off with `too-large` beyond its limit.
pub(super) struct Limited<B> {
    inner: B,
    left: Option<u64>,
    /// Normalised names of `listen.strip_headers`.
    strip: Arc<[String]>,
}

impl<B> Limited<B> {
    /// `limit` in bytes; `None`: not counted.
    pub(super) const fn new(inner: B, limit: Option<u64>, strip: Arc<[String]>) -> Self {
        Self { inner, left: limit, strip }
    }
}

impl<B> http_body::Body for Limited<B>
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
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)) else { return Poll::Ready(None) };
        let mut frame = frame.map_err(Into::into)?;
        if let Some(trailers) = frame.trailers_mut() {
            headers::clean_trailers(trailers, &self.strip);
        }
        if let (Some(left), Some(data)) = (self.left, frame.data_ref()) {
            match left.checked_sub(u64::try_from(data.len()).unwrap_or(u64::MAX)) {
                Some(left) => self.left = Some(left),
                None => {
                    let refusal =
                        Refusal::new(RefusalKind::TooLarge, "the body grew beyond the route's body_limit");
                    return Poll::Ready(Some(Err(Box::new(refusal))));
                }
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
