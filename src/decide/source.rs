//! The files of a policy directory: which count for a node, their bytes, digest and manifest, and the CSV reader.
//!
//! Called by `load`, and by the watcher for its scans. Another kind of file is one more step in [`Sources::read`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use sha2::{Digest as _, Sha256};

use super::Problem;

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
    /// What else `MANIFEST` lists (rows of other nodes, a README): name and SHA-256, `None` when it is not there.
    pub others: Vec<(String, Option<[u8; 32]>)>,
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

/// The files of a folder that count; no folder, no files. A link that leads nowhere counts, and cannot be read: a row
/// that denies never vanishes without a word.
fn list(directory: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(cause),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let wanted = extension.is_some_and(|extension| extensions.contains(&extension));
        if wanted && !hidden(&path) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.is_file() { fs::read(path) } else { Err(io::Error::other("it is no plain file")) }
}

/// The nodes that have rows of their own.
pub fn nodes(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join("nodes")) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| {
        let path = entry.path();
        !hidden(&path) && path.is_dir() && list(&path, &["csv"]).map_or(true, |files| !files.is_empty())
    });
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// The lines of a `MANIFEST` with their numbers: sum and name; `None`: not a line of sha256sum.
fn listed(manifest: &str) -> impl Iterator<Item = (u32, Option<(&str, &str)>)> {
    let lines = (1_u32..).zip(manifest.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(|(number, line)| {
        let entry = line.split_once(' ').map(|(sum, name)| {
            let name = name.trim_start_matches([' ', '*']).trim_end();
            (sum, name.strip_prefix("./").unwrap_or(name))
        });
        (number, entry)
    })
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
        let name_of =
            |path: &Path| path.strip_prefix(directory).unwrap_or(path).to_string_lossy().replace('\\', "/");
        let unreadable = |path: &Path, cause: &io::Error| {
            let name = name_of(path);
            let message = match cause.kind() {
                io::ErrorKind::NotFound if name == "model.conf" => {
                    "does not exist; a policy directory has a casbin model of this name".to_owned()
                }
                _ => format!("cannot be read: {cause}"),
            };
            error(directory, &name, 1, "unreadable", message)
        };
        let mut read = |path: &Path, into: &mut Vec<SourceFile>| match read_file(path) {
            Ok(bytes) => into.push(SourceFile { name: Arc::from(name_of(path)), bytes }),
            Err(cause) => problems.push(unreadable(path, &cause)),
        };
        let mut unlisted = Vec::new();
        let mut files = |folder: PathBuf, extensions: &[&str]| {
            list(&folder, extensions).unwrap_or_else(|cause| {
                unlisted.push(unreadable(&folder, &cause));
                Vec::new()
            })
        };
        read(&directory.join("model.conf"), &mut sources.files);
        for path in files(directory.to_owned(), &["csv"]) {
            read(&path, &mut sources.files);
        }
        if let Some(node) = node {
            for path in files(directory.join("nodes").join(node), &["csv"]) {
                read(&path, &mut sources.files);
            }
        }
        for path in files(directory.join("tests"), &["yaml", "yml"]) {
            read(&path, &mut sources.tests);
        }
        // A link that leads nowhere is a manifest too: what it would say is unknown.
        let manifest = directory.join("MANIFEST");
        if fs::symlink_metadata(&manifest).is_ok() {
            match read_file(&manifest) {
                Ok(bytes) => {
                    sources.others = sources.listed_elsewhere(directory, &bytes);
                    sources.manifest = Some(bytes);
                }
                Err(cause) => problems.push(unreadable(&manifest, &cause)),
            }
        }
        problems.append(&mut unlisted);
        if problems.is_empty() { Ok(sources) } else { Err(problems) }
    }

    fn own(&self, name: &str) -> Option<&SourceFile> {
        self.files.iter().chain(&self.tests).find(|file| &*file.name == name)
    }

    /// What a manifest lists besides the files of this node. Names that lead out of the directory are never looked at.
    fn listed_elsewhere(&self, directory: &Path, manifest: &[u8]) -> Vec<(String, Option<[u8; 32]>)> {
        let within = |name: &str| {
            Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        let names = listed(std::str::from_utf8(manifest).unwrap_or_default());
        let names = names.filter_map(|(_, entry)| entry).map(|(_, name)| name);
        let sum = |name: &str| {
            let bytes = within(name).then(|| read_file(&directory.join(name)).ok()).flatten();
            bytes.map(|bytes| Sha256::digest(bytes).into())
        };
        names.filter(|name| self.own(name).is_none()).map(|name| (name.to_owned(), sum(name))).collect()
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
        let mut part = |part: &[u8]| {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        };
        for file in self.files.iter().chain(&self.tests).chain([&manifest]) {
            part(file.name.as_bytes());
            part(&file.bytes);
        }
        for (name, sum) in &self.others {
            part(name.as_bytes());
            part(sum.as_ref().map_or(&[], |sum| sum.as_slice()));
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
        let mut names = std::collections::HashSet::new();
        for (line, entry) in listed(text) {
            let Some((sum, name)) = entry else {
                problems.push(fail(line, "is not a line of sha256sum".to_owned()));
                continue;
            };
            names.insert(name);
            let actual: Option<[u8; 32]> = match self.own(name) {
                Some(file) => Some(Sha256::digest(&file.bytes).into()),
                None => self.others.iter().find(|(other, _)| other == name).and_then(|(_, sum)| *sum),
            };
            match actual.map(hex::encode) {
                None => problems.push(fail(line, format!("lists `{name}`, which is not there"))),
                Some(actual) if !actual.eq_ignore_ascii_case(sum) => {
                    problems.push(fail(line, format!("`{name}` has other contents than listed")));
                }
                Some(_) => {}
            }
        }
        for file in self.files.iter().chain(&self.tests).filter(|file| !names.contains(&*file.name)) {
            problems.push(fail(1, format!("does not list `{}`", file.name)));
        }
        problems
    }
}

/// Reads the rows of one CSV file as casbin does: `#` begins a comment line, a column in double quotes may hold commas.
/// Besides the rows, each line that is not UTF-8.
pub fn rows(directory: &Path, file: &SourceFile) -> (Vec<Row>, Vec<Problem>) {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (line, bytes) in (1_u32..).zip(file.bytes.split(|byte| *byte == b'\n')) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            let message = "is not UTF-8; save the file as UTF-8";
            problems.push(error(directory, &file.name, line, "not-utf-8", message));
            continue;
        };
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
    (rows, problems)
}

/// The columns that casbin's expression finds, `(\s*"[^"]*"?|\s*[^,]*)`, so that quoting means the same: a text in double
/// quotes, else everything up to a comma.
fn columns(line: &str) -> Vec<String> {
    let unquote = |text: &str| {
        let text = text.trim();
        let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        inner.unwrap_or(text).to_owned()
    };
    let mut columns = Vec::with_capacity(5);
    let (mut at, mut last) = (0, None);
    while let Some(rest) = line.get(at..) {
        let text = rest.trim_start();
        let length = match text.strip_prefix('"') {
            Some(quoted) => rest.len() - quoted.len() + quoted.find('"').map_or(quoted.len(), |end| end + 1),
            None => rest.find(',').unwrap_or(rest.len()),
        };
        // An empty column where the one before ended is the comma between two, or the end.
        if length == 0 && last == Some(at) {
            at += 1;
            continue;
        }
        columns.push(unquote(rest.get(..length).unwrap_or_default()));
        at += length;
        last = Some(at);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn columns_are_those_of_casbins_expression(line in "[a\",,, \t\u{2003}é#]{0,12}") {
            let column = regex::Regex::new(r#"(\s*"[^"]*"?|\s*[^,]*)"#).unwrap();
            let expected = column.find_iter(&line).map(|found| {
                let text = found.as_str().trim();
                text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned()
            });
            proptest::prop_assert_eq!(columns(&line), expected.collect::<Vec<_>>());
        }
    }

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
        let (rows, problems) = rows(Path::new("d"), &file);
        assert!(problems.is_empty());
        assert_eq!(
            rows.iter().map(|row| (row.kind.as_str(), row.line)).collect::<Vec<_>>(),
            [("p", 3), ("g", 5)]
        );
        let file = SourceFile { name: Arc::from("x.csv"), bytes: b"p, a\np, \xff\np, b".to_vec() };
        let (rows, problems) = super::rows(Path::new("d"), &file);
        assert_eq!((rows.len(), problems.len()), (2, 1), "the other lines are read");
        assert_eq!(problems.first().map(|problem| problem.line), Some(2));
    }

    #[test]
    fn what_is_there_and_cannot_be_read_is_never_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("model.conf"), "").unwrap();
        fs::create_dir_all(path("nodes/gate-1")).unwrap();
        fs::create_dir_all(path("nodes/.hidden/x.csv")).unwrap();
        fs::create_dir_all(path("folder.csv")).unwrap();
        fs::write(path("nodes/README.csv"), "no folder").unwrap();
        let read = || Sources::read(directory.path(), Some("gate-1"));
        assert_eq!(read().unwrap().files.len(), 1);
        assert_eq!(nodes(directory.path()), Vec::<String>::new());
        for name in ["deny.csv", "nodes/gate-1/deny.csv", "tests/a.yaml", "MANIFEST"] {
            fs::create_dir_all(path("tests")).unwrap();
            std::os::unix::fs::symlink("nowhere", path(name)).unwrap();
            let problems = read().unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(
                problems.iter().all(|problem| problem.file.ends_with(name) && problem.code == "unreadable")
            );
            fs::remove_file(path(name)).unwrap();
        }
        fs::remove_dir(path("tests")).unwrap();
        fs::write(path("tests"), "no folder").unwrap();
        assert!(read().unwrap_err().iter().all(|problem| problem.file.ends_with("tests")));
    }

    #[test]
    fn a_manifest_covers_files_of_other_nodes_too() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        fs::create_dir_all(directory.path().join("nodes/other")).unwrap();
        write("model.conf", "m");
        write("nodes/other/a.csv", "old");
        let sum = |text: &str| hex::encode(Sha256::digest(text));
        let outside = format!("{}  ../outside\n", sum("x"));
        let manifest =
            format!("# made by sha256sum\n{}  ./model.conf\r\n{} *nodes/other/a.csv\n", sum("m"), sum("new"));
        write("MANIFEST", &manifest);
        let read = || Sources::read(directory.path(), Some("gate-1")).unwrap();
        let before = read();
        let lines = |sources: &Sources| -> Vec<u32> {
            sources.check_manifest(directory.path()).iter().map(|problem| problem.line).collect()
        };
        assert_eq!(lines(&before), [3]);
        write("nodes/other/a.csv", "new");
        assert!(lines(&read()).is_empty());
        assert_ne!(before.fingerprint(), read().fingerprint(), "a scan sees that it has come");
        assert_eq!(before.digest(), read().digest(), "which is not this node's policy");
        write("MANIFEST", &format!("{manifest}{outside}"));
        assert_eq!(lines(&read()), [4], "nothing outside is read");
    }
}
