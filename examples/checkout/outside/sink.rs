//! A mail server that keeps what it gets and sends nothing on: as much of SMTP (RFC 5321) as a client needs to deliver a mail.
//!
//! It accepts a mail when it has kept it, and knows no keys: what comes twice is kept twice. That both are the same mail, its
//! `Message-ID` tells.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A line may have so many bytes.
const MAX_LINE: u64 = 4096;

/// A mail may have so many bytes.
const MAX_MAIL: usize = 256 * 1024;

/// A mail that arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) sender: String,
    pub(crate) recipient: String,
    /// Names and values, unfolded.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Mail {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.as_str())
    }

    /// Reads headers and body.
    fn read(&mut self, text: &str) {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        body.clone_into(&mut self.body);
        for line in head.split("\r\n") {
            if let (true, Some((_, value))) = (line.starts_with([' ', '\t']), self.headers.last_mut()) {
                value.push(' ');
                value.push_str(line.trim());
            } else if let Some((name, value)) = line.split_once(':') {
                self.headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        for (_, value) in &mut self.headers {
            *value = value.trim().to_owned();
        }
    }
}

/// Takes mails for as long as it is polled. For one that `keep` does not keep, it says what the client is told, such as
/// `451 try again`.
pub(crate) async fn serve<K, F>(listener: TcpListener, keep: K)
where
    K: Fn(Mail) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    // Ended with this.
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let keep = keep.clone();
                    sessions.spawn(async move { session(stream, keep).await });
                }
                // A client that went before it was accepted, or no file descriptor: neither for long.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            },
            // A client that breaks off has no further use for its session.
            Some(_) = sessions.join_next() => {}
        }
    }
}

async fn session<K, F>(mut stream: TcpStream, keep: K) -> io::Result<()>
where
    K: Fn(Mail) -> F,
    F: Future<Output = Result<(), String>>,
{
    let (from, mut to) = stream.split();
    let mut from = BufReader::new(from);
    let mut mail = Mail::default();
    to.write_all(b"220 sink ready\r\n").await?;
    while let Some(line) = line(&mut from).await? {
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "HELO" => "250 sink".to_owned(),
            "MAIL" => {
                mail = Mail {
                    sender: address(argument),
                    ..Mail::default()
                };
                "250 go on".to_owned()
            }
            "RCPT" => {
                mail.recipient = address(argument);
                "250 go on".to_owned()
            }
            "DATA" => {
                to.write_all(b"354 end with a dot\r\n").await?;
                mail.read(&data(&mut from).await?);
                match keep(std::mem::take(&mut mail)).await {
                    Ok(()) => "250 kept".to_owned(),
                    Err(reply) => reply.replace(['\r', '\n'], " "),
                }
            }
            "RSET" | "NOOP" => "250 done".to_owned(),
            "QUIT" => {
                to.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not known here".to_owned(),
        };
        to.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}

/// A line without its end; `None` when the client has gone.
async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&line);
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The mail, up to the line that is a dot.
async fn data(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut text = String::new();
    while let Some(line) = line(from).await? {
        if line == "." {
            return Ok(text);
        }
        // A dot that begins a line has another one before it.
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
        text.push_str("\r\n");
        if text.len() > MAX_MAIL {
            return Err(io::Error::other("the mail is too long"));
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The address in `FROM:<shop@example.com>`.
fn address(argument: &str) -> String {
    let within = argument.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    within.map_or(argument, |(address, _)| address).to_owned()
}
