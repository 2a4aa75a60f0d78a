//! A real `redis-server` on a free port that tests stop, kill, pause and empty; and a wire to it that can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, free_port};

/// A server; ended by its drop, its directory removed.
pub struct Redis {
    child: Option<Child>,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    /// What `redis-cli` needs to get in.
    pub access: Vec<String>,
    pub port: u16,
}

impl Redis {
    /// One that keeps everything it acknowledged, also after `kill -9`.
    pub fn start() -> Self {
        Self::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// One with these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self::prepared(|_| arguments.iter().map(|argument| (*argument).to_owned()).collect())
    }

    /// One whose arguments name files of its directory.
    pub fn prepared(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("portcullis-redis-").tempdir().expect("a directory");
        let port = free_port();
        let mut all: Vec<String> =
            ["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()].map(str::to_owned).to_vec();
        all.extend(["--dir".to_owned(), directory.path().display().to_string()]);
        all.extend(arguments(directory.path()));
        let mut redis = Self { child: None, directory, arguments: all, access: Vec::new(), port };
        redis.start_again();
        redis
    }

    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let mut command = Command::new("redis-server");
        command.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server is installed"));
        let port = self.port;
        eventually("redis-server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        eventually("redis-server has read its data", || {
            (!self.cli(&["PING"]).contains("LOADING")).then_some(())
        });
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(&self.access).args(arguments);
        let output = command.output().expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().expect("it runs")), signal).expect("a signal");
    }

    /// As a service manager stops it.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().expect("it runs");
        eventually("redis-server ends", || child.try_wait().expect("a status"));
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("killed");
        child.wait().expect("waited");
    }

    /// It hangs: connections stay, nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Removes what it has on the disk; it must not run.
    pub fn lose_data(&self) {
        assert!(self.child.is_none(), "it runs");
        for entry in std::fs::read_dir(self.directory.path()).expect("its directory") {
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().contains("appendonly") {
                std::fs::remove_dir_all(path).expect("removed");
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

const PASS: u8 = 0;
const MUTE: u8 = 1;
const RESET: u8 = 2;
const ARMED: u8 = 3;

/// What lies between a node and its server. Ended by its drop.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    mode: AtomicU8,
    /// Milliseconds before each piece of an answer.
    delay: AtomicU64,
    /// Bytes of answers that were kept back.
    muted: AtomicU64,
    /// What a request must hold to mute the answers.
    trigger: Mutex<&'static str>,
    open: Mutex<Vec<TcpStream>>,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            mode: AtomicU8::new(PASS),
            delay: AtomicU64::new(0),
            muted: AtomicU64::new(0),
            trigger: Mutex::default(),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if shared.mode.load(Ordering::SeqCst) == RESET {
                    continue;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let mut open = shared.open.lock().expect("a lock");
                open.push(near.try_clone().expect("a socket"));
                open.push(far.try_clone().expect("a socket"));
                drop(open);
                let (from, to) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                let state = Arc::clone(&shared);
                std::thread::spawn(move || copy(from, to, &state, false));
                let state = Arc::clone(&shared);
                std::thread::spawn(move || copy(far, near, &state, true));
            }
        });
        Self { port: own, state }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Requests arrive, answers do not.
    pub fn mute(&self) {
        self.state.muted.store(0, Ordering::SeqCst);
        self.state.mode.store(MUTE, Ordering::SeqCst);
    }

    /// From the next request with this text on, requests arrive and answers do not.
    pub fn mute_from(&self, text: &'static str) {
        *self.state.trigger.lock().expect("a lock") = text;
        self.state.muted.store(0, Ordering::SeqCst);
        self.state.mode.store(ARMED, Ordering::SeqCst);
    }

    /// How many bytes of answers were kept back since [`Wire::mute`] or [`Wire::mute_from`].
    pub fn muted(&self) -> u64 {
        self.state.muted.load(Ordering::SeqCst)
    }

    /// Every connection ends, and every new one.
    pub fn cut(&self) {
        self.state.mode.store(RESET, Ordering::SeqCst);
        self.end_all();
    }

    /// Every connection ends; new ones work.
    pub fn reset(&self) {
        self.state.mode.store(PASS, Ordering::SeqCst);
        self.end_all();
    }

    /// Each piece of an answer comes later.
    pub fn slow(&self, by: Duration) {
        self.state.delay.store(u64::try_from(by.as_millis()).expect("milliseconds"), Ordering::SeqCst);
    }

    fn end_all(&self) {
        for socket in self.state.open.lock().expect("a lock").drain(..) {
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State, answers: bool) {
    let mut buffer = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if answers {
            let delay = state.delay.load(Ordering::SeqCst);
            if delay > 0 {
                std::thread::sleep(Duration::from_millis(delay));
            }
            if state.mode.load(Ordering::SeqCst) == MUTE {
                state.muted.fetch_add(count as u64, Ordering::SeqCst);
                continue;
            }
        }
        if !answers && state.mode.load(Ordering::SeqCst) == ARMED {
            let trigger = state.trigger.lock().expect("a lock").as_bytes().to_vec();
            if buffer[..count].windows(trigger.len()).any(|window| window == trigger) {
                state.mode.store(MUTE, Ordering::SeqCst);
            }
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}
