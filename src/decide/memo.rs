//! Verdicts that one snapshot gave before: the same principal asks for the same thing again and again.
//!
//! Kept with the snapshot, so that a new policy begins with none. Everything that a verdict depends on is in the key or
//! compared: the principal by its `Arc`, which is shared by all requests of one token or session and never changes; the
//! object and the action; host, address and TLS where the model reads `env`. Nothing is kept where it reads the time, nor
//! where working the verdict out again costs no more than finding it here.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Question;
use super::load::Fields;
use super::snapshot::Verdict;
use crate::model::Principal;
use crate::tokens::cache::Cache;

/// How many verdicts are kept.
const CAPACITY: usize = 4_096;
/// Longer objects are worked out each time, in bytes.
const LONGEST: usize = 256;

/// The verdicts of one snapshot.
pub struct Memo {
    kept: Cache<Kept>,
    environment: Environment,
}

/// What of `env` verdicts depend on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Environment {
    Nothing,
    Request,
    /// Too much, or nothing is gained.
    NotKept,
}

/// A verdict, and the roles that the upstream is told.
#[derive(Clone)]
pub struct Kept {
    principal: Arc<Principal>,
    /// What was decided.
    pub verdict: Verdict,
    /// All roles of the subject.
    pub roles: Arc<[Arc<str>]>,
}

impl Memo {
    /// An empty one for a model that reads these fields; `interpreted`: verdicts need the interpreter, which makes them
    /// worth keeping.
    pub fn new(fields: &Fields, interpreted: bool) -> Self {
        let environment = match fields.get("env").and_then(Option::as_ref) {
            _ if !interpreted => Environment::NotKept,
            None => Environment::Nothing,
            Some(read) if read.iter().any(|field| field == "time" || field == "weekday") => {
                Environment::NotKept
            }
            Some(_) => Environment::Request,
        };
        Self { kept: Cache::new(CAPACITY), environment }
    }

    /// Where the verdict for this question stands; `None` when it is not kept.
    pub fn key(&self, principal: &Arc<Principal>, question: &Question<'_>) -> Option<String> {
        if self.environment == Environment::NotKept || question.object.len() > LONGEST {
            return None;
        }
        let mut key = String::with_capacity(question.object.len() + 32);
        // No part but the last can hold a space, so that no two questions have one key.
        write!(key, "{:p} ", Arc::as_ptr(principal)).ok()?;
        if self.environment == Environment::Request {
            write!(key, "{} {} {} ", question.ip, question.secure, question.host).ok()?;
        }
        if question.action.contains(' ') || question.host.contains(' ') {
            return None;
        }
        write!(key, "{} {}", question.action, question.object).ok()?;
        Some(key)
    }

    /// The verdict, when it was this very principal's.
    pub fn get(&self, key: &str, principal: &Arc<Principal>) -> Option<Kept> {
        self.kept.get(key).filter(|kept| Arc::ptr_eq(&kept.principal, principal))
    }

    /// Keeps a verdict; failures are not kept.
    pub fn put(&self, key: &str, principal: &Arc<Principal>, verdict: &Verdict, roles: &Arc<[Arc<str>]>) {
        if verdict.error.is_none() {
            let (principal, roles) = (Arc::clone(principal), Arc::clone(roles));
            self.kept.put(key, Kept { principal, verdict: verdict.clone(), roles });
        }
    }
}
