//! Every test that `docs/promises.md` names is there.

use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../../docs/promises.md");

/// The texts of all sources below the directory.
fn sources(directory: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            all += &fs::read_to_string(&path).expect("a text");
        }
    }
    all
}

/// True for `module`, `module::`, or `module::submodule`, as a file or an inline module.
fn is_module(name: &str, root: &Path) -> bool {
    let path = root.join(name.trim_end_matches("::").replace("::", "/"));
    let inline = name.strip_suffix("::tests").is_some_and(|outer| is_module(outer, root));
    path.is_dir() || path.with_extension("rs").is_file() || inline
}

#[test]
fn every_test_that_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (src, it) = (root.join("src"), root.join("tests/it"));
    let all = [sources(&src), sources(&it)].concat();
    let rows =
        PAGE.lines().filter(|line| line.starts_with("| ") && line.contains("` |") || line.contains("lib `"));
    let mut named = 0;
    for row in rows {
        let held = row.rsplit_once(" | ").map_or(row, |(_, held)| held);
        for name in held.split('`').skip(1).step_by(2) {
            let last = name.rsplit("::").next().unwrap_or(name);
            let is_test = !last.is_empty() && all.contains(&format!("fn {last}("));
            assert!(
                is_test || is_module(name, &src) || is_module(name, &it),
                "`{name}` is neither a test nor a module"
            );
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
}
