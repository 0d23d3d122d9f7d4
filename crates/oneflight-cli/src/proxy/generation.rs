//! One reading of the configuration, made ready to answer by: its routes, their layers, and the backends.
//!
//! A request is answered by the generation that was current when it came. A reload makes the next one.

use std::sync::Arc;

use http::{Method, Request, Response};
use oneflight::http::layer::IdempotencyService;
use oneflight::http::{CorrelationLayer, CorrelationService};
use tower::{Layer, Service};

use super::actions::{ActionsLayer, ActionsService};
use super::body::Body;
use super::config::{Config, Route, ServerActions, StoreAway};
use super::forward::Forward;
use super::policy;
use super::protection::Protection;
use super::tunnel::Tunnels;
use super::upstream::Failure;

/// What requests are answered by.
pub(super) struct Generation {
    pub(super) config: Config,
    paths: matchit::Router<usize>,
    /// The routes of each path. The first place is for all other paths.
    routes: Vec<Vec<Arc<Ready>>>,
    pub(super) forward: Forward,
    plain: CorrelationService<Forward>,
}

/// A route with its layer.
struct Ready {
    route: Route,
    name: Arc<str>,
    protected: Protected,
}

/// The layer of a route around the backends.
#[derive(Clone)]
enum Protected {
    Requests(CorrelationService<IdempotencyService<Forward>>),
    /// Those that may be Server Actions as well.
    Actions(CorrelationService<ActionsService<Forward>>),
}

/// How a request is answered.
pub(super) struct Way {
    /// The pattern of its path, by which it is counted.
    pub(super) name: Arc<str>,
    service: Kind,
}

enum Kind {
    Protected(Protected),
    Plain(CorrelationService<Forward>),
}

impl Generation {
    pub(super) fn new(config: Config, protection: &Protection, before: Option<&Self>, tunnels: &Tunnels) -> Self {
        let forward = Forward::new(&config, before.map(|before| &before.forward), tunnels.clone());
        let mut paths = matchit::Router::new();
        let mut routes: Vec<Vec<Arc<Ready>>> = vec![Vec::new()];
        let mut patterns: Vec<&str> = vec!["*"];
        let fallback = Route::default();
        let has_fallback = config.routes.iter().any(|route| route.path.is_none());
        let all = config.routes.iter().chain((!has_fallback).then_some(&fallback));
        for route in all {
            let pattern = route.path.as_deref().unwrap_or("*");
            let place = patterns.iter().position(|known| *known == pattern).unwrap_or_else(|| {
                // That it fits in was checked when it was read.
                let _ = paths.insert(pattern, routes.len());
                patterns.push(pattern);
                routes.push(Vec::new());
                routes.len() - 1
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
            routes[place].push(Arc::new(Ready {
                route: route.clone(),
                name: Arc::from(pattern),
                protected,
            }));
        }
        Self {
            plain: CorrelationLayer::new().layer(forward.clone()),
            paths,
            routes,
            forward,
            config,
        }
    }

    /// Returns how a request is answered.
    pub(super) fn way(&self, method: &Method, path: &str, protection: &Protection) -> Way {
        let matched = self.paths.at(path).map_or(0, |matched| *matched.value);
        let of_path = self.routes.get(matched).map(Vec::as_slice).unwrap_or_default();
        let name = of_path
            .first()
            .map_or_else(|| Arc::from("*"), |ready| Arc::clone(&ready.name));
        let ready = of_path.iter().find(|ready| ready.route.methods.contains(method));
        let service = match ready {
            Some(ready) if ready.route.store_away == StoreAway::Pass && protection.is_away() => {
                Kind::Plain(self.plain.clone())
            }
            Some(ready) => Kind::Protected(ready.protected.clone()),
            None => Kind::Plain(self.plain.clone()),
        };
        Way { name, service }
    }

    /// Whether a route is forwarded unprotected while the store is away.
    pub(super) fn passes(&self) -> bool {
        let mut all = self.routes.iter().flatten();
        all.any(|ready| ready.route.store_away == StoreAway::Pass)
    }
}

impl Way {
    pub(super) async fn answer(&mut self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        match &mut self.service {
            Kind::Protected(Protected::Requests(service)) => service.call(request).await,
            Kind::Protected(Protected::Actions(service)) => service.call(request).await,
            Kind::Plain(service) => service.call(request).await,
        }
    }
}
