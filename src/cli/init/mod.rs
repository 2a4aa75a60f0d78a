//! `portcullis init`: from nothing to a node that can be started: configuration, policies with tests, certificates for
//! development, the first administrator. All of it or nothing: what was written is removed when a step fails.
//!
//! A further file is a line in [`files`]; its text stands beside this one.

mod certificates;

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::{Value, json};
use url::{Host, Url};

use super::node::{block_on, segment};
use super::offline::Offline;
use super::{Context, Done, Failure, Output, check, emit, load, one_line, quoted, words::passphrase};
use certificates::Certificates;

const CONFIG: &str = include_str!("portcullis.toml");
const POLICY: &str = include_str!("policy.csv");
const TESTS: &str = include_str!("tests.yaml");
const MODEL: &str = include_str!("../../../policies/model.conf");
const IGNORED: &str = "# Secrets and data are no part of a repository.\ndata/\ntls/*.key\n";

/// What `init` is told.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Where to write; made when it is missing.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The web API to stand in front of: `http://HOST:PORT`.
    #[arg(long, value_name = "URL")]
    upstream: Url,
    /// This gateway's address as browsers see it: `https://HOST`, or `http://localhost:PORT` for a first try.
    #[arg(long, value_name = "URL")]
    public_url: Url,
    /// Where the gateway listens; by default the port of the public URL, on loopback when the URL is.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where operators connect.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9080")]
    admin_address: SocketAddr,
    /// The name of the first administrator.
    #[arg(long, value_name = "NAME", default_value = "administrator")]
    admin: String,
    /// Read the administrator's password from standard input, one line; without this one is made and printed.
    #[arg(long)]
    password_stdin: bool,
}

/// Runs the command.
pub fn run(context: &Context, arguments: &Arguments) -> Done {
    let host = host(&arguments.public_url)?;
    let password = match arguments.password_stdin {
        true => {
            one_line().map_err(|error| Failure::usage(format!("the password on standard input: {error}")))?
        }
        false => passphrase(),
    };
    let certificates = certificates::make(&host)
        .map_err(|error| Failure::usage(format!("no certificate can be made for `{host}`: {error}")))?;
    let mut files = files(arguments, &certificates, &host)?;
    // A repository has its own: it is not ours to change.
    files.retain(|(name, ..)| *name != ".gitignore" || !arguments.dir.join(name).exists());
    absent(&arguments.dir, &files)?;

    let mut made = Made::default();
    let config = arguments.dir.join("portcullis.toml");
    for (name, text, mode) in &files {
        made.file(&arguments.dir.join(name), text, *mode)?;
    }
    let problems = check::problems(&config);
    if problems.iter().any(|problem| problem.get("severity").and_then(Value::as_str) == Some("error")) {
        return Err(refused(&problems));
    }
    made.directory(&arguments.dir.join("data"), 0o700)?;
    let user = block_on(first_administrator(&config, &arguments.admin, &password))?;
    made.keep();

    let problems = check::problems(&config);
    let next = format!("portcullis -c {} serve", quoted(&config));
    if context.output == Output::Json {
        let names: Vec<_> = files.iter().map(|(name, ..)| arguments.dir.join(name)).collect();
        let mut shown = user;
        if let Some(members) = shown.as_object_mut().filter(|_| !arguments.password_stdin) {
            members.insert("password".into(), json!(password));
        }
        emit(json!({
            "config": config, "files": names, "public_url": arguments.public_url, "user": shown,
            "ok": true, "problems": problems, "next": next,
        }));
        return Ok(());
    }
    emit(format!("wrote {}:", arguments.dir.display()));
    for (name, ..) in &files {
        emit(format!("  {name:<26} {}", meaning(name)));
    }
    emit(format!("\nfirst administrator: {}", arguments.admin));
    if !arguments.password_stdin {
        emit(format!("password:            {password}    (shown once; `user passwd` sets another)"));
    }
    emit("\nportcullis check:");
    check::report(context, &problems, "nothing was started")?;
    emit(format!("\nNext:\n  {next}"));
    Ok(())
}

/// What each file is, for people.
fn meaning(name: &str) -> &'static str {
    match name {
        "portcullis.toml" => "the configuration",
        "policies/model.conf" => "how rules are matched (casbin)",
        "policies/policy.csv" => "who may do what",
        "policies/tests/first.yaml" => "what the rules must answer",
        "tls/ca.pem" => "a certificate authority for development: clients trust this one",
        "tls/ca.key" => "its key",
        "tls/server.pem" => "the gateway's certificate",
        "tls/server.key" => "its key",
        _ => "keeps data and keys out of a repository",
    }
}

type Files = Vec<(&'static str, String, u32)>;

fn files(arguments: &Arguments, certificates: &Certificates, host: &str) -> Result<Files, Failure> {
    let upstream = origin(&arguments.upstream, "--upstream")?;
    let public = origin(&arguments.public_url, "--public-url")?;
    let port = arguments.public_url.port_or_known_default().unwrap_or(443);
    let listen = arguments.listen.unwrap_or_else(|| match is_loopback(&arguments.public_url) {
        true => SocketAddr::from(([127, 0, 0, 1], port)),
        false => SocketAddr::from(([0, 0, 0, 0], port)),
    });
    let text = |text: &str| Value::from(text).to_string();
    let secure = arguments.public_url.scheme() == "https";
    let config = CONFIG
        .replace("@LISTEN@", &text(&listen.to_string()))
        .replace("@PUBLIC_URL@", &text(&public))
        .replace("@ADMIN@", &text(&arguments.admin_address.to_string()))
        .replace("@UPSTREAM@", &text(&upstream))
        .replace("@TLS@", &tls(host, secure));
    Ok(vec![
        ("portcullis.toml", config, 0o644),
        ("policies/model.conf", MODEL.to_owned(), 0o644),
        ("policies/policy.csv", POLICY.to_owned(), 0o644),
        ("policies/tests/first.yaml", TESTS.to_owned(), 0o644),
        ("tls/ca.pem", certificates.ca.clone(), 0o644),
        ("tls/ca.key", certificates.ca_key.clone(), 0o600),
        ("tls/server.pem", certificates.server.clone(), 0o644),
        ("tls/server.key", certificates.server_key.clone(), 0o600),
        (".gitignore", IGNORED.to_owned(), 0o644),
    ])
}

/// The TLS section; commented where the public URL is plain HTTP.
fn tls(host: &str, secure: bool) -> String {
    let lines = [
        "[[listen.tls.certificate]]          # for development, by tls/ca.pem: put your own here".to_owned(),
        format!("names = [{}]", Value::from(host)),
        "certificate = \"tls/server.pem\"".to_owned(),
        "key = \"tls/server.key\"            # chmod 600".to_owned(),
    ];
    let mark = if secure { "" } else { "# " };
    lines.iter().map(|line| format!("{mark}{line}\n")).collect()
}

/// `scheme://host:port` of a URL that has nothing else.
fn origin(url: &Url, flag: &str) -> Result<String, Failure> {
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let plain = bare && url.username().is_empty() && url.password().is_none();
    if !plain || !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Failure::usage(format!("{flag} `{url}` is not http(s)://HOST[:PORT] and nothing else")));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn host(url: &Url) -> Result<String, Failure> {
    origin(url, "--public-url")?;
    if url.scheme() == "http" && !is_loopback(url) {
        let message = format!("--public-url `{url}`: plain http is for loopback only; use https://");
        return Err(Failure::usage(message));
    }
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    };
    if host.is_empty() || !certificates::is_name(&host) {
        return Err(Failure::usage(format!("--public-url `{url}` has no host that a certificate can name")));
    }
    Ok(host)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Nothing is written over.
fn absent(dir: &Path, files: &Files) -> Result<(), Failure> {
    let there: Vec<_> = files
        .iter()
        .map(|(name, ..)| *name)
        .chain(["data"])
        .filter(|name| dir.join(name).symlink_metadata().is_ok())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} has {} already, and nothing is written over; name another directory",
        dir.display(),
        there.join(", ")
    );
    Err(Failure { name: "exists", ..Failure::no(message) })
}

fn refused(problems: &[Value]) -> Failure {
    let text = |problem: &Value| {
        let member = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        format!("{}: {}", member("file"), member("message"))
    };
    let lines: Vec<_> = problems.iter().map(text).collect();
    Failure::usage(format!("{}\nnothing was written", lines.join("\n")))
}

async fn first_administrator(config: &Path, name: &str, password: &str) -> Result<Value, Failure> {
    let offline = Offline::open(|| {
        load(config).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Failure::usage(lines.join("\n"))
        })
    })
    .await?;
    let body = json!({"name": name, "password": password, "roles": ["admin"]});
    let mut added = offline.exchange(&Method::POST, "/api/v1/users", Some(&body)).await;
    if added.as_ref().is_ok_and(|(status, _)| status.is_success()) {
        // An operator's role is given by a change only, here as in `user set`.
        let body = json!({"roles": ["admin", "portcullis:administrator"]});
        let path = format!("/api/v1/users/{}", segment(name));
        added = offline.exchange(&Method::PATCH, &path, Some(&body)).await;
    }
    offline.close().await;
    let (status, text) = added.map_err(Failure::usage)?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() {
        return Ok(answer);
    }
    let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("the account could not be added");
    Err(Failure::usage(format!("--admin `{name}`: {detail}; nothing was written")))
}

/// What was made so far; removed by its drop unless it is kept.
#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    trees: Vec<PathBuf>,
}

impl Made {
    fn file(&mut self, path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.parents(parent)?;
        }
        let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
        self.files.push(path.to_owned());
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    fn parents(&mut self, path: &Path) -> Result<(), Failure> {
        let missing: Vec<_> = path
            .ancestors()
            .filter(|one| !one.as_os_str().is_empty())
            .take_while(|one| !one.exists())
            .collect();
        for one in missing.into_iter().rev() {
            std::fs::create_dir(one)
                .map_err(|error| Failure::usage(format!("{}: {error}", one.display())))?;
            self.directories.push(one.to_owned());
        }
        Ok(())
    }

    /// A directory that is removed with everything in it.
    fn directory(&mut self, path: &Path, mode: u32) -> Result<(), Failure> {
        std::fs::DirBuilder::new()
            .mode(mode)
            .create(path)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        self.trees.push(path.to_owned());
        Ok(())
    }

    fn keep(mut self) {
        self.files.clear();
        self.directories.clear();
        self.trees.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What cannot be removed stays: the failure that led here is what is reported.
        for path in &self.trees {
            let _left = std::fs::remove_dir_all(path).is_err();
        }
        for path in &self.files {
            let _left = std::fs::remove_file(path).is_err();
        }
        for path in self.directories.iter().rev() {
            let _left = std::fs::remove_dir(path).is_err();
        }
    }
}
