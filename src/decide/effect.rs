//! casbin's four effects without its panics, noting the deciding row; and a collector for `explain`.
//!
//! Plugged into every `Enforcer` by `snapshot`. Another effect is one more line in [`EFFECTS`](super::definition::EFFECTS)
//! and in [`Stream::push`].

use casbin::{EffectKind, Effector, EffectorStream};

use super::call;
use super::definition::{ALLOW, ALLOW_UNLESS_DENIED, NOT_DENIED, PRIORITY};

/// The name of the pseudo-effect that only collects which rows match.
pub const COLLECT: &str = "collect";

/// Makes [`Stream`]s.
pub struct RecordingEffector;

impl Effector for RecordingEffector {
    fn new_stream(&self, expr: &str, cap: usize) -> Box<dyn EffectorStream> {
        let stream = Stream::new(expr, cap);
        if stream.kind == Kind::Unknown {
            call::fail(format!("unsupported effect `{expr}`"));
        }
        Box::new(stream)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Allow,
    AllowAndNotDeny,
    NotDeny,
    Priority,
    Collect,
    Unknown,
}

/// One evaluation's effects, row by row.
pub struct Stream {
    kind: Kind,
    result: bool,
    deciding: Option<usize>,
    index: usize,
    rows: usize,
    done: bool,
}

impl EffectorStream for Stream {
    fn next(&self) -> bool {
        call::with(|context| context.deciding = self.deciding);
        self.done && self.result
    }

    fn push_effect(&mut self, effect: EffectKind) -> bool {
        self.push(effect)
    }
}

impl Stream {
    /// The stream of an effect over `rows` rows.
    pub fn new(effect: &str, rows: usize) -> Self {
        let kind = match effect {
            ALLOW => Kind::Allow,
            ALLOW_UNLESS_DENIED => Kind::AllowAndNotDeny,
            NOT_DENIED => Kind::NotDeny,
            PRIORITY => Kind::Priority,
            COLLECT => Kind::Collect,
            _ => Kind::Unknown,
        };
        Self { kind, result: kind == Kind::NotDeny, deciding: None, index: 0, rows, done: false }
    }

    /// Whether it allows, and the number of the deciding row.
    pub fn outcome(&self) -> (bool, Option<usize>) {
        (self.done && self.result, self.deciding)
    }

    /// Takes the effect of the next row; true when no further row matters.
    pub fn push(&mut self, effect: EffectKind) -> bool {
        match (self.kind, effect) {
            (Kind::Allow, EffectKind::Allow) => self.decide(true, true),
            (Kind::AllowAndNotDeny, EffectKind::Allow) if self.deciding.is_none() => self.decide(true, false),
            (Kind::AllowAndNotDeny | Kind::NotDeny, EffectKind::Deny) => self.decide(false, true),
            (Kind::Priority, EffectKind::Allow) => self.decide(true, true),
            (Kind::Priority, EffectKind::Deny) => self.decide(false, true),
            (Kind::Collect, effect) => {
                call::with(|context| {
                    if let Some(matched) = &mut context.matched {
                        matched.push(effect != EffectKind::Indeterminate);
                    }
                });
            }
            _ => {}
        }
        self.index += 1;
        self.done = self.done || self.index >= self.rows;
        self.done
    }

    fn decide(&mut self, result: bool, done: bool) {
        self.result = result;
        self.deciding = Some(self.index);
        self.done = done;
    }
}
