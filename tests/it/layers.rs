//! Imports point down only: the `use crate::` lines against the layer table of `src/lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by layer, bottom first.
const LAYERS: &[(u8, &[&str])] = &[
    (0, &["model"]),
    (1, &["config", "store", "metrics", "outbound"]),
    (2, &["keys", "revocation", "accounts"]),
    (3, &["tokens", "sessions"]),
    (4, &["identify", "decide", "forward", "record", "cluster"]),
    (5, &["http"]),
    (6, &["gateway"]),
    (7, &["verify", "authzen", "oidc", "sso", "portal", "admin"]),
    (8, &["listen"]),
    (9, &["app", "cli"]),
];

/// Layers whose modules never import each other.
const APART: [u8; 2] = [4, 7];

/// `forward` takes the proof of a decision.
const EXCEPTIONS: [(&str, &str); 1] = [("forward", "decide")];

fn layer(module: &str) -> u8 {
    let found = LAYERS.iter().find(|(_, modules)| modules.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` is not in the layer table")).0
}

fn sources(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn imports_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for file in files {
        let relative = file.strip_prefix(&root).expect("below src");
        let first = relative.iter().next().expect("a name").to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        let test = relative.iter().any(|part| part.to_string_lossy().starts_with("tests"));
        if module == "lib" || module == "main" || test {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for (number, line) in code.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            for after in code.split("crate::").skip(1) {
                let used: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if used.is_empty() || used == module {
                    continue;
                }
                looked_at += 1;
                let (own, other) = (layer(&module), layer(&used));
                let apart = own == other && APART.contains(&own);
                let exception = EXCEPTIONS.contains(&(module.as_str(), used.as_str()));
                if (other > own || apart) && !exception {
                    wrong.push(format!("{}:{}: {module} imports {used}", relative.display(), number + 1));
                }
            }
        }
    }
    assert!(looked_at > 50, "the test reads the imports ({looked_at} seen)");
    assert!(wrong.is_empty(), "imports that point up:\n{}", wrong.join("\n"));
}
