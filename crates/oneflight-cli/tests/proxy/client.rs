//! Clients: one request at a time, or the bytes of a connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::proxy::PATIENCE;

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

pub async fn get(to: SocketAddr, path: &str) -> Answer {
    send(to, "GET", path, &[], "").await
}

pub async fn post(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    send(to, "POST", path, headers, body).await
}

/// Sends with a key.
pub async fn keyed(to: SocketAddr, key: &str, body: &str) -> Answer {
    post(to, "/orders", &[("idempotency-key", key)], body).await
}

pub async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    try_send(to, method, path, headers, body).await.expect("an answer")
}

pub async fn try_send(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "shop.example");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned())))?;
    let answered = timeout(PATIENCE, async {
        let stream = TcpStream::connect(to).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        whole(sender.send_request(request).await?).await
    });
    answered.await?
}

pub async fn whole(answer: Response<Incoming>) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = answer.into_parts();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// A connection, byte by byte.
pub struct Raw {
    stream: TcpStream,
    pub read: Vec<u8>,
}

impl Raw {
    pub async fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self::on(stream)
    }

    pub fn on(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn write(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("an open connection");
    }

    /// Reads until this comes, and returns what came before it and this.
    pub async fn until(&mut self, what: &str) -> String {
        let read = timeout(PATIENCE, async {
            loop {
                if let Some(at) = self.read.windows(what.len()).position(|part| part == what.as_bytes()) {
                    let rest = self.read.split_off(at + what.len());
                    let found = std::mem::replace(&mut self.read, rest);
                    return String::from_utf8_lossy(&found).into_owned();
                }
                let read = self.stream.read_buf(&mut self.read).await.expect("an open connection");
                assert!(read > 0, "no {what:?} in {:?}", String::from_utf8_lossy(&self.read));
            }
        });
        match read.await {
            Ok(read) => read,
            Err(_) => panic!("no {what:?} in {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads until the other side has closed.
    pub async fn end(mut self) -> String {
        let read = timeout(PATIENCE, async {
            // One that resets has closed as well.
            while let Ok(1..) = self.stream.read_buf(&mut self.read).await {}
        });
        read.await.expect("it closes");
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

impl Raw {
    /// Reads until the other side has closed, or until it has sent an answer and waits for more.
    pub async fn end_or_first_answer(mut self) -> String {
        const MORE: std::time::Duration = std::time::Duration::from_millis(300);
        let first = timeout(PATIENCE, self.stream.read_buf(&mut self.read))
            .await
            .expect("something");
        if matches!(first, Ok(1..)) {
            while let Ok(Ok(1..)) = timeout(MORE, self.stream.read_buf(&mut self.read)).await {}
        }
        String::from_utf8_lossy(&self.read).into_owned()
    }
}
