//! The real nginx with the configuration of docs/forward-auth.md, names and addresses replaced, and a browser before it.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::{Navigator, Node, PASSWORD, Raw, Reply, Upstream, eventually, free_port, location};

const PAGE: &str = include_str!("../../docs/forward-auth.md");
const APP: &str = "app.localhost";

/// nginx in the foreground with a directory of its own.
struct Nginx {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
}

impl Nginx {
    /// The server block of the documentation in front of `app`, asking `node`.
    fn documented(port: u16, node: SocketAddr, app: SocketAddr) -> Self {
        let block = PAGE
            .split("```nginx\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next())
            .expect("an nginx block");
        let server = block
            .replace("127.0.0.1:8080", &node.to_string())
            .replace("127.0.0.1:9000", &app.to_string())
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
            .replace("app.example.com", APP);
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().display();
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {root}/pid;\nerror_log {root}/error.log;\n\
             events {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {root}/a;\nproxy_temp_path {root}/b;\n\
             fastcgi_temp_path {root}/c;\nuwsgi_temp_path {root}/d;\nscgi_temp_path {root}/e;\n{server}\n}}\n"
        );
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).expect("written");
        let child = Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-p")
            .arg(directory.path())
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        let mut nginx = Self { child, directory, port };
        eventually("nginx listens", || {
            let ended = nginx.child.try_wait().expect("a status");
            assert!(ended.is_none(), "nginx ended: {}", nginx.log());
            std::net::TcpStream::connect(nginx.address()).ok()
        });
        nginx
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM: the master ends its workers.
        let _gone = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::TERM,
        )
        .is_err();
        drop(self.child.wait());
    }
}

fn set_up() -> (Upstream, Node, Nginx) {
    let app = Upstream::start(|request| Reply::ok(&format!("app {}", request.target)));
    let port = free_port();
    let node = Node::with()
        .config(&format!(
            "[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\nreturn_to_hosts = [\"{APP}:{port}\"]\n\
             [forward_auth]\ncallers = [\"127.0.0.1/32\"]\n\
             [[route]]\nname = \"app\"\nhosts = [\"{APP}\"]\npath = \"/{{rest*}}\"\nauthenticate = [\"session\", \"bearer\"]\n"
        ))
        .start();
    let nginx = Nginx::documented(port, node.address(), app.address());
    (app, node, nginx)
}

#[test]
fn nginx_lets_pass_what_the_verdict_allows_and_overwrites_identity() {
    let (app, node, nginx) = set_up();
    let (alice, bob) = (node.token("alice"), node.token("bob"));
    let ask = |method: &str, path: &str, headers: &str| {
        let host = format!("{APP}:{}", nginx.port);
        Raw::ask(
            nginx.address(),
            format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n"),
        )
    };
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let forged = "portcullis-user: alice\r\nPortcullis_User: alice\r\nPortcullis.User: alice\r\nportcullis-roles: admin\r\n\
                  x-original-url: http://app.localhost/open\r\nx-original-method: HEAD\r\n";
    let answer = ask("GET", "/orders/7?x=1", &(bearer(&bob) + forged));
    assert_eq!((answer.status, answer.text().as_str()), (200, "app /orders/7?x=1"), "{}", nginx.log());
    let got = app.last();
    assert_eq!((got.header("portcullis-user"), got.header("portcullis-roles")), ("bob", "reader"));
    assert!(got.header("portcullis-assertion").starts_with("ey"));
    assert!(got.headers.iter().all(|(_, value)| value != "alice" && value != "admin"), "{got:?}");
    assert_eq!(got.header("authorization"), "");

    let reached = app.recorded().len();
    assert_eq!(ask("DELETE", "/orders/7", &(bearer(&bob) + forged)).status, 403);
    for path in ["/orders/../x", "/orders//x", "/%6frders", "/orders%2Fx", "/orders/%2e%2e/x"] {
        assert_eq!(ask("GET", path, &bearer(&alice)).status, 403, "{path}");
    }
    let refused = ask("GET", "/orders/7", "");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("location"), None, "programs are not sent to a page");
    for path in ["/_portcullis", "/auth/verify/forward", "/auth/%76erify/nginx", "/auth//verify"] {
        let original = format!("x-forwarded-uri: /x\r\nx-forwarded-host: {APP}\r\n{}", bearer(&alice));
        assert_eq!(ask("GET", path, &original).status, 404, "nobody asks for verdicts from outside: {path}");
    }
    assert_eq!(app.recorded().len(), reached, "nothing refused reached the application");
    let upload = format!("{}content-length: 5\r\n", bearer(&alice));
    let host = format!("{APP}:{}", nginx.port);
    let answer = Raw::ask(nginx.address(), format!("PUT /x HTTP/1.1\r\nhost: {host}\r\n{upload}\r\nhello"));
    assert_eq!((answer.status, app.last().body.as_slice()), (200, b"hello".as_slice()));
}

#[test]
fn a_browser_signs_in_on_the_way_and_its_session_is_carried_to_the_applications_host() {
    let (app, node, nginx) = set_up();
    let mut browser = Navigator::new(&[(APP, nginx.address()), ("localhost", node.address())]);
    let wanted = format!("http://{APP}:{}/reports/2026?page=2", nginx.port);
    let (at, page) = browser.follow(&wanted);
    assert!(at.starts_with(&node.url("/auth/login?")), "the browser is at {at}");
    assert_eq!(page.status(), 200);
    assert!(app.recorded().is_empty());
    let answer = browser.sign_in(&at, page, "bob", PASSWORD);
    let next = location(&at, &answer).expect("a way back");
    let (at, page) = browser.follow(&next);
    assert_eq!(at, wanted);
    assert_eq!(page.text().expect("text"), "app /reports/2026?page=2");
    assert_eq!(app.last().header("portcullis-user"), "bob");
    let here = browser.cookie(APP, "portcullis").expect("a session on the application's host");
    let there = browser.cookie("localhost", "portcullis").expect("a session on the gateway's host");
    assert_ne!(here, there, "each host has a cookie of its own");
    assert_eq!(browser.open(&wanted).status(), 200);
}
