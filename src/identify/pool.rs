//! The Argon2id pool (RFC 9106): a few threads of low priority and a bounded queue, so that a flood of sign-ins costs
//! others nothing but a 503 for sign-ins. The memory that a hash works in is kept while sign-ins come.
//!
//! Used by `password` alone. Another algorithm is an arm in [`verify`] and one in `config::accounts_file`.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::phc::{Ident, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::SignInError;
use crate::config::Hashing;
use crate::model::random_bytes;

/// How far the threads stand behind those that serve requests when all cores are busy (nice value).
const BEHIND: i32 = 5;

/// How long the memory of hashes is kept for a next one.
const KEPT: Duration = Duration::from_secs(2);

/// The threads end when the pool is dropped.
pub(super) struct Pool {
    queue: SyncSender<Job>,
}

enum Job {
    Hash { password: Zeroizing<String>, hashing: Hashing, answer: oneshot::Sender<Option<String>> },
    Verify { password: Zeroizing<String>, phc: String, answer: oneshot::Sender<bool> },
}

impl Pool {
    pub(super) fn new(hashing: &Hashing) -> Self {
        let (queue, jobs) = sync_channel(hashing.queue.max(1));
        let waiting = Arc::new(Waiting { jobs: Mutex::new(jobs), memories: Mutex::default() });
        let keep = usize::try_from(hashing.memory_kib).unwrap_or(usize::MAX);
        for number in 0..hashing.threads.max(1) {
            let waiting = Arc::clone(&waiting);
            let thread = std::thread::Builder::new().name(format!("argon2-{number}"));
            if let Err(error) = thread.spawn(move || work(&waiting, keep)) {
                tracing::error!(%error, "a password thread could not be started");
            }
        }
        Self { queue }
    }

    /// The PHC string of a password, with a new salt.
    pub(super) async fn hash(&self, password: &str, hashing: &Hashing) -> Result<String, SignInError> {
        let (answer, answered) = oneshot::channel();
        let password = Zeroizing::new(password.to_owned());
        self.send(Job::Hash { password, hashing: hashing.clone(), answer })?;
        answered.await.ok().flatten().ok_or(SignInError::Overloaded)
    }

    /// Whether the password is that of the PHC string; false for a string that cannot be read.
    pub(super) async fn verify(&self, password: &str, phc: &str) -> Result<bool, SignInError> {
        let (answer, answered) = oneshot::channel();
        let password = Zeroizing::new(password.to_owned());
        self.send(Job::Verify { password, phc: phc.to_owned(), answer })?;
        answered.await.map_err(|_| SignInError::Overloaded)
    }

    fn send(&self, job: Job) -> Result<(), SignInError> {
        self.queue.try_send(job).map_err(|_| SignInError::Overloaded)
    }
}

/// What the threads share.
struct Waiting {
    jobs: Mutex<Receiver<Job>>,
    /// What the last hashes worked in.
    memories: Mutex<Vec<Vec<Block>>>,
}

impl Waiting {
    /// The next job; `None` when there will be no more. While none comes, the memory goes back to the system.
    fn next(&self) -> Option<Job> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cleared = false;
        loop {
            match jobs.recv_timeout(KEPT) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if self.memories().is_empty() => {
                    // The allocator gives back what is free for long when something else becomes free.
                    if std::mem::take(&mut cleared) {
                        drop(std::hint::black_box(Vec::<Block>::with_capacity(1024)));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.memories().clear();
                    cleared = true;
                }
            }
        }
    }

    fn memories(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Block>>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(waiting: &Waiting, keep: usize) {
    // On Linux the priority is that of the calling thread. Without it the threads are only less polite.
    if let Err(error) = rustix::process::nice(BEHIND) {
        tracing::debug!(%error, "password threads keep the usual priority");
    }
    while let Some(job) = waiting.next() {
        let mut memory = waiting.memories().pop().unwrap_or_default();
        // Whoever asked may be gone: then the answer is of no use to anyone.
        match job {
            Job::Hash { answer, .. } if answer.is_closed() => {}
            Job::Hash { password, hashing, answer } => {
                let _gone = answer.send(hash(&password, &hashing, &mut memory));
            }
            Job::Verify { answer, .. } if answer.is_closed() => {}
            Job::Verify { password, phc, answer } => {
                let _gone = answer.send(verify(&password, &phc, &mut memory));
            }
        }
        if memory.len() <= keep {
            waiting.memories().push(memory);
        }
    }
}

fn hash(password: &str, hashing: &Hashing, memory: &mut Vec<Block>) -> Option<String> {
    let params = Params::new(hashing.memory_kib, hashing.passes, hashing.lanes, None).ok()?;
    let salt = Salt::new(&random_bytes::<16>()).ok()?;
    let phc = PasswordHash {
        algorithm: Ident::new("argon2id").ok()?,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).ok()?,
        hash: Some(output(password, &salt, params, Version::V0x13, memory)?),
        salt: Some(salt),
    };
    Some(phc.to_string())
}

fn verify(password: &str, phc: &str, memory: &mut Vec<Block>) -> bool {
    let Ok(phc) = PasswordHash::new(phc) else { return false };
    let (Some(salt), Some(hash)) = (&phc.salt, &phc.hash) else { return false };
    let version = phc.version.map_or(Ok(Version::V0x13), Version::try_from);
    let (Ok(params), Ok(version)) = (Params::try_from(&phc), version) else { return false };
    // Outputs are compared in constant time.
    phc.algorithm.as_str() == "argon2id"
        && output(password, salt, params, version, memory).is_some_and(|output| output == *hash)
}

/// The Argon2id output, worked out in `memory`, which grows as needed.
fn output(
    password: &str,
    salt: &Salt,
    params: Params,
    version: Version,
    memory: &mut Vec<Block>,
) -> Option<Output> {
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.resize(blocks, Block::default());
    }
    let mut buffer = [0_u8; Output::MAX_LENGTH];
    let out = buffer.get_mut(..length)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, version, params);
    argon2.hash_password_into_with_memory(password.as_bytes(), salt, out, memory.as_mut_slice()).ok()?;
    Output::new(out).ok()
}

/// True when the PHC string was made with less than is configured now.
pub(super) fn is_weaker(phc: &str, hashing: &Hashing) -> bool {
    let params = PasswordHash::new(phc).ok().and_then(|phc| Params::try_from(&phc).ok());
    params.is_none_or(|params| {
        params.m_cost() < hashing.memory_kib
            || params.t_cost() < hashing.passes
            || params.p_cost() < hashing.lanes
    })
}

/// A PHC string with the configured cost that no password has: random salt and hash.
pub(super) fn nobody(hashing: &Hashing) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD as B64;
    format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        hashing.memory_kib,
        hashing.passes,
        hashing.lanes,
        B64.encode(random_bytes::<16>()),
        B64.encode(random_bytes::<32>()),
    )
}
