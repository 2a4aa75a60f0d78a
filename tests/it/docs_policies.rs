//! The examples of `docs/policies.md` do what the page says.

use std::process::Command;

use crate::support::PORTCULLIS;

const PAGE: &str = include_str!("../../docs/policies.md");

/// The fenced blocks of a text: what stands behind the fence, and the content.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, content)), None) => {
                content.push_str(line);
                content.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(PORTCULLIS)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["--config", "none.toml"])
        .args(arguments)
        .output()
        .expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn every_example_loads_without_a_warning_and_its_tests_cover_every_row() {
    let examples: Vec<&str> =
        PAGE.split("\n## ").filter(|section| section.starts_with("Example: ")).collect();
    assert_eq!(examples.len(), 4);
    for example in examples {
        let title = example.lines().next().expect("a title");
        let files = tempfile::tempdir().expect("a directory");
        for (info, content) in blocks(example) {
            let name = info.split_once(' ').expect("a block names its file").1;
            let path = files.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, content).expect("written");
        }
        let directory = files.path().display().to_string();
        let (code, out) = run(&["policy", "check", &directory]);
        assert_eq!((code, out.as_str()), (0, "no mistakes\n"), "{title}");
        let (code, out) = run(&["policy", "test", &directory, "--coverage"]);
        assert_eq!(code, 0, "{title}: {out}");
        assert!(!out.contains("not covered"), "{title}: {out}");
    }
}

#[test]
fn commands_print_what_the_page_shows() {
    let shown: Vec<_> = blocks(PAGE).into_iter().filter(|(info, _)| info == "console").collect();
    assert_eq!(shown.len(), 3);
    for (_, text) in shown {
        let (command, expected) = text.split_once('\n').expect("a command");
        let arguments: Vec<&str> = command.strip_prefix("$ portcullis ").expect("ours").split(' ').collect();
        let (_, out) = run(&arguments);
        assert!(out.starts_with(expected), "{command}\n{out}");
    }
}
