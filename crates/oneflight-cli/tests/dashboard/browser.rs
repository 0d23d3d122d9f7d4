//! An operator at the page, in a real browser: finds what is wrong, understands it, and settles it by the buttons.

use fantoccini::Locator;
use oneflight::Origin;
use serde_json::json;

use crate::chromium::{Browser, Scripts};
use crate::fill::{self, Filled, ORDER, harmful, id};
use crate::page::{
    ask, dark, decide, fill_in, in_each_form, log_in, picture, press, script, show_story, text_of, until, until_closed,
    width,
};
use crate::reading::endpoint;
use crate::support::{Dashboard, TOKEN};

/// What an operator finds on a bad day.
async fn bad_day() -> Filled {
    let filled = fill::empty().await;
    filled.answered(2000).await;
    filled.order("a7f3", ORDER, &["mail.receipt", "crm.contact"]).await;
    filled.reject_all(2).await;
    filled.order("b8e4", "edge-9a10", &["mail.receipt"]).await;
    filled.held_steps("c9d5").await;
    filled.doubt(id("8e03978e-40d5-43e8-bc93-6894a57f9324")).await;
    filled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_finds_what_is_wrong_and_settles_it_on_the_page() {
    let filled = bad_day().await;
    let counts = std::sync::atomic::AtomicU64::new(0);
    let metrics = endpoint(move || {
        let count = counts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let lines = [("executed", 70), ("collapsed", 25), ("replayed", 40)];
        let lines = lines.map(|(origin, by)| {
            format!(
                "oneflight_requests_total{{route=\"/orders\",origin=\"{origin}\"}} {}\n",
                count * by
            )
        });
        lines.concat()
            + &format!(
                "oneflight_conflicts_total{{route=\"/orders\"}} {count}\noneflight_waiters{{route=\"/orders\"}} 4\noneflight_in_flight{{route=\"/orders\"}} 2\n"
            )
    });
    let urls = [
        format!("http://{metrics}/metrics"),
        "http://127.0.0.1:1/metrics".to_owned(),
    ];
    let dashboard = Dashboard::start(
        filled.path(),
        &["--metrics", &urls[0], "--metrics", &urls[1], "--metrics-every", "1s"],
        Some(TOKEN),
    );
    let browser = Browser::start(Scripts::On).await;
    width(&browser.client, 1200).await;
    dark(&browser.client, "light").await;
    browser.client.goto(&dashboard.url()).await.unwrap();
    browser.until_there("#token").await;
    picture(&browser.client, "login-light-1200").await;
    // A wrong token is told, and what is typed next is taken.
    let token = browser.client.find(Locator::Css("#token")).await.unwrap();
    token.send_keys("not the token at all").await.unwrap();
    press(&browser, "#login", "Log in").await;
    browser.until_text("#login-error", "this is not the token").await;
    token.clear().await.unwrap();
    log_in(&browser, &dashboard).await;

    // Each panel.
    until(
        &browser,
        "the doubt",
        "document.querySelector('#doubts').innerText.includes('8e03978e')",
    )
    .await;
    until(
        &browser,
        "dead letters",
        "document.querySelectorAll('#dead tbody tr').length === 2",
    )
    .await;
    assert!(text_of(&browser, "#dead").await.contains("550 no such mailbox"));
    until(
        &browser,
        "the backlog",
        "document.querySelector('#outbox').innerText.includes('mail.receipt')",
    )
    .await;
    until(
        &browser,
        "the steps",
        "document.querySelector('#steps').innerText.includes('place_order')",
    )
    .await;
    until(
        &browser,
        "a page of records",
        "document.querySelectorAll('#records tbody tr').length === 25",
    )
    .await;
    until(
        &browser,
        "an endpoint that is away",
        "document.querySelector('#requests').innerText.includes('away')",
    )
    .await;
    until(
        &browser,
        "a rate",
        "/executed\\s+[\\d.]+\\/s/.test(document.querySelector('#requests').innerText)",
    )
    .await;
    until(&browser, "a trend", "document.querySelector('svg.trend')").await;
    press(&browser, "#records", "Next page").await;
    until(
        &browser,
        "the next page",
        "document.querySelector('#records').innerText.includes('Page 2')",
    )
    .await;
    in_each_form(&browser, "all").await;

    // A story by its correlation id, and by its key.
    for (by, value) in [("correlation_id", ORDER), ("key", "a7f3")] {
        show_story(&browser, by, value).await;
        until(
            &browser,
            "the story",
            "document.querySelector('#story ol.line')?.innerText.includes('Dead letter: mail.receipt')",
        )
        .await;
        let told = text_of(&browser, "#story-body").await;
        assert!(
            told.contains("Claimed: attempt 1") && told.contains("crm.contact") && told.contains(ORDER),
            "{told}"
        );
        press(&browser, "#story", "Close").await;
        until(&browser, "no story", "!document.querySelector('#story ol.line')").await;
    }
    press(&browser, "#steps tbody", "c9d5").await;
    until(
        &browser,
        "the steps' story",
        "document.querySelector('#story ol.line')?.innerText.includes('Step charge begun')",
    )
    .await;
    in_each_form(&browser, "story-steps").await;
    press(&browser, "#story", "Close").await;

    // A dialog that is left leaves all as it is.
    ask(&browser, "#doubts tbody", "It was not done…").await;
    press(&browser, "dialog", "Leave it as it is").await;
    until_closed(&browser).await;
    // Held, and then recorded.
    decide(&browser, "#doubts tbody", "Hold…", &[], "Hold it").await;
    until(
        &browser,
        "that it is held",
        "document.querySelector('#doubts').innerText.includes('held')",
    )
    .await;
    ask(&browser, "#doubts tbody", "It was done…").await;
    // The scope names a route, so that is asked for first, and anything else is warned of.
    until(
        &browser,
        "that an HTTP answer is asked for",
        "document.querySelector('#form-http').checked && !document.querySelector('#answer-warning').innerText",
    )
    .await;
    until(
        &browser,
        "for how long it is kept",
        "document.querySelector('#answer').innerText.includes('kept for 24 h')",
    )
    .await;
    browser.click("#form-json").await;
    until(
        &browser,
        "the warning",
        "document.querySelector('#answer-warning').innerText.includes('cannot read a value in JSON')",
    )
    .await;
    fill_in(&browser, &[("#answer-body", "ch_1")]).await;
    press(&browser, "dialog", "Record this answer").await;
    until(
        &browser,
        "what is wrong with it",
        "document.querySelector('#ask-error').innerText.includes('no JSON')",
    )
    .await;
    in_each_form(&browser, "dialog-json").await;
    fill_in(&browser, &[("#answer-body", "\"ch_1\"")]).await;
    press(&browser, "dialog", "Record this answer").await;
    until(
        &browser,
        "that nothing is in doubt",
        "!document.querySelector('#doubts').innerText.includes('8e03978e')",
    )
    .await;
    let settled = id("8e03978e-40d5-43e8-bc93-6894a57f9324");
    let reply = filled
        .idem
        .run(settled, |_| async { "run again".to_owned() })
        .await
        .unwrap();
    assert_eq!((reply.value().as_str(), reply.origin()), ("ch_1", Origin::Replayed));

    // One letter is redriven, the other one is cancelled.
    let dead = "document.querySelectorAll('#dead tbody tr').length";
    let first = "#dead tbody tr:first-child";
    decide(&browser, first, "Redrive…", &[], "Redrive it").await;
    until(&browser, "one dead letter", &format!("{dead} === 1")).await;
    decide(&browser, first, "Cancel…", &[], "Cancel it for good").await;
    until(&browser, "no dead letter", &format!("{dead} === 0")).await;

    // A topic is paused, and resumed.
    decide(&browser, "#outbox table", "Pause…", &[], "Pause it").await;
    until(
        &browser,
        "that it is paused",
        "document.querySelector('#outbox').innerText.includes('paused')",
    )
    .await;
    assert!(filled.is_paused("mail.receipt").await);
    decide(&browser, "#outbox table", "Resume…", &[], "Resume it").await;
    until(
        &browser,
        "that it is not",
        "!document.querySelector('#outbox').innerText.includes('paused')",
    )
    .await;
    assert!(!filled.is_paused("mail.receipt").await);

    // The mutation of steps goes on.
    decide(&browser, "#steps tbody", "Resume…", &[], "Let it go on").await;
    until(
        &browser,
        "that it is not held",
        "!document.querySelector('#steps').innerText.includes('held')",
    )
    .await;
    press(&browser, "header", "Log out").await;
    browser.until_there("#token").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_the_buttons_say_why_they_do_nothing() {
    let filled = fill::empty().await;
    filled.doubt(id("a7f3")).await;
    let dashboard = Dashboard::reading(filled.path());
    let browser = Browser::start(Scripts::On).await;
    width(&browser.client, 500).await;
    browser.client.goto(&dashboard.url()).await.unwrap();
    until(
        &browser,
        "the doubt",
        "document.querySelectorAll('#doubts .acts button').length === 3",
    )
    .await;
    let closed = "[...document.querySelectorAll('#doubts .acts button')].every((it) => it.disabled && it.title.includes('--token-file') && it.getAttribute('aria-describedby') === 'why')";
    until(&browser, "the reason", closed).await;
    assert!(text_of(&browser, "#why").await.contains("--token-file"));
    picture(&browser.client, "read-only-500").await;
    // What the page does not offer, the server does not do.
    let told = browser
        .client
        .execute_async(
            "const done = arguments[0];
             fetch('/api/change/pause', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{\"topic\":\"mail\"}' })
                 .then((answer) => answer.json()).then((told) => done(told.kind))",
            vec![],
        )
        .await
        .unwrap();
    assert_eq!(told, "read-only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_wrote_is_shown_as_the_text_that_it_is_and_nothing_of_it_runs() {
    let filled = fill::empty().await;
    filled.doubt(harmful()).await;
    filled.order("a7f3", ORDER, &["mail.receipt"]).await;
    filled.reject_all(1).await;
    let dashboard = Dashboard::reading(filled.path());
    let browser = Browser::start(Scripts::On).await;
    width(&browser.client, 500).await;
    browser.client.goto(&dashboard.url()).await.unwrap();
    until(
        &browser,
        "the doubt",
        "document.querySelector('#doubts').innerText.includes('<img src=x onerror=')",
    )
    .await;
    until(
        &browser,
        "the error",
        "document.querySelector('#dead').innerText.includes('</script><script>window.broken=2</script>')",
    )
    .await;
    until(
        &browser,
        "the scope",
        "document.querySelector('#doubts').innerText.includes('tenant\"\\'><svg onload')",
    )
    .await;
    press(&browser, "#doubts tbody", harmful().key()).await;
    until(&browser, "the story", "document.querySelector('#story ol.line')").await;
    let nothing = "return [document.images.length, document.scripts.length, window.broken ?? null, document.querySelectorAll('svg').length]";
    assert_eq!(script(&browser, nothing).await, json!([0, 1, null, 0]));
    picture(&browser.client, "harmful-500").await;

    // And if it were put in as markup, the policy would still keep it from running.
    script(&browser, "window.blocked = []; addEventListener('securitypolicyviolation', (it) => window.blocked.push(it.effectiveDirective))").await;
    let put = script(
        &browser,
        "try { document.body.innerHTML = '<img src=x onerror=\"window.broken=4\">'; return 'put' } catch (error) { return error.name }",
    )
    .await;
    assert_eq!(put, "TypeError");
    script(
        &browser,
        "const it = document.createElement('img'); it.setAttribute('src', 'x'); document.body.append(it);
         const run = document.createElement('div'); document.body.append(run);
         try { run.setAttribute('onclick', 'window.broken=5') } catch { }
         run.click();
         try { const own = document.createElement('script'); own.text = 'window.broken=6'; document.body.append(own) } catch { }",
    )
    .await;
    until(
        &browser,
        "the report of the policy",
        "window.blocked.includes('img-src')",
    )
    .await;
    assert_eq!(script(&browser, "return window.broken ?? null").await, json!(null));
}

/// A site of an attacker's cannot frame the page, nor have its visitor's browser change something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_sites_page_neither_frames_it_nor_changes_anything() {
    let filled = fill::empty().await;
    let dashboard = Dashboard::changing(filled.path());
    let target = dashboard.url();
    let page = format!(
        "<!doctype html><title>other</title><iframe id=frame src=\"{target}\"></iframe>
         <form id=form method=post enctype=text/plain action=\"{target}api/change/pause\" target=away><input name='{{\"topic\":\"mail\",\"x\":\"' value='\"}}'></form>
         <iframe name=away></iframe>"
    );
    let other = serve_page(page);
    let browser = Browser::start(Scripts::On).await;
    log_in(&browser, &dashboard).await;
    // Another site to the browser: another name of this machine.
    browser
        .client
        .goto(&format!("http://localhost:{}/", other.port()))
        .await
        .unwrap();
    until(
        &browser,
        "the other page",
        "document.title === 'other' && document.readyState === 'complete'",
    )
    .await;
    until(
        &browser,
        "that the frame is closed",
        "(() => { try { return document.querySelector('#frame').contentDocument === null } catch { return true } })()",
    )
    .await;
    let sent = browser
        .client
        .execute_async(
            &format!(
                "const done = arguments[0];
                 fetch('{target}api/change/pause', {{ method: 'POST', mode: 'no-cors', credentials: 'include', headers: {{ 'content-type': 'text/plain' }}, body: '{{\"topic\":\"mail\"}}' }})
                     .then((answer) => done(answer.type), (error) => done(error.name))"
            ),
            vec![],
        )
        .await
        .unwrap();
    // It is sent, and what came of it is for the page alone.
    assert_eq!(sent, "TypeError");
    script(&browser, "document.querySelector('#form').submit()").await;
    let read = browser
        .client
        .execute_async(
            &format!("const done = arguments[0]; fetch('{target}api/records', {{ credentials: 'include' }}).then(() => done('read'), (error) => done(error.name))"),
            vec![],
        )
        .await
        .unwrap();
    assert_eq!(read, "TypeError");
    assert!(!filled.is_paused("mail").await);
    let frame = browser.client.find(Locator::Css("#frame")).await.unwrap();
    frame.enter_frame().await.unwrap();
    assert!(browser.client.find(Locator::Css("#token, #records")).await.is_err());
}

/// A page of somebody else's.
fn serve_page(page: String) -> std::net::SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                page.len()
            );
            let _ = stream.write_all((head + &page).as_bytes());
        }
    });
    address
}
