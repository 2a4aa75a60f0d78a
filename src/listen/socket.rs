//! A connection's byte stream, TLS or not, with what belongs to it for as long as it lives, upgrades included.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::activity::Activity;
use super::framing::{Ambiguous, Framing};

/// How long a client may take none of the bytes that wait for it.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long, and how much, a client may go on sending a request whose answer it has: closing at once would reset the
/// connection, and the answer with it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 << 20;

/// The first bytes of HTTP/2 (RFC 9113 §3.4).
pub(super) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Held by a connection: its place among `listen.limits.connections`, and the drain's knowledge of it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _tracked: TaskTrackerToken,
}

/// A byte stream that tells what it does, and breaks off when the client stops reading.
pub(super) struct Socket<S> {
    inner: S,
    /// Bytes that were read to tell HTTP/2 from HTTP/1.
    early: Bytes,
    activity: Arc<Activity>,
    framing: Framing,
    stall: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
    _place: Place,
}

/// Our side is closed, and the rest of the request is read for nobody.
struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(super) const fn new(inner: S, early: Bytes, activity: Arc<Activity>, place: Place) -> Self {
        Self { inner, early, activity, framing: Framing::new(), stall: None, linger: None, _place: place }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.activity.wrote(*count);
        }
    }

    fn stalled<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL)));
        if stall.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Ready when the client has closed, or had its time.
    fn lingered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger =
            self.linger.get_or_insert_with(|| Linger { until: Box::pin(sleep(LINGER)), left: LINGER_BYTES });
        let mut scratch = [0; 8 * 1024];
        while linger.left > 0 && linger.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    linger.left = linger.left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

/// Reads until it is clear whether the client begins with the HTTP/2 preface. Returns what was read.
///
/// # Errors
/// Those of the stream, and its end.
pub(super) async fn read_preface<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(bool, Bytes)> {
    let mut early = Vec::with_capacity(512);
    loop {
        if stream.read_buf(&mut early).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let compared = early.len().min(H2_PREFACE.len());
        if early.get(..compared) != H2_PREFACE.get(..compared) {
            return Ok((false, early.into()));
        }
        if compared == H2_PREFACE.len() {
            return Ok((true, early.into()));
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.early.is_empty() {
            std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        } else {
            let length = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.get(..length).unwrap_or_default());
            this.early.advance(length);
        }
        if let Some(new) = buf.filled_mut().get_mut(before..).filter(|new| !new.is_empty()) {
            this.activity.read();
            let fed = if this.activity.is_http1() { this.framing.feed(new) } else { Ok(()) };
            match fed {
                Ok(()) => {}
                // No line ends with this byte: the library answers 400 and closes.
                Err(Ambiguous::Head(end)) => {
                    if let Some(end) = new.get_mut(end) {
                        *end = 0;
                    }
                }
                Err(Ambiguous::Body) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Ambiguous::Body)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        this.wrote(&written);
        this.stalled(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, bytes);
        this.wrote(&written);
        this.stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.inner).poll_flush(cx);
        this.stalled(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.inner).poll_shutdown(cx);
            std::task::ready!(this.stalled(cx, shut))?;
        }
        if this.activity.is_http1() && this.framing.in_body() {
            std::task::ready!(this.lingered(cx));
        }
        Poll::Ready(Ok(()))
    }
}
