//! The commands, one file each. Exit codes: 0 yes or done; 1 the answer is no; 2 wrong usage, configuration or
//! policy; 3 a node or store could not be reached.

mod audit;
mod bound;
mod check;
mod client;
mod demo;
mod init;
mod key;
mod node;
mod offline;
mod policy;
mod remote;
mod sample;
mod serve;
mod session;
mod token;
mod user;
mod words;

use std::io::{BufRead as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config;
use crate::record::printable;

/// Where the configuration is when none is named.
const CONFIG: &str = "config/portcullis.toml";

/// The heading of the options that every command takes.
const EVERYWHERE: &str = "Options of every command";

/// The most that a command reads of a line of standard input, in bytes.
const LONGEST_LINE: u64 = 64 * 1024;

/// An access-control gateway: sign-in, tokens, casbin policies and a self-proving audit in front of web APIs.
#[derive(Parser, Debug)]
#[command(name = "portcullis", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file [default: config/portcullis.toml].
    #[arg(short, long, global = true, value_name = "FILE", help_heading = EVERYWHERE)]
    config: Option<PathBuf>,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Layout::Text, help_heading = EVERYWHERE)]
    output: Layout,
    /// The operators' listener of a running node.
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_URL", value_name = "URL", help_heading = EVERYWHERE)]
    admin_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// How results are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Layout {
    /// For people.
    Text,
    /// For scripts.
    Json,
    /// XML for build servers; of `policy test` alone.
    Junit,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node until SIGTERM or Ctrl-C; SIGHUP reloads.
    #[command(after_help = "Example:\n  portcullis -c config/portcullis.toml serve")]
    Serve,
    /// Run a gateway with a sample API, users and policies; nothing is kept after Ctrl-C.
    #[command(after_help = "Example:\n  portcullis demo --port 8080")]
    Demo(demo::Arguments),
    /// Write a first configuration with policies, certificates and an administrator.
    #[command(
        after_help = "Example:\n  portcullis init gate --upstream http://127.0.0.1:9000 --public-url http://localhost:8080"
    )]
    Init(init::Arguments),
    /// Check configuration, certificates, policies and policy tests without starting.
    #[command(after_help = "Example:\n  portcullis -o json check | jq -r '.problems[].message'")]
    Check,
    /// Show the effective configuration.
    #[command(subcommand)]
    Config(check::ConfigCommand),
    /// Manage accounts.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Show the OAuth clients.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// Show and end sign-ins.
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Issue, inspect and revoke tokens.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Manage the signing keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Check, test, explain and measure policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Read and verify the audit.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Explain one recorded request.
    #[command(after_help = "Example:\n  portcullis why 01J8Z3V0000000000000000000")]
    Why {
        /// The `X-Request-Id` of its answer, or the client's own.
        request_id: String,
    },
    /// Ask a running node whether it is ready: 0 or 1, with the reasons.
    #[command(after_help = "Example:\n  portcullis --admin-url http://127.0.0.1:9080 healthcheck")]
    Healthcheck,
    /// Print shell completions.
    #[command(after_help = "Example:\n  source <(portcullis completions bash)")]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// Why a command failed: its exit code and what to print.
#[derive(Debug)]
pub struct Failure {
    /// 1, 2 or 3.
    pub code: u8,
    /// A short word for scripts.
    pub name: &'static str,
    /// What went wrong and what to do.
    pub message: String,
}

impl Failure {
    /// The answer is no.
    pub fn no(message: impl Into<String>) -> Self {
        Self { code: 1, name: "no", message: message.into() }
    }

    /// Wrong usage, configuration or policy.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, name: "usage", message: message.into() }
    }

    /// A node or store could not be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, name: "unreachable", message: message.into() }
    }
}

/// How a command ends.
pub type Done = Result<(), Failure>;

/// What every command is given.
pub struct Context {
    /// The configuration file.
    pub config: PathBuf,
    /// It was named, and not the default.
    pub config_given: bool,
    /// How to print.
    pub output: Output,
    /// Print JUnit's XML instead.
    pub junit: bool,
    /// A running node's operators' listener, when named.
    pub admin_url: Option<String>,
}

impl Context {
    /// Prints one document: JSON, or the text.
    pub fn print(&self, json: &serde_json::Value, text: &str) {
        match self.output {
            Output::Json => emit(json),
            Output::Text => emit(text.strip_suffix('\n').unwrap_or(text)),
        }
    }

    /// Loads the configuration; every mistake is printed.
    ///
    /// # Errors
    /// With code 2 when there is a mistake.
    pub fn load(&self) -> Result<config::Loaded, Failure> {
        load(&self.config).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            Failure { code: 2, name: "configuration", message: lines.join("\n") }
        })
    }
}

/// Loads a configuration file with this process's environment.
///
/// # Errors
/// Every mistake.
pub fn load(path: &Path) -> Result<config::Loaded, Vec<config::Problem>> {
    config::load(path, &config::environment)
}

/// Prints a line of results. A reader that went away ends the command; a full disk is an error.
pub fn emit(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("standard output: {error}");
    std::process::exit(3);
}

/// Columns for people; nothing in them steers a terminal.
pub fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A path as a word of a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+:@".contains(&b));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// One line of standard input, without its end.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or has no end within 64 KiB.
pub fn one_line() -> std::io::Result<String> {
    let mut line = String::new();
    let read = std::io::stdin().lock().take(LONGEST_LINE).read_line(&mut line)?;
    if u64::try_from(read).unwrap_or(u64::MAX) >= LONGEST_LINE {
        return Err(std::io::Error::other("the line is longer than 64 KiB"));
    }
    if line.ends_with('\n') {
        line.pop();
        if line.ends_with('\r') {
            line.pop();
        }
    }
    Ok(line)
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let arguments = bound::rewritten::<Cli>(std::env::args_os().collect());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let context = Context {
        config_given: cli.config.is_some(),
        config: cli.config.unwrap_or_else(|| PathBuf::from(CONFIG)),
        output: if cli.output == Layout::Json { Output::Json } else { Output::Text },
        junit: cli.output == Layout::Junit,
        admin_url: cli.admin_url.filter(|url| !url.is_empty()),
    };
    match dispatch(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(context.output, failure.name, &failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(context: &Context, command: Command) -> Done {
    if context.junit && !matches!(command, Command::Policy(policy::PolicyCommand::Test(_))) {
        return Err(Failure::usage("only `policy test` prints JUnit's XML; use `-o json`"));
    }
    match command {
        Command::Serve => serve::run(context),
        Command::Demo(arguments) => demo::run(context, &arguments),
        Command::Init(arguments) => init::run(context, &arguments),
        Command::Check => check::run(context),
        Command::Config(command) => check::config(context, &command),
        Command::User(command) => user::run(context, &command),
        Command::Client(command) => client::run(context, &command),
        Command::Session(command) => session::run(context, &command),
        Command::Token(command) => token::run(context, &command),
        Command::Key(command) => key::run(context, &command),
        Command::Policy(command) => policy::run(context, &command),
        Command::Audit(command) => audit::run(context, &command),
        Command::Why { request_id } => audit::why(context, &request_id),
        Command::Healthcheck => node::healthcheck(context),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut script);
            emit(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

/// What was wrong, on standard error.
fn say(output: Output, name: &str, message: &str) {
    match output {
        Output::Json => eprintln!("{}", serde_json::json!({"error": {"code": name, "message": message}})),
        Output::Text => message.lines().for_each(|line| eprintln!("{}", printable(line))),
    }
}

/// Wrong arguments, or a question for help.
fn misused(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|one| one == "-ojson" || one == "--output=json")
        || arguments.windows(2).any(|pair| matches!(pair, [flag, value] if ["-o", "--output"].contains(&flag.as_str()) && value == "json"));
    if json && error.use_stderr() {
        say(Output::Json, "usage", error.to_string().trim_end());
        return ExitCode::from(2);
    }
    // A closed pipe is no reason for another code.
    let _closed = error.print().is_err();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves<'a>(command: &'a clap::Command, path: &str, into: &mut Vec<(String, &'a clap::Command)>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_subcommands().next().is_none() {
            into.push((path, command));
            return;
        }
        command.get_subcommands().for_each(|below| leaves(below, &path, into));
    }

    #[test]
    fn every_command_has_help_with_an_example_that_parses() {
        let root = Cli::command();
        root.clone().debug_assert();
        let mut all = Vec::new();
        leaves(&root, "", &mut all);
        assert!(all.len() > 25);
        for (path, command) in all {
            assert!(command.get_about().is_some(), "{path} says nothing of itself");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("portcullis "), "{path} has no example");
            assert!(help.lines().all(|line| line.len() <= 100), "{path}: a wrapped example cannot be pasted");
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
        }
    }

    #[test]
    fn ids_that_begin_with_a_hyphen_are_no_options() {
        for id in ["-FDOknPR", "-ojson", "-cab", "-hq", "--abc"] {
            let cli = Cli::try_parse_from(["portcullis", "key", "retire", id]).unwrap();
            assert!(
                matches!(cli.command, Command::Key(key::KeyCommand::Retire { kid }) if kid == id),
                "{id}"
            );
            let cli = Cli::try_parse_from(["portcullis", "-o", "json", "session", "revoke", id]).unwrap();
            let Command::Session(session::SessionCommand::Revoke { sid, sub: None }) = cli.command else {
                panic!("{id}")
            };
            assert_eq!(sid.as_deref(), Some(id));
        }
        let cli = Cli::try_parse_from(["portcullis", "session", "revoke", "--sub", "alice"]).unwrap();
        let Command::Session(session::SessionCommand::Revoke { sid: None, sub }) = cli.command else {
            panic!("--sub")
        };
        assert_eq!(sub.as_deref(), Some("alice"));
    }

    #[test]
    fn a_table_has_no_control_characters() {
        let rows =
            [vec!["a".to_owned(), "\u{1b}[31mred".to_owned()], vec!["long".to_owned(), "b".to_owned()]];
        assert_eq!(table(&rows), "a     \\u{1b}[31mred\nlong  b\n");
    }
}
