//! The commands, one file each. Exit codes: 0 yes or done; 1 the answer is no; 2 wrong usage, configuration or
//! policy; 3 a node or store could not be reached.

mod audit;
mod check;
mod demo;
mod node;
mod policy;
mod sample;
mod serve;
mod user;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config;

/// An access-control gateway: sign-in, tokens, casbin policies and a self-proving audit in front of web APIs.
#[derive(Parser, Debug)]
#[command(name = "portcullis", version, max_term_width = 100)]
pub struct Cli {
    /// The configuration file.
    #[arg(short, long, global = true, default_value = "config/portcullis.toml", value_name = "FILE")]
    config: PathBuf,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The operators' listener of a running node.
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_URL", value_name = "URL")]
    admin_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node.
    Serve,
    /// Run a gateway with a sample API, users and policies; nothing is kept after Ctrl-C.
    Demo(demo::Arguments),
    /// Check configuration, certificates, policies and policy tests without starting.
    Check,
    /// Show the effective configuration.
    #[command(subcommand)]
    Config(check::ConfigCommand),
    /// Manage accounts.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Check, test and explain policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Read and verify the audit.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Explain one recorded request.
    Why {
        /// The `X-Request-Id` of its answer.
        request_id: String,
    },
    /// Ask a running node whether it is ready: 0 or 1.
    Healthcheck,
    /// Print shell completions.
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
    /// How to print.
    pub output: Output,
    /// A running node's operators' listener, when named.
    pub admin_url: Option<String>,
}

impl Context {
    /// Prints one document: JSON, or the text.
    pub fn print(&self, json: &serde_json::Value, text: &str) {
        match self.output {
            Output::Json => println!("{json}"),
            Output::Text => print!("{text}"),
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
    config::load(path, &|| std::env::vars().collect())
}

/// Runs the command of this process.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let context = Context { config: cli.config, output: cli.output, admin_url: cli.admin_url };
    let done = match cli.command {
        Command::Serve => serve::run(&context),
        Command::Demo(arguments) => demo::run(&context, &arguments),
        Command::Check => check::run(&context),
        Command::Config(command) => check::config(&context, &command),
        Command::User(command) => user::run(&context, &command),
        Command::Policy(command) => policy::run(&context, &command),
        Command::Audit(command) => audit::run(&context, &command),
        Command::Why { request_id } => audit::why(&context, &request_id),
        Command::Healthcheck => node::healthcheck(&context),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                match context.output {
                    Output::Json => eprintln!(
                        "{}",
                        serde_json::json!({"error": {"code": failure.name, "message": failure.message}})
                    ),
                    Output::Text => eprintln!("{}", failure.message),
                }
            }
            ExitCode::from(failure.code)
        }
    }
}
