//! What all requests share.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::access::Access;
use super::hosts::Hosts;
use super::page::Page;
use super::scrape::Scraper;
use super::source::Source;

pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) access: Access,
    pub(super) hosts: Hosts,
    pub(super) scraper: Arc<Scraper>,
    pub(super) page: Page,
    /// Changes that are under way. They end, and are logged, whatever becomes of who asked for them.
    pub(super) changes: TaskTracker,
    /// Names the cookie: browsers tell cookies of two ports apart by nothing else.
    pub(super) port: u16,
}

pub(super) type State = axum::extract::State<Arc<Shared>>;
