//! Observability: the log, the metrics recorder, and traces over OTLP.

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
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

pub use self::open_metrics::open_metrics;
use self::writer::LogWriter;
use crate::settings::{LogFormat, LogSettings, Settings};

/// How long the process waits at exit for a stalled reader of its output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout for exporting the remaining spans at exit.
const FINAL_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for exporting a batch of spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bucket bounds for request durations, in seconds: a lookup by key takes 1 ms, a patient client waits 10 s.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bucket bounds for times of the pool, in seconds: usually a connection is available immediately, and a lookup by key
/// holds it for a fraction of a millisecond.
const POOL_TIME_BUCKETS: [f64; 15] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// The output of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Standard output, for the service.
    Stdout,
    /// Standard error, for commands that print a result.
    Stderr,
}

/// An error while setting up telemetry.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The trace exporter could not be built.
    #[error("cannot set up the trace exporter")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Another logger is already installed.
    #[error("cannot install the logger")]
    Log(#[from] tracing_subscriber::util::TryInitError),
    /// The output of the log could not be opened, or its thread could not be started.
    #[error("cannot start the log writer")]
    Output(#[from] io::Error),
}

/// Flushes the log and the traces at exit.
#[must_use = "log lines and spans that are not flushed are lost"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    log: LogWriter,
}

/// Flushes the log, for a process that exits without [`Telemetry::end`].
#[derive(Clone)]
pub struct LogFlush(LogWriter);

impl LogFlush {
    /// Waits until the log is written, for 1 s at most.
    pub fn flush(&self) {
        self.0.flush(FLUSH_TIMEOUT);
    }
}

impl Telemetry {
    /// Starts the log, and traces if an endpoint is set. Call it once per process, outside any async runtime.
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
            // Exclude the driver's spans, which would carry connection parameters.
            let own_spans =
                Targets::new().with_target("users_api", LevelFilter::INFO).with_target("orm_pool", LevelFilter::INFO);
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("users-api"))
                .with_location(false)
                .with_threads(false)
                .with_filter(own_spans)
        });
        let (writer, is_terminal) = log.open()?;
        let layer = log_layer(&settings.log, writer.clone(), is_terminal);
        let filter = EnvFilter::new(&settings.log.filter);
        // Events are self-contained. Spans are for traces; formatting them in the log would cost every request.
        let events = filter_fn(is_event);
        let registry = tracing_subscriber::registry();
        match spans {
            Some(spans) => {
                let filter = filter.and(events).and(dynamic_filter_fn(is_unexpected));
                registry.with(layer.with_filter(filter)).with(spans).try_init()?;
            }
            // For all layers: a filter of a single one cannot inform a driver that its statements are not logged; the
            // driver would then prepare an event for each of them.
            None => {
                registry.with(layer).with(dynamic_filter_fn(is_unexpected)).with(events).with(filter).try_init()?;
            }
        }
        let flush = LogFlush(writer.clone());
        std::panic::set_hook(Box::new(move |panic| log_panic(panic, &flush)));
        Ok(Self { traces, log: writer })
    }

    /// Returns a handle that flushes the log.
    #[must_use]
    pub fn log_flush(&self) -> LogFlush {
        LogFlush(self.log.clone())
    }

    /// Exports the remaining spans and flushes the log. Takes 3 s at most.
    pub fn end(self) {
        let log = self.log_flush();
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown_with_timeout(FINAL_EXPORT_TIMEOUT)) {
            tracing::warn!(%error, "cannot export the remaining spans");
        }
        log.flush();
    }
}

impl Log {
    /// Returns a writer that never blocks, and whether it writes to a terminal.
    fn open(self) -> io::Result<(LogWriter, bool)> {
        let (descriptor, is_terminal) = match self {
            Self::Stdout => (io::stdout().as_fd().try_clone_to_owned()?, io::stdout().is_terminal()),
            Self::Stderr => (io::stderr().as_fd().try_clone_to_owned()?, io::stderr().is_terminal()),
        };
        Ok((LogWriter::start(File::from(descriptor))?, is_terminal))
    }
}

/// Logs a panic. The default hook writes to standard error, which blocks while its reader stalls.
fn log_panic(panic: &PanicHookInfo<'_>, log: &LogFlush) {
    let thread = thread::current();
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        thread = thread.name(),
        location = panic.location().map(ToString::to_string),
        error = panic.payload_as_str(),
        backtrace,
        "thread panicked"
    );
    if thread.name() == Some("main") {
        // A panic of the main thread ends the process.
        log.flush();
    }
}

/// Prints a line to standard error. A stalled reader delays it by 1 s at most.
#[expect(clippy::print_stderr, reason = "for use before the log starts and after it ends")]
pub fn print_error(line: String) {
    let (send, printed) = std::sync::mpsc::channel();
    let print = move || {
        eprintln!("{line}");
        // The receiver is gone after the timeout.
        let _ = send.send(());
    };
    if thread::Builder::new().spawn(print).is_ok() {
        let _ = printed.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn log_layer(settings: &LogSettings, writer: LogWriter, is_terminal: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let human = match settings.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    if human {
        layer.compact().boxed()
    } else {
        layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    }
}

static LISTENER_CLOSING: AtomicBool = AtomicBool::new(false);

/// Silences the errors of the server's accept thread, which are expected once the listener is closed on purpose. Until
/// then they matter (no file descriptors left).
pub(crate) fn expect_listener_close() {
    LISTENER_CLOSING.store(true, Ordering::Release);
}

fn is_unexpected<S>(metadata: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
    metadata.target() != "actix_server::accept" || !LISTENER_CLOSING.load(Ordering::Acquire)
}

fn is_event(metadata: &tracing::Metadata<'_>) -> bool {
    // The clients of NATS and Kafka log each attempt to connect; the feed reports when a broker is unreachable.
    metadata.is_event() && !["async_nats", "krafka"].iter().any(|client| metadata.target().starts_with(client))
}

fn tracer_provider(url: String, service: String) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(url)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let resource = Resource::builder().with_service_name(service).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Bucket bounds for batch sizes, in operations.
const BATCH_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0];

fn with_buckets(builder: PrometheusBuilder) -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    builder
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_time_seconds".to_owned()), &POOL_TIME_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_size".to_owned()), &BATCH_BUCKETS)
}

/// Returns the metrics recorder of the process. The first call installs it.
#[must_use]
pub fn metrics() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let recorder = with_buckets(PrometheusBuilder::new()).unwrap_or_default().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is already installed; /metrics is empty");
            }
            // Descriptions need an installed recorder.
            metrics::describe_counter!(
                writer::DROPPED,
                "Log lines dropped because the reader of the log stalled or failed"
            );
            metrics::describe_gauge!("users_api_build_info", "Always 1; the label is the running version");
            metrics::gauge!("users_api_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
            process().describe();
            // Exports the counter before the first line is dropped.
            metrics::counter!(writer::DROPPED).absolute(0);
            handle
        })
        .clone()
}

/// Collects the operating system's metrics of this process (`process_*`).
fn process() -> &'static metrics_process::Collector {
    static PROCESS: OnceLock<metrics_process::Collector> = OnceLock::new();
    PROCESS.get_or_init(metrics_process::Collector::default)
}

/// Updates the metrics of this process (`process_*`).
pub fn update_process_metrics() {
    process().collect();
}
