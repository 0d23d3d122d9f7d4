//! Promise: the page is whole by itself, and can talk to nothing but its service.

mod checkout_support;

use checkout_support::{Request, Server};

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
