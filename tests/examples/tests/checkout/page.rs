//! Promise: the page is whole by itself, can talk to nothing but its service, and its form works as it is.

use crate::checkout_support::{Request, Server};

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &[]);
    let page = server.send(&Request::get("/"));
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(page.body.contains("id=\"order\""));
    for elsewhere in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.body.contains(elsewhere), "{elsewhere} in the page");
    }
}

/// What a browser sends without scripts.
fn posted(form: &str) -> Request {
    Request::order()
        .header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
        .form(form)
}

#[test]
fn a_browser_is_redirected_and_a_program_is_answered_and_both_mean_one_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let form = "item=tea&quantity=2&idempotency_key=k-1";
    let first = server.send(&posted(form));
    assert_eq!(first.status, 303, "{first:?}");
    assert_eq!(first.header("location"), Some("/orders/1?origin=executed"));

    let program = server.send(&Request::order().form(form));
    assert_eq!(program.status, 201, "{program:?}");
    assert_eq!(program.header("location"), Some("/orders/1"));
    assert_eq!(program.header("idempotency-origin"), Some("replayed"));

    let again = server.send(&posted(form));
    assert_eq!(again.header("location"), Some("/orders/1?origin=replayed"));
    assert_eq!(server.orders(), 1);

    let order = server.send(&Request::get("/orders/1"));
    assert_eq!(order.json()["quantity"], 2);
    assert_eq!(server.send(&Request::get("/orders/2")).status, 404);
    assert_eq!(server.send(&Request::get("/orders/one")).status, 404);
}

#[test]
fn what_was_ordered_is_shown_as_the_text_that_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let order = r#"{"item": "<script>alert('tea')</script>", "quantity": 1}"#;
    assert_eq!(server.send(&Request::order().key("k-1").json(order)).status, 201);
    let browser = |path| server.send(&Request::get(path).header("Accept", "text/html"));
    let page = browser("/orders/1?origin=executed").body;
    assert!(page.contains("&lt;script&gt;alert("), "{page}");
    assert!(!page.contains("<script>alert("), "{page}");
    // Nor is what stands in the address.
    let page = browser("/orders/1?origin=%3Cb%3Enone");
    assert_eq!(page.status, 200);
    assert!(
        page.body.contains(">replayed</span>") && !page.body.contains("<b>none"),
        "{page:?}"
    );
}

#[test]
fn a_form_that_is_asked_for_again_has_its_key_until_there_is_an_order_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let again = |tag: &str| server.send(&Request::get("/").header("If-None-Match", tag));
    let tag = server.send(&Request::get("/")).header("etag").unwrap().to_owned();
    let key = tag.trim_matches('"');
    let page = again(&tag);
    assert_eq!((page.status, page.header("etag")), (200, Some(&*tag)));
    assert!(page.body.contains(&format!("value=\"{key}\"")), "{page:?}");
    assert_eq!(again(&format!("W/{tag}")).header("etag"), Some(&*tag));

    let form = format!("item=tea&quantity=1&idempotency_key={key}");
    assert_eq!(server.send(&posted(&form)).status, 303);
    assert_ne!(again(&tag).header("etag"), Some(&*tag));
    // Only what can be a key of a page's is taken for one.
    for other in ["*", "\"k-1\"", "\"<script>\"", "\"\""] {
        let tag = again(other).header("etag").unwrap().to_owned();
        assert_eq!(tag.len(), 38, "{other}: {tag}");
    }
}

#[test]
fn a_problem_is_a_page_for_a_browser_and_says_how_to_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("shop.db"), 0, &["--delay-ms", "0"]);
    let page = server.send(&posted("item=tea&quantity=0&idempotency_key=k-1"));
    assert_eq!(page.status, 400);
    assert!(
        page.header("content-type").unwrap().starts_with("text/html"),
        "{page:?}"
    );
    assert!(
        page.body.contains(">400</span>") && page.body.contains("from 1 to 1000"),
        "{page:?}"
    );
    // It used the key up for nothing.
    assert_eq!(
        server.send(&posted("item=tea&quantity=1&idempotency_key=k-1")).status,
        303
    );
}
