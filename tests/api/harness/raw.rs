//! HTTP over a plain socket, for requests that no HTTP library sends.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Reads the head and the body of a request or a response; `None` if the connection ends before.
pub async fn read_message(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let end = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes.split_off(end)).ok()?;
    Some((head, body))
}

/// A request whose body is sent in chunks while its response is read line by line.
pub struct Upload {
    stream: TcpStream,
    response: Vec<u8>,
}

impl Upload {
    /// Sends the head. Each line of `headers` ends with CRLF.
    pub async fn begin(address: std::net::SocketAddr, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, response: Vec::new() }
    }

    pub async fn send(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(chunk.as_bytes()).await.unwrap();
    }

    /// Ends the body.
    pub async fn finish(&mut self) {
        self.stream.write_all(b"0\r\n\r\n").await.unwrap();
    }

    /// Waits for this many lines, or for the end of the response, and returns all lines so far.
    pub async fn lines(&mut self, count: usize) -> Vec<String> {
        loop {
            let lines = self.body();
            if lines.len() >= count || self.is_complete() {
                return lines;
            }
            assert!(self.stream.read_buf(&mut self.response).await.unwrap() > 0, "connection closed after {lines:?}");
        }
    }

    /// Waits for the status of the response.
    pub async fn status(&mut self) -> u16 {
        while self.response.len() < 12 {
            assert!(self.stream.read_buf(&mut self.response).await.unwrap() > 0, "closed without a response");
        }
        str::from_utf8(&self.response[9..12]).unwrap().parse().unwrap()
    }

    /// Waits for the end of the response, and returns its lines.
    pub async fn end(&mut self) -> Vec<String> {
        self.lines(usize::MAX).await
    }

    /// Whether any byte of the response has arrived.
    pub fn has_answer(&mut self) -> bool {
        !self.response.is_empty() || self.stream.try_read_buf(&mut self.response).is_ok()
    }

    /// The bytes of the response so far.
    pub fn answer(&self) -> &[u8] {
        &self.response
    }

    fn is_complete(&self) -> bool {
        let text = String::from_utf8_lossy(&self.response);
        match text.split_once("\r\n\r\n") {
            Some((head, body)) => length(head).map_or(body.ends_with("0\r\n\r\n"), |length| body.len() >= length),
            None => false,
        }
    }

    /// The complete lines of the body so far, without the chunked framing.
    fn body(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.response);
        let Some((head, mut rest)) = text.split_once("\r\n\r\n") else { return Vec::new() };
        if length(head).is_some() {
            return rest.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect();
        }
        let mut body = String::new();
        while let Some((length, after)) = rest.split_once("\r\n") {
            let length = usize::from_str_radix(length, 16).unwrap();
            let Some(chunk) = after.get(..length) else { break };
            body.push_str(chunk);
            rest = after.get(length + 2..).unwrap_or("");
        }
        let complete = body.rfind('\n').map_or("", |end| &body[..end]);
        complete.lines().map(str::to_owned).collect()
    }
}

/// The `content-length` of a head.
fn length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
}
