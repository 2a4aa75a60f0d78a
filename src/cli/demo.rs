//! `portcullis demo`: a gateway, a sample API behind it, two users and the shipped policies, ready to be tried.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::audit::line::{self, Layout};
use super::{Context, Done, Failure, Output, node, quoted, sample, serve, words::passphrase};
use crate::accounts::{Account, Origin};
use crate::admin;
use crate::app;
use crate::http::Services;
use crate::model::{AttributeValue, Attributes, RoleName, Username, random_bytes};

/// Where the demo listens and what it keeps.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The gateway's port on loopback; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The operators' port on loopback; 0 picks a free one.
    #[arg(long, default_value_t = 9080)]
    admin_port: u16,
    /// Keep the data in this directory instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// The policies of the repository, compiled in, so that the demo works from any directory.
const POLICIES: &[(&str, &str)] = &[
    ("model.conf", include_str!("../../policies/model.conf")),
    ("policy.csv", include_str!("../../policies/policy.csv")),
    ("nodes/demo/first_page.csv", include_str!("../../policies/nodes/demo/first_page.csv")),
];

/// Runs the command.
pub fn run(context: &Context, arguments: &Arguments) -> Done {
    if arguments.port == arguments.admin_port && arguments.port != 0 {
        return Err(Failure::usage("--port and --admin-port are the same; give two"));
    }
    let kept = arguments.data_dir.is_some();
    let data_dir = match &arguments.data_dir {
        Some(directory) => std::path::absolute(directory).map_err(|error| cannot(directory, &error))?,
        None => temporary()?,
    };
    let outcome = try_it(context, arguments, &data_dir);
    if !kept {
        // Nothing is left behind, whatever the outcome was.
        let _missing = std::fs::remove_dir_all(&data_dir).is_err();
    }
    outcome
}

fn temporary() -> Result<PathBuf, Failure> {
    let name = format!("portcullis-demo-{}", hex::encode(random_bytes::<8>()));
    let directory = std::env::temp_dir().join(name);
    let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
    made.map(|()| directory.clone()).map_err(|error| cannot(&directory, &error))
}

fn cannot(place: impl AsRef<Path>, error: &std::io::Error) -> Failure {
    Failure::usage(format!("the demo cannot be set up: {}: {error}", place.as_ref().display()))
}

fn try_it(context: &Context, arguments: &Arguments, data_dir: &Path) -> Done {
    if std::env::var_os("RUST_LOG").is_some() {
        serve::start_logging();
    }
    let no_port = |error: std::io::Error| cannot("a port on 127.0.0.1", &error);
    let upstream = sample::start().map_err(no_port)?;
    let port = free_port(arguments.port, "--port")?;
    let admin_port = free_port(arguments.admin_port, "--admin-port")?;
    std::fs::create_dir_all(data_dir).map_err(|error| cannot(data_dir, &error))?;
    let policies = policies(data_dir).map_err(|error| cannot(data_dir, &error))?;
    let file = data_dir.join("portcullis.toml");
    std::fs::write(&file, configuration(port, admin_port, data_dir, &policies, upstream))
        .map_err(|error| cannot(&file, &error))?;
    let loaded = super::load(&file).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Failure::usage(lines.join("\n"))
    })?;
    node::block_on(async {
        let files = app::Files { path: file.clone(), watched: loaded.watched.clone() };
        let services = app::open(loaded).await.map_err(|error| serve::failure(&error))?;
        let people = people(&services).await?;
        let running = app::run(Arc::clone(&services), files).map_err(|error| serve::failure(&error))?;
        let signals = serve::Signals::listen()?;
        // A reader that goes away is no reason to end, and none to leave anything behind.
        let _closed = match context.output {
            Output::Json => print(&document(&running, data_dir, &file, &people).to_string()),
            Output::Text => print(&welcome(&running, &people, &kept_text(arguments))),
        };
        let follow = (context.output == Output::Text).then(|| tokio::spawn(follow(services)));
        signals.until_stopped(&running, std::io::stdout().is_terminal()).await;
        if let Some(task) = follow {
            task.abort();
        }
        running.stop().await;
        Ok(())
    })
}

fn kept_text(arguments: &Arguments) -> String {
    match &arguments.data_dir {
        Some(directory) => format!("kept in {}", directory.display()),
        None => "nothing is kept after Ctrl-C".to_owned(),
    }
}

/// The port, when nobody has it; a free one for 0, as the configuration has to name it.
fn free_port(asked: u16, flag: &str) -> Result<u16, Failure> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", asked)).and_then(|socket| socket.local_addr());
    bound.map(|address| address.port()).map_err(|error| {
        Failure::usage(format!(
            "port {asked} of 127.0.0.1: {error}; name another with {flag}, 0 finds a free one"
        ))
    })
}

/// The repository's policies where there are any, else the ones compiled in.
fn policies(data_dir: &Path) -> std::io::Result<PathBuf> {
    let here = Path::new("policies");
    if here.join("model.conf").is_file() {
        return std::path::absolute(here);
    }
    let directory = data_dir.join("policies");
    std::fs::create_dir_all(directory.join("nodes/demo"))?;
    for (name, text) in POLICIES {
        std::fs::write(directory.join(name), text)?;
    }
    Ok(directory)
}

fn configuration(
    port: u16,
    admin_port: u16,
    data_dir: &Path,
    policies: &Path,
    upstream: SocketAddr,
) -> String {
    let (data, policies) = (as_toml(data_dir), as_toml(policies));
    format!(
        r#"# Written by `portcullis demo`.
[node]
name = "demo"
data_dir = {data}

[listen]
address = "127.0.0.1:{port}"
public_url = "http://localhost:{port}"

[admin]
address = "127.0.0.1:{admin_port}"

[policy]
directory = {policies}

[[upstream]]
name = "sample"
servers = ["http://{upstream}"]

[[route]]
name = "first-page"
path = "/"
methods = ["GET", "HEAD"]
upstream = "sample"
authenticate = ["session", "none"]

[[route]]
name = "orders"
path = "/orders/{{rest*}}"
upstream = "sample"

[[route]]
name = "reports"
path = "/reports/{{department}}"
methods = ["GET"]
upstream = "sample"

[[route]]
name = "public"
path = "/public/{{rest*}}"
methods = ["GET"]
upstream = "sample"
authenticate = ["none"]

[[route]]
name = "echo"
path = "/echo"
upstream = "sample"
"#
    )
}

fn as_toml(path: &Path) -> String {
    Value::from(path.to_string_lossy().into_owned()).to_string()
}

/// One of the demo's users.
struct Person {
    name: &'static str,
    role: &'static str,
    department: &'static str,
    password: String,
}

async fn people(services: &Services) -> Result<Vec<Person>, Failure> {
    let mut people = Vec::new();
    for (name, role, department) in [("alice", "admin", "engineering"), ("bob", "reader", "sales")] {
        let password = passphrase();
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("user {name}: {error}"));
        let hash = services
            .identifier
            .hash(&password)
            .await
            .map_err(|error| Failure::usage(format!("{error:?}")))?;
        let now = services.clock.now();
        let account = Account {
            name: Username::parse(name).map_err(|error| wrong(&error))?,
            password_hash: Some(hash.clone()),
            roles: vec![RoleName::parse(role).map_err(|error| wrong(&error))?],
            attributes: Attributes(
                [("department".to_owned(), AttributeValue::Text(department.into()))].into(),
            ),
            tenant: None,
            email: None,
            email_verified: false,
            disabled: false,
            created: now,
            password_changed: Some(now),
            origin: Origin::Store,
        };
        match services.directory.add(account).await {
            Ok(()) => {}
            Err(crate::accounts::AccountError::Exists(_)) => {
                let set = |account: &mut Account| account.password_hash = Some(hash.clone());
                services.directory.update(name, &set).await.map_err(|error| wrong(&error))?;
            }
            Err(error) => return Err(wrong(&error)),
        }
        people.push(Person { name, role, department, password });
    }
    Ok(people)
}

fn document(running: &app::Running, data_dir: &Path, file: &Path, people: &[Person]) -> Value {
    json!({
        "public_url": format!("http://localhost:{}", running.public.port()),
        "admin_url": format!("http://localhost:{}", running.admin.port()),
        "admin_token": running.admin_token,
        "data_dir": data_dir,
        "config": file,
        "users": people.iter().map(|p| json!({"name": p.name, "password": p.password})).collect::<Vec<_>>(),
    })
}

/// One line or several on standard output.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn welcome(running: &app::Running, people: &[Person], kept: &str) -> String {
    let (public, admin, token) = (running.public.port(), running.admin.port(), &running.admin_token);
    // In full, as the other terminal may be anywhere.
    let program = std::env::current_exe().map_or_else(|_| "portcullis".to_owned(), |path| quoted(&path));
    let version = env!("CARGO_PKG_VERSION");
    let bob = people.iter().find(|person| person.name == "bob").map_or("", |person| &person.password);
    let longest = people.iter().map(|person| person.password.len()).max().unwrap_or(0);
    let people: String = people
        .iter()
        .map(|person| {
            let Person { name, role, department, password } = person;
            format!("  {name:<5} / {password:<longest$}    {role}, {department}\n")
        })
        .collect();
    format!(
        r#"Portcullis {version} · demo on the embedded store · {kept}

  gateway    http://localhost:{public}        a sample orders API is behind it; a browser starts here
  operators  http://localhost:{admin}        metrics, admin API (admin token: {token})

{people}
Try it in another terminal:

  TOKEN=$(curl -s localhost:{public}/auth/login -H 'content-type: application/json' -d '{{"username":"bob","password":"{bob}"}}' | sed 's/.*"access_token":"\([^"]*\).*/\1/')
  curl -H "authorization: Bearer $TOKEN" localhost:{public}/orders/7              # 200: readers read orders
  curl -H "authorization: Bearer $TOKEN" localhost:{public}/orders/7 -X DELETE    # 403: only admins delete
  PORTCULLIS_ADMIN_TOKEN={token} {program} --admin-url http://localhost:{admin} audit tail
"#
    )
}

/// Prints decisions as they happen.
async fn follow(services: Arc<Services>) {
    let mut layout = Layout::new(false);
    let node = services.config.load().node.name.clone();
    let mut next = 1;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(entries) = services.store.audit.read(&node, next, 100).await else { continue };
        let Some(last) = entries.last() else { continue };
        next = last.seq + 1;
        let events = entries.into_iter().map(|entry| entry.json).collect();
        let Ok(events) = admin::with_hints(&services, events).await else { continue };
        layout.today = line::today();
        for event in events.iter().filter_map(|json| serde_json::from_str::<Value>(json).ok()) {
            if print(&layout.line(&event)).is_err() {
                return;
            }
        }
    }
}
