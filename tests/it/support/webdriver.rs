//! A real browser: Debian's Chromium through its WebDriver (W3C), one window to a test, loopback only.
//!
//! ```ignore
//! let browser = Browser::start();
//! browser.open(&node.url("/orders"));
//! browser.fill("#username", "alice");
//! browser.click("button");
//! browser.wait_for("the orders", || browser.path() == "/orders");
//! ```

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;

use super::{client, eventually};

/// The key under which WebDriver hands out elements (W3C WebDriver §12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser; closed by its drop.
pub struct Browser {
    driver: Child,
    http: reqwest::blocking::Client,
    session: String,
}

impl Browser {
    /// A new window of a new profile.
    pub fn start() -> Self {
        Self::with(json!({}))
    }

    /// One that runs no scripts, as its user wants it.
    pub fn without_scripts() -> Self {
        Self::with(json!({"profile.managed_default_content_settings.javascript": 2}))
    }

    fn with(preferences: Value) -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts; tests/run installs it");
        let stdout = BufReader::new(driver.stdout.take().expect("piped"));
        let mut lines = stdout.lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| {
                line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok()
            })
            .expect("chromedriver names its port");
        std::thread::spawn(move || lines.for_each(drop));
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--window-size=1024,768",
            // Nothing but this machine has a name.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": {"binary": "/usr/bin/chromium", "args": arguments, "prefs": preferences},
        }}});
        let mut browser =
            Self { driver, http: client(), session: format!("http://127.0.0.1:{port}/session") };
        let made = browser.call("POST", "", &wanted);
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        browser.session.push('/');
        browser.session.push_str(&id);
        browser
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_call(&self, method: &str, path: &str, body: &Value) -> Result<Value, Value> {
        let mut request =
            self.http.request(method.parse().expect("a method"), format!("{}{path}", self.session));
        if method == "POST" {
            request = request.json(body);
        }
        let answer = request.send().expect("the driver answers");
        let good = answer.status().is_success();
        let value = answer.json::<Value>().expect("JSON")["value"].take();
        if good { Ok(value) } else { Err(value) }
    }

    /// Opens the page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.call("POST", "/url", &json!({"url": url}));
    }

    /// The address of the page.
    pub fn url(&self) -> Url {
        self.call("GET", "/url", &Value::Null).as_str().expect("text").parse().expect("a URL")
    }

    /// Its title.
    pub fn title(&self) -> String {
        self.call("GET", "/title", &Value::Null).as_str().expect("text").to_owned()
    }

    /// What a person reads on it.
    pub fn text(&self) -> String {
        self.text_of("body")
    }

    /// What a person reads in the first such element.
    pub fn text_of(&self, selector: &str) -> String {
        self.on(selector, "GET", "text", &Value::Null).as_str().expect("text").to_owned()
    }

    /// What a person reads in the page's first frame.
    pub fn text_of_frame(&self) -> String {
        self.call("POST", "/frame", &json!({"id": 0}));
        let text = self.text();
        self.call("POST", "/frame", &json!({"id": null}));
        text
    }

    /// A property of the first such element.
    pub fn property(&self, selector: &str, name: &str) -> Value {
        self.on(selector, "GET", &format!("property/{name}"), &Value::Null)
    }

    /// Does something with the first such element; while pages change it may go away between finding and doing.
    fn on(&self, selector: &str, method: &str, command: &str, body: &Value) -> Value {
        let by = json!({"using": "css selector", "value": selector});
        eventually(&format!("`{selector}` is there"), || {
            let found = self.try_call("POST", "/element", &by).and_then(|found| {
                let element = found[ELEMENT].as_str().expect("an element").to_owned();
                self.try_call(method, &format!("/element/{element}/{command}"), body)
            });
            match found {
                Ok(value) => Some(value),
                Err(error) if error["error"] == "stale element reference" => None,
                Err(error) if error["error"] == "no such element" => None,
                Err(error) => panic!("{selector} {command}: {error}"),
            }
        })
    }

    /// How many such elements there are.
    pub fn count(&self, selector: &str) -> usize {
        let found = self.call("POST", "/elements", &json!({"using": "css selector", "value": selector}));
        found.as_array().expect("a list").len()
    }

    /// Types into a field, after emptying it.
    pub fn fill(&self, selector: &str, text: &str) {
        self.on(selector, "POST", "clear", &json!({}));
        self.on(selector, "POST", "value", &json!({"text": text}));
    }

    /// Clicks, and waits for the page that it leads to.
    pub fn click(&self, selector: &str) {
        self.on(selector, "POST", "click", &json!({}));
    }

    /// Presses keys wherever the focus is; `\u{E004}` is Tab, `\u{E007}` Enter.
    pub fn press(&self, keys: &str) {
        let keys = keys.chars().flat_map(|key| {
            let key = key.to_string();
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
        });
        let keys: Vec<Value> = keys.collect();
        self.call("POST", "/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": keys}]}));
    }

    /// The result of a script's body, run beside the page's own.
    pub fn script(&self, body: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({"script": body, "args": []}))
    }

    /// A command of the browser's own protocol.
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.call("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The cookies of the page's host.
    pub fn cookies(&self) -> Vec<Value> {
        self.call("GET", "/cookie", &Value::Null).as_array().expect("a list").clone()
    }

    /// The cookie with this name.
    pub fn cookie(&self, name: &str) -> Option<Value> {
        self.cookies().into_iter().find(|cookie| cookie["name"] == name)
    }

    /// Forgets a cookie.
    pub fn forget(&self, name: &str) {
        self.call("DELETE", &format!("/cookie/{name}"), &Value::Null);
    }

    /// The size of a phone, or of a desk.
    pub fn size(&self, width: u32, height: u32) {
        let phone = width < 600;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// The colours that the person prefers: `light` or `dark`.
    pub fn colours(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// A picture of the page, for eyes, below cargo's directory for tests.
    pub fn picture(&self, name: &str) {
        let text = self.call("GET", "/screenshot", &Value::Null);
        let bytes = STANDARD.decode(text.as_str().expect("text")).expect("base64");
        let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join(format!("{name}.png")), bytes).expect("written");
    }

    /// Waits; on failure shows the page.
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let shown = std::cell::OnceCell::new();
        let began = std::time::Instant::now();
        eventually(what, || {
            if condition() {
                return Some(());
            }
            if began.elapsed().as_secs() >= 12 {
                shown.get_or_init(|| eprintln!("--- {}\n{}", self.url(), self.text()));
            }
            None
        });
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.http.delete(&self.session).send());
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}
