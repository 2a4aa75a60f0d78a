//! `policy explain --user bob`: one option for each token of the request definition, whatever its name.
//!
//! `run` rewrites unknown options of that one command to `--bind`; `policy` reads them with `[policy.bind]`.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};

/// The arguments with what is no option of `policy explain` as `--bind NAME=VALUE`.
pub(super) fn rewritten<C: CommandFactory + Parser>(arguments: Vec<OsString>) -> Vec<OsString> {
    let texts: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let explains = texts.windows(2).any(|pair| pair == ["policy", "explain"]);
    let command = C::command();
    let explain = command.find_subcommand("policy").and_then(|policy| policy.find_subcommand("explain"));
    let (true, Some(explain)) = (explains && texts.len() == arguments.len(), explain) else {
        return arguments;
    };
    let known = |name: &str| {
        let options = explain.get_opts().chain(command.get_opts());
        matches!(name, "help" | "bind")
            || options.filter_map(|option| option.get_long()).any(|long| long == name)
    };
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = texts.iter();
    while let Some(text) = rest.next() {
        let option = text.strip_prefix("--").filter(|option| !option.is_empty());
        let (name, value) = match option.map(|option| option.split_once('=').unwrap_or((option, ""))) {
            Some((name, value)) if !known(name) => (name, value),
            _ => {
                out.push(OsString::from(text));
                continue;
            }
        };
        let value = match text.contains('=') {
            true => Some(value),
            false => rest.next().copied(),
        };
        match value {
            Some(value) => out.extend(["--bind".into(), format!("{name}={value}").into()]),
            None => out.push(OsString::from(text)),
        }
    }
    out
}
