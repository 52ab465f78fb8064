//! A proxy in front of an HTTP server that loses every tenth response.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::raw::read_message;

/// Forwards requests one by one; every tenth response is lost or truncated.
pub struct FlakyProxy {
    /// The address that it listens on.
    pub address: SocketAddr,
    cut: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl FlakyProxy {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&cut);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (requests, cut) = (Arc::clone(&requests), Arc::clone(&counter));
                tokio::spawn(async move {
                    if forward(client, server, &requests).await == Some(Cut) {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, cut, task }
    }

    /// The number of responses that were lost or truncated.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for FlakyProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(PartialEq)]
struct Cut;

/// Forwards requests until a response is cut or the client closes the connection.
async fn forward(mut client: TcpStream, server: SocketAddr, requests: &AtomicUsize) -> Option<Cut> {
    let mut server = TcpStream::connect(server).await.ok()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok()?;
    }
    loop {
        let (head, body) = read_message(&mut client).await?;
        server.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
        let count = requests.fetch_add(1, Ordering::Relaxed) + 1;
        let (is_cut, kind) = (count.is_multiple_of(10), count / 10 % 4);
        if is_cut && kind == 0 {
            // The server has hardly begun to process the request.
            return Some(Cut);
        }
        let (head, body) = read_message(&mut server).await?;
        let response = format!("{head}{body}");
        let length = match kind {
            _ if !is_cut => response.len(),
            1 => 0,
            2 => response.len() / 2,
            _ => response.len() - 1,
        };
        client.write_all(&response.as_bytes()[..length]).await.ok()?;
        if is_cut {
            return Some(Cut);
        }
    }
}
