//! A headless Chromium, driven by its chromedriver: one browser a test, with a profile of its own.
//!
//! It does what a visitor does, by what stands on the page; what the shop then holds is asked elsewhere. Every wait ends,
//! and driver and browser are one process group, which is killed when its guard is dropped, so also when a test fails.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use fantoccini::error::CmdError;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

/// Whatever is waited for gets so long: what a browser on a busy machine takes, and more.
const PATIENCE: Duration = Duration::from_secs(20);

const ARGUMENTS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--window-size=1100,900",
];

/// Whether the pages' scripts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scripts {
    On,
    Off,
}

pub struct Browser {
    pub client: Client,
    // In this order: the browser ends before its files go.
    _driver: Driver,
    _directory: tempfile::TempDir,
}

/// The process group of chromedriver and its browser.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let group = format!("-{}", self.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.0.wait();
    }
}

impl Browser {
    pub async fn start(scripts: Scripts) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (driver, port) = Driver::start(&directory);
        let mut arguments = vec![format!(
            "--user-data-dir={}",
            directory.path().join("profile").display()
        )];
        arguments.extend(ARGUMENTS.map(str::to_owned));
        let mut options = json!({});
        if scripts == Scripts::Off {
            options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
            // What back shows comes from the cache of what was received, as after a while, and is not the page put aside.
            arguments.push("--disable-features=BackForwardCache".to_owned());
        }
        options["args"] = json!(arguments);
        let wanted = json!({
            "browserName": "chrome",
            // A click returns at once, and not when the page that it leads to is there: what the visitor does meanwhile
            // is what is tested.
            "pageLoadStrategy": "none",
            "goog:chromeOptions": options,
        });
        let serde_json::Value::Object(wanted) = wanted else {
            unreachable!()
        };
        let address = format!("http://127.0.0.1:{port}");
        let mut connector = ClientBuilder::new(HttpConnector::new());
        let connected = connector.capabilities(wanted).connect(&address);
        let client = tokio::time::timeout(PATIENCE, connected)
            .await
            .expect("chromedriver answers in time")
            .expect("chromedriver starts a browser: the Debian package chromium, which bin/setup installs");
        Self {
            client,
            _driver: driver,
            _directory: directory,
        }
    }

    /// Goes to an address, and waits for the page.
    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
        self.until_there("#form, #result").await;
    }

    /// Clicks on what is there, or will be.
    pub async fn click(&self, selector: &str) {
        self.until(&format!("a click on {selector}"), async || {
            self.client.find(Locator::Css(selector)).await?.click().await?;
            Ok(Some(()))
        })
        .await;
    }

    /// Clicks twice with the mouse, with this time in between. Both clicks are one command: for another one, chromedriver
    /// would wait until the page is there to which the first has led.
    pub async fn click_twice(&self, selector: &str, between: Duration) {
        let element = self.client.find(Locator::Css(selector)).await.unwrap();
        let button = MOUSE_BUTTON_LEFT;
        let clicks = MouseActions::new("mouse".to_owned())
            .then(PointerAction::MoveToElement {
                element,
                duration: None,
                x: 0.0,
                y: 0.0,
            })
            .then(PointerAction::Down { button })
            .then(PointerAction::Up { button })
            .then(PointerAction::Pause { duration: between })
            .then(PointerAction::Down { button })
            .then(PointerAction::Up { button });
        self.client.perform_actions(clicks).await.unwrap();
    }

    /// The text of what is there now and can be seen: empty if there is nothing.
    pub async fn text(&self, selector: &str) -> String {
        match self.client.find(Locator::Css(selector)).await {
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// The text of a JavaScript property of what is there.
    pub async fn property(&self, selector: &str, property: &str) -> String {
        self.until(&format!("{property} of {selector}"), async || {
            self.client.find(Locator::Css(selector)).await?.prop(property).await
        })
        .await
    }

    /// Waits until something is there and can be seen.
    pub async fn until_there(&self, selector: &str) {
        self.until(selector, async || {
            let found = self.client.find(Locator::Css(selector)).await?;
            Ok(found.is_displayed().await?.then_some(()))
        })
        .await;
    }

    /// Waits until this text stands there.
    pub async fn until_text(&self, selector: &str, text: &str) {
        self.until(&format!("{text:?} in {selector}"), async || {
            let found = self.client.find(Locator::Css(selector)).await?;
            Ok((found.text().await? == text).then_some(()))
        })
        .await;
    }

    /// Waits for a result, and returns how it came to be and what it says.
    pub async fn result(&self) -> (String, String) {
        self.until("a result", async || {
            let badge = self.client.find(Locator::Css("#badge")).await?.text().await?;
            let said = self.client.find(Locator::Css("#said")).await?.text().await?;
            let pending = self.text("#order").await == "Processing…";
            let asked_again = badge == "waiting";
            Ok((!badge.is_empty() && !pending && !asked_again).then_some((badge, said)))
        })
        .await
    }

    /// Asks again and again until there is an answer. What is not there yet, or goes while it is looked at, may come.
    async fn until<T>(&self, what: &str, ask: impl AsyncFn() -> Result<Option<T>, CmdError>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < end {
            match tokio::time::timeout(PATIENCE, ask()).await {
                Ok(Ok(Some(answer))) => return answer,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let source = self.client.source().await.unwrap_or_default();
        let page = source
            .split("<body")
            .last()
            .and_then(|body| body.split("<script").next());
        panic!("{what} never came ({last}); the page is: {}", page.unwrap_or(&source));
    }

    /// Keeps a picture of the window, if CHECKOUT_PICTURES names a directory for it.
    pub async fn picture(&self, name: &str) {
        if let Some(directory) = std::env::var_os("CHECKOUT_PICTURES").map(PathBuf::from) {
            let png = self.client.screenshot().await.unwrap();
            std::fs::write(directory.join(format!("{name}.png")), png).unwrap();
        }
    }
}

impl Driver {
    /// Starts it on a free port, which it says.
    fn start(directory: &tempfile::TempDir) -> (Self, u16) {
        let child = Command::new("chromedriver")
            .args(["--port=0", "--disable-dev-shm-usage"])
            .env("TMPDIR", directory.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "chromedriver can't be started ({error}): it takes the Debian packages chromium and chromium-driver, \
                     which bin/setup installs"
                )
            });
        let mut driver = Self(child);
        let mut lines = BufReader::new(driver.0.stdout.take().expect("standard output is piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver says its port");
        // What else it prints is read and let go, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        (driver, port)
    }
}
