//! Serves connections with TLS: the handshake, then the protocol that the client has chosen.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, task, time::Duration};

use actix_http::{Protocol, Request};
use actix_service::Service;
use actix_web::{HttpResponse, body::MessageBody, dev::ServiceResponse, rt::net::TcpStream};
use futures_util::future::LocalBoxFuture;
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{REQUEST_HEAD_TIMEOUT, http2::Http2};
use crate::{connections::Connections, http::OneAtATime, tls::HTTP2};

/// A connection of HTTP/1, as actix-http takes it.
pub(super) type Http1Connection = (OneAtATime<TlsStream<TcpStream>>, Protocol, Option<SocketAddr>);

/// Serves connections of both protocols.
pub(super) struct TlsService<H, A> {
    acceptor: TlsAcceptor,
    http1: Rc<H>,
    app: Rc<A>,
    connections: Connections,
    write_timeout: Duration,
}

impl<H, A> TlsService<H, A> {
    /// `http1` serves connections of HTTP/1, `app` the requests of HTTP/2.
    pub(super) fn new(
        config: Arc<ServerConfig>,
        http1: H,
        app: A,
        connections: Connections,
        write_timeout: Duration,
    ) -> Self {
        Self { acceptor: config.into(), http1: Rc::new(http1), app: Rc::new(app), connections, write_timeout }
    }
}

impl<H, A, B> Service<TcpStream> for TlsService<H, A>
where
    H: Service<Http1Connection, Response = ()> + 'static,
    A: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse> + 'static,
    B: MessageBody + 'static,
{
    type Response = ();
    type Error = ();
    type Future = LocalBoxFuture<'static, Result<(), ()>>;

    fn poll_ready(&self, _: &mut task::Context<'_>) -> task::Poll<Result<(), ()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let (acceptor, http1, app) = (self.acceptor.clone(), Rc::clone(&self.http1), Rc::clone(&self.app));
        let (connections, write_timeout) = (self.connections.clone(), self.write_timeout);
        Box::pin(async move {
            let peer = stream.peer_addr().ok();
            let stream = handshake(&acceptor, stream, &connections).await.map_err(|error| {
                tracing::debug!(client = peer.map(tracing::field::display), %error, "TLS handshake failed");
            })?;
            if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
                return http1.call((OneAtATime::new(stream), Protocol::Http1, peer)).await.map_err(drop);
            }
            let connection = connections.open();
            Http2 { stream, peer, connection, write_timeout }.serve(app).await.map_err(|error| {
                tracing::debug!(client = peer.map(tracing::field::display), %error, "HTTP/2 connection failed");
            })
        })
    }
}

/// Performs the TLS handshake. Until it completes, the connection counts as idle and can be closed at `max_connections`.
async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    connections: &Connections,
) -> io::Result<TlsStream<TcpStream>> {
    let connection = connections.open();
    tokio::select! {
        accepted = timeout(REQUEST_HEAD_TIMEOUT, acceptor.accept(stream)) => accepted?,
        () = connection.close_requested() => Err(io::Error::other("closed at max_connections or by the shutdown")),
    }
}
