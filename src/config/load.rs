//! Loading: file, environment, checks; every mistake in one run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::problem::{Origin, Problem};
use super::reader::Context;
use super::{Config, accounts_file, check, tree};
use crate::model::Account;

/// A configuration that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Dotted key, shown value (secrets masked), where it came from.
    pub provenance: Vec<(String, String, Origin)>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
    /// The accounts of `[accounts] file`.
    pub accounts: Vec<Account>,
    /// Every file that was read or named, the configuration first: what a reload watches.
    pub watched: Vec<PathBuf>,
}

/// A configuration with everything that is wrong with it: what was understood counts, the rest has its default.
#[derive(Debug)]
pub struct Draft {
    /// What was understood.
    pub loaded: Loaded,
    /// Every mistake; with one, no node is started with this.
    pub problems: Vec<Problem>,
    /// The section `[policy]` has no mistake.
    pub policy_is_clear: bool,
}

/// Loads the configuration in `path` with the variables of `env` over it.
///
/// # Errors
/// Every mistake of the file, of the environment, of the files that it names, and between settings, with its place.
pub fn load(path: &Path, env: &dyn Fn() -> Vec<(String, String)>) -> Result<Loaded, Vec<Problem>> {
    let draft = draft(path, env)?;
    if draft.problems.is_empty() { Ok(draft.loaded) } else { Err(draft.problems) }
}

/// Reads the same, mistakes or not.
///
/// # Errors
/// When the file cannot be read or is no TOML.
pub fn draft(path: &Path, env: &dyn Fn() -> Vec<(String, String)>) -> Result<Draft, Vec<Problem>> {
    let env: BTreeMap<String, String> = env().into_iter().collect();
    let text = read(path).map_err(|problem| vec![problem])?;
    let mut root = tree::parse(&text).map_err(|errors| syntax(path, errors))?;
    let mistakes = tree::overlay(&mut root, &env);
    let mut context = Context::new(path, env);
    for (name, message) in mistakes {
        context.problem_at(&tree::Place::Env(name), message);
    }
    let config = context.read(root, Config::read);
    check::check(&config, &mut context);
    let (mut accounts, mut mistakes) = (Vec::new(), Vec::new());
    if let Some(file) = &config.accounts.file
        && file.is_file()
    {
        match accounts_file::load(file) {
            Ok(found) => accounts = found,
            Err(found) => mistakes = found,
        }
    }
    check::roles_and_names(&config, &accounts, &mut context);
    let mut problems = context.take_problems();
    problems.append(&mut mistakes);
    let mut watched = vec![path.to_path_buf()];
    watched.extend(context.files.iter().map(|(_, file, _)| file.clone()));
    let policy_is_clear = !context.is_faulty_below("policy");
    let provenance = context.take_provenance();
    let loaded = Loaded { config, provenance, warnings: context.warnings, accounts, watched };
    Ok(Draft { loaded, problems, policy_is_clear })
}

/// The variables of this process; one that is not UTF-8 is no setting.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The text of a file, or why it cannot be read.
pub(super) fn read(path: &Path) -> Result<String, Problem> {
    let problem = |line, message| Problem { file: path.to_path_buf(), line, message };
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => problem(
            0,
            "does not exist; name another with --config, or write one with `portcullis init`".to_owned(),
        ),
        _ => problem(0, format!("cannot be read: {error}")),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        problem(u32::try_from(lines).unwrap_or(u32::MAX - 1) + 1, "is not UTF-8".to_owned())
    })
}

/// Syntax errors as problems of the file.
pub(super) fn syntax(path: &Path, errors: Vec<(u32, String)>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = errors
        .into_iter()
        .map(|(line, message)| Problem { file: path.to_path_buf(), line, message })
        .collect();
    problems.sort();
    problems.dedup();
    problems
}

/// The effective configuration as lines `key = value  # from`, secrets masked.
pub fn show(loaded: &Loaded) -> String {
    let line = |(key, value, origin): &(String, String, Origin)| match value.as_str() {
        "none" if *origin == Origin::Default => format!("# {key} is not set  # {origin}\n"),
        _ => format!("{key} = {value}  # {origin}\n"),
    };
    loaded.provenance.iter().map(line).collect()
}
