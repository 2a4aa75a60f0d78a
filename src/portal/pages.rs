//! The templates of this door's pages; what all pages share is in `http::page`.

use actix_web::HttpResponse;
use askama::Template;

use crate::config::Listen;
use crate::http::page::{Page, STYLE, message, page};
use crate::model::RequestId;

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
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><link rel="icon" href="data:,"><title>Sign in</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>Sign in</h1>
<p class="soft">to {{ site }}</p>
{% if let Some(text) = alert %}<p class="alert" role="alert" id="alert">{{ text }}</p>
{% endif %}<form method="post" action="{{ action }}">
<input type="hidden" name="csrf" value="{{ csrf }}">
{% if let Some(url) = return_to %}<input type="hidden" name="return_to" value="{{ url }}">
{% endif %}{% if let Some(hash) = carry %}<input type="hidden" name="carry" value="{{ hash }}">
{% endif %}<label for="username">User name</label>
<input id="username" name="username" value="{{ username }}" autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="128" required{% if !username.is_empty() %}{% else %} autofocus{% endif %}{% if alert.is_some() %} aria-invalid="true" aria-describedby="alert"{% endif %}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" maxlength="1024" required{% if !username.is_empty() %} autofocus{% endif %}{% if alert.is_some() %} aria-invalid="true" aria-describedby="alert"{% endif %}>
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
    /// Where the form goes.
    pub action: &'a str,
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

/// The page that asks whether to sign out.
#[derive(Template)]
#[template(
    ext = "html",
    source = r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="robots" content="noindex"><link rel="icon" href="data:,"><title>Sign out?</title><style>{{ style|safe }}</style></head>
<body><main>
<h1>Sign out?</h1>
<p>This ends your session here and on every other host that you reached with it.</p>
<form method="post" action="{{ action }}">
<input type="hidden" name="csrf" value="{{ csrf }}">
<button type="submit" autofocus>Sign out</button>
</form>
</main></body>
</html>
"#
)]
struct SignOut<'a> {
    style: &'a str,
    action: &'a str,
    csrf: &'a str,
}

/// The page that asks whether to sign out, as an answer.
pub fn sign_out(id: RequestId, listen: &Listen, csrf: &str) -> Page {
    let template = SignOut { style: STYLE, action: &listen.endpoint("/logout"), csrf };
    page(200, id, template.render().unwrap_or_default(), STYLE, &[])
}

/// The sign-in page as an answer.
pub fn sign_in(status: u16, id: RequestId, template: &SignIn<'_>, form_targets: &[String]) -> Page {
    page(status, id, template.render().unwrap_or_default(), STYLE, form_targets)
}

/// The small page after a sign-in that leads nowhere.
pub fn signed_in(id: RequestId, listen: &Listen) -> HttpResponse {
    let sign_out = listen.endpoint("/logout");
    message(200, id, "You are signed in", "You can close this page.", Some((&sign_out, "Sign out"))).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page<'a>(username: &'a str, alert: Option<&'a str>, ways: &'a [Way]) -> String {
        let page = SignIn {
            style: STYLE,
            action: "/auth/login",
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
