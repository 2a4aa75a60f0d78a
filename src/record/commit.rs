//! Group commit: one thread flushes what was appended and wakes everyone who waits for it. Called by [`super::Recorder`].

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::watch;

use super::RecordError;
use super::ring::Ring;
use super::segment::{HEADER, Segment};

#[derive(Clone, Default)]
struct Flushed {
    upto: u64,
    broken: Option<Arc<str>>,
    closed: bool,
}

/// Waits for the disk on behalf of all.
pub struct Committer {
    asked: Mutex<Asked>,
    bell: Condvar,
    done: watch::Sender<Flushed>,
}

#[derive(Default)]
struct Asked {
    flush: bool,
    stop: bool,
}

impl Committer {
    /// A committer without its thread; see [`Committer::run`].
    pub fn new() -> Self {
        Self { asked: Mutex::default(), bell: Condvar::new(), done: watch::Sender::new(Flushed::default()) }
    }

    /// Asks for a flush without waiting for it.
    pub fn ask(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).flush = true;
        self.bell.notify_one();
    }

    /// Returns when the first `upto` bytes that were appended are on the disk.
    ///
    /// # Errors
    /// [`RecordError::Io`] once the disk has refused a flush: what it lost is unknown, so this lasts until a restart.
    pub async fn wait(&self, upto: u64) -> Result<(), RecordError> {
        self.ask();
        let mut done = self.done.subscribe();
        let flushed = done
            .wait_for(|flushed| flushed.upto >= upto || flushed.broken.is_some() || flushed.closed)
            .await
            .map_err(|_| RecordError::Io("the log is closed".to_owned()))?;
        match &flushed.broken {
            Some(reason) => Err(RecordError::Io(reason.to_string())),
            None if flushed.upto >= upto => Ok(()),
            None => Err(RecordError::Io("the log is closed".to_owned())),
        }
    }

    /// How many of the bytes that were appended are on the disk.
    #[cfg(test)]
    pub fn flushed(&self) -> u64 {
        self.done.borrow().upto
    }

    /// Why flushing no longer works, if so.
    pub fn broken(&self) -> Option<String> {
        self.done.borrow().broken.as_ref().map(|reason| reason.to_string())
    }

    /// Ends the thread after a last flush.
    pub fn stop(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.bell.notify_one();
    }

    /// The thread.
    pub fn run(&self, ring: &Mutex<Ring>) {
        let mut from = (0, HEADER);
        loop {
            let stop = {
                let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                let waiting = |asked: &mut Asked| !asked.flush && !asked.stop;
                let mut asked = self.bell.wait_while(asked, waiting).unwrap_or_else(PoisonError::into_inner);
                asked.flush = false;
                asked.stop
            };
            let (upto, parts) = {
                let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
                let parts: Vec<(u64, usize, Arc<Segment>)> = ring
                    .live
                    .iter()
                    .filter(|segment| segment.number() >= from.0)
                    .map(|segment| (segment.number(), segment.end(), Arc::clone(segment)))
                    .collect();
                (ring.written, parts)
            };
            let flushed = flush(&parts, &mut from);
            if let Err(error) = &flushed {
                tracing::error!(%error, "the audit log could not be flushed; restart when the disk is well");
            }
            self.done.send_modify(|done| {
                done.closed = stop;
                match flushed {
                    Ok(()) => done.upto = upto,
                    Err(error) => {
                        done.broken = Some(Arc::from(format!(
                            "a flush failed: {error}; restart when the disk is well"
                        )));
                    }
                }
            });
            if stop {
                return;
            }
        }
    }
}

fn flush(parts: &[(u64, usize, Arc<Segment>)], from: &mut (u64, usize)) -> io::Result<()> {
    for (number, end, segment) in parts {
        let start = if *number == from.0 { from.1 } else { HEADER };
        if *end > start {
            segment.flush(if start == HEADER { 0 } else { start }, *end)?;
        }
        *from = (*number, *end);
    }
    Ok(())
}
