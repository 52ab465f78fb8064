//! As much of HTTP/1.1 as it takes to ask the peers: one request at a time on a connection that is kept.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LONGEST_ANSWER: usize = 1 << 20;

/// A connection to a peer.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("no JSON, status {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

impl Client {
    pub async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        let head = self.exchange(request).await?;
        let text = String::from_utf8_lossy(&self.buffer[..head]).into_owned();
        Ok(Answer { status: status(&text)?, head: text, body: self.buffer[head..].to_vec() })
    }

    /// Sends a request and reads the whole answer, of which only the status is of interest.
    pub async fn ask_status(&mut self, request: &[u8]) -> Result<u16> {
        let head = self.exchange(request).await?;
        status(std::str::from_utf8(&self.buffer[..head])?)
    }

    pub async fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask(&get(path)).await.with_context(|| format!("GET {path}"))
    }

    /// Leaves the answer in the buffer; gives where its body begins.
    async fn exchange(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut awaited = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed before the answer was whole");
            }
            if awaited.is_none()
                && let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&self.buffer[..end])?;
                let length = header(head, "content-length").context("an answer without content-length")?;
                awaited = Some((end + 4, length.parse::<usize>()?));
            }
            match awaited {
                Some((head, length)) if self.buffer.len() >= head + length => return Ok(head),
                _ if self.buffer.len() > LONGEST_ANSWER => bail!("an answer without end"),
                _ => {}
            }
        }
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

pub fn post(path: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The status of one answer on a connection of its own; `None` if nobody answers.
pub async fn probe(port: u16, path: &str) -> Option<u16> {
    let mut client = Client::connect(port).await.ok()?;
    client.ask_status(&get(path)).await.ok()
}

fn status(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).context("an answer without a status")?;
    status.parse().with_context(|| format!("no status: {status}"))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim()))
}
