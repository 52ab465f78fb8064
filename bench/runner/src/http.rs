//! A minimal HTTP/1.1 client: one request at a time on a keep-alive connection.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// A connection to a peer.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub struct Response {
    pub status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON, status {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }
}

impl Client {
    pub async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(8 << 10) })
    }

    /// Sends a request and reads the whole response.
    pub async fn send(&mut self, request: &[u8]) -> Result<Response> {
        let head = self.exchange(request).await?;
        let text = String::from_utf8_lossy(&self.buffer[..head]).into_owned();
        Ok(Response { status: status(&text)?, head: text, body: self.buffer[head..].to_vec() })
    }

    /// Sends a request, reads the whole response, and returns its status.
    pub async fn send_for_status(&mut self, request: &[u8]) -> Result<u16> {
        let head = self.exchange(request).await?;
        status(std::str::from_utf8(&self.buffer[..head])?)
    }

    pub async fn get(&mut self, path: &str) -> Result<Response> {
        self.send(&get(path)).await.with_context(|| format!("GET {path}"))
    }

    /// Reads the response into the buffer and returns the offset of its body.
    async fn exchange(&mut self, request: &[u8]) -> Result<usize> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let mut expected = None;
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the connection was closed in the middle of the response");
            }
            if expected.is_none()
                && let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                let head = std::str::from_utf8(&self.buffer[..end])?;
                let length = header(head, "content-length").context("the response has no Content-Length")?;
                expected = Some((end + 4, length.parse::<usize>()?));
            }
            match expected {
                Some((head, length)) if self.buffer.len() >= head + length => return Ok(head),
                _ if self.buffer.len() > MAX_RESPONSE_BYTES => bail!("the response is too large"),
                _ => {}
            }
        }
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

/// A GET request with credentials.
pub fn get_authorized(path: &str, authorization: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {authorization}\r\n\r\n").into_bytes()
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

/// Requests a path on a new connection and returns the status; `None` if there is no response.
pub async fn probe(port: u16, path: &str) -> Option<u16> {
    let mut client = Client::connect(port).await.ok()?;
    client.send_for_status(&get(path)).await.ok()
}

fn status(head: &str) -> Result<u16> {
    let status = head.split(' ').nth(1).context("the response has no status")?;
    status.parse().with_context(|| format!("not a status: {status}"))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim()))
}
