//! `[store]` and `[store.redis]`: where everything is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::fields::non_empty;
use super::files::FileKind;
use super::reader::{Section, defaults};
use crate::model::Secret;

/// Which store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StoreKind {
    /// A file in `data_dir`, for one node.
    #[default]
    Embedded,
    /// Redis, for several nodes.
    Redis,
}

/// How Redis is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RedisMode {
    /// One server.
    #[default]
    Single,
    /// Sentinels that name the primary; not in this version.
    Sentinel,
    /// A cluster; not in this version.
    Cluster,
}

/// `[store]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    /// Which store.
    pub kind: StoreKind,
    /// `[store.redis]`
    pub redis: Redis,
}

/// `[store.redis]`
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// How Redis is run.
    pub mode: RedisMode,
    /// `redis://` or `rediss://`; may hold a password: never print it.
    pub urls: Vec<String>,
    /// The ACL user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: Option<i64>,
    /// Who must have issued the server's certificate.
    pub ca: Option<PathBuf>,
    /// Our certificate, there together with `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// What every key begins with.
    pub prefix: String,
    /// How long a command may take.
    pub timeout: Duration,
}

impl Default for Redis {
    fn default() -> Self {
        defaults(Self::read)
    }
}

impl Store {
    pub(super) fn read(s: &mut Section<'_>) -> Self {
        Self {
            kind: s.choice(
                "kind",
                &[("embedded", StoreKind::Embedded), ("redis", StoreKind::Redis)],
                &[],
                "`embedded`: a file in `data_dir`, for one node. `redis`: for several.",
            ),
            redis: s.table("redis", "The connection to Redis.", Redis::read),
        }
    }
}

impl Redis {
    fn read(s: &mut Section<'_>) -> Self {
        s.unsupported(&["master_name", "sentinel_username", "sentinel_password", "sentinel_password_file"]);
        let redis = Self {
            mode: s.choice(
                "mode",
                &[("single", RedisMode::Single)],
                &["sentinel", "cluster"],
                "How Redis is run.",
            ),
            urls: s.redis_urls("urls", "redis://127.0.0.1:6379", "The server; `rediss://` for TLS."),
            username: s.optional("username", "text", "The ACL user.", non_empty),
            password: s.secret("password", "Its password."),
            database: s.number_optional("database", (0, 65_535), "The number of the database."),
            ca: s.file("ca", FileKind::Certificates, "Who must have issued the server's certificate, PEM."),
            certificate: s.file("certificate", FileKind::Certificates, "Our certificate for TLS, PEM."),
            key: s.file("key", FileKind::Key, "Its private key, PEM, readable by its owner only."),
            prefix: s.parsed(
                "prefix",
                "text",
                "portcullis:".to_owned(),
                "What every key begins with.",
                prefix,
            ),
            timeout: s.positive_duration("timeout", "2s", "How long a command may take."),
        };
        if redis.urls.len() != 1 && !s.context.is_faulty(&s.key("urls")) {
            s.problem("urls", "`urls` must hold one URL when `mode` is single");
        }
        pair(s, redis.certificate.is_some(), redis.key.is_some());
        redis
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b);
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a prefix: 1 to 64 letters, digits and `_` `.` `:` `/` `-`"))
    }
}

/// A certificate and its key come together.
pub(super) fn pair(s: &mut Section<'_>, certificate: bool, key: bool) {
    if certificate && !key {
        s.problem("certificate", "`certificate` needs its `key` beside it");
    }
    if key && !certificate {
        s.problem("key", "`key` needs its `certificate` beside it");
    }
}
