//! The real curl, against a node that speaks TLS.

use std::process::Command;

use super::Node;

/// What curl says: its exit code, `status version` and the body.
#[derive(Debug)]
pub struct Curled {
    pub code: i32,
    pub status: String,
    pub body: String,
}

/// Calls `https://<name>:<port><path>` at the node's address with more options.
pub fn curl(node: &Node, name: &str, path: &str, options: &[&str]) -> Curled {
    let port = node.port();
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", "\n%{http_code} %{http_version}", "--cacert"])
        .arg(node.directory().join("ca.pem"))
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
        .args(options)
        .arg(format!("https://{name}:{port}{path}"))
        .current_dir(node.directory())
        .output()
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    Curled { code: output.status.code().unwrap_or(-1), status: status.to_owned(), body: body.to_owned() }
}
