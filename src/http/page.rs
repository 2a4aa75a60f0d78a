//! Pages: no scripts, one inline style sheet whose hash is in the Content-Security-Policy, never in a frame.
//!
//! Called by the doors that people see. One more page is a template beside its handler that renders with [`STYLE`] and
//! ends in [`page`].

use actix_web::{HttpResponse, HttpResponseBuilder};
use askama::Template;
use base64::Engine as _;
use sha2::{Digest as _, Sha256};

use super::answer::own;
use crate::model::RequestId;

/// The style sheet of every page.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#f3f5f8;--card:#fff;--edge:#dde2e8;--text:#1a1f26;--soft:#57606a;--line:#8b949e;--act:#0b57d0;--on:#fff;--bad:#a40e26;--badground:#ffebe9}\
@media(prefers-color-scheme:dark){:root{--ground:#0d1117;--card:#161b22;--edge:#2b323b;--text:#e6edf3;--soft:#9ba5b0;--line:#6e7681;--act:#8ab4f8;--on:#0b1320;--bad:#ffb3ad;--badground:#3d1417}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1rem;background:var(--ground);color:var(--text);font:1rem/1.5 system-ui,sans-serif}\
main{width:100%;max-width:25rem;padding:2rem;background:var(--card);border:1px solid var(--edge);border-radius:.75rem;box-shadow:0 1px 3px rgba(0,0,0,.08);overflow-wrap:anywhere}\
h1{margin:0 0 .375rem;font-size:1.5rem;line-height:1.25}\
p{margin:0 0 1.5rem}.soft{color:var(--soft)}.small{margin:1.5rem 0 0;font-size:.875rem}\
label{display:block;margin:0 0 .375rem;font-weight:600}\
input{width:100%;margin:0 0 1.25rem;padding:.6875rem .75rem;font:inherit;color:inherit;background:var(--card);border:1px solid var(--line);border-radius:.375rem}\
button,.button{display:block;width:100%;padding:.6875rem .75rem;font:inherit;font-weight:600;text-align:center;text-decoration:none;cursor:pointer;color:var(--on);background:var(--act);border:1px solid var(--act);border-radius:.375rem}\
button{margin:.25rem 0 0}\
.button{margin:.75rem 0 0;color:var(--text);background:transparent;border-color:var(--line)}\
:focus-visible{outline:2px solid var(--act);outline-offset:2px}\
.alert{margin-top:1rem;padding:.6875rem .75rem;color:var(--bad);background:var(--badground);border:1px solid var(--bad);border-radius:.375rem}\
.or{margin:1.5rem 0 0;padding-top:1.25rem;border-top:1px solid var(--edge)}\
code{font:.8125rem/1.5 ui-monospace,monospace}\
@media(max-width:30rem){body{padding:0;place-items:stretch}main{max-width:none;padding:2rem 1.25rem;border:0;border-radius:0;box-shadow:none}}";

/// A page without scripts; its one style sheet is `style`, inline. `form_targets` are origins, besides our own, that
/// a form on it may end at: browsers apply `form-action` to the redirects that follow a form as well.
pub fn page(status: u16, id: RequestId, html: String, style: &str, form_targets: &[String]) -> Page {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(style.as_bytes()));
    let mut forms = "'self'".to_owned();
    for target in form_targets {
        forms.push(' ');
        forms.push_str(target);
    }
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; form-action {forms}; base-uri 'none'; frame-ancestors 'none'"
    );
    let mut builder = own(status, id);
    builder
        .insert_header(("content-security-policy", policy))
        .insert_header(("x-frame-options", "DENY"))
        .insert_header(("content-type", "text/html; charset=utf-8"));
    Page { builder, html }
}

/// A page whose cookies can still be set.
pub struct Page {
    /// The head.
    pub builder: HttpResponseBuilder,
    html: String,
}

impl Page {
    /// Adds a cookie.
    #[must_use]
    pub fn cookie(mut self, cookie: &str) -> Self {
        self.builder.append_header(("set-cookie", cookie));
        self
    }

    /// The answer.
    pub fn finish(mut self) -> HttpResponse {
        self.builder.body(self.html)
    }
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><link rel="icon" href="data:,"><title>{{ title }}</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>{{ title }}</h1>
<p{% if alert %} class="alert" role="alert"{% endif %}>{{ text }}</p>
{% if let Some((href, label)) = link %}<a class="button" href="{{ href }}">{{ label }}</a>
{% endif %}{% if alert %}<p class="small soft">Reference: <code>{{ reference }}</code></p>
{% endif %}</main></body>
</html>
"#
)]
struct Message<'a> {
    style: &'a str,
    title: &'a str,
    text: &'a str,
    alert: bool,
    /// By which the operators find what happened.
    reference: String,
    link: Option<(&'a str, &'a str)>,
}

/// A page that says one thing: a title, a text, and one link; an error also its reference.
pub fn message(status: u16, id: RequestId, title: &str, text: &str, link: Option<(&str, &str)>) -> Page {
    let template =
        Message { style: STYLE, title, text, alert: status >= 400, reference: id.to_string(), link };
    page(status, id, template.render().unwrap_or_default(), STYLE, &[])
}
