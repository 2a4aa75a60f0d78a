//! Identifiers and unguessable strings.

use std::cell::RefCell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Serialize, Serializer};

use super::Timestamp;

thread_local! {
    /// Random numbers for ids, drawn many at a time: one call of the generator costs as much as the rest of an id.
    static STOCK: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// The id of one request: a ULID, 26 characters, ordered by time. Also the `X-Request-Id` of its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(ulid::Ulid);

impl RequestId {
    /// A new id for a request that began at `now`.
    pub fn new(now: Timestamp) -> Self {
        let random = STOCK.with_borrow_mut(|stock| {
            if stock.is_empty() {
                let fresh = random_bytes::<{ 64 * 16 }>();
                stock.extend(fresh.as_chunks().0.iter().copied().map(u128::from_le_bytes));
            }
            stock.pop().unwrap_or_else(|| u128::from_le_bytes(random_bytes::<16>()))
        });
        Self(ulid::Ulid::from_parts(u64::try_from(now.micros() / 1000).unwrap_or(0), random))
    }

    /// Reads the 26 characters.
    pub fn parse(text: &str) -> Option<Self> {
        ulid::Ulid::from_string(text).ok().map(Self)
    }

    /// When the request began, in whole milliseconds.
    pub fn time(self) -> Timestamp {
        let micros = self.0.timestamp_ms().saturating_mul(1000);
        Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// The 26 characters as a header's value.
    pub fn header_value(self) -> HeaderValue {
        let mut text = [0; ulid::ULID_LEN];
        HeaderValue::from_str(self.0.array_to_str(&mut text))
            .unwrap_or_else(|_| HeaderValue::from_static("-"))
    }

    /// The sixteen bytes, for the write-ahead log.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The id with these sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(ulid::Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `N` bytes from the operating system's cryptographic generator.
///
/// # Panics
/// When the operating system has no randomness to give: nothing of this program may go on without it.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "without randomness nothing here is safe to continue")]
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// An unguessable string of `N` random bytes, base64url without padding (RFC 4648 §5).
pub fn random_token<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<N>())
}
