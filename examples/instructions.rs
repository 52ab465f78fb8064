//! Serves a number of requests of one kind to itself, for tools that count instructions: see `scripts/instructions`.
//!
//! `instructions find|list|create|together|key COUNT`, on an embedded database in memory, over loopback. `key` finds users
//! as `find` does, as a caller with an API key.

#![expect(clippy::print_stderr, reason = "a tool for the command line")]

use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
};

use users_api::{
    app::Application,
    domain::ApiKey,
    settings::{Environment, Settings},
    telemetry::{Log, Telemetry},
};

/// Users in the table.
const USERS: usize = 100;
/// Number of concurrent clients in `together`.
const CLIENTS: usize = 32;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kind), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: instructions find|list|create|together|key COUNT".into());
    };
    let count: usize = count.parse()?;
    let key = if kind == "key" { ApiKey::generate().map_err(|error| error.to_string())?.1 } else { String::new() };
    let variables = [
        ("DATABASE_URL", "sqlite::memory:"),
        ("USERS_API__SERVER__PORT", "0"),
        ("USERS_API__SERVER__WORKERS", "1"),
        ("USERS_API__AUTH__MODE", if key.is_empty() { "off" } else { "required" }),
        ("USERS_API__AUTH__BOOTSTRAP_KEY", &key),
        ("USERS_API__LIMITS__PER_CALLER", "1000000/s"),
        ("USERS_API__LIMITS__BURST", "1000000"),
    ];
    let process: BTreeMap<_, _> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let settings = Settings::load(None, &Environment { process, ..Environment::default() })?;
    // The log's line is a part of the way.
    let _telemetry = Telemetry::start(&settings, Log::Stdout)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let application = Application::build(settings).await?;
        let address = application.address();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let asking = tokio::task::spawn_blocking(move || {
            let asked = ask(address, &kind, count, &key);
            drop(stop);
            asked
        });
        application.run(async { drop(stopped.await) }).await?;
        asking.await?
    })
}

fn ask(address: SocketAddr, kind: &str, count: usize, key: &str) -> Outcome<()> {
    let headers = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
    let (get, post) = (|path: &str| get(path, &headers), |email: &str| post(email, &headers));
    let mut client = Client::connect(address)?;
    let mut paths = Vec::with_capacity(USERS);
    for number in 0..USERS {
        paths.push(client.ask(&post(&format!("seed{number}@example.com")))?.ok_or("no Location")?);
    }
    match kind {
        "find" | "key" => (0..count).try_for_each(|number| client.ask(&get(&paths[number % USERS])).map(drop)),
        "list" => (0..count).try_for_each(|_| client.ask(&get("/users")).map(drop)),
        "create" => (0..count).try_for_each(|number| client.ask(&post(&format!("user{number}@example.com"))).map(drop)),
        "together" => {
            let mut clients = (0..CLIENTS).map(|_| Client::connect(address)).collect::<Outcome<Vec<_>>>()?;
            for _ in 0..count.div_ceil(CLIENTS) {
                for (client, path) in clients.iter_mut().zip(&paths) {
                    client.send(&get(path))?;
                }
                for client in &mut clients {
                    client.receive()?;
                }
            }
            Ok(())
        }
        _ => Err("find, list, create, together or key".into()),
    }
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
}

fn post(email: &str, headers: &str) -> String {
    let body = format!(r#"{{"name":"Ann Example","email":"{email}"}}"#);
    format!(
        "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    fn send(&mut self, request: &str) -> Outcome<()> {
        Ok(self.0.get_mut().write_all(request.as_bytes())?)
    }

    /// Reads an answer to its end; gives its `Location`.
    fn receive(&mut self) -> Outcome<Option<String>> {
        let (mut length, mut location, mut line) = (0, None, String::new());
        self.0.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 20") {
            return Err(format!("an answer that was not asked for: {line}").into());
        }
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("location", value)) => location = Some(value.to_owned()),
                Some(_) => {}
                None => break,
            }
        }
        self.0.read_exact(&mut vec![0; length])?;
        Ok(location)
    }

    fn ask(&mut self, request: &str) -> Outcome<Option<String>> {
        self.send(request)?;
        self.receive()
    }
}
