//! Single sign-on with a real OpenID provider (the npm package `oidc-provider`), the whole way in a real browser.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{Browser, Builder, Node, Reply, Upstream, client, eventually};

/// A running provider; ended by its drop.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    issuer: String,
}

impl Peer {
    fn start() -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut child = Command::new("node")
            .arg(format!("{root}/tests/peers/oidc-provider.mjs"))
            .env("NODE_MODULES", format!("{root}/target/npm/node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node starts; tests/run installs it");
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let mut peer = Self { child, stdin, lines: BufReader::new(stdout).lines(), issuer: String::new() };
        peer.issuer = peer.line()["issuer"].as_str().expect("text").to_owned();
        peer
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("oidc-provider starts; tests/run installs it").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Knows the gateway as its client, and two people.
    fn serve(&mut self, node: &Node, provider: &str, client: Value, id_token_claims: bool) {
        let mut client = client;
        client["client_id"] = "portcullis".into();
        client["redirect_uris"] = json!([node.url(&format!("/auth/sso/{provider}/callback"))]);
        let settings = json!({
            "clients": [client],
            "people": {
                "carol": {"name": "Carol", "email": "carol@corp.example", "email_verified": true,
                    "groups": ["platform-team", "everyone", "admin"], "department": "engineering"},
                "dave": {"name": "Dave", "email": "dave@corp.example", "email_verified": false,
                    "groups": ["everyone"], "department": "sales"},
            },
            "idTokenClaims": id_token_claims,
        });
        writeln!(self.stdin, "{settings}").expect("written");
        assert_eq!(self.line()["ready"], true);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The guide's own configuration, with the test's issuer, on loopback.
fn documented(issuer: &str) -> String {
    let guide = include_str!("../../docs/single-sign-on.md");
    let after = guide.split_once("```toml\n").expect("a configuration in the guide").1;
    let block = after.split_once("```").expect("its end").0;
    assert!(block.contains("https://id.corp.example"), "{block}");
    block.replace("https://id.corp.example", issuer) + "allow_private = true\n"
}

fn gateway(peer: &Peer, upstream: &Upstream) -> Builder {
    Node::with()
        .upstream(&upstream.url())
        .config(&documented(&peer.issuer))
        .env("CORP_SECRET", SECRET)
        .policy("p, admin, /orders/*, GET, allow\np, admin, /reports/:department, GET, allow")
}

const SECRET: &str = "a secret of 32 letters and digits";

fn pages() -> Upstream {
    Upstream::start(|request| Reply::ok(&format!("you asked for {}", request.target)))
}

/// Signs in on the provider's own pages, which end where they were asked to lead.
fn at_the_provider(browser: &Browser, login: &str) {
    browser.wait_for("the provider's page", || browser.count("input[name=login]") == 1);
    browser.fill("input[name=login]", login);
    browser.fill("input[name=password]", "any");
    browser.click("button[type=submit]");
    browser.wait_for("consent", || browser.count("input[name=login]") == 0);
    if browser.url().path().starts_with("/interaction") {
        browser.click("button[type=submit]");
    }
}

fn assertion(text: &str) -> Value {
    let payload = text.split('.').nth(1).expect("a JWT");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64url")).expect("JSON")
}

#[test]
fn a_person_of_another_provider_signs_in_with_mapped_roles_and_attributes() {
    let (mut peer, upstream) = (Peer::start(), pages());
    let node = gateway(&peer, &upstream).start();
    let secret = json!({"client_secret": SECRET});
    peer.serve(&node, "corp", secret, false);
    let browser = Browser::start();
    browser.open(&node.url("/orders/7?a=b"));
    browser.picture("sign-in-with-provider");
    assert!(browser.text().contains("Corp ID"), "{}", browser.text());
    browser.click("a.button");
    let asked = browser.url();
    assert!(asked.as_str().starts_with(&peer.issuer), "{asked}");
    at_the_provider(&browser, "carol");
    browser.wait_for("the page asked for", || browser.url().as_str() == node.url("/orders/7?a=b"));

    // What the upstream sees, and what the assertion carries.
    let seen = upstream.last();
    assert_eq!(seen.header("portcullis-user"), "corp:carol");
    assert_eq!(seen.header("portcullis-roles"), "admin", "only what is mapped becomes a role");
    assert_eq!(seen.header("portcullis-email"), "carol@corp.example");
    let claims = assertion(seen.header("portcullis-assertion"));
    assert_eq!((&claims["sub"], &claims["roles"]), (&json!("corp:carol"), &json!(["admin"])));
    assert_eq!(claims["attrs"]["department"], "engineering");
    assert_eq!(claims["attrs"]["groups"], json!(["everyone", "admin"]), "unmapped groups are attributes");
    assert!(claims["sid"].as_str().is_some_and(|sid| !sid.is_empty()));

    // The event says who, and how.
    let event = eventually("the sign-in's event", || {
        node.audit(&["--since", "1h"]).into_iter().find(|event| event["kind"] == "login")
    });
    assert_eq!((&event["decision"], &event["auth"]), (&json!("allow"), &json!("sso")));
    assert_eq!(event["principal"]["name"], "corp:carol");
    assert_eq!(event["path"], "/auth/sso/corp/callback");
    assert!(!event.to_string().contains("code="), "the code is not in the audit");
    assert!(browser.cookie("portcullis-sso").is_none(), "the visit is over");

    // Attributes decide too, and signing out ends it.
    browser.open(&node.url("/reports/engineering"));
    assert!(browser.text().contains("you asked for /reports/engineering"), "{}", browser.text());
    browser.open(&node.url("/reports/sales"));
    assert!(browser.text().contains("forbidden"), "{}", browser.text());
    browser.open(&node.url("/auth/logout"));
    browser.click("form button");
    browser.wait_for("signed out", || browser.text().contains("You are signed out"));
    browser.open(&node.url("/orders/7"));
    assert_eq!(browser.url().path(), "/auth/login");
}

#[test]
fn a_public_client_gets_its_claims_from_the_id_token_and_an_unverified_address_is_none() {
    let (mut peer, upstream) = (Peer::start(), pages());
    let node = Node::with()
        .upstream(&upstream.url())
        .config(&format!(
            "[[provider]]\nname = \"corp\"\nissuer = \"{}\"\nclient_id = \"portcullis\"\nallow_private = true\n\
             roles_claim = \"groups\"",
            peer.issuer
        ))
        .policy("p, *, /public/*, GET, allow")
        .start();
    peer.serve(&node, "corp", json!({"token_endpoint_auth_method": "none"}), true);
    let browser = Browser::without_scripts();
    browser.open(&node.url("/auth/sso/corp?return_to=/public/a"));
    at_the_provider(&browser, "dave");
    browser.wait_for("the page asked for", || browser.url().as_str() == node.url("/public/a"));
    let seen = upstream.last();
    assert_eq!(seen.header("portcullis-user"), "corp:dave");
    assert_eq!((seen.header("portcullis-roles"), seen.header("portcullis-email")), ("", ""));
    browser.open(&node.url("/orders/7"));
    assert!(browser.text().contains("forbidden"), "{}", browser.text());
}

#[test]
fn cancelling_at_the_provider_leads_to_a_page_that_goes_on() {
    let (mut peer, upstream) = (Peer::start(), pages());
    let node = gateway(&peer, &upstream).start();
    let post = json!({"client_secret": SECRET, "token_endpoint_auth_method": "client_secret_post"});
    peer.serve(&node, "corp", post, false);
    let browser = Browser::start();
    browser.open(&node.url("/auth/sso/corp?return_to=/orders/7"));
    browser.wait_for("the provider's page", || browser.count("input[name=login]") == 1);
    browser.click("a[href$='/abort']");
    browser.wait_for("our page", || browser.title() == "Not signed in");
    assert!(browser.text().contains("cancelled"), "{}", browser.text());
    browser.picture("not-signed-in");
    browser.click("a.button");
    assert_eq!(browser.url().path(), "/auth/login");
    assert!(browser.url().query().is_some_and(|query| query.contains("orders%2F7")), "{}", browser.url());
}

#[test]
fn a_provider_that_is_away_is_a_page_that_says_so() {
    let upstream = pages();
    let mut peer = Peer::start();
    let node = gateway(&peer, &upstream).start();
    drop(peer.child.kill());
    drop(peer.child.wait());
    let answer = client().get(node.url("/auth/sso/corp?return_to=/here")).send().expect("an answer");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let id = answer.headers()["x-request-id"].to_str().expect("text").to_owned();
    let page = answer.text().expect("a page");
    assert!(page.contains("cannot be used at this moment"), "{page}");
    assert!(
        page.contains("/auth/login?return_to=") && page.contains("here"),
        "starting again leads on: {page}"
    );
    assert_eq!(node.events(&id, "login", 1)[0]["decision"], "error");
    let unknown = client().get(node.url("/auth/sso/other")).send().expect("an answer");
    assert_eq!(unknown.status(), 404);
}
