//! One question to one snapshot: the memo, the evaluation, and the decision that comes of them.
//!
//! Used by `decider` for live requests, and by `bench`, so that it measures the same.

use std::sync::Arc;

use super::snapshot::{INLINE_ROWS, Prepared, Snapshot, Verdict};
use super::{Decision, Permit, Question};
use crate::model::{Principal, Timestamp};

/// What came of a question on the asking thread.
pub enum Asked {
    /// The answer.
    Decided(Decision),
    /// More rows than are evaluated there, and where the memo keeps the verdict.
    Many(Box<Prepared>, Option<String>),
}

/// Asks a snapshot, as far as that is done on the asking thread.
pub fn ask(snapshot: &Snapshot, principal: &Arc<Principal>, question: &Question<'_>, at: Timestamp) -> Asked {
    let key = snapshot.memo.key(principal, question);
    if let Some(kept) = key.as_ref().and_then(|key| snapshot.memo.get(key, principal)) {
        return Asked::Decided(decision(snapshot, kept.verdict, kept.roles));
    }
    let prepared = snapshot.prepare(principal, question, at);
    if prepared.cost > INLINE_ROWS {
        return Asked::Many(Box::new(prepared), key);
    }
    let verdict = snapshot.evaluate(&prepared);
    Asked::Decided(decided(snapshot, principal, key, verdict, Arc::clone(&prepared.subject.roles)))
}

/// The decision of a verdict, which the memo keeps.
pub fn decided(
    snapshot: &Snapshot,
    principal: &Arc<Principal>,
    key: Option<String>,
    verdict: Verdict,
    roles: Arc<[Arc<str>]>,
) -> Decision {
    if let Some(key) = key {
        snapshot.memo.put(&key, principal, &verdict, &roles);
    }
    decision(snapshot, verdict, roles)
}

/// The decision of a verdict.
pub fn decision(snapshot: &Snapshot, verdict: Verdict, roles: Arc<[Arc<str>]>) -> Decision {
    Decision {
        permit: (verdict.allow && verdict.error.is_none()).then_some(Permit { _private: () }),
        rule: verdict.row.and_then(|row| snapshot.rule(row)),
        digest: Arc::clone(&snapshot.digest),
        roles,
        error: verdict.error,
    }
}
