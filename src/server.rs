//! The HTTP server: its listeners, its timeouts, and how its connections are closed. `tls` and `http2` serve what
//! `actix_http` does not: connections with TLS, and those of HTTP/2.

mod http2;
mod tls;
mod transport;

use std::{
    cell::RefCell,
    future::{pending, ready},
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use actix_http::{HttpService, HttpServiceBuilder, Protocol, Request, error::DispatchError};
use actix_server::{Server, ServerBuilder};
use actix_service::{
    IntoServiceFactory, Service as _, ServiceFactory, ServiceFactoryExt, apply_fn, apply_fn_factory, fn_factory,
    fn_service, map_config,
};
use actix_web::{
    HttpResponse,
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
    rt::net::TcpStream,
};
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};

use self::tls::TlsService;
use crate::{
    connections::{Connections, Limits},
    http::{self, OneAtATime, State},
    settings::ServerSettings,
};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Idle connections are kept longer than proxies usually keep theirs (60 s), so that the proxy closes them first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time for a client to send the head of a request, or to establish TLS.
const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for a client to close its side of a connection.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the number of HTTP worker threads.
pub(crate) fn workers(settings: &ServerSettings) -> usize {
    match settings.workers {
        0 => thread::available_parallelism().map_or(1, |count| count.get().min(512)),
        workers => workers,
    }
}

/// Starts a server on listeners, each with the state of its routes. It uses the building blocks of
/// `actix_web::HttpServer`, which itself cannot close connections one by one.
pub(crate) fn start(
    listeners: Vec<(TcpListener, State)>,
    settings: &ServerSettings,
    limits: Limits,
    connections: &Connections,
    tls: Option<&Arc<ServerConfig>>,
) -> io::Result<Server> {
    let workers = workers(settings);
    let mut builder = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(limits.hard.div_ceil(workers))
        // `lifecycle` handles signals. It also enforces the timeout, more precisely than the server's whole seconds.
        .disable_signals()
        .shutdown_timeout(settings.shutdown_timeout.as_secs() + 1);
    for (listener, state) in listeners {
        builder = serve(builder, listener, connections.clone(), state, settings, tls.cloned())?;
    }
    Ok(builder.run())
}

/// Serves a listener, with TLS if there is a configuration for it.
fn serve(
    builder: ServerBuilder,
    listener: TcpListener,
    connections: Connections,
    state: State,
    settings: &ServerSettings,
    tls: Option<Arc<ServerConfig>>,
) -> io::Result<ServerBuilder> {
    let address = listener.local_addr()?;
    let Some(tls) = tls else {
        return builder.listen(format!("http {address}"), listener, move || {
            let connect = |stream: TcpStream| async {
                set_no_delay(&stream);
                let peer = stream.peer_addr().ok();
                Ok::<_, DispatchError>((OneAtATime::new(stream), Protocol::Http1, peer))
            };
            fn_service(connect).and_then(http1(address, &connections, &state))
        });
    };
    let write_timeout = settings.write_timeout;
    builder.listen(format!("https {address}"), listener, move || {
        let (tls, connections, state) = (Arc::clone(&tls), connections.clone(), state.clone());
        fn_factory(move || {
            let (tls, connections) = (Arc::clone(&tls), connections.clone());
            let (http1, app) = (http1(address, &connections, &state).new_service(()), app(&state).new_service(()));
            async move {
                let (http1, app) = (http1.await?, app.await?);
                let service = TlsService::new(tls, http1, app, connections, write_timeout);
                Ok::<_, ()>(apply_fn(service, |stream: TcpStream, service| {
                    set_no_delay(&stream);
                    service.call(stream)
                }))
            }
        })
    })
}

/// Otherwise Nagle's algorithm delays the end of a response until the client has acknowledged its start.
fn set_no_delay(stream: &TcpStream) {
    // Only makes a connection slower if it fails.
    let _ = stream.set_nodelay(true);
}

/// Returns the application, as a service of requests.
fn app(
    state: &State,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = ServiceResponse<impl MessageBody + use<>>,
    Error = HttpResponse,
    InitError = (),
    Service: 'static,
> + use<> {
    let app = http::app(state.clone()).into_factory().map_err(|error: actix_web::Error| error.error_response());
    map_config(app, |()| AppConfig::default())
}

/// Returns the service of connections of HTTP/1.
fn http1<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    address: SocketAddr,
    connections: &Connections,
    state: &State,
) -> impl ServiceFactory<
    (OneAtATime<T>, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<T> {
    // The server requests the shutdown signal of a connection right after `on_connect_ext`.
    let latest = Rc::new(RefCell::new(None));
    let http = HttpService::build()
        .on_connect_ext({
            let (connections, latest) = (connections.clone(), Rc::clone(&latest));
            move |stream: &OneAtATime<T>, extensions| {
                let connection = connections.open();
                stream.turn().set_abort_signal(connection.abort_signal());
                extensions.insert(stream.turn());
                latest.replace(Some(connection.close_requested()));
                extensions.insert(connection);
            }
        })
        .graceful_shutdown_signal(move || if_any(latest.take()))
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(REQUEST_HEAD_TIMEOUT)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .local_addr(address);
    let expect = fn_service({
        let state = state.clone();
        move |request| ready(state.before_body(request).map_err(|response| *response))
    });
    HttpServiceBuilder::expect(http, expect).finish(apply_fn_factory(app(state), http::frame))
}

/// Waits for a signal; forever if there is none.
async fn if_any(signal: Option<impl Future<Output = ()>>) {
    match signal {
        Some(signal) => signal.await,
        None => pending().await,
    }
}

/// Opens a listener on this address.
pub(crate) fn listen(address: SocketAddr, settings: &ServerSettings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // So that a restart is not blocked by connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Accepted connections inherit it. The server itself would wait forever for a client that does not read.
    #[cfg(target_os = "linux")]
    if !settings.write_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(settings.write_timeout))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
