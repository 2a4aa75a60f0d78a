//! Plain casbin over every row of a snapshot: what the index must agree with.
//!
//! Used by `recheck`, `bench` and the tests, never for an answer to a request.

use casbin::{CoreApi as _, Enforcer};

use super::snapshot::{Prepared, Snapshot, Verdict, enforcer, run};
use super::source::Row;

/// casbin's `Enforcer` of a snapshot's rows.
pub struct Plain(Enforcer);

impl Plain {
    /// Builds it, which takes time and memory in proportion to the rows.
    ///
    /// # Errors
    /// What casbin refuses.
    pub fn of(snapshot: &Snapshot) -> Result<Self, String> {
        let definition = &snapshot.definition;
        let rows: Vec<Row> = snapshot.rows.iter().collect();
        enforcer(definition, &definition.matcher, &definition.effect, &rows).map(Self)
    }

    /// casbin's answer to a request that this snapshot prepared.
    pub fn evaluate(&self, snapshot: &Snapshot, prepared: &Prepared) -> Verdict {
        let (answer, context) = run(&snapshot.graphs, &prepared.subject.closure, None, || {
            self.0.enforce(snapshot.values(prepared)).map_err(|cause| cause.to_string())
        });
        match answer {
            Ok(allow) => Verdict { allow, row: context.deciding, error: None },
            Err(error) => Verdict { error: Some(error), ..Verdict::default() },
        }
    }
}
