//! What the service tells of itself: the log, the metrics' recorder, and traces by OTLP.

mod open_metrics;
mod writer;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fs::File,
    io::{self, IsTerminal},
    os::fd::AsFd,
    panic::PanicHookInfo,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, Targets, dynamic_filter_fn, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

pub use self::open_metrics::open_metrics;
use self::writer::LogWriter;
use crate::settings::{LogFormat, LogSettings, Settings};

/// How long the process waits at its end for a reader of its output that stalls.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent.
const LAST_EXPORT_LIMIT: Duration = Duration::from_secs(2);
/// How long a batch of spans may take to be sent.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
/// Bounds of the buckets of request durations, in seconds: a key look-up takes one millisecond, a patient client waits ten.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same of the pool's times: a connection is free at once as a rule, and a key look-up holds it for a fraction of a
/// millisecond.
const HOLD_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Where the log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Of the service, whose output it is.
    Stdout,
    /// Of commands that put out something else.
    Stderr,
}

/// Why the service could not begin to tell of itself.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter of traces could not be made.
    #[error("cannot send traces")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Something else logs already.
    #[error("cannot log")]
    Log(#[from] tracing_subscriber::util::TryInitError),
    /// The output of the log could not be opened, or its thread not be started.
    #[error("cannot start the log")]
    Output(#[from] io::Error),
}

/// Writes and sends what is left of the log and the traces when the service ends.
#[must_use = "what is not flushed is lost"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    log: LogWriter,
}

/// Writes what is left of the log, for a process that ends elsewhere than at the end of [`Telemetry`].
#[derive(Clone)]
pub struct LogFlush(LogWriter);

impl LogFlush {
    /// Waits until the log is written, for a second at most.
    pub fn flush(&self) {
        self.0.flush(FLUSH_LIMIT);
    }
}

impl Telemetry {
    /// Starts the log, and traces if there is somewhere to send them. Once a process, outside any async runtime.
    ///
    /// # Errors
    ///
    /// [`TelemetryError`].
    pub fn start(settings: &Settings, log: Log) -> Result<Self, TelemetryError> {
        let traces = match settings.telemetry.traces_url() {
            Some(url) => Some(tracer_provider(url, settings.telemetry.service_name.clone())?),
            None => None,
        };
        let spans = traces.as_ref().map(|provider| {
            opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
            // Our own spans and nobody else's: the driver's would carry what it was asked to connect to.
            let ours =
                Targets::new().with_target("users_api", LevelFilter::INFO).with_target("orm_pool", LevelFilter::INFO);
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("users-api"))
                .with_location(false)
                .with_threads(false)
                .with_filter(ours)
        });
        let (writer, is_terminal) = log.open()?;
        let logged = tracing_subscriber::registry().with(log_layer(&settings.log, writer.clone(), is_terminal));
        match spans {
            Some(spans) => logged.with(spans).try_init()?,
            // Not `with(None)`, which wants every span, and has all of them made for nobody.
            None => logged.try_init()?,
        }
        let last_words = LogFlush(writer.clone());
        std::panic::set_hook(Box::new(move |panic| log_panic(panic, &last_words)));
        Ok(Self { traces, log: writer })
    }

    /// What writes the rest of the log.
    #[must_use]
    pub fn log_flush(&self) -> LogFlush {
        LogFlush(self.log.clone())
    }

    /// Sends and writes what is left; takes three seconds at most.
    pub fn end(self) {
        let log = self.log_flush();
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown_with_timeout(LAST_EXPORT_LIMIT)) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
        log.flush();
    }
}

impl Log {
    /// A writer that never blocks, and whether a terminal is behind it.
    fn open(self) -> io::Result<(LogWriter, bool)> {
        let (descriptor, is_terminal) = match self {
            Self::Stdout => (io::stdout().as_fd().try_clone_to_owned()?, io::stdout().is_terminal()),
            Self::Stderr => (io::stderr().as_fd().try_clone_to_owned()?, io::stderr().is_terminal()),
        };
        Ok((LogWriter::start(File::from(descriptor))?, is_terminal))
    }
}

/// Logs a panic. The default is to write to standard error, which blocks while its reader stalls.
fn log_panic(panic: &PanicHookInfo<'_>, log: &LogFlush) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name(),
        location = panic.location().map(ToString::to_string),
        error = panic.payload_as_str(),
        backtrace,
        "panicked"
    );
    if thread.name() == Some("main") {
        // The process may end with it.
        log.flush();
    }
}

/// Prints a line to standard error. A reader that stalls holds it up for a second at most.
#[expect(clippy::print_stderr, reason = "for processes whose log has ended, or has not begun")]
pub fn print_error(line: String) {
    let (send, printed) = std::sync::mpsc::channel();
    let print = move || {
        eprintln!("{line}");
        // No one waits any more after the limit.
        let _ = send.send(());
    };
    if thread::Builder::new().spawn(print).is_ok() {
        let _ = printed.recv_timeout(FLUSH_LIMIT);
    }
}

fn log_layer(settings: &LogSettings, writer: LogWriter, is_terminal: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let human = match settings.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    // Each event says all that it has to say; spans are for traces, and formatting them here would cost every request.
    let filter = EnvFilter::new(&settings.filter)
        .and(filter_fn(is_event))
        .and(dynamic_filter_fn(|metadata, _| !is_about_our_own_end(metadata)));
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    if human {
        layer.compact().with_filter(filter).boxed()
    } else {
        let layer = layer.json().flatten_event(true).with_current_span(false).with_span_list(false);
        layer.with_filter(filter).boxed()
    }
}

static LISTENING_ENDED: AtomicBool = AtomicBool::new(false);

/// Says that the listener is about to be shut on purpose. The server's accept thread meets that as an error which means
/// nothing; until now its errors mean much (no file descriptors left), so they are not silenced for good.
pub(crate) fn listening_ends() {
    LISTENING_ENDED.store(true, Ordering::Release);
}

fn is_about_our_own_end(metadata: &tracing::Metadata<'_>) -> bool {
    metadata.target() == "actix_server::accept" && LISTENING_ENDED.load(Ordering::Acquire)
}

fn is_event(metadata: &tracing::Metadata<'_>) -> bool {
    metadata.is_event()
}

fn tracer_provider(url: String, service: String) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_LIMIT)
        .build()?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The same of how many operations shared a connection's use.
const BATCH_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0];

fn with_buckets(builder: PrometheusBuilder) -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    builder
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_time_seconds".to_owned()), &HOLD_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), &BATCH_BUCKETS)
}

/// The process's one recorder of metrics. Whoever asks first installs it.
#[must_use]
pub fn metrics() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let recorder = with_buckets(PrometheusBuilder::new()).unwrap_or_default().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another recorder of metrics was installed before; /metrics stays empty");
            }
            // Descriptions go to the recorder that is installed.
            metrics::describe_histogram!(
                "http_server_request_duration_seconds",
                metrics::Unit::Seconds,
                "Time from the request's head to the answer's"
            );
            metrics::describe_counter!("http_server_requests_total", "Requests answered");
            metrics::describe_counter!(
                writer::DROPPED,
                "Log lines that were dropped because the reader of the log stalled or failed"
            );
            metrics::describe_gauge!("users_api_build_info", "1, with the version that runs");
            metrics::gauge!("users_api_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
            process().describe();
            // Shown from the beginning on.
            metrics::counter!(writer::DROPPED).absolute(0);
            handle
        })
        .clone()
}

/// What the system says of this process (`process_*`).
fn process() -> &'static metrics_process::Collector {
    static PROCESS: OnceLock<metrics_process::Collector> = OnceLock::new();
    PROCESS.get_or_init(metrics_process::Collector::default)
}

/// Updates the gauges of the process.
pub fn update_process_metrics() {
    process().collect();
}

/// An error and its causes in one line, each told once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut links: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Some errors repeat their cause in their own text.
        if links.last().is_none_or(|last| !last.ends_with(&text)) {
            links.push(text);
        }
        next = error.source();
    }
    links.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot be served")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("query failed: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn the_chain_tells_each_cause_once() {
        let error = Outer(Middle(std::io::Error::other("connection reset")));
        assert_eq!(chain(&error), "cannot be served: query failed: connection reset");
    }
}
