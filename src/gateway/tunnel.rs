//! A WebSocket after its 101: bytes both ways, under the same guard as any long answer.
//!
//! Spawned by `send`. It ends when either side does, when nothing came for the route's `stream_idle`, and when the
//! credential is revoked.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

use super::stream::{Guard, StreamEnd};
use crate::forward::Switched;
use crate::model::{BoxError, Refusal, RefusalKind};

/// How long the other side may go on once one has ended.
const FAREWELL: Duration = Duration::from_secs(5);
const BUFFER: usize = 16 * 1024;

/// The whole life of the tunnel.
pub(super) async fn run(
    client: OnUpgrade,
    upstream: Switched,
    guard: Guard,
    idle: Duration,
    mut end: StreamEnd,
) {
    match pass(client, upstream, &guard, idle).await {
        Ok(()) => end.whole(),
        Err(error) => {
            tracing::debug!(%error, "a websocket broke off");
            end.broke(&error);
        }
    }
}

async fn pass(client: OnUpgrade, upstream: Switched, guard: &Guard, idle: Duration) -> Result<(), BoxError> {
    let Switched { upgrade, alive } = upstream;
    let (client, upstream) = tokio::try_join!(client, upgrade)?;
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_upstream, mut to_upstream) = tokio::io::split(TokioIo::new(upstream));
    let last = Last(Mutex::new(Instant::now()));
    let mut up = std::pin::pin!(copy(&mut from_client, &mut to_upstream, guard, &last));
    let mut down = std::pin::pin!(copy(&mut from_upstream, &mut to_client, guard, &last));
    let refused = async {
        let never = poll_fn(|cx| match guard.poll_pass(cx) {
            Poll::Ready(Err(refusal)) => Poll::Ready(refusal),
            _ => Poll::Pending,
        });
        never.await
    };
    let both = async {
        tokio::select! {
            ended = &mut up => ended.and(timeout(FAREWELL, down).await.unwrap_or(Ok(()))),
            ended = &mut down => ended.and(timeout(FAREWELL, up).await.unwrap_or(Ok(()))),
        }
    };
    let ended = tokio::select! {
        ended = both => ended,
        refusal = refused => Err(refusal.into()),
        () = quiet(&last, idle) => {
            Err(Refusal::new(RefusalKind::UpstreamTimeout, "nothing came for timeout.stream_idle").into())
        }
    };
    drop(alive);
    ended
}

/// When bytes came last, either way.
struct Last(Mutex<Instant>);

impl Last {
    fn set(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn get(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies until the end of `from`, which ends `to` as well.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    guard: &Guard,
    last: &Last,
) -> Result<(), BoxError> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        last.set();
        poll_fn(|cx| guard.poll_pass(cx)).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            to.shutdown().await?;
            return Ok(());
        };
        to.write_all(bytes).await?;
        to.flush().await?;
    }
}

/// Returns when nothing came for so long.
async fn quiet(last: &Last, idle: Duration) {
    while let Some(deadline) = last.get().checked_add(idle).filter(|deadline| *deadline > Instant::now()) {
        sleep_until(deadline).await;
    }
}
