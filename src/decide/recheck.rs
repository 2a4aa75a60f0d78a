//! One in so many live decisions is held against plain casbin, off the path: a difference is a defect, and is told.
//!
//! `Decider` hands them over; one thread with a queue of one asks casbin, whatever does not fit is not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Decision;
use super::plain::Plain;
use super::snapshot::{MAX_ROWS, Prepared, Snapshot};
use crate::model::RuleRef;

/// Which decisions are looked at again.
const ONE_IN: u64 = 1_024;

struct Job {
    snapshot: Arc<Snapshot>,
    prepared: Prepared,
    allow: bool,
    rule: Option<RuleRef>,
}

/// The thread's handle; the thread ends with it.
pub struct Recheck {
    jobs: SyncSender<Job>,
    decisions: AtomicU64,
    mismatches: Arc<AtomicU64>,
}

impl Recheck {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start() -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(1);
        let mismatches = Arc::new(AtomicU64::new(0));
        let found = Arc::clone(&mismatches);
        let builder = std::thread::Builder::new().name("decide-recheck".to_owned());
        builder.stack_size(super::pool::STACK).spawn(move || work(&queue, &found))?;
        Ok(Self { jobs, decisions: AtomicU64::new(0), mismatches })
    }

    /// Hands a decision over, when it is one of those. casbin would take seconds for the largest policies; a failure, as
    /// of busy threads, denies whatever casbin says, and so does a policy without rows.
    pub fn look_at(&self, snapshot: &Arc<Snapshot>, decision: &Decision, prepare: impl FnOnce() -> Prepared) {
        let drawn = self.decisions.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN);
        if !drawn || decision.error.is_some() || !(1..=MAX_ROWS).contains(&snapshot.rows.len()) {
            return;
        }
        let job = Job {
            snapshot: Arc::clone(snapshot),
            prepared: prepare(),
            allow: decision.permit.is_some(),
            rule: decision.rule.clone(),
        };
        // While the thread is busy, others will do.
        drop(self.jobs.try_send(job));
    }

    /// How many decisions differed.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Ordering::Relaxed)
    }
}

fn work(queue: &Receiver<Job>, mismatches: &AtomicU64) {
    let mut built: Option<(Arc<Snapshot>, Plain)> = None;
    while let Ok(job) = queue.recv() {
        if !built.as_ref().is_some_and(|(of, _)| Arc::ptr_eq(of, &job.snapshot)) {
            built = match Plain::of(&job.snapshot) {
                Ok(plain) => Some((Arc::clone(&job.snapshot), plain)),
                Err(error) => {
                    tracing::warn!(%error, "decisions cannot be checked against casbin");
                    None
                }
            };
        }
        let Some((snapshot, plain)) = &built else { continue };
        let casbins = plain.evaluate(snapshot, &job.prepared);
        let subject = &job.prepared.subject.closure.name;
        let rule = casbins.row.and_then(|row| snapshot.rule(row));
        let agree = casbins.error.is_none() && job.allow == casbins.allow && job.rule == rule;
        if !agree {
            mismatches.fetch_add(1, Ordering::Relaxed);
            let (policy, allow, rule) = (&snapshot.digest, job.allow, &job.rule);
            tracing::error!(
                %policy, %subject, allow, ?rule, ?casbins,
                "the index decided otherwise than casbin: please report this with the policy"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Question;
    use super::super::ask::{Asked, ask};
    use super::super::load::{Settings, load};
    use super::super::source::{SourceFile, Sources};
    use super::*;
    use crate::model::{AuthMethod, Principal, PrincipalKind, Timestamp};

    #[test]
    fn a_decision_that_differs_is_counted() {
        let file = |name: &str, text: &str| SourceFile { name: Arc::from(name), bytes: text.into() };
        let model = "[request_definition]\nr = sub, obj, act\n[policy_definition]\np = sub, obj, act\n[role_definition]\n\
                     g = _, _\n[policy_effect]\ne = some(where (p.eft == allow))\n[matchers]\nm = g(r.sub, p.sub)\n";
        let files = vec![file("model.conf", model), file("policy.csv", "p, alice, /, GET\n")];
        let sources = Sources { files, ..Sources::default() };
        let snapshot = Arc::new(load(std::path::Path::new("p"), &sources, &Settings::plain(None)).unwrap());
        let recheck = Recheck::start().unwrap();
        let alice = Arc::new(Principal::new("alice", PrincipalKind::User, AuthMethod::Bearer));
        let ip = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let question = Question { object: "/", action: "GET", host: "h", ip, secure: false };
        let right = ask(&snapshot, &alice, &question, Timestamp::from_seconds(0));
        let Asked::Decided(right) = right else { panic!("one row is asked at once") };
        let wrong = Decision { rule: None, ..right.clone() };
        let failed = Decision { permit: None, error: Some("busy".to_owned()), ..right.clone() };
        let mut given = 0;
        while recheck.mismatches() == 0 {
            let decision = match given / ONE_IN {
                0..25 => &right,
                25..50 => &failed,
                _ => &wrong,
            };
            recheck.look_at(&snapshot, decision, || {
                snapshot.prepare(&alice, &question, Timestamp::from_seconds(0))
            });
            given += 1;
            if given % ONE_IN == 1 {
                std::thread::yield_now();
            }
        }
        assert!(given > 50 * ONE_IN, "a right one or a failure was counted");
    }
}
