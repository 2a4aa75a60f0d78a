//! What a snapshot knows of the subjects that asked it: their roles, and the rows that can be true for them.
//!
//! Kept by the identity of the `Arc` of a principal, which is the same for every request of one token or session; the
//! `Arc` is held here, so that its address stays its own. Called by `snapshot`.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use ahash::RandomState;

use super::index::Group;
use super::roles::Closure;
use crate::model::Principal;

/// How many subjects are kept; beyond it a quarter of them makes room.
const KEPT: usize = 16_384;

/// A subject of one snapshot.
#[derive(Debug)]
pub struct Subject {
    /// Its name and roles.
    pub closure: Arc<Closure>,
    /// The roles alone, sorted.
    pub roles: Arc<[Arc<str>]>,
    /// The groups of rows that can be true for it.
    pub groups: Box<[Group]>,
    principal: Arc<Principal>,
}

impl Subject {
    /// A subject with its roles and rows.
    pub fn new(principal: &Arc<Principal>, closure: Closure, groups: Box<[Group]>) -> Self {
        Self {
            roles: closure.roles.iter().cloned().collect(),
            closure: Arc::new(closure),
            groups,
            principal: Arc::clone(principal),
        }
    }
}

/// The subjects that asked a snapshot.
#[derive(Debug, Default)]
pub struct Subjects(RwLock<HashMap<usize, Arc<Subject>, RandomState>>);

impl Subjects {
    /// The subject of a principal, as it was made when it first asked.
    pub fn of(&self, principal: &Arc<Principal>, make: impl FnOnce() -> Subject) -> Arc<Subject> {
        let address = Arc::as_ptr(principal).addr();
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        if let Some(subject) = kept.filter(|subject| Arc::ptr_eq(&subject.principal, principal)) {
            return subject;
        }
        let subject = Arc::new(make());
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            let gone: Vec<usize> = kept.keys().take(KEPT / 4).copied().collect();
            for address in gone {
                kept.remove(&address);
            }
        }
        kept.insert(address, Arc::clone(&subject));
        subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AuthMethod, PrincipalKind};

    #[test]
    fn a_subject_is_made_once_and_room_is_bounded() {
        let subjects = Subjects::default();
        let principal = || Arc::new(Principal::new("u", PrincipalKind::User, AuthMethod::Bearer));
        let ask = |principal: &Arc<Principal>| {
            let mut made = false;
            let subject = subjects.of(principal, || {
                made = true;
                Subject::new(principal, Closure::default(), Box::new([]))
            });
            assert!(Arc::ptr_eq(&subject.principal, principal));
            made
        };
        let first = principal();
        assert!(ask(&first));
        assert!(!ask(&first));
        for _ in 0..2 * KEPT {
            assert!(ask(&principal()));
        }
        assert!(subjects.0.read().unwrap().len() <= KEPT);
    }
}
