//! The HTTP server: its listener, its timeouts, and how its connections are closed.

use std::{
    cell::RefCell,
    future::{pending, ready},
    io,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    thread,
    time::Duration,
};

use actix_http::{HttpService, HttpServiceBuilder, Protocol, error::DispatchError};
use actix_server::{Server, ServerBuilder};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, apply_fn_factory, fn_service, map_config};
use actix_web::{dev::AppConfig, rt::net::TcpStream};
use socket2::{Domain, Socket, Type};

use crate::{
    connections::{Connections, Limits},
    http::{self, OneAtATime, State},
    settings::ServerSettings,
};

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Idle connections are kept longer than proxies usually keep theirs (60 s), so that the proxy closes them first.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Time for a client to send the head of a request.
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
) -> io::Result<Server> {
    let workers = workers(settings);
    let mut builder = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(limits.hard.div_ceil(workers))
        // `lifecycle` handles signals. It also enforces the timeout, more precisely than the server's whole seconds.
        .disable_signals()
        .shutdown_timeout(settings.shutdown_timeout.as_secs() + 1);
    for (listener, state) in listeners {
        builder = serve(builder, listener, connections.clone(), state)?;
    }
    Ok(builder.run())
}

/// Serves a listener.
fn serve(
    builder: ServerBuilder,
    listener: TcpListener,
    connections: Connections,
    state: State,
) -> io::Result<ServerBuilder> {
    let address = listener.local_addr()?;
    builder.listen(format!("http {address}"), listener, move || {
        // The server requests the shutdown signal of a connection right after `on_connect_ext`.
        let latest = Rc::new(RefCell::new(None));
        let http = HttpService::build()
            .on_connect_ext({
                let (connections, latest) = (connections.clone(), Rc::clone(&latest));
                move |stream: &OneAtATime<TcpStream>, extensions| {
                    extensions.insert(stream.turn());
                    let connection = connections.open();
                    latest.replace(Some(connection.close_requested()));
                    extensions.insert(connection);
                }
            })
            .graceful_shutdown_signal(move || if_any(latest.take()))
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_HEAD_TIMEOUT)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .local_addr(address);
        let state = state.clone();
        let expect = fn_service({
            let state = state.clone();
            move |request| ready(state.before_body(request).map_err(|response| *response))
        });
        let http = HttpServiceBuilder::expect(http, expect).finish(apply_fn_factory(
            map_config(
                http::app(state).into_factory().map_err(|error: actix_web::Error| error.error_response()),
                |()| AppConfig::default(),
            ),
            http::frame,
        ));
        let connect = |stream: TcpStream| async {
            // Otherwise Nagle's algorithm delays the end of a response until the client has acknowledged its start.
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            Ok::<_, DispatchError>((OneAtATime::new(stream), Protocol::Http1, peer))
        };
        fn_service(connect).and_then(http)
    })
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
