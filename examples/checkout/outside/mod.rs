//! What is outside of the shop: stand-ins of a payment API and of a mail server.
//!
//! Neither can be part of a transaction of the shop's, and both can be away, or die after they have done their part and before they
//! have said so. They keep what they did in a [`ledger`], by which a storm is judged, and know nothing of `oneflight`. They
//! run in the process of the service, unless there are several: then each has a process of its own, and may be killed.

pub(crate) mod ledger;
mod payments;
pub(crate) mod sink;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::ledger::Ledger;
use self::sink::Mail;
use crate::database::Failure;
use crate::outward::Outward;

/// Where the shop's payment API and its mail server are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) payments: SocketAddr,
    pub(crate) mail: SocketAddr,
}

/// A stand-in that runs in this process, until it is dropped.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl StandIn {
    /// Starts the payment API on this port; 0 takes a free one.
    pub(crate) async fn payments(port: u16, ledger: Ledger) -> Result<Self, Failure> {
        let (listener, address) = listen(port).await?;
        let serve = axum::serve(listener, payments::api(ledger));
        let task = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::error!(%error, "the payment API has ended");
            }
        });
        Ok(Self { address, task })
    }

    /// Starts the mail server on this port; 0 takes a free one.
    pub(crate) async fn mail(port: u16, ledger: Ledger) -> Result<Self, Failure> {
        let (listener, address) = listen(port).await?;
        let keep = move |mail: Mail| {
            let ledger = ledger.clone();
            async move {
                ledger
                    .keep(&mail)
                    .await
                    .map_err(|error| format!("451 not kept: {error}"))
            }
        };
        let task = tokio::spawn(sink::serve(listener, keep));
        Ok(Self { address, task })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(port: u16) -> Result<(TcpListener, SocketAddr), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The stand-ins that a process sends to.
#[derive(Debug, Clone)]
pub(crate) enum StandIns {
    /// They run elsewhere.
    At(Addresses),
    /// They are started in this process, with this ledger.
    Own(PathBuf),
}

impl StandIns {
    pub(crate) fn new(at: Option<Addresses>, ledger: PathBuf) -> Self {
        at.map_or(Self::Own(ledger), Self::At)
    }

    /// Starts them, if they are this process's own, and says how they are reached.
    pub(crate) async fn reach(&self) -> Result<(Option<Outside>, Outward), Failure> {
        Ok(match self {
            Self::At(addresses) => (None, Outward::to(*addresses)),
            Self::Own(ledger) => {
                let outside = Outside::start(ledger).await?;
                let outward = Outward::to(outside.addresses());
                (Some(outside), outward)
            }
        })
    }
}

/// Both stand-ins, and what they keep.
pub(crate) struct Outside {
    pub(crate) ledger: Ledger,
    payments: StandIn,
    mail: StandIn,
}

impl Outside {
    pub(crate) async fn start(ledger: &Path) -> Result<Self, Failure> {
        let ledger = Ledger::open(ledger).await?;
        Ok(Self {
            payments: StandIn::payments(0, ledger.clone()).await?,
            mail: StandIn::mail(0, ledger.clone()).await?,
            ledger,
        })
    }

    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            payments: self.payments.address,
            mail: self.mail.address,
        }
    }

    /// Ends both, and closes what they keep.
    pub(crate) async fn end(self) {
        let Self { ledger, payments, mail } = self;
        drop((payments, mail));
        ledger.close().await;
    }
}
