//! How the page is driven: by what an operator sees and presses. Every wait ends.
//!
//! ONEFLIGHT_PICTURES names a directory in which pictures of the page are kept.

use std::path::PathBuf;
use std::time::Instant;

use fantoccini::elements::{Element, ElementRef};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, Locator};
use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::support::{Dashboard, PATIENCE, TOKEN};

/// A command of the browser's own protocol.
#[derive(Debug)]
struct Devtools(&'static str, Value);

impl WebDriverCompatibleCommand for Devtools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (
            http::Method::POST,
            Some(json!({ "cmd": self.0, "params": self.1 }).to_string()),
        )
    }
}

pub async fn dark(client: &Client, scheme: &str) {
    let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
    client
        .issue_cmd(Devtools("Emulation.setEmulatedMedia", features))
        .await
        .unwrap();
}

pub async fn width(client: &Client, width: u32) {
    let metrics = json!({ "width": width, "height": 1700, "deviceScaleFactor": 1, "mobile": false });
    client
        .issue_cmd(Devtools("Emulation.setDeviceMetricsOverride", metrics))
        .await
        .unwrap();
}

/// Keeps a picture of the whole page.
pub async fn picture(client: &Client, name: &str) {
    use base64::Engine;
    let Some(directory) = std::env::var_os("ONEFLIGHT_PICTURES").map(PathBuf::from) else {
        return;
    };
    let size = "return [innerWidth, Math.min(6000, document.documentElement.scrollHeight)]";
    let size = client.execute(size, vec![]).await.unwrap();
    let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
    let whole = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
    let taken = client
        .issue_cmd(Devtools("Page.captureScreenshot", whole))
        .await
        .unwrap();
    let png = base64::engine::general_purpose::STANDARD
        .decode(taken["data"].as_str().unwrap())
        .unwrap();
    std::fs::write(directory.join(format!("{name}.png")), png).unwrap();
}

/// Sees that nothing stands out over the side, wide and narrow, by day and by night, and keeps a picture of each.
pub async fn in_each_form(browser: &Browser, name: &str) {
    // Of what stands in the page, and in a dialog that is open over it.
    let wide = "return [...document.querySelectorAll('dialog[open]'), document.documentElement].map((it) => it.scrollWidth - it.clientWidth)";
    for scheme in ["dark", "light"] {
        dark(&browser.client, scheme).await;
        for pixels in [500, 1200] {
            width(&browser.client, pixels).await;
            let over = script(browser, wide).await;
            let over = over.as_array().unwrap();
            assert!(
                over.iter().all(|over| *over == 0),
                "{name}: {over:?} pixels over the side, in {pixels}"
            );
            picture(&browser.client, &format!("{name}-{scheme}-{pixels}")).await;
        }
    }
}

pub async fn script(browser: &Browser, script: &str) -> Value {
    browser.client.execute(script, vec![]).await.unwrap()
}

/// Waits until a script returns true.
pub async fn until(browser: &Browser, what: &str, condition: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        if script(browser, &format!("return Boolean({condition})")).await == true {
            return;
        }
        if Instant::now() > end {
            panic!(
                "{what} never came: {}",
                script(browser, "return document.body.innerText").await
            );
        }
        tokio::time::sleep(std::time::Duration::from_millis(40)).await;
    }
}

/// Clicks the button with these words, in what is selected. What the page draws anew meanwhile is looked for again.
pub async fn press(browser: &Browser, within: &str, words: &str) {
    let found = format!(
        "[...document.querySelectorAll({})].find((it) => it.textContent === {} && !it.disabled)",
        json!(format!("{within} button")),
        json!(words)
    );
    let end = Instant::now() + PATIENCE;
    loop {
        until(browser, words, &found).await;
        let script = format!("const it = {found}; it?.scrollIntoView({{ block: 'center' }}); return it ?? null");
        let element = browser.client.execute(&script, vec![]).await.unwrap();
        let element = element.as_object().and_then(|it| it.values().next()?.as_str());
        if let Some(element) = element {
            let element = ElementRef::from(element.to_owned());
            match Element::from_element_id(browser.client.clone(), element).click().await {
                Ok(()) => return,
                Err(error) => assert!(Instant::now() < end, "{words} can never be clicked: {error}"),
            }
        }
    }
}

pub async fn text_of(browser: &Browser, selector: &str) -> String {
    let text = script(
        browser,
        &format!("return document.querySelector({})?.innerText ?? ''", json!(selector)),
    )
    .await;
    text.as_str().unwrap().to_owned()
}

/// Writes into a field, in place of what was in it.
pub async fn write(browser: &Browser, selector: &str, text: &str) {
    let field = browser.client.find(Locator::Css(selector)).await.unwrap();
    field.clear().await.unwrap();
    field.send_keys(text).await.unwrap();
}

/// Presses a button, and waits for the dialog that asks whether that is meant.
pub async fn ask(browser: &Browser, within: &str, words: &str) {
    press(browser, within, words).await;
    browser.until_there("dialog[open]").await;
}

/// Fills the dialog that is open.
pub async fn fill_in(browser: &Browser, fields: &[(&str, &str)]) {
    for (selector, text) in fields {
        write(browser, &format!("dialog {selector}"), text).await;
    }
}

/// Presses a button, fills the dialog, agrees, and waits until it is done.
pub async fn decide(browser: &Browser, within: &str, words: &str, fields: &[(&str, &str)], agrees: &str) {
    ask(browser, within, words).await;
    fill_in(browser, fields).await;
    press(browser, "dialog", agrees).await;
    until_closed(browser).await;
}

pub async fn until_closed(browser: &Browser) {
    until(
        browser,
        "the end of the dialog",
        "!document.querySelector('dialog').open",
    )
    .await;
}

/// Shows the story of a request.
pub async fn show_story(browser: &Browser, by: &str, value: &str) {
    let choice = format!("document.querySelector('#story-by').value = {}", json!(by));
    script(browser, &choice).await;
    write(browser, "#story-value", value).await;
    press(browser, "#story", "Show").await;
}

pub async fn log_in(browser: &Browser, dashboard: &Dashboard) {
    browser.client.goto(&dashboard.url()).await.unwrap();
    browser.until_there("#token").await;
    let token = browser.client.find(Locator::Css("#token")).await.unwrap();
    token.send_keys(TOKEN).await.unwrap();
    press(browser, "#login", "Log in").await;
    until(
        browser,
        "the panels",
        "document.querySelector('#records .body').children.length",
    )
    .await;
}
