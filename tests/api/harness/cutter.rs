//! A proxy in front of an HTTP server that cuts every tenth answer.

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

/// Passes requests on one by one, and every tenth answer not or not whole.
pub struct Cutter {
    /// Where it listens.
    pub address: SocketAddr,
    cut: Arc<AtomicUsize>,
    listening: JoinHandle<()>,
}

impl Cutter {
    pub async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&cut);
        let listening = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (asked, cut) = (Arc::clone(&asked), Arc::clone(&counted));
                tokio::spawn(async move {
                    if forward(client, server, &asked).await == Some(Cut) {
                        cut.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { address, cut, listening }
    }

    /// How many answers did not arrive.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[derive(PartialEq)]
struct Cut;

/// Until an answer is cut, or until the client has no more requests.
async fn forward(mut client: TcpStream, server: SocketAddr, asked: &AtomicUsize) -> Option<Cut> {
    let mut server = TcpStream::connect(server).await.ok()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok()?;
    }
    loop {
        let (head, body) = read_message(&mut client).await?;
        server.write_all(format!("{head}{body}").as_bytes()).await.ok()?;
        let turn = asked.fetch_add(1, Ordering::Relaxed) + 1;
        let (is_cut, way) = (turn.is_multiple_of(10), turn / 10 % 4);
        if is_cut && way == 0 {
            // Before the server has had time to do much.
            return Some(Cut);
        }
        let (head, body) = read_message(&mut server).await?;
        let answer = format!("{head}{body}");
        let passed = match way {
            _ if !is_cut => answer.len(),
            1 => 0,
            2 => answer.len() / 2,
            _ => answer.len() - 1,
        };
        client.write_all(&answer.as_bytes()[..passed]).await.ok()?;
        if is_cut {
            return Some(Cut);
        }
    }
}
