//! Scans of casbin expressions (matcher, `eval` rules) before rhai sees them: bounds, fields of tokens, conjunction terms.
//!
//! rhai is built without limits on depth or operations, so what could loop, recurse or overflow the stack is refused here.
//! Called by `load` for every expression and by `explain` for the terms. A new refusal is one more branch of [`bounded`].

use std::collections::BTreeSet;

/// Longest expression in bytes.
pub const MAX_BYTES: usize = 4096;
/// Deepest nesting of brackets, and of prefix operators.
pub const MAX_DEPTH: usize = 32;
/// Most operators in one expression: left-nested trees are evaluated recursively.
pub const MAX_OPERATORS: usize = 512;

const FORBIDDEN: [&str; 18] = [
    "loop", "while", "do", "for", "fn", "import", "export", "let", "const", "if", "switch", "return",
    "throw", "try", "Fn", "call", "private", "this",
];

/// One lexical piece of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// An identifier or keyword.
    Word(&'a str),
    /// A quoted text with its quotes.
    Quoted(&'a str),
    /// Any other single character.
    Sign(char),
}

/// Splits an expression into pieces with their byte offsets; white space is left out.
pub fn pieces(text: &str) -> Vec<(usize, Piece<'_>)> {
    let mut found = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, first)) = rest.next() {
        if first.is_whitespace() {
            continue;
        }
        if first == '"' || first == '\'' || first == '`' {
            let mut end = text.len();
            let mut escaped = false;
            for (at, next) in rest.by_ref() {
                if escaped {
                    escaped = false;
                } else if next == '\\' {
                    escaped = true;
                } else if next == first {
                    end = at + next.len_utf8();
                    break;
                }
            }
            found.push((start, Piece::Quoted(text.get(start..end).unwrap_or_default())));
        } else if first.is_alphanumeric() || first == '_' {
            let mut end = start + first.len_utf8();
            while let Some((at, next)) = rest.peek().copied() {
                if !(next.is_alphanumeric() || next == '_') {
                    break;
                }
                end = at + next.len_utf8();
                rest.next();
            }
            found.push((start, Piece::Word(text.get(start..end).unwrap_or_default())));
        } else {
            found.push((start, Piece::Sign(first)));
        }
    }
    found
}

/// Refuses an expression that is too long, too deep, or not a plain expression. `matcher`: `eval(p.x)` may occur.
///
/// # Errors
/// The text says what to change.
pub fn bounded(text: &str, matcher: bool) -> Result<(), String> {
    if text.len() > MAX_BYTES {
        return Err(format!("is {} bytes long, at most {MAX_BYTES} are evaluated; split it", text.len()));
    }
    let (mut depth, mut prefix, mut operators) = (0_usize, 0_usize, 0_usize);
    let pieces = pieces(text);
    for (index, (_, piece)) in pieces.iter().enumerate() {
        match piece {
            Piece::Sign('(' | '[') => depth += 1,
            Piece::Sign(')' | ']') => depth = depth.saturating_sub(1),
            Piece::Sign(sign @ ('{' | '}' | ';')) => {
                return Err(format!("holds `{sign}`; only plain expressions are evaluated"));
            }
            Piece::Quoted(quoted) if quoted.starts_with('`') => {
                return Err("holds a back-quoted text; use double quotes".to_owned());
            }
            Piece::Quoted(quoted) if quoted.starts_with('\'') && quoted.chars().count() != 3 => {
                return Err("holds a single-quoted text; use double quotes".to_owned());
            }
            Piece::Word(word) if FORBIDDEN.contains(word) => {
                return Err(format!("uses `{word}`; only plain expressions are evaluated"));
            }
            Piece::Word("eval") => {
                if !matcher {
                    return Err("calls `eval`; a rule cannot evaluate another".to_owned());
                }
                let argument: Vec<_> =
                    pieces.iter().skip(index + 1).take(5).map(|(_, piece)| *piece).collect();
                let plain = matches!(
                    argument.as_slice(),
                    [Piece::Sign('('), Piece::Word("p"), Piece::Sign('.'), Piece::Word(_), Piece::Sign(')')]
                );
                if !plain {
                    return Err(
                        "calls `eval` on something else than a column of `p`, as in eval(p.rule)".to_owned()
                    );
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH}; simplify it"));
        }
        match piece {
            Piece::Sign('!' | '-' | '+') => prefix += 1,
            _ => prefix = 0,
        }
        if prefix > MAX_DEPTH {
            return Err(format!("has more than {MAX_DEPTH} prefix operators in a row"));
        }
        if matches!(piece, Piece::Sign(sign) if !"()[],.".contains(*sign)) {
            operators += 1;
        }
    }
    if operators > MAX_OPERATORS {
        return Err(format!("has more than {MAX_OPERATORS} operators; split it"));
    }
    Ok(())
}

/// How an expression uses one token of a definition.
#[derive(Clone, Default, Debug)]
pub struct Usage {
    /// Fields read from it: `r.sub.name`.
    pub fields: BTreeSet<String>,
    /// It is used as a whole: `r.sub`.
    pub whole: bool,
}

/// How `text` uses `<definition>.<token>`, for example `r.sub`.
pub fn usage(text: &str, definition: &str, token: &str) -> Usage {
    let mut usage = Usage::default();
    let pieces: Vec<_> = pieces(text).into_iter().map(|(_, piece)| piece).collect();
    let underscored = format!("{definition}_{token}");
    for at in 0..pieces.len() {
        let rest = pieces.get(at..).unwrap_or_default();
        let after = match rest {
            [Piece::Word(first), Piece::Sign('.'), Piece::Word(second), rest @ ..]
                if *first == definition && *second == token =>
            {
                rest
            }
            [Piece::Word(first), rest @ ..] if *first == underscored => rest,
            _ => continue,
        };
        match after {
            [Piece::Sign('.'), Piece::Word(field), next @ ..] if !matches!(next, [Piece::Sign('('), ..]) => {
                usage.fields.insert((*field).to_owned());
            }
            _ => usage.whole = true,
        }
    }
    usage
}

/// One call in an expression: the function and the texts of its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The function's name.
    pub function: String,
    /// Its arguments, trimmed.
    pub arguments: Vec<String>,
}

/// Every call in an expression, inner ones included.
pub fn calls(text: &str) -> Vec<Call> {
    let pieces = pieces(text);
    let mut found = Vec::new();
    for (at, window) in pieces.windows(2).enumerate() {
        let [(_, Piece::Word(function)), (open, Piece::Sign('('))] = window else { continue };
        let (mut depth, mut from, mut arguments) = (0_usize, open + 1, Vec::new());
        for (offset, piece) in pieces.iter().skip(at + 1) {
            match piece {
                Piece::Sign('(' | '[') => depth += 1,
                Piece::Sign(')' | ']') => depth = depth.saturating_sub(1),
                _ => {}
            }
            let ends = depth == 0;
            if ends || (depth == 1 && *piece == Piece::Sign(',')) {
                arguments.push(text.get(from..*offset).unwrap_or_default().trim().to_owned());
                from = offset + 1;
            }
            if ends {
                break;
            }
        }
        found.push(Call { function: (*function).to_owned(), arguments });
    }
    found
}

/// The terms of a conjunction at the top level; one term when an operator that binds as loosely stands there
/// (in rhai `|` and `^` bind as `||`, `&` as `&&`).
pub fn terms(text: &str) -> Vec<String> {
    let pieces = pieces(text);
    let (mut depth, mut from, mut terms) = (0_usize, 0_usize, Vec::new());
    let mut at = 0;
    while let Some((offset, piece)) = pieces.get(at) {
        at += 1;
        match piece {
            Piece::Sign('(' | '[') => depth += 1,
            Piece::Sign(')' | ']') => depth = depth.saturating_sub(1),
            Piece::Sign('|' | '^') if depth == 0 => return vec![text.trim().to_owned()],
            Piece::Sign('&') if depth == 0 => {
                if pieces.get(at) != Some(&(offset + 1, Piece::Sign('&'))) {
                    return vec![text.trim().to_owned()];
                }
                at += 1;
                terms.push(text.get(from..*offset).unwrap_or_default().trim().to_owned());
                from = offset + 2;
            }
            _ => {}
        }
    }
    terms.push(text.get(from..).unwrap_or_default().trim().to_owned());
    terms
}

/// The token of `definition` that a text consists of: `p.obj` gives `obj`.
pub fn token_of<'a>(text: &'a str, definition: &str) -> Option<&'a str> {
    let rest = text.trim().strip_prefix(definition)?;
    let token = rest.strip_prefix('.').or_else(|| rest.strip_prefix('_'))?;
    (!token.is_empty() && token.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_loop_or_overflow_is_refused() {
        let deep = format!("{}1{}", "(".repeat(40), ")".repeat(40));
        let long = format!("r.sub == \"{}\"", "a".repeat(5000));
        let chain = vec!["true"; 400].join(" && ");
        let prefix = format!("{}true", "!".repeat(40));
        for bad in
            [&*deep, &*long, &*chain, &*prefix, "loop {}", "eval(r.obj)", "`a`", "r.sub == 'ab'", "1; 2"]
        {
            assert!(bounded(bad, true).is_err(), "{bad}");
        }
        assert!(bounded("eval(p.rule)", false).is_err());
        assert_eq!(bounded("eval(p.rule) && g(r.sub, p.sub)", true), Ok(()));
    }

    #[test]
    fn usage_tells_fields_from_the_whole() {
        let usage = usage("g(r.sub.name, p.sub) && \"r.sub\" == r.obj && r.sub.level > 3", "r", "sub");
        assert_eq!(usage.fields.into_iter().collect::<Vec<_>>(), ["level", "name"]);
        assert!(!usage.whole);
        assert!(super::usage("g(r.sub, p.sub)", "r", "sub").whole);
    }

    #[test]
    fn terms_and_calls_respect_brackets_and_texts() {
        assert_eq!(terms("g(r.sub, p.sub) && (a || b && c) && \"x && y\" == z").len(), 3);
        for loose in ["a && b || c", "a && b | c", "a && b & c", "a && b ^ c"] {
            assert_eq!(terms(loose).len(), 1, "{loose}");
        }
        let calls = calls("regexMatch(r.act, \"^(\" + p.act + \")$\") && keyMatch(f(r.obj, 1), p.obj)");
        assert_eq!(calls.len(), 3);
        assert_eq!(calls.first().map(|call| call.arguments.len()), Some(2));
        assert_eq!(token_of(" p.obj ", "p"), Some("obj"));
        assert_eq!(token_of("p.obj + 1", "p"), None);
    }
}
