//! The templates of the pages: no scripts, one inline style sheet whose hash is in the Content-Security-Policy.

use actix_web::HttpResponse;
use askama::Template;

use crate::http::answer;
use crate::model::RequestId;

/// The style sheet of every page.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ground:#f4f5f7;--card:#fff;--text:#1a1f26;--soft:#57606a;--line:#8b949e;--act:#0b57d0;--on:#fff;--bad:#a40e26;--badground:#ffebe9}\
@media(prefers-color-scheme:dark){:root{--ground:#0d1117;--card:#161b22;--text:#e6edf3;--soft:#9ba5b0;--line:#6e7681;--act:#8ab4f8;--on:#0b1320;--bad:#ffb3ad;--badground:#3d1417}}\
*{box-sizing:border-box}\
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;background:var(--ground);color:var(--text);font:1rem/1.5 system-ui,sans-serif}\
main{width:100%;max-width:24rem;padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:.75rem}\
h1{margin:0 0 1rem;font-size:1.5rem;line-height:1.25}\
p{margin:0 0 1rem}.soft{color:var(--soft)}\
label{display:block;margin:0 0 .25rem;font-weight:600}\
input{width:100%;margin:0 0 1rem;padding:.625rem .75rem;font:inherit;color:inherit;background:var(--ground);border:1px solid var(--line);border-radius:.375rem}\
button,.button{display:block;width:100%;padding:.625rem .75rem;font:inherit;font-weight:600;text-align:center;text-decoration:none;cursor:pointer;color:var(--on);background:var(--act);border:1px solid var(--act);border-radius:.375rem}\
.button{margin:.5rem 0 0;color:var(--text);background:transparent;border-color:var(--line)}\
:focus-visible{outline:3px solid var(--act);outline-offset:2px}\
.alert{padding:.625rem .75rem;color:var(--bad);background:var(--badground);border:1px solid var(--bad);border-radius:.375rem}\
.or{margin:1.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--line)}";

/// A way to sign in that is not a password.
pub struct Way {
    /// What the button says.
    pub label: String,
    /// Where it leads.
    pub href: String,
}

/// The sign-in page.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><title>Sign in</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>Sign in</h1>
<p class="soft">to {{ site }}</p>
{% if let Some(text) = alert %}<p class="alert" role="alert" id="alert">{{ text }}</p>
{% endif %}<form method="post" action="/auth/login">
<input type="hidden" name="csrf" value="{{ csrf }}">
{% if let Some(url) = return_to %}<input type="hidden" name="return_to" value="{{ url }}">
{% endif %}{% if let Some(hash) = carry %}<input type="hidden" name="carry" value="{{ hash }}">
{% endif %}<label for="username">User name</label>
<input id="username" name="username" value="{{ username }}" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="128" required{% if !username.is_empty() %}{% else %} autofocus{% endif %}{% if alert.is_some() %} aria-describedby="alert"{% endif %}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1024" required{% if !username.is_empty() %} autofocus{% endif %}{% if alert.is_some() %} aria-describedby="alert"{% endif %}>
<button type="submit">Sign in</button>
</form>
{% if !ways.is_empty() %}<p class="or soft">Or sign in with</p>
{% for way in ways %}<a class="button" href="{{ way.href }}">{{ way.label }}</a>
{% endfor %}{% endif %}</main></body>
</html>
"#
)]
pub struct SignIn<'a> {
    /// [`STYLE`].
    pub style: &'a str,
    /// The host that the person signs in to.
    pub site: &'a str,
    /// What went wrong and what to do next.
    pub alert: Option<&'a str>,
    /// The CSRF token.
    pub csrf: &'a str,
    /// Where to go afterwards, checked.
    pub return_to: Option<&'a str>,
    /// The hash of the waiting host's binding cookie.
    pub carry: Option<&'a str>,
    /// What was typed before.
    pub username: &'a str,
    /// Providers.
    pub ways: &'a [Way],
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><title>{{ title }}</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>{{ title }}</h1>
<p{% if alert %} class="alert" role="alert"{% endif %}>{{ text }}</p>
{% if let Some(csrf) = sign_out %}<form method="post" action="/auth/logout"><input type="hidden" name="csrf" value="{{ csrf }}"><button type="submit" autofocus>Sign out</button></form>
{% endif %}{% if let Some((href, label)) = link %}<a class="button" href="{{ href }}">{{ label }}</a>
{% endif %}</main></body>
</html>
"#
)]
struct Message<'a> {
    style: &'a str,
    title: &'a str,
    text: &'a str,
    alert: bool,
    sign_out: Option<&'a str>,
    link: Option<(&'a str, &'a str)>,
}

/// A page that says one thing: a title, a text, and one link.
pub fn message(
    status: u16,
    id: RequestId,
    title: &str,
    text: &str,
    link: Option<(&str, &str)>,
) -> answer::Page {
    let page = Message { style: STYLE, title, text, alert: status >= 400, sign_out: None, link };
    answer::page(status, id, page.render().unwrap_or_default(), STYLE, &[])
}

/// The page that asks whether to sign out.
pub fn sign_out(id: RequestId, csrf: &str) -> answer::Page {
    let page = Message {
        style: STYLE,
        title: "Sign out?",
        text: "This ends your session here and on every other host that you reached with it.",
        alert: false,
        sign_out: Some(csrf),
        link: None,
    };
    answer::page(200, id, page.render().unwrap_or_default(), STYLE, &[])
}

/// The sign-in page as an answer.
pub fn sign_in(status: u16, id: RequestId, page: &SignIn<'_>, form_targets: &[String]) -> answer::Page {
    answer::page(status, id, page.render().unwrap_or_default(), STYLE, form_targets)
}

/// The small page after a sign-in that leads nowhere.
pub fn signed_in(id: RequestId) -> HttpResponse {
    message(200, id, "You are signed in", "You can close this page.", Some(("/auth/logout", "Sign out")))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page<'a>(username: &'a str, alert: Option<&'a str>, ways: &'a [Way]) -> String {
        let page = SignIn {
            style: STYLE,
            site: "gate.example",
            alert,
            csrf: "token",
            return_to: Some("https://gate.example/?a=1&b=\"<x>"),
            carry: None,
            username,
            ways,
        };
        page.render().unwrap()
    }

    #[test]
    fn the_page_is_small_labelled_and_without_scripts() {
        let html = page("", None, &[]);
        assert!(html.len() < 50_000);
        assert!(!html.contains("<script") && !html.contains(" on"), "{html}");
        assert!(html.contains("<label for=\"username\">") && html.contains("<label for=\"password\">"));
        assert_eq!(html.matches("autofocus").count(), 1);
        assert!(!html.contains("role=\"alert\"") && !html.contains("Or sign in with"));
        assert!(html.contains(STYLE));
    }

    #[test]
    fn what_people_and_links_bring_is_escaped() {
        let ways = [Way { label: "<b>".to_owned(), href: "/auth/sso/corp?x=\"".to_owned() }];
        let html = page("\"><script>alert(1)</script>", Some("wrong"), &ways);
        assert!(!html.contains("<script") && !html.contains("<b>") && !html.contains("x=\"\""));
        assert!(html.contains("role=\"alert\""));
    }
}
