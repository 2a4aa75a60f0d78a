//! The thread that writes: it takes jobs from a channel and commits all that wait in one durable transaction.
//!
//! Used by the three faces of the embedded store through [`Writer::run`]. A new write is a closure given to it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use redb::WriteTransaction;

use super::file::File;
use super::{away, records};
use crate::model::{Clock, SharedClock};
use crate::store::StoreError;

/// How many jobs may wait; more are refused, so that memory stays bounded.
const WAITING: usize = 4096;
/// How many jobs one transaction takes at most.
const GROUP: usize = 256;
/// How often expired records are removed.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// How many expired records one transaction removes at most.
const PURGE_AT_ONCE: usize = 10_000;

/// Tells whoever waits how the commit went.
type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;
/// Does one write in the transaction. `Err` in the first place: storage failed, nothing of this group is committed.
type Job = Box<dyn FnOnce(&WriteTransaction) -> (Result<(), String>, Reply) + Send>;

/// The handle of the thread; dropping it ends the thread after what waits is written.
pub(super) struct Writer {
    jobs: Option<SyncSender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(file: Arc<File>, clock: SharedClock) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || work(&file, &*clock, &waiting))
            .map_err(|error| StoreError::Refused(format!("cannot start the store's thread: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `job` in a write transaction and returns after its commit reached the disk.
    ///
    /// `job` writes nothing before it has checked everything: when it returns `Unavailable`, the whole group is undone.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let job: Job = Box::new(move |transaction| {
            let done = job(transaction);
            let storage = match &done {
                Err(StoreError::Unavailable(reason)) => Err(reason.clone()),
                _ => Ok(()),
            };
            let reply: Reply = Box::new(move |committed| {
                let result = committed.map_err(StoreError::Unavailable).and(done);
                // Whoever asked may have gone; the write stands all the same.
                let _gone = answer.send(result);
            });
            (storage, reply)
        });
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable("too many writes wait for the disk".to_owned()),
            TrySendError::Disconnected(_) => stopped(),
        })?;
        answered.await.map_err(|_closed| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported where it happened.
            let _ended = thread.join();
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the embedded store has stopped".to_owned())
}

fn work(file: &File, clock: &dyn Clock, waiting: &Receiver<Job>) {
    let mut purged = Instant::now();
    loop {
        match waiting.recv_timeout(PURGE_EVERY) {
            Ok(first) => commit_group(file, first, waiting),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if purged.elapsed() >= PURGE_EVERY {
            if let Err(error) = purge(file, clock) {
                tracing::warn!(%error, "expired records could not be removed");
            }
            purged = Instant::now();
        }
    }
}

/// Runs the first job and those that wait behind it, commits, and answers them all.
fn commit_group(file: &File, first: Job, waiting: &Receiver<Job>) {
    let transaction = match file.write() {
        Ok(transaction) => transaction,
        Err(error) => {
            // Dropping the job tells its caller; the text is for the log.
            tracing::error!(%error, "the embedded store cannot write");
            file.reopen();
            return;
        }
    };
    let mut replies = Vec::new();
    let mut outcome = Ok(());
    let mut next = Some(first);
    while let Some(job) = next {
        let (storage, reply) = job(&transaction);
        replies.push(reply);
        if storage.is_err() {
            outcome = storage;
            break;
        }
        next = if replies.len() < GROUP { waiting.try_recv().ok() } else { None };
    }
    let outcome = match outcome {
        Ok(()) => transaction.commit().map_err(|error| away(error).to_string()),
        Err(reason) => transaction.abort().map_err(|error| away(error).to_string()).and(Err(reason)),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "the embedded store could not write");
        file.reopen();
    }
    for reply in replies {
        reply(outcome.clone());
    }
}

/// Removes records whose time has passed; how many.
pub(super) fn purge(file: &File, clock: &dyn Clock) -> Result<usize, StoreError> {
    let now = clock.now().micros();
    let due: Vec<(i64, String, String)> = {
        let transaction = file.read()?;
        let expiries = transaction.open_table(records::EXPIRIES).map_err(away)?;
        let range = expiries.range(..(now.saturating_add(1), "", "")).map_err(away)?;
        let mut due = Vec::new();
        for entry in range.take(PURGE_AT_ONCE) {
            let (key, _) = entry.map_err(away)?;
            let (at, table, name) = key.value();
            due.push((at, table.to_owned(), name.to_owned()));
        }
        due
    };
    if due.is_empty() {
        return Ok(0);
    }
    let transaction = file.write()?;
    {
        let mut expiries = transaction.open_table(records::EXPIRIES).map_err(away)?;
        for (at, table, name) in &due {
            expiries.remove((*at, table.as_str(), name.as_str())).map_err(away)?;
            records::remove_if_expired(&transaction, table, name, now)?;
        }
    }
    transaction.commit().map_err(away)?;
    Ok(due.len())
}
