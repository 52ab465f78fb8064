//! The HTTP server: its listener, its time limits, and which connections it keeps.

use std::{
    cell::RefCell,
    future::ready,
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

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// An idle connection is kept for longer than the usual proxy keeps it (60 s), so that the proxy is the one to close it.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to close its side of a connection.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(1);

/// The threads that speak HTTP.
pub(crate) fn workers(settings: &ServerSettings) -> usize {
    match settings.workers {
        0 => thread::available_parallelism().map_or(1, |count| count.get().min(512)),
        workers => workers,
    }
}

/// Starts a server on a listener. It is built from the parts of `actix_web::HttpServer`, which closes idle connections
/// only all at once.
pub(crate) fn start(
    listener: TcpListener,
    settings: &ServerSettings,
    limits: Limits,
    connections: &Connections,
    state: &State,
) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let workers = workers(settings);
    let builder = ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(limits.hard.div_ceil(workers))
        // Ours to handle: see `shutdown`. The limit is ours too, in finer steps than the server's whole seconds.
        .disable_signals()
        .shutdown_timeout(settings.shutdown_timeout.as_secs() + 1);
    let (connections, state) = (connections.clone(), state.clone());
    let builder = builder.listen("http", listener, move || {
        // The server asks for the signal of a connection right after it has announced it.
        let newest = Rc::new(RefCell::new(None));
        let http = HttpService::build()
            .on_connect_ext({
                let (connections, newest) = (connections.clone(), Rc::clone(&newest));
                move |stream: &OneAtATime<TcpStream>, extensions| {
                    extensions.insert(stream.turn());
                    let connection = connections.open();
                    newest.replace(Some(connection.asked_to_close()));
                    extensions.insert(connection);
                }
            })
            .graceful_shutdown_signal(move || {
                let asked_to_close = newest.take();
                async move {
                    match asked_to_close {
                        Some(asked_to_close) => asked_to_close.await,
                        None => std::future::pending().await,
                    }
                }
            })
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_LIMIT)
            .client_disconnect_timeout(DISCONNECT_LIMIT)
            .local_addr(address);
        let state = state.clone();
        let expect = fn_service({
            let state = state.clone();
            move |request| ready(state.before_body(request).map_err(|answer| *answer))
        });
        let http = HttpServiceBuilder::expect(http, expect).finish(apply_fn_factory(
            map_config(
                http::app(state).into_factory().map_err(|error: actix_web::Error| error.error_response()),
                |()| AppConfig::default(),
            ),
            http::frame,
        ));
        let connect = |stream: TcpStream| async {
            // The end of an answer does not wait for the client's acknowledgement of its beginning.
            let _ = stream.set_nodelay(true);
            let peer = stream.peer_addr().ok();
            Ok::<_, DispatchError>((OneAtATime::new(stream), Protocol::Http1, peer))
        };
        fn_service(connect).and_then(http)
    })?;
    Ok(builder.run())
}

/// Listens where the settings say.
pub(crate) fn listen(settings: &ServerSettings) -> io::Result<TcpListener> {
    let address = SocketAddr::new(settings.host, settings.port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A port that was ours a moment ago is not kept from us by connections that are still closing.
    socket.set_reuse_address(true)?;
    // Connections inherit it. The server itself would wait for ever for a client that does not read.
    #[cfg(target_os = "linux")]
    if !settings.write_timeout.is_zero() {
        socket.set_tcp_user_timeout(Some(settings.write_timeout))?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
