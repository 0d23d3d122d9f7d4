//! What one client may take up: how long it may leave an answer unread, and how many connections it has.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A connection that is given up if nothing of an answer can be written for so long, since nobody reads it.
pub(super) struct Unread<T> {
    inner: T,
    limit: Duration,
    /// Since something could not be written.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> Unread<T> {
    pub(super) fn within(inner: T, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            waiting: None,
        }
    }

    fn awaited<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        waiting
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads the answer")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Unread<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Unread<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.awaited(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.awaited(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.awaited(cx, polled)
    }
}

/// How many connections each address has, so that none takes the room of all others.
#[derive(Clone, Default)]
pub(super) struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection of an address.
pub(super) struct OfAddress {
    all: Addresses,
    address: IpAddr,
}

impl Addresses {
    /// Counts a connection, unless the address has so many. Those of this machine are not limited.
    pub(super) fn admit(&self, address: IpAddr, most: usize) -> Option<OfAddress> {
        let address = address.to_canonical();
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= most && !address.is_loopback() {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(OfAddress {
            all: self.clone(),
            address,
        })
    }
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let (here, mut there) = tokio::io::duplex(16);
        let mut here = Unread::within(here, Duration::from_millis(20));
        here.write_all(b"it fits").await.unwrap();
        let error = here.write_all(&[b'x'; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // One who reads again gets the rest.
        let mut read = [0; 16];
        there.read_exact(&mut read).await.unwrap();
        here.write_all(b"more").await.unwrap();
    }

    #[test]
    fn an_address_has_so_many_connections_and_this_machine_as_many_as_there_are() {
        let (all, elsewhere) = (Addresses::default(), IpAddr::from([10, 0, 0, 7]));
        let first = all.admit(elsewhere, 2).unwrap();
        let _second = all.admit(elsewhere, 2).unwrap();
        assert!(all.admit(elsewhere, 2).is_none());
        let mapped: IpAddr = "::ffff:10.0.0.7".parse().unwrap();
        assert!(all.admit(mapped, 2).is_none());
        assert!(all.admit(IpAddr::from([10, 0, 0, 8]), 2).is_some());
        drop(first);
        assert!(all.admit(elsewhere, 2).is_some());
        let own: Vec<_> = (0..9).map(|_| all.admit(IpAddr::from([127, 0, 0, 1]), 2)).collect();
        assert!(own.iter().all(Option::is_some));
    }
}
