//! `[session]`: browser sessions.

use std::time::Duration;

use super::reader::{Section, defaults};

/// `[session]`
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Ends a session that was not used for this long.
    pub idle: Duration,
    /// Ends every session this long after signing in.
    pub absolute: Duration,
}

impl Default for Session {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Session {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let session = Self {
            idle: s.positive_duration("idle", "12h", "Ends a session that was not used for this long."),
            absolute: s.positive_duration("absolute", "7d", "Ends every session this long after signing in."),
        };
        if session.idle > session.absolute {
            s.problem("idle", "`idle` is longer than `absolute`, which ends the session before");
        }
        session
    }
}
