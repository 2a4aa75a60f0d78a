//! The files of a policy directory: which count for a node, their bytes, digest and manifest, and the CSV reader.
//!
//! Called by `load`, and by the watcher for its scans. Another kind of file is one more step in [`Sources::read`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use regex::Regex;
use sha2::{Digest as _, Sha256};

use super::Problem;

/// casbin's own column expression, so that quoting means the same.
static COLUMN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r#"(\s*"[^"]*"?|\s*[^,]*)"#).ok());

/// One file of the directory.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Relative to the directory, with `/`.
    pub name: Arc<str>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Every file that counts for one node, read once.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `model.conf`, then `*.csv` in name order, then the node's.
    pub files: Vec<SourceFile>,
    /// `tests/*.yaml`.
    pub tests: Vec<SourceFile>,
    /// `MANIFEST`, when there is one.
    pub manifest: Option<Vec<u8>>,
}

/// A row of a CSV file with its place.
#[derive(Clone, Debug)]
pub struct Row {
    /// `p`, `g`, `g2`, …
    pub kind: String,
    /// The columns after the kind.
    pub values: Vec<String>,
    /// Relative to the directory.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// The line as written, trimmed.
    pub text: String,
}

/// A problem of severity `error`.
pub fn error(
    directory: &Path,
    file: &str,
    line: u32,
    code: &'static str,
    message: impl Into<String>,
) -> Problem {
    Problem {
        file: directory.join(file).display().to_string(),
        line,
        severity: "error",
        code,
        message: message.into(),
    }
}

fn list(directory: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let wanted = |path: &PathBuf| {
        let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
        let extension = path.extension().and_then(|extension| extension.to_str());
        !hidden && path.is_file() && extension.is_some_and(|extension| extensions.contains(&extension))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    paths.sort();
    paths
}

/// The nodes that have rows of their own.
pub fn nodes(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join("nodes")) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| !list(&entry.path(), &["csv"]).is_empty());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Sources {
    /// Reads the directory for one node.
    ///
    /// # Errors
    /// A missing directory or model, an unreadable file.
    pub fn read(directory: &Path, node: Option<&str>) -> Result<Self, Vec<Problem>> {
        let mut sources = Self::default();
        let mut problems = Vec::new();
        let node = node
            .filter(|node| !node.is_empty() && !node.contains(['/', '\\']) && *node != "." && *node != "..");
        let mut read = |path: &Path, into: &mut Vec<SourceFile>| {
            let name = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().replace('\\', "/");
            match fs::read(path) {
                Ok(bytes) => into.push(SourceFile { name: Arc::from(name), bytes }),
                Err(cause) => problems.push(error(
                    directory,
                    &name,
                    1,
                    "unreadable",
                    format!("cannot be read: {cause}"),
                )),
            }
        };
        read(&directory.join("model.conf"), &mut sources.files);
        for path in list(directory, &["csv"]) {
            read(&path, &mut sources.files);
        }
        if let Some(node) = node {
            for path in list(&directory.join("nodes").join(node), &["csv"]) {
                read(&path, &mut sources.files);
            }
        }
        for path in list(&directory.join("tests"), &["yaml", "yml"]) {
            read(&path, &mut sources.tests);
        }
        let manifest = directory.join("MANIFEST");
        if manifest.exists() {
            match fs::read(&manifest) {
                Ok(bytes) => sources.manifest = Some(bytes),
                Err(cause) => {
                    problems.push(error(
                        directory,
                        "MANIFEST",
                        1,
                        "unreadable",
                        format!("cannot be read: {cause}"),
                    ));
                }
            }
        }
        if problems.is_empty() { Ok(sources) } else { Err(problems) }
    }

    /// The first 12 hex digits of the SHA-256 over names and contents of model and rows.
    pub fn digest(&self) -> Arc<str> {
        let mut hash = Sha256::new();
        for file in &self.files {
            for part in [file.name.as_bytes(), &file.bytes] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        Arc::from(hex::encode(hash.finalize()).get(..12).unwrap_or_default())
    }

    /// A fingerprint of everything that was read, tests and manifest included: two equal ones are a settled directory.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let manifest =
            SourceFile { name: Arc::from("MANIFEST"), bytes: self.manifest.clone().unwrap_or_default() };
        for file in self.files.iter().chain(&self.tests).chain([&manifest]) {
            for part in [file.name.as_bytes(), &file.bytes] {
                hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    /// Holds the files against `MANIFEST` (`sha256sum` format): a matching set has each file listed with its hash,
    /// and each listed file there.
    pub fn check_manifest(&self, directory: &Path) -> Vec<Problem> {
        let Some(manifest) = &self.manifest else { return Vec::new() };
        let fail = |line, message: String| error(directory, "MANIFEST", line, "manifest", message);
        let Ok(text) = std::str::from_utf8(manifest) else {
            return vec![fail(1, "is not UTF-8".to_owned())];
        };
        let mut problems = Vec::new();
        let mut listed = std::collections::HashSet::new();
        for (line, entry) in (1_u32..).zip(text.lines()).filter(|(_, entry)| !entry.trim().is_empty()) {
            let Some((sum, name)) = entry.split_once(' ') else {
                problems.push(fail(line, "is not a line of sha256sum".to_owned()));
                continue;
            };
            let name = name.trim_start_matches([' ', '*']).trim_end();
            let name = name.strip_prefix("./").unwrap_or(name);
            listed.insert(name.to_owned());
            let known = self.files.iter().chain(&self.tests).find(|file| &*file.name == name);
            let actual = match known {
                Some(file) => Some(hex::encode(Sha256::digest(&file.bytes))),
                None if Path::new(name)
                    .components()
                    .all(|part| matches!(part, std::path::Component::Normal(_))) =>
                {
                    fs::read(directory.join(name)).ok().map(|bytes| hex::encode(Sha256::digest(bytes)))
                }
                None => None,
            };
            match actual {
                None => problems.push(fail(line, format!("lists `{name}`, which is not there"))),
                Some(actual) if !actual.eq_ignore_ascii_case(sum) => {
                    problems.push(fail(line, format!("`{name}` has other contents than listed")));
                }
                Some(_) => {}
            }
        }
        for file in self.files.iter().chain(&self.tests).filter(|file| !listed.contains(&*file.name)) {
            problems.push(fail(1, format!("does not list `{}`", file.name)));
        }
        problems
    }
}

/// Reads the rows of one CSV file as casbin does: `#` begins a comment line, a column in double quotes may hold commas.
///
/// # Errors
/// Bytes that are not UTF-8, with the line of the first.
pub fn rows(directory: &Path, file: &SourceFile) -> Result<Vec<Row>, Problem> {
    let text = match std::str::from_utf8(&file.bytes) {
        Ok(text) => text,
        Err(cause) => {
            let before = file.bytes.get(..cause.valid_up_to()).unwrap_or_default();
            let lines = before.iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(lines).unwrap_or(u32::MAX).saturating_add(1);
            return Err(error(
                directory,
                &file.name,
                line,
                "not-utf-8",
                "is not UTF-8; save the file as UTF-8",
            ));
        }
    };
    let mut rows = Vec::new();
    for (line, text) in (1_u32..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let mut columns = columns(text).into_iter();
        let kind = columns.next().unwrap_or_default();
        rows.push(Row {
            kind,
            values: columns.collect(),
            file: Arc::clone(&file.name),
            line,
            text: text.to_owned(),
        });
    }
    Ok(rows)
}

fn columns(line: &str) -> Vec<String> {
    let Some(column) = COLUMN.as_ref() else { return Vec::new() };
    let unquote = |text: &str| {
        let text = text.trim();
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        inner.unwrap_or(text).to_owned()
    };
    column.find_iter(line).map(|found| unquote(found.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_casbins() {
        assert_eq!(columns("p, alice, \"a, b\", read"), ["p", "alice", "a, b", "read"]);
        assert_eq!(columns("p, r.sub.x == \"A\", /d"), ["p", "r.sub.x == \"A\"", "/d"]);
        assert_eq!(columns(","), ["", ""]);
        assert_eq!(columns("\" "), ["\""]);
    }

    #[test]
    fn rows_know_their_line() {
        let bytes = b"# head\n\np, a, b\r\n  # x\ng, a, b".to_vec();
        let file = SourceFile { name: Arc::from("x.csv"), bytes };
        let rows = rows(Path::new("d"), &file).unwrap();
        assert_eq!(
            rows.iter().map(|row| (row.kind.as_str(), row.line)).collect::<Vec<_>>(),
            [("p", 3), ("g", 5)]
        );
        let file = SourceFile { name: Arc::from("x.csv"), bytes: b"p, a\np, \xff".to_vec() };
        assert_eq!(super::rows(Path::new("d"), &file).unwrap_err().line, 2);
    }
}
