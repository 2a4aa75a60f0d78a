//! As much of a browser as signing in needs: cookies by host, redirects one at a time, the sign-in form.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use reqwest::blocking::{Client, Response};
use url::Url;

use super::PASSWORD;

/// Cookies of all hosts, and what host names mean.
pub struct Navigator {
    client: Client,
    jar: BTreeMap<String, BTreeMap<String, String>>,
}

impl Navigator {
    /// A browser that finds these host names at these addresses.
    pub fn new(hosts: &[(&str, SocketAddr)]) -> Self {
        let mut builder = super::client_builder();
        for (host, address) in hosts {
            builder = builder.resolve(host, *address);
        }
        Self { client: builder.build().expect("a client"), jar: BTreeMap::new() }
    }

    /// Opens a page, as a click on a link does; follows nothing.
    pub fn open(&mut self, url: &str) -> Response {
        let request =
            self.client.get(url).header("accept", "text/html,*/*;q=0.8").header("sec-fetch-mode", "navigate");
        self.send(url, request)
    }

    /// Opens a page and follows redirects, at most ten: where it ended, and the answer.
    pub fn follow(&mut self, url: &str) -> (String, Response) {
        let mut at = url.to_owned();
        for _ in 0..10 {
            let answer = self.open(&at);
            let Some(next) = location(&at, &answer) else { return (at, answer) };
            at = next;
        }
        panic!("redirects without end from {url}");
    }

    /// Fills in the sign-in form of `page`, which is at `at`, and sends it: the answer of the form.
    pub fn sign_in(&mut self, at: &str, page: Response, name: &str, password: &str) -> Response {
        let html = page.text().expect("text");
        let mut fields: Vec<(String, String)> = Vec::new();
        for input in html.split("<input").skip(1) {
            let tag = input.split('>').next().unwrap_or_default();
            if let (Some(name), value) = (attribute(tag, "name"), attribute(tag, "value")) {
                fields.push((name, value.unwrap_or_default()));
            }
        }
        for (key, value) in [("username", name), ("password", password)] {
            let field = fields.iter_mut().find(|(field, _)| field == key);
            field.unwrap_or_else(|| panic!("the page at {at} has no field {key}: {html}")).1 =
                value.to_owned();
        }
        let url = Url::parse(at).expect("a URL");
        let action = attribute(html.split("<form").nth(1).unwrap_or_default(), "action").unwrap_or_default();
        let to = url.join(&action).expect("a URL").to_string();
        let origin = url.origin().ascii_serialization();
        let request = self
            .client
            .post(&to)
            .header("origin", origin)
            .header("sec-fetch-site", "same-origin")
            .form(&fields);
        self.send(&to, request)
    }

    /// The cookie that `host` knows this browser by, as `name=value`.
    pub fn cookie(&self, host: &str, name: &str) -> Option<String> {
        self.jar.get(host)?.get(name).map(|value| format!("{name}={value}"))
    }

    fn send(&mut self, url: &str, mut request: reqwest::blocking::RequestBuilder) -> Response {
        let host = Url::parse(url).expect("a URL").host_str().expect("a host").to_owned();
        let jar = self.jar.entry(host).or_default();
        if !jar.is_empty() {
            let pairs: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", pairs.join("; "));
        }
        let answer = request.send().expect("an answer");
        for cookie in answer.headers().get_all("set-cookie") {
            let text = cookie.to_str().expect("text");
            let (name, value) =
                text.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            if value.is_empty() || text.contains("Max-Age=0") {
                jar.remove(name);
            } else {
                jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

/// Where a redirect leads.
pub fn location(at: &str, answer: &Response) -> Option<String> {
    let to = answer.headers().get("location").filter(|_| answer.status().is_redirection())?;
    let url = Url::parse(at).expect("a URL").join(to.to_str().expect("text")).expect("a URL");
    Some(url.to_string())
}

/// A session cookie of an account with [`PASSWORD`] on the host of `login`.
pub fn session(login: &str, name: &str) -> String {
    let mut browser = Navigator::new(&[]);
    let page = browser.open(login);
    assert_eq!(page.status(), 200);
    let answer = browser.sign_in(login, page, name, PASSWORD);
    assert_eq!(answer.status(), 303, "{name} is not signed in");
    let url = Url::parse(login).expect("a URL");
    let cookie = if url.scheme() == "https" { "__Host-portcullis" } else { "portcullis" };
    browser.cookie(url.host_str().expect("a host"), cookie).expect("a session cookie")
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = format!(" {name}=\"");
    let value = tag.split_once(&start)?.1.split('"').next()?;
    Some(value.replace("&#38;", "&").replace("&amp;", "&").replace("&#x3D;", "="))
}
