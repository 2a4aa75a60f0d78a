//! What was shipped last, in one small file of two alternating slots. Called by `ship` and at open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::tail::At;

const SLOT: usize = 256;

/// Where shipping stands. Numbers of the log and of the events differ by `base`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shipped {
    /// The log's number of the last shipped event.
    pub seq: u64,
    /// An event's `seq` is its number in the log plus this (not zero when a log began after its node's events did).
    pub base: i64,
    /// The hash of the last shipped event.
    pub hash: Arc<str>,
    /// The node's last start, milliseconds.
    pub epoch: u64,
    /// The next number that the log gives.
    pub next_seq: u64,
    /// The oldest segment in use.
    pub lowest: u64,
    /// A place in the chain, at or before the last shipped event, after which the log has every event.
    pub floor: At,
}

impl Default for Shipped {
    fn default() -> Self {
        let floor = At { seq: 0, base: 0, hash: none() };
        Self { seq: 0, base: 0, hash: none(), epoch: 0, next_seq: 1, lowest: 1, floor }
    }
}

/// What stands for a hash before the first event.
pub fn none() -> Arc<str> {
    Arc::from("0".repeat(64))
}

/// The file.
pub struct StateFile {
    file: File,
    node: u32,
    turn: u64,
}

impl StateFile {
    /// Opens or makes it; what it says of this node, or `None` when it is new.
    ///
    /// # Errors
    /// When the file cannot be read or made.
    pub fn open(path: &Path, node: &str) -> io::Result<(Self, Option<Shipped>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = [0_u8; 2 * SLOT];
        let mut have = 0;
        while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, have as u64)? {
                0 => break,
                n => have += n,
            }
        }
        let best = bytes.chunks_exact(SLOT).filter_map(read).max_by_key(|(turn, ..)| *turn);
        let mut state = Self { file, node: crc32fast::hash(node.as_bytes()), turn: 0 };
        let Some((turn, owner, mut shipped)) = best else { return Ok((state, None)) };
        state.turn = turn;
        if owner != state.node {
            shipped.base = i64::try_from(shipped.seq).map_or(0, |seq| -seq);
            shipped.hash = none();
            shipped.floor = At::of(&shipped);
        }
        Ok((state, Some(shipped)))
    }

    /// Writes it; `sync`: and waits for the disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, shipped: &Shipped, sync: bool) -> io::Result<()> {
        self.turn += 1;
        let mut slot = Vec::with_capacity(SLOT);
        slot.extend_from_slice(&self.turn.to_le_bytes());
        slot.extend_from_slice(&u64::from(self.node).to_le_bytes());
        slot.extend_from_slice(&shipped.seq.to_le_bytes());
        slot.extend_from_slice(&shipped.base.to_le_bytes());
        slot.extend_from_slice(&shipped.epoch.to_le_bytes());
        slot.extend_from_slice(&shipped.next_seq.to_le_bytes());
        slot.extend_from_slice(&shipped.lowest.to_le_bytes());
        slot.extend_from_slice(shipped.hash.as_bytes());
        slot.extend_from_slice(&shipped.floor.seq.to_le_bytes());
        slot.extend_from_slice(&shipped.floor.base.to_le_bytes());
        slot.extend_from_slice(shipped.floor.hash.as_bytes());
        slot.resize(SLOT - 4, 0);
        let sum = crc32fast::hash(&slot);
        slot.extend_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&slot, (self.turn % 2) * SLOT as u64)?;
        if sync { self.file.sync_data() } else { Ok(()) }
    }
}

fn read(slot: &[u8]) -> Option<(u64, u32, Shipped)> {
    let (body, sum) = slot.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let number =
        |index: usize| body.get(index * 8..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let hash = |from| Some(std::str::from_utf8(body.get(from..from + 64)?).ok()?.into());
    let signed = |index| Some(i64::from_le_bytes(u64::to_le_bytes(number(index)?)));
    Some((
        number(0)?,
        u32::try_from(number(1)?).ok()?,
        Shipped {
            seq: number(2)?,
            base: signed(3)?,
            epoch: number(4)?,
            next_seq: number(5)?,
            lowest: number(6)?,
            hash: hash(56)?,
            floor: At { seq: number(15)?, base: signed(16)?, hash: hash(136)? },
        },
    ))
}
