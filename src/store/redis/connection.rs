//! Reaching the server: TLS, credentials, time limits, and what is checked before it is trusted with anything.
//!
//! Used by the faces of the Redis store. Another check at opening is a line in [`check`].

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, ClientTlsConfig, Cmd, FromRedisValue, IntoConnectionInfo as _, TlsCertificates};
use tokio::runtime::Handle;

use crate::config::{self, RedisMode};
use crate::store::StoreError;

/// The oldest server that has all commands which the scripts use.
const OLDEST: (u32, u32) = (6, 2);

/// One connection that comes back by itself, usable from any runtime.
#[derive(Clone)]
pub(super) struct Connection {
    manager: ConnectionManager,
    runtime: Handle,
    timeout: Duration,
    name: Arc<str>,
}

/// Reads the configuration and its files.
pub(super) fn client(config: &config::Redis) -> Result<Client, StoreError> {
    let refused = |text: String| StoreError::Refused(text);
    let mode = match config.mode {
        RedisMode::Single => None,
        RedisMode::Sentinel => Some("sentinel"),
        RedisMode::Cluster => Some("cluster"),
    };
    if let Some(mode) = mode {
        return Err(refused(format!(
            "this version does not have [store.redis] mode = \"{mode}\"; use mode = \"single\" with the url of the master"
        )));
    }
    let [url] = config.urls.as_slice() else {
        let count = config.urls.len();
        return Err(refused(format!("[store.redis] urls: mode = \"single\" takes one url, not {count}")));
    };
    let invalid = |error: redis::RedisError| refused(format!("[store.redis] urls: {error}"));
    let info = url.as_str().into_connection_info().map_err(invalid)?;
    let mut settings = info.redis_settings().clone();
    if let Some(username) = &config.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &config.password {
        settings = settings.set_password(password.expose());
    }
    if let Some(database) = config.database {
        settings = settings.set_db(database);
    }
    let info = info.set_redis_settings(settings);
    if !matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        if config.ca.is_some() || config.certificate.is_some() || config.key.is_some() {
            return Err(refused(
                "[store.redis] ca, certificate and key need a url that begins with rediss://".to_owned(),
            ));
        }
        return Client::open(info).map_err(invalid);
    }
    provide_cryptography();
    let client_tls = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: file(certificate)?, client_key: file(key)? })
        }
        (None, None) => None,
        _ => return Err(refused("[store.redis] certificate and key belong together".to_owned())),
    };
    let root_cert = match &config.ca {
        Some(ca) => Some(certificates(ca)?),
        None => None,
    };
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        .map_err(|error| refused(format!("[store.redis] the files for TLS cannot be used: {error}")))
}

/// `main` installs the provider first; whoever opens a store without `main` gets the same one.
fn provide_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been first: it installs the same provider.
        let _first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

fn file(path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| {
        StoreError::Refused(format!("[store.redis] cannot read {}: {error}", path.display()))
    })
}

/// A CA file without a certificate would trust nobody, and says so here instead of at each handshake.
fn certificates(path: &Path) -> Result<Vec<u8>, StoreError> {
    let bytes = file(path)?;
    let pem = b"-----BEGIN CERTIFICATE-----";
    if !bytes.windows(pem.len()).any(|window| window == pem) {
        return Err(StoreError::Refused(format!(
            "[store.redis] ca: {} holds no certificate in PEM form",
            path.display()
        )));
    }
    Ok(bytes)
}

impl Connection {
    /// Connects once, so that a wrong address or password is known at start.
    pub(super) async fn open(
        client: &Client,
        config: &config::Redis,
        runtime: &Handle,
    ) -> Result<Self, StoreError> {
        let limits = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(config.timeout))
            .set_response_timeout(Some(config.timeout))
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(100))
            .set_number_of_retries(1);
        let name: Arc<str> = Arc::from(client.get_connection_info().addr().to_string());
        let connecting = runtime.spawn(ConnectionManager::new_with_config(client.clone(), limits));
        let manager = connecting.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let manager = manager.map_err(|error| cannot_connect(&name, &error))?;
        Ok(Self { manager, runtime: runtime.clone(), timeout: config.timeout, name })
    }

    /// Runs `work` where the connection lives: a connection that is made again belongs to the runtime that noticed it.
    pub(super) async fn run<T, F>(
        &self,
        work: impl FnOnce(ConnectionManager) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = redis::RedisResult<T>> + Send + 'static,
    {
        // A new connection and an answer.
        let limit = self.timeout.saturating_mul(2);
        let manager = self.manager.clone();
        let task = self.runtime.spawn(async move { tokio::time::timeout(limit, work(manager)).await });
        match task.await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(failed(&self.name, &error)),
            Ok(Err(_elapsed)) => Err(self.away(format!("no answer within {} ms", limit.as_millis()))),
            Err(error) => Err(self.away(error.to_string())),
        }
    }

    /// Sends one command.
    pub(super) async fn send<T: FromRedisValue + Send + 'static>(
        &self,
        command: Cmd,
    ) -> Result<T, StoreError> {
        self.run(async move |mut manager| command.query_async(&mut manager).await).await
    }

    /// Sends one command that changes nothing, again when the connection ended under it.
    pub(super) async fn read<T: FromRedisValue + Send + 'static>(
        &self,
        command: Cmd,
    ) -> Result<T, StoreError> {
        self.run(async move |mut manager| match command.query_async(&mut manager).await {
            Err(error) if error.is_connection_dropped() => command.query_async(&mut manager).await,
            answer => answer,
        })
        .await
    }

    /// Runs a script; `scripts` says what its keys and arguments are.
    pub(super) async fn script<T: FromRedisValue + Send + 'static>(
        &self,
        script: &'static redis::Script,
        keys: Vec<String>,
        arguments: Vec<Vec<u8>>,
    ) -> Result<T, StoreError> {
        self.run(async move |mut manager| {
            let mut call = script.prepare_invoke();
            for key in keys {
                call.key(key);
            }
            for argument in arguments {
                call.arg(argument);
            }
            call.invoke_async(&mut manager).await
        })
        .await
    }

    /// Sends one write, and returns after every replica that the master has confirmed it: `WAIT`, in one pipeline with
    /// the write because it speaks for its connection alone, and counted only when that server is the one whose replicas
    /// were counted before, and still the master.
    ///
    /// # Errors
    /// `Unavailable` also when the write was done and a replica did not confirm it: the caller sends it again.
    pub(super) async fn send_confirmed<T: FromRedisValue + Send + 'static>(
        &self,
        write: Cmd,
    ) -> Result<T, StoreError> {
        let ask = |section| redis::cmd("INFO").arg(section).take();
        let mut pipeline = redis::pipe();
        pipeline.add_command(ask("server")).add_command(ask("replication"));
        let (server, replication): (String, String) =
            self.run(async move |mut manager| pipeline.query_async(&mut manager).await).await?;
        let wanted = online_replicas(&replication);
        let patience = u64::try_from(self.timeout.as_millis() / 2).unwrap_or(u64::MAX).max(1);
        let mut pipeline = redis::pipe();
        pipeline.add_command(write).cmd("WAIT").arg(wanted).arg(patience);
        pipeline.add_command(ask("server")).add_command(ask("replication"));
        let (answer, confirmed, after, replication): (T, u64, String, String) =
            self.run(async move |mut manager| pipeline.query_async(&mut manager).await).await?;
        if field(&server, "run_id") != field(&after, "run_id") || field(&replication, "role") != "master" {
            return Err(self.away("another server answers than before the write".to_owned()));
        }
        if confirmed < wanted {
            return Err(self.away(format!("{confirmed} of {wanted} replicas confirmed a write")));
        }
        Ok(answer)
    }

    pub(super) fn away(&self, reason: String) -> StoreError {
        StoreError::Unavailable(format!("redis at {}: {reason}", self.name))
    }
}

/// Replicas that are in step, from `INFO replication`.
fn online_replicas(info: &str) -> u64 {
    let online = |line: &&str| line.starts_with("slave") && line.contains("state=online");
    u64::try_from(info.lines().filter(online).count()).unwrap_or(u64::MAX)
}

/// A value of `INFO`; empty when it is not there.
fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(str::trim).unwrap_or_default()
}

/// What must hold of the server before it is used.
pub(super) async fn check(connection: &Connection) -> Result<(), StoreError> {
    let info: String = connection.send(redis::cmd("INFO")).await?;
    let field = |name| field(&info, name);
    let at = &connection.name;
    let version = field("redis_version");
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
        return Err(StoreError::Refused(format!(
            "redis at {at} has version `{version}`; install 6.2 or later"
        )));
    }
    if field("redis_mode") == "cluster" {
        return Err(StoreError::Refused(format!(
            "redis at {at} is part of a cluster; this version needs a single server: set cluster-enabled no there"
        )));
    }
    if field("role") != "master" {
        return Err(StoreError::Refused(format!(
            "redis at {at} is a replica; set [store.redis] urls to its master"
        )));
    }
    let policy = field("maxmemory_policy");
    if policy != "noeviction" && field("maxmemory") != "0" {
        return Err(StoreError::Refused(format!(
            "redis at {at} may drop security state when its memory is full (maxmemory-policy is {policy}): \
             run `CONFIG SET maxmemory-policy noeviction` there and set it in its configuration"
        )));
    }
    if field("aof_enabled") == "0" {
        tracing::warn!(
            server = %at,
            "redis has no append-only file: a crash loses what it acknowledged since its last snapshot"
        );
    }
    Ok(())
}

fn cannot_connect(name: &str, error: &redis::RedisError) -> StoreError {
    match failed(name, error) {
        StoreError::Unavailable(_) => {
            StoreError::Unavailable(format!("redis at {name} cannot be reached: {error}"))
        }
        other => other,
    }
}

fn failed(name: &str, error: &redis::RedisError) -> StoreError {
    use redis::ErrorKind::{AuthenticationFailed, Parse, UnexpectedReturnType};
    let denied = matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
    if denied || matches!(error.kind(), AuthenticationFailed) {
        return StoreError::Refused(format!(
            "redis at {name} does not take the credentials; check [store.redis] username and password, and what \
             that user may do: {error}"
        ));
    }
    if error.to_string().contains("switch database") {
        return StoreError::Refused(format!(
            "redis at {name} does not have the database that [store.redis] database names: {error}"
        ));
    }
    if matches!(error.kind(), Parse | UnexpectedReturnType) || error.code() == Some("WRONGTYPE") {
        return StoreError::Corrupt { key: format!("redis at {name}"), reason: error.to_string() };
    }
    StoreError::Unavailable(format!("redis at {name}: {error}"))
}
