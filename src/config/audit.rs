//! `[audit]`: how safely decisions are recorded.

use super::reader::{Section, defaults};

/// What the record of a decision survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// A crash may lose the last 100 ms.
    Queued,
    /// Survives the process.
    #[default]
    Written,
    /// Survives the machine.
    Durable,
}

/// What one entry of the Redis stream holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AuditEntry {
    /// One event.
    #[default]
    Event,
    /// Several.
    Batch,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// What the record of an access decision survives.
    pub durability: Durability,
    /// What one entry of the Redis stream holds.
    pub entry: AuditEntry,
    /// Whether batches are lz4 frames.
    pub compress: bool,
    /** bytes */
    pub log_size: u64,
}

impl Default for Audit {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Audit {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        let audit = Self {
            durability: s.choice(
                "durability",
                &[
                    ("written", Durability::Written),
                    ("queued", Durability::Queued),
                    ("durable", Durability::Durable),
                ],
                &[],
                "What an access decision's record survives: `queued` promises nothing for the last 100 ms (it costs, and keeps, what `written` does), `written` the process, `durable` the machine.",
            ),
            entry: s.choice(
                "entry",
                &[("event", AuditEntry::Event), ("batch", AuditEntry::Batch)],
                &[],
                "What an entry of the Redis stream holds: one event, or several, which is cheaper under load.",
            ),
            compress: s.boolean("compress", false, "Compress batches (lz4 frames)."),
            log_size: s.size(
                "log_size",
                "64MiB",
                "Size of the write-ahead log in `data_dir`; when it is full, requests are refused.",
            ),
        };
        if !(1 << 20..=1 << 40).contains(&audit.log_size) {
            s.problem("log_size", "`log_size` must be between 1MiB and 1TiB");
        }
        audit
    }
}
