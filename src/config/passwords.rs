//! `[passwords.hashing]`: Argon2id (RFC 9106) and how much of the machine it may take.

use super::reader::{Section, defaults};

/// `[passwords]`
#[derive(Clone, Debug, Default)]
pub struct Passwords {
    /// `[passwords.hashing]`
    pub hashing: Hashing,
}

/// `[passwords.hashing]`
#[derive(Clone, Debug)]
pub struct Hashing {
    /// Memory of one hash, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes of it.
    pub lanes: u32,
    /// Threads that hash.
    pub threads: usize,
    /// Sign-ins that wait for them; more are refused as `overloaded`.
    pub queue: usize,
}

impl Default for Hashing {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Passwords {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self { hashing: s.table("hashing", "Argon2id: the cost of one try.", Hashing::read) }
    }
}

impl Hashing {
    fn read(s: &mut Section<'_>) -> Self {
        let memory = s.size("memory", "19MiB", "Memory of one hash; at least 8KiB for each lane.");
        let half = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let hashing = Self {
            memory_kib: u32::try_from(memory / 1024).unwrap_or(u32::MAX),
            passes: s.number("passes", (2, "2"), (1, 1000), "Passes over that memory."),
            lanes: s.number("lanes", (1, "1"), (1, 64), "Lanes of that memory."),
            threads: s.number("threads", (half, "half the cores"), (1, 1024), "Threads that hash passwords."),
            queue: s.number(
                "queue",
                (64, "64"),
                (1, 1_000_000),
                "Sign-ins that wait for those threads; more are told to come back.",
            ),
        };
        s.effective("threads", &hashing.threads.to_string());
        let least = u64::from(hashing.lanes) * 8 * 1024;
        if memory < least.max(1 << 20) || memory > 4 << 30 {
            s.problem("memory", "`memory` must be between 1MiB and 4GiB, and at least 8KiB for each lane");
        }
        hashing
    }
}
