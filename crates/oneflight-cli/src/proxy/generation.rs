//! One reading of the configuration, made ready to answer by: its routes, their layers, and the backends.
//!
//! A request is answered by the generation that was current when it came. A reload makes the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use oneflight::http::layer::{IdempotencyService, Requirement, RouteName};
use oneflight::http::{CorrelationLayer, CorrelationService};
use tower::{Layer, Service as _};

use super::actions::{ActionsLayer, ActionsService};
use super::body::Body;
use super::config::{Config, Route, Scopes, ServerActions, StoreAway};
use super::forward::{Forward, tell_no_origin};
use super::policy;
use super::protection::Protection;
use super::telemetry::{self, Answers};
use super::tunnel::Tunnels;
use super::upstream::Failure;

/// What requests are answered by.
pub(super) struct Generation {
    pub(super) config: Config,
    paths: matchit::Router<usize>,
    /// The first one is of all other paths.
    patterns: Vec<Pattern>,
    pub(super) forward: Forward,
    plain: CorrelationService<Forward>,
}

/// A pattern of paths, with its routes.
struct Pattern {
    name: Arc<str>,
    answers: Answers,
    routes: Vec<Ready>,
}

/// A route with its layer.
struct Ready {
    route: Route,
    protected: Protected,
    /// Whether it was said that the cookie of the scope changes.
    is_told: Arc<AtomicBool>,
}

/// The layer of a route around the backends.
enum Protected {
    Requests(CorrelationService<IdempotencyService<Forward>>),
    /// Those that may call Server Actions as well.
    Actions(CorrelationService<ActionsService<Forward>>),
}

/// How a request is answered.
pub(super) struct Way<'a> {
    /// The pattern of its path, by which it is counted.
    pub(super) name: &'a Arc<str>,
    pub(super) answers: &'a Answers,
    service: Service<'a>,
}

enum Service<'a> {
    Protected(&'a Ready),
    Plain(&'a CorrelationService<Forward>),
}

impl Pattern {
    fn new(name: &str) -> Self {
        let name = Arc::from(name);
        telemetry::announce(&name);
        Self {
            answers: Answers::of(&name),
            name,
            routes: Vec::new(),
        }
    }
}

impl Generation {
    pub(super) fn new(config: Config, protection: &Protection, before: Option<&Self>, tunnels: &Tunnels) -> Self {
        let forward = Forward::new(&config, before.map(|before| &before.forward), tunnels.clone());
        let mut paths = matchit::Router::new();
        let mut patterns = vec![Pattern::new(OTHERS)];
        let mut fallback = Route::default();
        let for_all = config.routes.iter().filter(|route| route.path.is_none());
        fallback
            .methods
            .retain(|method| !for_all.clone().any(|route| has(&route.methods, method)));
        let all = config.routes.iter();
        let all = all.chain((!fallback.methods.is_empty()).then_some(&fallback));
        for route in all {
            let name = route.path.as_deref().unwrap_or(OTHERS);
            let place = patterns
                .iter()
                .position(|known| *known.name == *name)
                .unwrap_or_else(|| {
                    // That it fits in was checked when it was read.
                    let _ = paths.insert(name, patterns.len());
                    patterns.push(Pattern::new(name));
                    patterns.len() - 1
                });
            let layer = protection.layer(route);
            let protected = match route.server_actions {
                ServerActions::Unknown => {
                    Protected::Requests(CorrelationLayer::new().layer(layer.layer(forward.clone())))
                }
                ServerActions::Understood => {
                    let layer = ActionsLayer::new(layer, route, policy::keys(&route.key));
                    Protected::Actions(CorrelationLayer::new().layer(layer.layer(forward.clone())))
                }
            };
            patterns[place].routes.push(Ready {
                route: route.clone(),
                protected,
                is_told: Arc::default(),
            });
        }
        say_where_clients_are_not_told_apart(&patterns);
        Self {
            plain: CorrelationLayer::new().layer(forward.clone()),
            paths,
            patterns,
            forward,
            config,
        }
    }

    /// Returns how a request is answered.
    pub(super) fn way(&self, method: &Method, path: &str, protection: &Protection) -> Way<'_> {
        let place = self.paths.at(path).map_or(0, |matched| *matched.value);
        let pattern = &self.patterns[place];
        // A route says how it is with its own methods, and nothing of the others.
        let mut ready = pattern.routes.iter().chain(&self.patterns[0].routes);
        let ready = ready.find(|ready| has(&ready.route.methods, method));
        let service = match ready {
            Some(ready) if ready.route.store_away == StoreAway::Pass && protection.is_away() => {
                Service::Plain(&self.plain)
            }
            Some(ready) => Service::Protected(ready),
            None => Service::Plain(&self.plain),
        };
        Way {
            name: &pattern.name,
            answers: &pattern.answers,
            service,
        }
    }

    /// Returns the longest lease that a request is executed under.
    pub(super) fn longest_lease(&self) -> Duration {
        let all = self.patterns.iter().flat_map(|pattern| &pattern.routes);
        all.map(|ready| policy::lease(&ready.route)).max().unwrap_or_default()
    }

    /// Whether a route is forwarded unprotected while the store is away.
    pub(super) fn passes(&self) -> bool {
        let mut all = self.patterns.iter().flat_map(|pattern| &pattern.routes);
        all.any(|ready| ready.route.store_away == StoreAway::Pass)
    }
}

/// In any case, as the layer does: some backends take `patch` for `PATCH`.
fn has(methods: &[Method], method: &Method) -> bool {
    methods
        .iter()
        .any(|known| known.as_str().eq_ignore_ascii_case(method.as_str()))
}

/// Says it once for each reading of the file.
fn say_where_clients_are_not_told_apart(patterns: &[Pattern]) {
    let is_shared = |route: &Route| route.scope == Scopes::Unsaid && route.key.requirement != Requirement::Off;
    let shared = patterns.iter().flat_map(|pattern| {
        let shared = pattern.routes.iter().filter(|ready| is_shared(&ready.route));
        shared.map(|ready| named(&pattern.name, &ready.route.methods))
    });
    let names: Vec<String> = shared.collect();
    if !names.is_empty() {
        tracing::warn!(
            routes = names.join(", "),
            "these routes have no `scope`: a key is valid for all clients alike, and only `Authorization` tells these apart. Say in each \
             `[[route]]` whose a key is, as in `scope = \"header X-User\"` or `scope = \"cookie session\"`, or `scope = \"none\"` if \
             clients have no accounts (a `[[route]]` without a `path` is for all paths without a route)"
        );
    }
}

/// What a route is called where a person is to find it: its methods and its path.
fn named(name: &str, methods: &[Method]) -> String {
    let methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    let path = match name == OTHERS {
        true => "on all paths without a route",
        false => name,
    };
    format!("{} {path}", methods.join("/"))
}

/// What all paths are called that no route names.
const OTHERS: &str = "*";

impl Way<'_> {
    pub(super) async fn answer(&self, mut request: Request<Body>) -> Result<Response<Body>, Failure> {
        match self.service {
            Service::Protected(ready) => {
                request.extensions_mut().insert(RouteName::new(Arc::clone(self.name)));
                let principals = policy::Cookies::of(&ready.route.scope, request.headers());
                let mut answer = match &ready.protected {
                    Protected::Requests(service) => service.clone().call(request).await,
                    Protected::Actions(service) => service.clone().call(request).await,
                }?;
                tell_no_origin(&mut answer);
                if let Some(cookie) = principals.changed(answer.headers()) {
                    telemetry::scope_changed(self.name);
                    if !ready.is_told.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            route = &**self.name,
                            cookie,
                            "an answer sets the cookie of its scope to another value: the next request is in another scope, and a \
                             retry is executed again, unless this was a login"
                        );
                    }
                }
                Ok(answer)
            }
            Service::Plain(service) => service.clone().call(request).await,
        }
    }
}
