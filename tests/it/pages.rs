//! What people see: every page's headers, how it looks and reads, and what other sites and other people's links cannot
//! do with it.

use std::time::{Duration, Instant};

use reqwest::blocking::Response;
use serde_json::{Value, json};

use crate::support::{Browser, Builder, Node, PASSWORD, Reply, Upstream, client};

fn gateway(upstream: &Upstream) -> Builder {
    Node::with().upstream(&upstream.url())
}

fn hello() -> Upstream {
    Upstream::start(|_| Reply::ok("hello"))
}

fn head(answer: &Response, name: &str) -> String {
    answer.headers().get(name).map_or_else(String::new, |value| value.to_str().expect("text").to_owned())
}

fn cookies(answer: &Response) -> Vec<String> {
    let all = answer.headers().get_all("set-cookie").iter();
    all.map(|value| value.to_str().expect("text").to_owned()).collect()
}

/// The value of a cookie that the answer sets.
fn cookie(answer: &Response, name: &str) -> Option<String> {
    cookies(answer).iter().find_map(|text| {
        let (pair, _) = text.split_once(';')?;
        pair.strip_prefix(name)?.strip_prefix('=').filter(|value| !value.is_empty()).map(str::to_owned)
    })
}

/// The value of a hidden field.
fn field(page: &str, name: &str) -> String {
    let after = page.split_once(&format!("name=\"{name}\" value=\"")).expect("the field").1;
    after.split_once('"').expect("its end").0.to_owned()
}

/// An opened sign-in page: its cookie and its CSRF token.
struct Form {
    before: String,
    csrf: String,
}

fn form(node: &Node, query: &str) -> Form {
    let answer = client().get(node.url(&format!("/auth/login{query}"))).send().expect("an answer");
    let before = cookie(&answer, "portcullis-before").expect("a cookie");
    Form { before, csrf: field(&answer.text().expect("a page"), "csrf") }
}

fn send(node: &Node, form: &Form, pairs: &[(&str, &str)], headers: &[(&str, &str)]) -> Response {
    let mut request = client().post(node.url("/auth/login"));
    if !headers.iter().any(|(name, _)| *name == "cookie") {
        request = request.header("cookie", format!("portcullis-before={}", form.before));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut body = vec![("csrf", form.csrf.as_str())];
    body.extend(pairs);
    request.form(&body).send().expect("an answer")
}

const ALICE: [(&str, &str); 2] = [("username", "alice"), ("password", PASSWORD)];

#[test]
fn every_page_is_private_unframed_and_without_scripts() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let opened = form(&node, "");
    let wrong = [("username", "alice"), ("password", "wrong")];
    let get = |path: &str| client().get(node.url(path)).send().expect("an answer");
    let pages = [
        (200, get("/auth/login")),
        (200, get("/auth/login?return_to=/orders/7")),
        (200, get("/auth/logout")),
        (200, get("/auth/session")),
        (400, get("/auth/session?code=x")),
        (401, send(&node, &opened, &wrong, &[])),
        (403, send(&node, &Form { csrf: "x".to_owned(), ..form(&node, "") }, &ALICE, &[])),
    ];
    for (status, answer) in pages {
        let url = answer.url().clone();
        assert_eq!(answer.status(), status, "{url}");
        assert_eq!(head(&answer, "content-type"), "text/html; charset=utf-8", "{url}");
        assert_eq!(head(&answer, "cache-control"), "no-store", "{url}");
        assert_eq!(head(&answer, "referrer-policy"), "no-referrer", "{url}");
        assert_eq!(head(&answer, "x-content-type-options"), "nosniff", "{url}");
        assert_eq!(head(&answer, "x-frame-options"), "DENY", "{url}");
        assert!(!head(&answer, "x-request-id").is_empty(), "{url}");
        let policy = head(&answer, "content-security-policy");
        for part in [
            "default-src 'none'",
            "style-src 'sha256-",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "img-src data:;",
            "form-action 'self'",
        ] {
            assert!(policy.contains(part), "{url}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{url}: {policy}");
        let page = answer.text().expect("a page");
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"), "{url}");
        assert!(page.len() < 50_000 && !page.contains("<script") && !page.contains("src="), "{url}: {page}");
    }
    for path in ["/auth/login", "/auth/token", "/auth/logout", "/auth/nothing", "/auth/certificate"] {
        let answer = client().put(node.url(path)).send().expect("an answer");
        assert!(matches!(answer.status().as_u16(), 404 | 405), "{path}");
        assert_eq!(head(&answer, "cache-control"), "no-store", "{path}");
        assert_eq!(head(&answer, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(head(&answer, "allow").is_empty(), answer.status() == 404, "{path}");
    }
}

#[test]
fn cookies_are_bound_to_one_host_and_kept_from_scripts() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
    let upstream = hello();
    let node = gateway(&upstream).tls(&certificate.pem(), &key.serialize_pem()).start();
    let browser = Browser::start();
    browser.open(&node.url("/orders/7"));
    let before = browser.cookie("__Host-portcullis-before").expect("a cookie");
    assert_eq!((&before["secure"], &before["httpOnly"]), (&json!(true), &json!(true)));
    browser.fill("#username", "alice");
    browser.fill("#password", PASSWORD);
    browser.click("form button");
    browser.wait_for("the page asked for", || browser.url().path() == "/orders/7");
    let session = browser.cookie("__Host-portcullis").expect("a session");
    assert_eq!((&session["secure"], &session["httpOnly"]), (&json!(true), &json!(true)));
    assert_eq!((&session["sameSite"], &session["path"]), (&json!("Lax"), &json!("/")));
    assert_eq!(browser.script("return document.cookie"), "", "scripts see none of it");
    // The name of plain HTTP is not read where cookies can be protected.
    let value = session["value"].as_str().expect("text");
    browser.script(&format!("document.cookie = 'portcullis={value}; path=/; secure'"));
    browser.forget("__Host-portcullis");
    browser.open(&node.url("/orders/7"));
    assert_eq!(browser.url().path(), "/auth/login");
}

#[test]
fn a_sign_in_leads_to_no_place_that_is_not_ours() {
    let upstream = hello();
    let node = gateway(&upstream)
        .config("[listen]\nreturn_to_hosts = [\"docs.localhost\"]")
        .config(
            "[[route]]\nname = \"app\"\nhosts = [\"app.localhost\"]\npath = \"/{rest*}\"\nupstream = \"main\"",
        )
        .start();
    let port = node.port();
    let nowhere = "/auth/session".to_owned();
    let lead = |return_to: &str| {
        let opened = form(&node, "");
        let answer = send(&node, &opened, &[ALICE[0], ALICE[1], ("return_to", return_to)], &[]);
        assert_eq!(answer.status(), 303, "{return_to:?}");
        head(&answer, "location")
    };
    for evil in [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "http:evil.example",
        "http:/evil.example",
        "http://localhost@evil.example/",
        "http://localhost:x@evil.example/",
        "http://localhost.evil.example/",
        "http://evil.example#@localhost/",
        "http://evil.example\\@localhost/",
        "http://[::ffff:1.2.3.4]/",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://localhost/",
        "http://localhost:1/",
        "http://app.localhost:1/",
        "http://b.app.localhost/",
        "http://xn--lcalhost-rdb/",
        "orders",
        "%2F%2Fevil.example",
        "%68ttp://evil.example",
    ] {
        assert_eq!(lead(evil), nowhere, "{evil:?}");
        let page =
            client().get(node.url("/auth/login")).query(&[("return_to", evil)]).send().expect("an answer");
        assert!(!head(&page, "content-security-policy").contains("evil"), "{evil:?}");
        assert!(!page.text().expect("a page").contains("evil"), "{evil:?} is not repeated");
        // The other two ways that take it.
        let session =
            client().get(node.url("/auth/session")).query(&[("return_to", evil)]).send().expect("an answer");
        assert_eq!(session.status(), 200, "{evil:?}");
    }
    assert_eq!(lead("/orders/7?a=b#c"), node.url("/orders/7?a=b#c"));
    assert_eq!(lead(&node.url("/orders/7")), node.url("/orders/7"));
    assert_eq!(lead("http://docs.localhost/a"), "http://docs.localhost/a", "listed, and not served here");
    let there = lead(&format!("http://app.localhost:{port}/a"));
    assert!(there.starts_with(&format!("http://app.localhost:{port}/auth/session?return_to=")), "{there}");
}

#[test]
fn no_other_site_signs_a_person_in_or_out() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let opened = form(&node, "");
    let refused = |answer: Response, what: &str| {
        assert_eq!(answer.status(), 403, "{what}");
        assert_eq!(cookie(&answer, "portcullis"), None, "{what}");
    };
    refused(send(&node, &Form { csrf: String::new(), ..form(&node, "") }, &ALICE, &[]), "no token");
    refused(
        send(&node, &Form { csrf: opened.csrf.clone(), ..form(&node, "") }, &ALICE, &[]),
        "another's token",
    );
    refused(send(&node, &opened, &ALICE, &[("cookie", "a=b")]), "no cookie");
    let both = format!("portcullis-before=mine; portcullis-before={}", opened.before);
    refused(send(&node, &opened, &ALICE, &[("cookie", &both)]), "a second cookie, set by a neighbour");
    for headers in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "http://localhost"),
    ] {
        refused(send(&node, &opened, &ALICE, &[headers]), headers.1);
    }
    let signed_in = send(&node, &opened, &ALICE, &[("origin", &node.url(""))]);
    assert_eq!(signed_in.status(), 303);
    let session = cookie(&signed_in, "portcullis").expect("a session");
    let with_session = |headers: &[(&str, &str)]| {
        let mut request =
            client().post(node.url("/auth/logout")).header("cookie", format!("portcullis={session}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().expect("an answer").status().as_u16()
    };
    assert_eq!(with_session(&[("sec-fetch-site", "cross-site")]), 403);
    assert_eq!(with_session(&[("origin", "https://evil.example")]), 403);
    assert_eq!(with_session(&[]), 403, "neither header, and no token");
    let ask = || {
        let request = client().get(node.url("/orders/7")).header("cookie", format!("portcullis={session}"));
        request.send().expect("an answer").status().as_u16()
    };
    assert_eq!(ask(), 200, "still signed in");
    assert_eq!(with_session(&[("sec-fetch-site", "same-origin")]), 200);
    assert_eq!(ask(), 401);
}

#[test]
fn a_new_sign_in_has_a_new_session_and_ends_the_old_one() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let first = cookie(&send(&node, &form(&node, ""), &ALICE, &[]), "portcullis").expect("a session");
    let opened = form(&node, "");
    let both = format!("portcullis={first}; portcullis-before={}", opened.before);
    let second =
        cookie(&send(&node, &opened, &ALICE, &[("cookie", &both)]), "portcullis").expect("a session");
    assert_ne!(first, second);
    let ask = |session: &str| {
        let request = client().get(node.url("/orders/7")).header("cookie", format!("portcullis={session}"));
        request.send().expect("an answer").status().as_u16()
    };
    assert_eq!((ask(&first), ask(&second)), (401, 200));
    // A value that somebody else chose never becomes a session.
    let opened = form(&node, "");
    let chosen = "A".repeat(43);
    let fixed = format!("portcullis={chosen}; portcullis-before={}", opened.before);
    let third =
        cookie(&send(&node, &opened, &ALICE, &[("cookie", &fixed)]), "portcullis").expect("a session");
    assert_ne!(third, chosen);
    assert_eq!(ask(&chosen), 401);
}

#[test]
fn an_evil_page_can_neither_frame_nor_post_to_ours() {
    let upstream = hello();
    let node = gateway(&upstream).start();
    let (login, logout) = (node.url("/auth/login"), node.url("/auth/logout"));
    let evil = Upstream::start(move |request| {
        let page = match request.target.as_str() {
            "/inner" => "inner".to_owned(),
            "/control" => "<iframe src=/inner></iframe>".to_owned(),
            "/frame" => format!("<iframe src=\"{login}\" width=900 height=600></iframe>"),
            _ => format!("<form method=post action=\"{logout}\"><button>win</button></form>"),
        };
        Reply::ok(&format!("<!doctype html><title>evil</title>{page}")).header("content-type", "text/html")
    });
    let browser = Browser::start();
    browser.open(&node.url("/auth/login"));
    browser.fill("#username", "alice");
    browser.fill("#password", PASSWORD);
    browser.click("form button");
    browser.wait_for("signed in", || browser.text().contains("You are signed in"));

    browser.open(&format!("{}/control", evil.url()));
    assert_eq!(browser.text_of_frame(), "inner", "frames can be read here");
    browser.open(&format!("{}/frame", evil.url()));
    let framed = browser.text_of_frame();
    assert!(!framed.contains("Sign in"), "{framed}");
    browser.open(&format!("{}/post", evil.url()));
    browser.click("button");
    browser.wait_for("an answer", || browser.url().path() == "/auth/logout");
    assert!(browser.text().contains("cross-site"), "{}", browser.text());
    browser.open(&node.url("/orders/7"));
    assert!(browser.text().contains("hello"), "still signed in: {}", browser.text());
}

#[test]
fn an_unknown_name_is_answered_like_a_wrong_password_in_words_and_in_time() {
    let upstream = hello();
    let node =
        gateway(&upstream).config("[passwords.hashing]\nmemory = \"19MiB\"\npasses = 2\nthreads = 1").start();
    let add = |name: &str| {
        let arguments = ["user", "add", name, "--role", "reader", "--password-stdin"];
        let (code, out, err) = node.cli_with(&arguments, PASSWORD);
        assert_eq!(code, 0, "{out}{err}");
    };
    add("carol");
    add("off");
    assert_eq!(node.cli(&["user", "disable", "off"]).0, 0);
    let tell = |name: &str, password: &str| {
        let began = Instant::now();
        let answer = node.sign_in(name, password);
        let took = began.elapsed();
        let status = answer.status().as_u16();
        let mut names: Vec<String> = answer.headers().keys().map(ToString::to_string).collect();
        names.sort_unstable();
        let challenge = head(&answer, "www-authenticate");
        let mut body: Value = answer.json().expect("JSON");
        body["request_id"] = Value::Null;
        ((status, names, challenge, body), took)
    };
    let known = tell("carol", "wrong").0;
    assert_eq!(known.0, 401);
    assert_eq!(known.3["type"], "urn:portcullis:problem:unauthenticated");
    let long = "x".repeat(2000);
    for (name, password) in [
        ("nobody", "wrong"),
        ("off", PASSWORD),
        ("off", "wrong"),
        ("", "x"),
        ("a:b", "x"),
        ("carol", &long),
        ("\u{0}", "x"),
    ] {
        assert_eq!(tell(name, password).0, known, "{name:?}");
    }
    // The least of several tries is free of what else the machine does; more rounds only make it more so.
    let (mut of_known, mut of_unknown) = (Duration::MAX, Duration::MAX);
    let alike = (0..5).any(|round| {
        // Fewer failures of one name than make its tries wait.
        let known = format!("known-{round}");
        add(&known);
        for number in 0..6 {
            of_known = of_known.min(tell(&known, "wrong").1);
            of_unknown = of_unknown.min(tell(&format!("n{round}-{number}"), "wrong").1);
        }
        (0.67..1.5).contains(&(of_unknown.as_secs_f64() / of_known.as_secs_f64()))
    });
    assert!(alike, "{of_known:?} for a known name, {of_unknown:?} for an unknown one");
    // The page says the same as well.
    let page = |name: &str| {
        let opened = form(&node, "");
        let answer = send(&node, &opened, &[("username", name), ("password", "wrong")], &[]);
        let status = answer.status().as_u16();
        let text = answer.text().expect("a page");
        (status, text.replace(&opened.csrf, "").replace(name, ""))
    };
    assert_eq!(page("carol"), page("nemo2"));
}

/// Relative luminance and contrast by WCAG 2.2, of every text against what is behind it.
const CONTRAST: &str = r"
const channel = c => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parse = t => t.match(/[\d.]+/g).map(Number);
const light = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const found = [];
for (const e of document.querySelectorAll('main *')) {
  const style = getComputedStyle(e);
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || (e.tagName === 'INPUT' && e.type !== 'hidden');
  if (own) found.push([e.tagName, 'text', ratio(parse(style.color), behind(e))]);
  if (e.tagName === 'INPUT' && e.type !== 'hidden') found.push([e.tagName, 'edge', ratio(parse(style.borderTopColor), behind(e.parentElement))]);
}
return found;";

/// What a screen reader is told: role, name and description of everything that can be used.
fn spoken(browser: &Browser) -> Vec<(String, String, String)> {
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
    let text = |node: &Value, member: &str| node[member]["value"].as_str().unwrap_or_default().to_owned();
    let nodes = tree["nodes"].as_array().expect("nodes").iter().filter(|node| node["ignored"] == false);
    nodes.map(|node| (text(node, "role"), text(node, "name"), text(node, "description"))).collect()
}

#[test]
fn pages_can_be_read_by_everyone_on_a_phone_and_in_the_dark() {
    let upstream = hello();
    let node = gateway(&upstream)
        .config("[[provider]]\nname = \"corp\"\ndisplay_name = \"Corp ID\"\nissuer = \"https://id.corp.example\"\nclient_id = \"x\"")
        .start();
    let browser = Browser::start();
    let wrong = |browser: &Browser| {
        browser.open(&node.url("/auth/login?return_to=/orders/7"));
        browser.fill("#username", "alice");
        browser.fill("#password", "wrong");
        browser.click("form button");
        browser.wait_for("the alert", || browser.count("[role=alert]") == 1);
    };
    let open = |path: &'static str| move |browser: &Browser, node: &Node| browser.open(&node.url(path));
    type Way<'a> = (&'a str, Box<dyn Fn(&Browser) + 'a>);
    let ways: Vec<Way<'_>> = vec![
        ("login", Box::new(|browser| open("/auth/login")(browser, &node))),
        ("wrong", Box::new(wrong)),
        ("logout", Box::new(|browser| open("/auth/logout")(browser, &node))),
        ("session", Box::new(|browser| open("/auth/session")(browser, &node))),
        ("error", Box::new(|browser| open("/auth/session?code=x")(browser, &node))),
    ];
    for (scheme, width, height) in
        [("light", 1024, 768), ("dark", 1024, 768), ("light", 320, 640), ("dark", 390, 844)]
    {
        browser.colours(scheme);
        browser.size(width, height);
        for (name, way) in &ways {
            way(&browser);
            let what = format!("{name} {scheme} {width}");
            browser.picture(&format!("page-{name}-{scheme}-{width}"));
            let contrast = browser.script(CONTRAST);
            let contrast = contrast.as_array().expect("a list");
            assert!(contrast.len() > 1, "{what}: {contrast:?}");
            for found in contrast {
                let least = if found[1] == "edge" { 3.0 } else { 4.5 };
                assert!(found[2].as_f64().expect("a number") >= least, "{what}: {found}");
            }
            let wide = browser.script("return document.documentElement.scrollWidth <= window.innerWidth");
            assert_eq!(wide, true, "{what}: it scrolls sideways");
            let small = browser.script(
                "return [...document.querySelectorAll('a,button,input:not([type=hidden])')].filter(e => e.getBoundingClientRect().height < 44).length",
            );
            assert_eq!(small, 0, "{what}: too small for a thumb");
            let ringed = browser.script(
                "const e = document.querySelector('button,a.button'); if (!e) return true; e.focus({focusVisible: true}); return parseFloat(getComputedStyle(e).outlineWidth) >= 2",
            );
            assert_eq!(ringed, true, "{what}: the focus is seen");
            assert_eq!(browser.count("h1"), 1, "{what}");
            let said = spoken(&browser);
            for (role, name, _) in &said {
                let used = ["textbox", "button", "link", "heading"].contains(&role.as_str());
                assert!(!used || !name.trim().is_empty(), "{what}: a {role} without a name");
            }
            assert!(said.iter().any(|(role, ..)| role == "main"), "{what}: {said:?}");
            if *name == "wrong" {
                let field = said.iter().find(|(role, name, _)| role == "textbox" && name == "User name");
                assert!(field.is_some_and(|(.., description)| description.contains("not right")), "{said:?}");
            }
        }
    }
}

#[test]
fn a_code_counts_once_on_its_host_in_the_browser_that_was_sent_away() {
    let upstream = hello();
    let node = gateway(&upstream)
        .config(
            "[[route]]\nname = \"app\"\nhosts = [\"app.localhost\", \"wiki.localhost\"]\npath = \"/{rest*}\"\n\
             upstream = \"main\"",
        )
        .start();
    let port = node.port();
    // What a browser does, one step at a time.
    let get = |url: &str, cookie: &str| {
        let url: url::Url = url.parse().expect("a URL");
        let host = format!("{}:{port}", url.host_str().expect("a host"));
        let target = format!("http://127.0.0.1:{port}{}?{}", url.path(), url.query().unwrap_or_default());
        client().get(target).header("host", host).header("cookie", cookie).send().expect("an answer")
    };
    let location = |answer: &Response| head(answer, "location");
    let session = cookie(&send(&node, &form(&node, ""), &ALICE, &[]), "portcullis").expect("a session");
    let session = format!("portcullis={session}");
    let begin =
        format!("http://app.localhost:{port}/auth/session?return_to=http://app.localhost:{port}/orders/7");
    let code = || {
        let away = get(&begin, "");
        let binding =
            format!("portcullis-binding={}", cookie(&away, "portcullis-binding").expect("a binding"));
        let sent = get(&location(&away), &session);
        assert_eq!(sent.status(), 302);
        let back = location(&sent);
        assert!(back.starts_with(&format!("http://app.localhost:{port}/auth/session?code=")), "{back}");
        (binding, back)
    };
    let refused = |answer: &Response, what: &str| {
        assert_eq!((answer.status().as_u16(), cookie(answer, "portcullis")), (400, None), "{what}");
    };

    let (binding, back) = code();
    let answer = get(&back, &binding);
    assert_eq!(
        (answer.status().as_u16(), location(&answer)),
        (303, format!("http://app.localhost:{port}/orders/7"))
    );
    assert!(cookie(&answer, "portcullis").is_some());
    refused(&get(&back, &binding), "a second time");

    let (binding, back) = code();
    refused(&get(&back, ""), "in a browser that was not sent away");
    let (others, _) = code();
    refused(&get(&back, &others), "in another browser");
    refused(&get(&back, &binding), "after a try in another browser");

    let (binding, back) = code();
    refused(&get(&back.replace("app.localhost", "wiki.localhost"), &binding), "on another host");

    let (binding, back) = code();
    let evil = back.split("&return_to").next().unwrap_or_default().to_owned();
    let answer = get(&format!("{evil}&return_to=http://evil.example/"), &binding);
    assert_eq!((answer.status().as_u16(), location(&answer)), (303, "/auth/session".to_owned()));
    let nobody = location(&get(&begin, ""));
    assert_eq!(get(&nobody, "").status(), 200, "without a session there is the page, and no code");
}
