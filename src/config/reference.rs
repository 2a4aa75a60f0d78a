//! `docs/configuration.md`, made from the same lines that read the settings.

use std::fmt::Write as _;

use super::Config;
use super::reader::{Context, Entry};
use super::tree::Entries;

const HEAD: &str = "\
# Configuration reference

Made from the declarations in `src/config`; a test holds this file against them. A commented example is in
[`config/portcullis.toml`](../config/portcullis.toml).

The file is TOML, `config/portcullis.toml` unless `--config` names another. A flag wins over the environment, the
environment over the file. `[listen] address` is the variable `PORTCULLIS__LISTEN__ADDRESS`: its text is read as a TOML
value, and failing that as it is. Tables that come several times, `[[route]]` for example, are set in the file only.

- **duration**: a whole number and `ms`, `s`, `m`, `h` or `d`: `\"200ms\"`, `\"5m\"`, `\"30d\"`.
- **size**: a whole number and `B`, `KiB`, `MiB` or `GiB`, or a number of bytes: `\"64KiB\"`, `65536`.
- **path**, **file**: relative ones begin at the folder of the configuration file.
- **secret**: the value, or `\"env:NAME\"`, or `KEY_file = \"path\"` instead, a file that others should not be able to read (a warning).

An unknown key is a mistake. `portcullis check` shows every mistake with its line, `portcullis config show` every
effective value with where it came from.
";

/// Every key with its type, default and meaning, as Markdown.
pub fn reference() -> String {
    let mut context = Context::describing();
    context.read(Entries::new(), Config::read);
    let entries = context.entries.unwrap_or_default();
    let mut text = HEAD.to_owned();
    for heading in entries.iter().filter(|entry| entry.key.is_empty()) {
        section(&mut text, heading, &entries);
    }
    text
}

fn section(text: &mut String, heading: &Entry, entries: &[Entry]) {
    let _ = write!(text, "\n## `{}`\n\n{}\n", heading.section, heading.doc);
    let mut rows =
        entries.iter().filter(|entry| entry.section == heading.section && !entry.key.is_empty()).peekable();
    if rows.peek().is_none() {
        return;
    }
    text.push_str("\n| key | type | default | meaning |\n|---|---|---|---|\n");
    for Entry { key, kind, default, doc, .. } in rows {
        let default = match default.as_str() {
            "required" | "none" | "half the cores" => default.clone(),
            value => format!("`{value}`"),
        };
        let _ = writeln!(text, "| `{key}` | {kind} | {default} | {doc} |");
    }
}
