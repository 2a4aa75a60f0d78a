//! The binary form of decisions and outcomes in the log. Called by `ring` (write) and `chain` (read).
//!
//! A new event member is one line in [`write_decision`], one in [`Decision::read`], one in `chain::members`, and a new
//! frame kind when logs of the earlier version may still be on disk.

use super::{Event, Kind, Outcome};
use crate::model::{RequestId, Timestamp};
use std::net::IpAddr;

/// Frame kind: a decision whose outcome follows.
pub const DECISION: u8 = 1;
/// Frame kind: the outcome of a decision.
pub const OUTCOME: u8 = 2;
/// Frame kind: both at once.
pub const BOTH: u8 = 3;
/// No outcome's frame is larger (bytes).
pub const OUTCOME_SIZE: usize = 136;

/// Members that differ among merged refusals are cleared, by these bits.
pub mod clear {
    pub const METHOD: u8 = 1;
    pub const HOST: u8 = 2;
    pub const PATH: u8 = 4;
    pub const ROUTE: u8 = 8;
    pub const AGENT: u8 = 16;
    pub const REASON: u8 = 32;
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct End<'a> {
    pub status: Option<u16>,
    pub duration_us: Option<u64>,
    pub count: Option<u64>,
    pub clear: u8,
    pub reason: Option<&'a str>,
}

/// A decision as it is in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision<'a> {
    pub local: u64,
    pub id: [u8; 16],
    pub time: Timestamp,
    pub kind: Kind,
    pub decision: Outcome,
    pub principal: Option<(&'a str, &'a str)>,
    pub roles: Vec<&'a str>,
    pub client_ip: Option<IpAddr>,
    pub rule: Option<(&'a str, u32)>,
    pub request_id: Option<RequestId>,
    pub count: Option<u64>,
    pub reason: Option<&'a str>,
    pub auth: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    pub method: Option<&'a str>,
    pub host: Option<&'a str>,
    pub path: Option<&'a str>,
    pub route: Option<&'a str>,
    pub policy: Option<&'a str>,
    pub shadow: Option<&'a str>,
    pub client_request_id: Option<&'a str>,
    pub trace_id: Option<&'a str>,
}

/// An outcome as it is in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended<'a> {
    pub local: u64,
    pub seq: u64,
    pub epoch: u64,
    pub end: End<'a>,
}

/// Writes an event; the first 24 bytes (local id, event id) are left for [`stamp`].
pub fn write_decision(event: &Event<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 24]);
    out.extend_from_slice(&event.time.micros().to_le_bytes());
    out.push(kind_code(event.kind));
    out.push(match event.decision {
        Outcome::Allow => 0,
        Outcome::Deny => 1,
        Outcome::Error => 2,
    });
    match event.principal {
        Some(principal) => {
            text(out, Some(principal.kind.as_str()), 32);
            text(out, Some(&principal.name), 512);
        }
        None => text(out, None, 0),
    }
    let mut budget = 4096_usize;
    let fitting = event
        .roles
        .iter()
        .take_while(|role| {
            let fits = budget > role.len() + 2;
            budget = budget.saturating_sub(role.len() + 2);
            fits
        })
        .count();
    out.extend_from_slice(&u16::try_from(fitting).unwrap_or(0).to_le_bytes());
    for role in event.roles.iter().take(fitting) {
        text(out, Some(role), 4096);
    }
    match event.client_ip {
        None => out.push(0),
        Some(IpAddr::V4(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    text(out, event.rule.map(|rule| &*rule.file), 512);
    out.extend_from_slice(&event.rule.map_or(0, |rule| rule.line).to_le_bytes());
    match event.request_id {
        Some(id) => {
            out.push(1);
            out.extend_from_slice(&id.to_bytes());
        }
        None => out.push(0),
    }
    out.extend_from_slice(&event.count.unwrap_or(u64::MAX).to_le_bytes());
    text(out, event.reason, 256);
    text(out, event.auth, 64);
    text(out, event.user_agent, 512);
    text(out, event.method, 64);
    text(out, event.host, 512);
    text(out, event.path, 8192);
    text(out, event.route, 512);
    text(out, event.policy, 128);
    text(out, event.shadow, 256);
    text(out, event.client_request_id, 256);
    text(out, event.trace_id, 128);
}

/// Puts the ids at the head of a decision.
pub fn stamp(payload: &mut [u8], local: u64, id: [u8; 16]) {
    if let Some((head, rest)) = payload.split_first_chunk_mut::<8>() {
        *head = local.to_le_bytes();
        if let Some(place) = rest.first_chunk_mut::<16>() {
            *place = id;
        }
    }
}

/// Appends an outcome.
pub fn write_outcome(local: u64, seq: u64, epoch: u64, end: &End<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&local.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    out.extend_from_slice(&end.status.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&end.duration_us.unwrap_or(u64::MAX).to_le_bytes());
    out.extend_from_slice(&end.count.unwrap_or(u64::MAX).to_le_bytes());
    out.push(end.clear);
    text(out, end.reason, 64);
}

fn text(out: &mut Vec<u8>, value: Option<&str>, most: usize) {
    let Some(value) = value else {
        out.extend_from_slice(&u16::MAX.to_le_bytes());
        return;
    };
    let cut = value.get(..value.floor_char_boundary(most)).unwrap_or_default();
    out.extend_from_slice(&u16::try_from(cut.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(cut.as_bytes());
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Access => 0,
        Kind::Login => 1,
        Kind::Token => 2,
        Kind::Session => 3,
        Kind::Key => 4,
        Kind::Policy => 5,
        Kind::Admin => 6,
        Kind::Node => 7,
        Kind::Stream => 8,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    Some(match code {
        0 => Kind::Access,
        1 => Kind::Login,
        2 => Kind::Token,
        3 => Kind::Session,
        4 => Kind::Key,
        5 => Kind::Policy,
        6 => Kind::Admin,
        7 => Kind::Node,
        8 => Kind::Stream,
        _ => return None,
    })
}

/// The local id at the head of a decision or outcome.
pub fn local_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The two halves of a [`BOTH`] frame.
pub fn split_both(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = payload.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
    fn text(&mut self) -> Option<Option<&'a str>> {
        let len = u16::from_le_bytes(self.array()?);
        if len == u16::MAX {
            return Some(None);
        }
        let (head, rest) = self.0.split_at_checked(usize::from(len))?;
        self.0 = rest;
        std::str::from_utf8(head).ok().map(Some)
    }
}

fn known(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

impl<'a> Decision<'a> {
    /// Reads what [`write_decision`] wrote; `None` when it is something else.
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let local = r.number()?;
        let id = r.array::<16>()?;
        let time = Timestamp::from_micros(i64::from_le_bytes(r.array()?));
        let kind = kind_of(r.byte()?)?;
        let decision = match r.byte()? {
            0 => Outcome::Allow,
            1 => Outcome::Deny,
            _ => Outcome::Error,
        };
        let principal = match r.text()? {
            Some(kind) => Some((kind, r.text()??)),
            None => None,
        };
        let count = u16::from_le_bytes(r.array()?);
        let mut roles = Vec::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            roles.push(r.text()??);
        }
        let client_ip = match r.byte()? {
            4 => Some(IpAddr::from(r.array::<4>()?)),
            6 => Some(IpAddr::from(r.array::<16>()?)),
            _ => None,
        };
        let file = r.text()?;
        let line = u32::from_le_bytes(r.array()?);
        let rule = file.map(|file| (file, line));
        let request_id = match r.byte()? {
            1 => Some(RequestId::from_bytes(r.array()?)),
            _ => None,
        };
        Some(Self {
            local,
            id,
            time,
            kind,
            decision,
            principal,
            roles,
            client_ip,
            rule,
            request_id,
            count: known(r.number()?),
            reason: r.text()?,
            auth: r.text()?,
            user_agent: r.text()?,
            method: r.text()?,
            host: r.text()?,
            path: r.text()?,
            route: r.text()?,
            policy: r.text()?,
            shadow: r.text()?,
            client_request_id: r.text()?,
            trace_id: r.text()?,
        })
    }
}

impl<'a> Ended<'a> {
    /// Reads what [`write_outcome`] wrote.
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let mut r = Reader(payload);
        let (local, seq, epoch) = (r.number()?, r.number()?, r.number()?);
        let status = u16::from_le_bytes(r.array()?);
        let end = End {
            status: (status != 0).then_some(status),
            duration_us: known(r.number()?),
            count: known(r.number()?),
            clear: r.byte()?,
            reason: r.text()?,
        };
        Some(Self { local, seq, epoch, end })
    }
}
