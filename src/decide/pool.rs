//! A few threads with stacks of their own for policies with many rows; a bounded queue, busy means deny.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::snapshot::{Prepared, Snapshot, Verdict};

const THREADS: usize = 2;
const QUEUE: usize = 64;
/// The stack of a thread that asks casbin.
pub const STACK: usize = 8 << 20;

struct Job {
    snapshot: Arc<Snapshot>,
    prepared: Prepared,
    answer: oneshot::Sender<Verdict>,
}

/// The pool; its threads end with it.
pub struct Pool {
    jobs: SyncSender<Job>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..THREADS {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(format!("decide-{number}"))
                .stack_size(STACK)
                .spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Evaluates on the pool; a full queue denies.
    pub async fn evaluate(&self, snapshot: &Arc<Snapshot>, prepared: Prepared) -> Verdict {
        let (answer, waiting) = oneshot::channel();
        let busy = |error: &str| Verdict { error: Some(error.to_owned()), ..Verdict::default() };
        if self.jobs.try_send(Job { snapshot: Arc::clone(snapshot), prepared, answer }).is_err() {
            return busy("the policy threads are busy");
        }
        waiting.await.unwrap_or_else(|_| busy("the policy thread gave no answer"))
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(job) = job else { return };
        if !job.answer.is_closed() {
            let verdict = job.snapshot.evaluate(&job.prepared);
            // The asker may have gone meanwhile.
            drop(job.answer.send(verdict));
        }
    }
}
