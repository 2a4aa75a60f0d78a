//! The real httpbin under gunicorn, from PyPI.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{eventually, free_port};

/// The virtual environment that `tests/run` makes.
pub const VENV: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/venv");

/// httpbin on a free port; ended by its drop.
pub struct Httpbin {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Httpbin {
    pub fn start() -> Self {
        let program = PathBuf::from(VENV).join("bin/gunicorn");
        assert!(program.exists(), "{} is missing: tests/run installs it", program.display());
        let (port, directory) = (free_port(), tempfile::tempdir().expect("a directory"));
        let log = directory.path().join("log");
        let child = Command::new(program)
            .args(["--bind", &format!("127.0.0.1:{port}"), "--worker-class", "gthread", "--threads", "8"])
            .args(["--keep-alive", "30", "--no-control-socket", "--error-logfile"])
            .arg(&log)
            .arg("httpbin:app")
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gunicorn starts");
        let mut httpbin = Self { child, port, _directory: directory };
        eventually("httpbin listens", || {
            let ended = httpbin.child.try_wait().expect("a status");
            assert!(ended.is_none(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        httpbin
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Httpbin {
    fn drop(&mut self) {
        // SIGTERM: the master ends its workers.
        let master = rustix::process::Pid::from_child(&self.child);
        let _gone = rustix::process::kill_process(master, rustix::process::Signal::TERM).is_err();
        drop(self.child.wait());
    }
}
