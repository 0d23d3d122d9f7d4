//! The proxy's life: from its listeners, over signals, to its graceful end.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;

use super::config::{Config, StoreSettings};
use super::protection::Protection;
use super::state::State;
use super::{admin, serve, telemetry};
use crate::exit::{Code, Failure, not_listening};
use crate::store;

/// Runs the proxy until it is told to stop.
pub(super) async fn run(store: &store::Address, path: PathBuf, config: Config) -> Result<(), Failure> {
    let metrics = PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| Failure::new(Code::Software, format!("the metrics: {error}")))?;
    telemetry::describe();
    let mut signals = Signals::new()?;
    let address = address(store, &config.store);
    let kept_in = address.described()?;
    let protection = Protection::open(&address, &config.store).await?;
    let mut listeners = Vec::new();
    for address in &config.listen {
        listeners.push(listen(*address).await?);
    }
    let operators = listen(config.admin).await?;
    let state = Arc::new(State::new(path, config, protection));
    tracing::info!(store = kept_in, "records are kept in the store");
    for listener in &listeners {
        tracing::info!(address = %local(listener), "listening");
    }
    tracing::info!(address = %local(&operators), "listening for operators");

    let graceful = Arc::new(GracefulShutdown::new());
    let stops = CancellationToken::new();
    let mut doors = JoinSet::new();
    for listener in listeners {
        let graceful = Arc::clone(&graceful);
        let (state, stops) = (Arc::clone(&state), stops.clone());
        doors.spawn(serve::accept(listener, state, stops, move || graceful.watcher()));
    }
    let upkeep = tokio::spawn(keep_up(Arc::clone(&state), metrics.clone()));
    let operators = {
        let router = admin::router(Arc::clone(&state), metrics);
        tokio::spawn(async move { axum::serve(operators, router).await })
    };

    while let Told::Reload = signals.next().await {
        // What is wrong with the file was logged.
        let _ = state.reload();
    }
    let stop_time = state.current().config.stop_time;
    tracing::info!(longest = ?stop_time, "stopping");
    stops.cancel();
    while doors.join_next().await.is_some() {}
    upkeep.abort();
    let end = Instant::now() + stop_time;
    let stopped = timeout_at(end, stop(graceful, &state));
    let ended = {
        let mut stopped = pin!(stopped);
        loop {
            tokio::select! {
                ended = &mut stopped => break ended.is_ok(),
                told = signals.next() => match told {
                    Told::Reload => {}
                    Told::Stop => break false,
                },
            }
        }
    };
    operators.abort();
    if ended {
        tracing::info!("stopped: nothing was under way any more");
        return Ok(());
    }
    let left = Left {
        executions: state.protection.in_flight(),
        connections: state.connections.len(),
        tunnels: state.tunnels.count(),
        lease: state.current().longest_lease(),
    };
    match left.is_undone() {
        // A tunnel has no end that could be waited for, and nothing of it is in doubt.
        false => {
            tracing::info!("stopped: {left}");
            Ok(())
        }
        true => Err(Failure::new(
            Code::Temporary,
            format!("stopped before all was done: {left}"),
        )),
    }
}

/// What was under way when the proxy ended.
struct Left {
    executions: usize,
    connections: usize,
    tunnels: usize,
    /// The longest lease that an execution can have.
    lease: Duration,
}

impl Left {
    /// Whether somebody waited for an answer.
    fn is_undone(&self) -> bool {
        self.executions > 0 || self.connections > 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lease = humantime::format_duration(self.lease);
        let counted = [
            (
                self.executions,
                format!("execution under a key will be in doubt, once its lease of up to {lease} is over"),
                format!("executions under a key will be in doubt, once their leases of up to {lease} are over"),
            ),
            (
                self.connections,
                "connection was cut off in the middle of a request or an answer".to_owned(),
                "connections were cut off in the middle of a request or an answer".to_owned(),
            ),
            (self.tunnels, "tunnel was cut".to_owned(), "tunnels were cut".to_owned()),
        ];
        let mut said = counted.into_iter().filter(|(count, ..)| *count > 0).peekable();
        if said.peek().is_none() {
            return f.write_str("what was left ended at the same moment");
        }
        while let Some((count, one, several)) = said.next() {
            write!(f, "{count} {}", if count == 1 { one } else { several })?;
            if said.peek().is_some() {
                f.write_str("; ")?;
            }
        }
        Ok(())
    }
}

/// Waits for requests, then for executions that nobody waits for any more, and for tunnels.
async fn stop(graceful: Arc<GracefulShutdown>, state: &State) {
    // The tasks that had the others have ended.
    if let Some(graceful) = Arc::into_inner(graceful) {
        graceful.shutdown().await;
    }
    state.protection.close();
    tokio::join!(state.tunnels.ended(), state.protection.drain());
}

/// Closes idle connections, and asks the store where requests may pass without it.
async fn keep_up(state: Arc<State>, metrics: PrometheusHandle) {
    let mut each = interval(Duration::from_secs(1));
    each.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        each.tick().await;
        let generation = state.current();
        generation.forward.close_idle();
        metrics.run_upkeep();
        if generation.passes() {
            let _ = state.protection.reachable().await;
        }
    }
}

/// The store: as the command line or the environment names it, and else as the file does.
pub(super) fn address(given: &store::Address, settings: &StoreSettings) -> store::Address {
    const DEFAULT: &str = "oneflight.db";
    let or = |given, settings| store::said(given).or(store::said(settings)).map(str::to_owned);
    store::Address {
        url: Some(or(&given.url, &settings.url).unwrap_or_else(|| DEFAULT.to_owned())),
        schema: or(&given.schema, &settings.schema),
        prefix: or(&given.prefix, &settings.prefix),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| not_listening(address, &error))
}

fn local(listener: &TcpListener) -> String {
    listener
        .local_addr()
        .map_or_else(|error| error.to_string(), |address| address.to_string())
}

/// What the proxy is told by signals.
struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
}

enum Told {
    Reload,
    Stop,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::System, format!("signals cannot be received: {error}")))
        };
        Ok(Self {
            hang_up: listen(SignalKind::hangup())?,
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hang_up.recv() => Told::Reload,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.terminate.recv() => Told::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_counted_in_right_words() {
        let told = |executions, connections, tunnels| {
            let left = Left {
                executions,
                connections,
                tunnels,
                lease: Duration::from_secs(10),
            };
            (left.is_undone(), left.to_string())
        };
        assert_eq!(told(0, 0, 1), (false, "1 tunnel was cut".to_owned()));
        let all = "1 execution under a key will be in doubt, once its lease of up to 10s is over; 2 connections were cut off in \
                   the middle of a request or an answer; 3 tunnels were cut";
        assert_eq!(told(1, 2, 3), (true, all.to_owned()));
        assert!(told(0, 1, 0).0 && !told(0, 0, 0).0);
    }
}
