//! The Argon2id pool (RFC 9106): a few threads and a bounded queue, so that a flood of sign-ins costs others nothing
//! but a 503 for sign-ins.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::SignInError;
use crate::config::Hashing;
use crate::model::random_bytes;

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
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..hashing.threads.max(1) {
            let jobs = Arc::clone(&jobs);
            let thread = std::thread::Builder::new().name(format!("argon2-{number}"));
            if let Err(error) = thread.spawn(move || work(&jobs)) {
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

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        // Whoever asked may be gone: then the answer is of no use to anyone.
        match job {
            Err(_) => return,
            Ok(Job::Hash { answer, .. }) if answer.is_closed() => {}
            Ok(Job::Hash { password, hashing, answer }) => {
                let _gone = answer.send(hash(&password, &hashing));
            }
            Ok(Job::Verify { answer, .. }) if answer.is_closed() => {}
            Ok(Job::Verify { password, phc, answer }) => {
                let _gone = answer.send(verify(&password, &phc));
            }
        }
    }
}

fn hash(password: &str, hashing: &Hashing) -> Option<String> {
    let params = Params::new(hashing.memory_kib, hashing.passes, hashing.lanes, None).ok()?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let phc: PasswordHash =
        argon2.hash_password_with_salt(password.as_bytes(), &random_bytes::<16>()).ok()?;
    Some(phc.to_string())
}

fn verify(password: &str, phc: &str) -> bool {
    let Ok(phc) = PasswordHash::new(phc) else { return false };
    phc.algorithm.as_str() == "argon2id"
        && Argon2::default().verify_password(password.as_bytes(), &phc).is_ok()
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
