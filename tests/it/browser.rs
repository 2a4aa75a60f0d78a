//! People in a real browser: signing in and out, on one host and on two, and what other sites cannot make them do.

use crate::support::{Browser, Builder, Node, PASSWORD, Reply, Upstream, client};

const SUBMIT: &str = "form button";

fn gateway(upstream: &Upstream) -> Builder {
    Node::with().upstream(&upstream.url())
}

fn pages() -> Upstream {
    Upstream::start(|request| {
        let page = format!("<!doctype html><title>app</title><p>you asked for {}</p>", request.target);
        Reply::ok(&page).header("content-type", "text/html")
    })
}

fn sign_in(browser: &Browser, name: &str, password: &str) {
    browser.fill("#username", name);
    browser.fill("#password", password);
    browser.click(SUBMIT);
}

#[test]
fn a_person_signs_in_and_comes_to_the_page_that_was_asked_for() {
    let upstream = pages();
    let node = gateway(&upstream).start();
    let browser = Browser::start();
    browser.open(&node.url("/orders/7?view=full"));
    assert_eq!(browser.url().path(), "/auth/login");
    assert_eq!(browser.title(), "Sign in");
    browser.picture("sign-in");
    sign_in(&browser, "alice", PASSWORD);
    browser.wait_for("the page asked for", || browser.url().as_str() == node.url("/orders/7?view=full"));
    assert!(browser.text().contains("you asked for /orders/7?view=full"));
    assert_eq!(upstream.last().header("portcullis-user"), "alice");
    assert_eq!(upstream.last().header("cookie"), "", "our cookies stay here");

    let cookie = browser.cookie("portcullis").expect("a session cookie");
    assert_eq!((&cookie["httpOnly"], &cookie["sameSite"]), (&true.into(), &"Lax".into()));
    assert_eq!((&cookie["path"], &cookie["domain"]), (&"/".into(), &"localhost".into()));
    assert!(cookie.get("expiry").is_none(), "it ends with the browser: {cookie}");
    assert!(browser.cookie("portcullis-before").is_none(), "a new sign-in leaves nothing of the old page");
}

#[test]
fn a_wrong_password_says_what_to_do_and_not_which_half_was_wrong() {
    let upstream = pages();
    let node = gateway(&upstream).start();
    let browser = Browser::start();
    browser.open(&node.url("/orders/7"));
    let mut alerts = Vec::new();
    for (name, password) in [("alice", "wrong"), ("nobody", "wrong")] {
        sign_in(&browser, name, password);
        browser.wait_for("the alert", || browser.count("[role=alert]") == 1);
        alerts.push(browser.text_of("[role=alert]"));
        assert_eq!(browser.property("#username", "value"), name, "what was typed stays");
        assert_eq!(browser.property("#password", "value"), "");
        assert_eq!(browser.script("return document.activeElement.id"), "password", "the cursor waits there");
    }
    assert_eq!(alerts[0], alerts[1]);
    assert!(alerts[0].contains("Check both and try again"), "{alerts:?}");
    browser.picture("sign-in-wrong");
    sign_in(&browser, "alice", PASSWORD);
    browser.wait_for("the page asked for", || browser.url().path() == "/orders/7");
}

#[test]
fn everything_works_with_the_keyboard_alone_and_without_scripts() {
    let upstream = pages();
    let node = gateway(&upstream).start();
    let browser = Browser::without_scripts();
    browser.open(&node.url("/orders/7"));
    // The cursor is in the first field; Tab leads to the next, Enter sends.
    browser.press(&format!("alice\u{E004}{PASSWORD}\u{E007}"));
    browser.wait_for("the page asked for", || browser.url().path() == "/orders/7");
    browser.open(&node.url("/auth/logout"));
    browser.press("\u{E007}");
    browser.wait_for("signed out", || browser.text().contains("You are signed out"));
    browser.open(&node.url("/orders/7"));
    assert_eq!(browser.url().path(), "/auth/login");
}

#[test]
fn signing_out_ends_the_session_for_good() {
    let upstream = pages();
    let node = gateway(&upstream).start();
    let browser = Browser::start();
    browser.open(&node.url("/auth/login"));
    sign_in(&browser, "alice", PASSWORD);
    browser.wait_for("signed in", || browser.text().contains("You are signed in"));
    browser.picture("signed-in");
    let cookie = browser.cookie("portcullis").expect("a session")["value"].as_str().unwrap_or("").to_owned();
    browser.click("a.button");
    browser.wait_for("the question", || browser.title() == "Sign out?");
    browser.picture("sign-out");
    assert!(browser.cookie("portcullis").is_some(), "a link alone signs nobody out");
    browser.click(SUBMIT);
    browser.wait_for("signed out", || browser.text().contains("You are signed out"));
    browser.picture("signed-out");
    assert!(browser.cookie("portcullis").is_none());
    let answer = client().get(node.url("/orders/7")).header("cookie", format!("portcullis={cookie}"));
    assert_eq!(answer.send().expect("an answer").status(), 401, "a copy of the cookie is worth nothing");
}

#[test]
fn a_session_is_carried_to_another_host_by_a_code_that_works_once() {
    let upstream = pages();
    let node = gateway(&upstream)
        .config(
            "[[route]]\nname = \"app\"\nhosts = [\"app.localhost\", \"wiki.localhost\"]\n\
             path = \"/{rest*}\"\nupstream = \"main\"",
        )
        .start();
    let app = |path: &str| format!("http://app.localhost:{}{path}", node.port());
    let browser = Browser::start();
    browser.open(&app("/orders/7?a=b"));
    assert_eq!(browser.url().host_str(), Some("localhost"), "sign-in is on one host");
    assert!(browser.text().contains("app.localhost"), "the page says where it leads: {}", browser.text());
    sign_in(&browser, "alice", PASSWORD);
    browser.wait_for("the page asked for", || browser.url().as_str() == app("/orders/7?a=b"));
    let there = browser.cookie("portcullis").expect("a session of this host");
    assert!(browser.cookie("portcullis-binding").is_none(), "the binding is used up");
    // The next hosts need no password, the one that people sign in on included.
    browser.open(&format!("http://wiki.localhost:{}/orders/8", node.port()));
    assert_eq!((browser.url().host_str(), browser.url().path()), (Some("wiki.localhost"), "/orders/8"));
    browser.open(&node.url("/orders/9"));
    assert_eq!(browser.url().path(), "/orders/9");
    let here = browser.cookie("portcullis").expect("a session of this host");
    assert_ne!(there["value"], here["value"], "every host has a cookie of its own");
    // Signing out anywhere ends it everywhere.
    browser.open(&app("/auth/logout"));
    browser.click(SUBMIT);
    browser.wait_for("signed out", || browser.text().contains("You are signed out"));
    browser.open(&node.url("/orders/9"));
    assert_eq!(browser.url().path(), "/auth/login");
}
