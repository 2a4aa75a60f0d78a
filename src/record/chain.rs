//! An event as its final JSON text: RFC 8785 form, chained by `prev` and `hash`. Called by `ship`.
//!
//! A new member is one line in [`members`], in its place in the order of names.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::codec::{Decision, End, clear};
use super::{Kind, Outcome};
use crate::model::Timestamp;

/// What the shipping thread adds to a decision and its outcome.
pub struct Place<'a> {
    pub node: &'a str,
    pub epoch: u64,
    pub seq: u64,
    pub prev: &'a str,
}

/// The event's text (with `hash`) and its hash.
pub fn event(place: &Place<'_>, decision: &Decision<'_>, end: &End<'_>) -> (String, Arc<str>) {
    let mut text = String::with_capacity(1024);
    let split = members(&mut text, place, decision, end);
    let hash = hex_of(&Sha256::digest(text.as_bytes()));
    let (head, tail) = text.split_at_checked(split).unwrap_or((&text, ""));
    let whole = [head, ",\"hash\":\"", &hash, "\"", tail].concat();
    (whole, Arc::from(hash))
}

/// A decision that stands for one whose record is damaged; the same each time it is made.
pub fn lost(time: Timestamp, seq: u64) -> Decision<'static> {
    let millis = u64::try_from(time.micros() / 1000).unwrap_or(0);
    let id = ulid::Ulid::from_parts(millis, u128::from(seq)).to_bytes();
    Decision {
        local: 0,
        id,
        time,
        kind: Kind::Node,
        decision: Outcome::Error,
        principal: None,
        roles: Vec::new(),
        client_ip: None,
        rule: None,
        request_id: None,
        count: None,
        reason: Some("record-damaged"),
        auth: None,
        user_agent: None,
        method: None,
        host: None,
        path: None,
        route: None,
        policy: None,
        shadow: None,
        client_request_id: None,
        trace_id: None,
    }
}

/// Writes everything but `hash`; returns where `hash` belongs.
fn members(out: &mut String, place: &Place<'_>, d: &Decision<'_>, end: &End<'_>) -> usize {
    let kept = |bit: u8, value| if end.clear & bit == 0 { value } else { None };
    out.push_str("{\"auth\":");
    text(out, d.auth);
    out.push_str(",\"client\":{\"ip\":");
    match d.client_ip {
        Some(ip) => address(out, ip.to_canonical()),
        None => out.push_str("null"),
    }
    out.push_str(",\"user_agent\":");
    text(out, kept(clear::AGENT, d.user_agent));
    out.push_str("},\"client_request_id\":");
    text(out, d.client_request_id);
    out.push_str(",\"count\":");
    number(out, end.count.or(d.count));
    out.push_str(",\"decision\":");
    text(out, Some(d.decision.as_str()));
    out.push_str(",\"duration_us\":");
    number(out, end.duration_us);
    out.push_str(",\"epoch\":");
    number(out, Some(place.epoch));
    let split = out.len();
    out.push_str(",\"host\":");
    text(out, kept(clear::HOST, d.host));
    out.push_str(",\"id\":");
    ulid_text(out, d.id);
    out.push_str(",\"kind\":");
    text(out, Some(d.kind.as_str()));
    out.push_str(",\"method\":");
    text(out, kept(clear::METHOD, d.method));
    out.push_str(",\"node\":");
    text(out, Some(place.node));
    out.push_str(",\"path\":");
    text(out, kept(clear::PATH, d.path));
    out.push_str(",\"policy\":");
    text(out, d.policy);
    out.push_str(",\"prev\":");
    text(out, Some(place.prev));
    out.push_str(",\"principal\":");
    match d.principal {
        None => out.push_str("null"),
        Some((kind, name)) => {
            out.push_str("{\"kind\":");
            text(out, Some(kind));
            out.push_str(",\"name\":");
            text(out, Some(name));
            out.push_str(",\"roles\":[");
            for (index, role) in d.roles.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                text(out, Some(role));
            }
            out.push_str("]}");
        }
    }
    out.push_str(",\"reason\":");
    text(out, end.reason.or_else(|| kept(clear::REASON, d.reason)));
    out.push_str(",\"request_id\":");
    match d.request_id {
        Some(id) => ulid_text(out, id.to_bytes()),
        None => out.push_str("null"),
    }
    out.push_str(",\"route\":");
    text(out, kept(clear::ROUTE, d.route));
    out.push_str(",\"rule\":");
    match d.rule {
        None => out.push_str("null"),
        Some((file, line)) => {
            out.push_str("{\"file\":");
            text(out, Some(file));
            out.push_str(",\"line\":");
            digits(out, u64::from(line));
            out.push('}');
        }
    }
    out.push_str(",\"seq\":");
    digits(out, place.seq);
    out.push_str(",\"shadow\":");
    text(out, d.shadow);
    out.push_str(",\"status\":");
    number(out, end.status.map(u64::from));
    out.push_str(",\"time\":\"");
    moment(out, d.time);
    out.push('"');
    out.push_str(",\"trace_id\":");
    text(out, d.trace_id);
    out.push('}');
    split
}

fn digits(out: &mut String, value: u64) {
    out.push_str(itoa::Buffer::new().format(value));
}

fn ulid_text(out: &mut String, id: [u8; 16]) {
    let mut text = [0; ulid::ULID_LEN];
    out.push('"');
    out.push_str(ulid::Ulid::from_bytes(id).array_to_str(&mut text));
    out.push('"');
}

fn address(out: &mut String, ip: IpAddr) {
    out.push('"');
    match ip {
        IpAddr::V4(ip) => {
            for (index, part) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push('.');
                }
                digits(out, u64::from(part));
            }
        }
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
    out.push('"');
}

/// The moment as [`Timestamp::rfc3339`] writes it; the text of a second is kept for the other events of it.
fn moment(out: &mut String, time: Timestamp) {
    thread_local! {
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != time.seconds() {
            *text = Timestamp::from_seconds(time.seconds()).rfc3339();
            *second = time.seconds();
        }
        out.push_str(text.strip_suffix("000000Z").unwrap_or(text));
    });
    let micros = time.micros().rem_euclid(1_000_000);
    let mut scale = 100_000;
    while scale > 0 {
        let digit = u8::try_from(micros / scale % 10).unwrap_or(0);
        out.push(char::from(b'0' + digit));
        scale /= 10;
    }
    out.push('Z');
}

/// A number, kept within what RFC 8785 (IEEE 754 doubles) writes exactly.
fn number(out: &mut String, value: Option<u64>) {
    match value {
        Some(value) => digits(out, value.min((1 << 53) - 1)),
        None => out.push_str("null"),
    }
}

fn text(out: &mut String, value: Option<&str>) {
    match value {
        Some(value) => quote(out, value),
        None => out.push_str("null"),
    }
}

/// Lower-case hexadecimal digits, two a byte.
fn hex_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from(if half < 10 { b'0' + half } else { b'a' - 10 + half }));
        }
    }
    text
}

/// A JSON string as RFC 8785 §3.2.2.2 writes it.
pub fn quote(out: &mut String, value: &str) {
    out.push('"');
    if !value.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(value);
        out.push('"');
        return;
    }
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
