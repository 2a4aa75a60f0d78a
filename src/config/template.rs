//! Path templates of routes: literal segments, `{name}`, and `{rest*}` at the end. Checked here, matched by the router.

/// A path template, as far as checking needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Template {
    segments: Vec<Segment>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    Literal(String),
    Parameter,
    Rest,
}

impl Template {
    /// Reads a template.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mistake = |why: &str| format!("`{text}` is not a path template: {why}");
        let wrong = |why: &str| Err(mistake(why));
        let Some(rest) = text.strip_prefix('/') else {
            return wrong("it must begin with `/`");
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let last = parts.len() - 1;
        let mut names: Vec<&str> = Vec::new();
        let mut segments = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            if let Some(inner) = inner {
                let (name, rest) = inner.strip_suffix('*').map_or((inner, false), |name| (name, true));
                if !is_name(name) {
                    return wrong(&format!("`{part}` needs a name of letters, digits and `_`"));
                }
                if names.contains(&name) {
                    return wrong(&format!("`{name}` is there twice"));
                }
                if rest && index != last {
                    return wrong(&format!("`{part}` must be the last segment"));
                }
                names.push(name);
                segments.push(if rest { Segment::Rest } else { Segment::Parameter });
            } else if part.contains(['{', '}', '*']) {
                return wrong(&format!("`{part}` must be literal, `{{name}}` or, at the end, `{{rest*}}`"));
            } else if part.is_empty() && index != last {
                return wrong("a segment in it is empty");
            } else {
                literal(part).map_err(|why| mistake(&why))?;
                segments.push(Segment::Literal(part.to_owned()));
            }
        }
        Ok(Self { segments })
    }

    /// The literal segments that every path of this template begins with, as a path.
    pub(super) fn literal_start(&self) -> String {
        let literals = self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(text) => Some(text),
            Segment::Parameter | Segment::Rest => None,
        });
        literals.fold(String::new(), |path, segment| path + "/" + segment.as_str())
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A literal is canonical already: what requests are turned into before they are compared with it.
fn literal(text: &str) -> Result<(), String> {
    if matches!(text, "." | "..") {
        return Err(format!("`{text}` is never in a path"));
    }
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = |digit: Option<u8>| {
                let upper = digit.filter(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(b))?;
                char::from(upper).to_digit(16)
            };
            let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                return Err("`%` needs two digits of 0 to 9 and A to F after it".to_owned());
            };
            let octet = u8::try_from(high * 16 + low).unwrap_or_default();
            if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
                return Err(format!("write `{}` itself, not encoded", char::from(octet)));
            }
        } else if !byte.is_ascii_alphanumeric() && !b"-._~!$&'()+,;=:@".contains(&byte) {
            let character = char::from(byte);
            return Err(if byte.is_ascii() && !byte.is_ascii_control() {
                format!("`{character}` must be percent-encoded")
            } else {
                format!("`{text}` must be percent-encoded")
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_literals_parameters_and_a_rest_at_the_end() {
        for good in
            ["/", "/orders", "/orders/", "/orders/{id}", "/{a}/{b}/x", "/files/{rest*}", "/a%20b", "/{rest*}"]
        {
            assert!(Template::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "orders",
            "/a//b",
            "/{}",
            "/{1a}",
            "/{a}/{a}",
            "/{rest*}/x",
            "/a{b}",
            "/*",
            "/a/../b",
            "/a?b",
            "/a#b",
            "/%2",
            "/%2f",
            "/%41",
            "/a b",
            "/é",
            "/.",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn equal_templates_do_not_depend_on_names() {
        assert_eq!(Template::parse("/a/{x}"), Template::parse("/a/{y}"));
        assert_ne!(Template::parse("/a/{x}"), Template::parse("/a/{y*}"));
        assert_ne!(Template::parse("/a"), Template::parse("/a/"));
        assert_eq!(Template::parse("/auth/x/{y}/z").unwrap().literal_start(), "/auth/x");
    }
}
