//! The access log: a line for each request that is over, and for each raw TCP connection, on standard output.
//!
//! Off unless asked for: failures are told in the sidecar's own log anyway. A line is made on the worker and written by a thread of
//! its own; lines for which there is no room are dropped and counted, for a reader that stalls must not hold up requests.

use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

pub use malla_xds::telling::{FIELDS, Format, Which};
use malla_xds::telling::{Field, Part};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::metrics::Direction;
use crate::outcome::{Exchange, Of, Record};

/// Lines that may wait to be written; more are dropped and counted.
const QUEUE: usize = 8192;
/// How long the last lines may take when the sidecar stops.
const LAST: Duration = Duration::from_secs(1);

/// Which requests have a line, and what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLogSettings {
    /// Which requests.
    pub which: Which,
    /// What a line says.
    pub format: Format,
}

/// What a field is: text is quoted where it needs it, an absent one is `-` in text and left out of JSON.
enum Value<'a> {
    Text(&'a str),
    Made(String),
    Number(u64),
    /// In milliseconds.
    Time(Duration),
    Absent,
}

/// Where lines go.
#[derive(Debug)]
pub(crate) struct AccessLog {
    settings: AccessLogSettings,
    lines: SyncSender<Message>,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Line(String),
    /// Everything before is written once this is dropped.
    Flush(#[allow(dead_code, reason = "held for its drop")] SyncSender<()>),
}

impl AccessLog {
    /// Starts the thread that writes. It ends when the log is dropped, or with what it writes to.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(settings: AccessLogSettings, to: impl Write + Send + 'static) -> std::io::Result<AccessLog> {
        let (lines, waiting) = sync_channel(QUEUE);
        std::thread::Builder::new().name("malla-access-log".to_owned()).spawn(move || write(&waiting, to))?;
        Ok(AccessLog { settings, lines, dropped: AtomicU64::new(0) })
    }

    /// A request is over.
    pub(crate) fn record(&self, record: &Record<'_>) {
        let wanted = match self.settings.which {
            Which::Errors => failed(record),
            Which::Share(share) => failed(record) || fastrand::f64() < share,
        };
        if wanted && self.lines.try_send(Message::Line(line(&self.settings.format, record))).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines for which there was no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Waits until what was recorded is written, for a second at most.
    pub(crate) fn flush(&self) {
        let until = Instant::now() + LAST;
        let (done, written) = sync_channel(0);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = self.lines.try_send(message) {
            if Instant::now() >= until {
                return;
            }
            std::thread::sleep(LAST / 100);
            message = again;
        }
        // Nothing is ever sent: the other end is dropped when all is written.
        let _: Result<(), RecvTimeoutError> = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn failed(record: &Record<'_>) -> bool {
    record.reason.is_some() || record.has_failed()
}

/// Writes until the log is dropped, or until nobody takes it any more.
fn write(waiting: &Receiver<Message>, to: impl Write) {
    let mut to = BufWriter::new(to);
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        let mut flushed = Vec::new();
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    if writeln!(to, "{line}").is_err() {
                        return;
                    }
                }
                Message::Flush(done) => flushed.push(done),
            }
            next = waiting.try_recv().ok();
        }
        if to.flush().is_err() {
            return;
        }
    }
}

/// What is said of a request.
pub(crate) fn line(format: &Format, record: &Record<'_>) -> String {
    let mut line = String::with_capacity(512);
    match format {
        Format::Json => {
            line.push('{');
            for field in Field::ALL {
                let value = value(*field, record);
                if matches!(value, Value::Absent) {
                    continue;
                }
                let comma = if line.len() > 1 { "," } else { "" };
                let _ = write!(line, "{comma}\"{}\":", field.name());
                value.json(&mut line);
            }
            line.push('}');
        }
        Format::Text(template) => {
            for part in template.parts() {
                match part {
                    Part::Literal(text) => line.push_str(text),
                    Part::Field(field) => value(*field, record).text(&mut line),
                }
            }
        }
    }
    line
}

impl Value<'_> {
    fn json(&self, line: &mut String) {
        match self {
            Value::Text(text) => quote(text, line),
            Value::Made(text) => quote(text, line),
            Value::Number(number) => drop(write!(line, "{number}")),
            Value::Time(time) => drop(write!(line, "{:.3}", time.as_secs_f64() * 1000.0)),
            Value::Absent => line.push_str("null"),
        }
    }

    /// Quoted if it could be taken for something else: nobody writes lines of his own into the log.
    fn text(&self, line: &mut String) {
        let bare = |text: &str| {
            !text.is_empty() && text != "-" && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        match self {
            Value::Text(text) if bare(text) => line.push_str(text),
            Value::Made(text) if bare(text) => line.push_str(text),
            Value::Absent => line.push('-'),
            other => other.json(line),
        }
    }
}

fn quote(text: &str, line: &mut String) {
    // Text can always be written as JSON.
    line.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn value<'a>(field: Field, record: &Record<'a>) -> Value<'a> {
    let present = |text: &'a str| if text.is_empty() { Value::Absent } else { Value::Text(text) };
    let made = |text: Option<String>| text.map_or(Value::Absent, Value::Made);
    let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
        (Some(from), Some(to)) => Value::Time(to.saturating_duration_since(from)),
        _ => Value::Absent,
    };
    let outbound = record.endpoint.filter(|_| record.direction == Direction::Outbound);
    let (exchange, moved) = match record.of {
        Of::Request(exchange) => (Some(exchange), None),
        Of::Connection { sent, received } => (None, Some((sent, received))),
    };
    let number = |number: Option<u64>| number.map_or(Value::Absent, Value::Number);
    let times = record.times;
    match field {
        Field::Time => Value::Made(now()),
        Field::DirectionWord => Value::Text(record.direction.word()),
        Field::Service => present(record.service),
        Field::Route => present(record.route),
        Field::Protocol => Value::Text(exchange.map_or("tcp", |exchange| exchange.protocol.word())),
        Field::Method => exchange.map_or(Value::Absent, |exchange| present(exchange.method.as_str())),
        Field::Path => match exchange.and_then(|exchange: Exchange<'a>| exchange.path) {
            Some(path) => Value::Text(path.path()),
            None => Value::Absent,
        },
        Field::Status => number(exchange.map(|exchange| exchange.status.into())),
        Field::GrpcStatus => number(exchange.and_then(|exchange| exchange.grpc_status).map(u64::from)),
        Field::ReasonWord => record.reason.map_or(Value::Absent, |reason| Value::Text(reason.word())),
        Field::Sentence => made(record.reason.map(|reason| match record.what {
            Some(what) => format!("{}: {what}", reason.sentence()),
            None => reason.sentence().to_owned(),
        })),
        Field::Client => record.client.map_or(Value::Absent, |client| Value::Text(client.as_str())),
        Field::Endpoint => made(outbound.map(|endpoint| endpoint.address.to_string())),
        Field::Workload => outbound.map_or(Value::Absent, |endpoint| present(&endpoint.workload)),
        Field::Peer => match outbound.and_then(|endpoint| endpoint.identity.as_ref()) {
            Some(identity) => Value::Text(identity.as_str()),
            None => Value::Absent,
        },
        Field::Tries => Value::Number(record.tries.into()),
        Field::HedgeWord => match exchange.and_then(|exchange| exchange.hedge) {
            Some(hedge) => Value::Text(hedge.word()),
            None => Value::Absent,
        },
        Field::Sent => number(moved.map(|(sent, _)| sent)),
        Field::Received => number(moved.map(|(_, received)| received)),
        Field::Duration => Value::Time(record.duration()),
        Field::Waiting => between(Some(record.started), times.sent),
        Field::Connecting => between(times.sent, times.connected),
        Field::FirstByte => between(times.connected, times.answered),
        Field::Body if moved.is_some() => between(times.connected, Some(record.ended)),
        Field::Body => between(times.answered, Some(record.ended)),
        Field::Trace => made(record.trace.map(|trace| format!("{trace:032x}"))),
    }
}

/// `2026-11-22T14:03:05.123456Z`, as in the sidecar's own log.
fn now() -> String {
    let mut text = String::with_capacity(32);
    // Text can always be written to.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::uri::PathAndQuery;

    use parking_lot::Mutex;

    use super::*;
    use crate::metrics::Protocol;
    use crate::outcome::Times;
    use crate::reason::Reason;

    fn record<'a>(method: &'a http::Method, path: &'a PathAndQuery, reason: Option<Reason>) -> Record<'a> {
        let started = Instant::now();
        let after = |milliseconds| started + Duration::from_millis(milliseconds);
        Record {
            started,
            times: Times { sent: Some(after(1)), connected: Some(after(3)), answered: Some(after(6)) },
            ended: after(8),
            direction: Direction::Outbound,
            service: "cart.shop:80",
            route: "default",
            client: None,
            endpoint: None,
            reason,
            what: reason.map(|_| "10.0.0.1:80 \"x\""),
            tries: 2,
            trace: None,
            of: Of::Request(Exchange {
                protocol: Protocol::Http1,
                method,
                path: Some(path),
                status: if reason.is_some() { 503 } else { 200 },
                grpc_status: None,
                hedge: None,
            }),
        }
    }

    #[test]
    fn who_never_connected_has_no_time_of_connecting() {
        let (method, path) = (http::Method::GET, PathAndQuery::from_static("/"));
        let mut refused = record(&method, &path, Some(Reason::ConnectTimeout));
        refused.times.connected = None;
        let format: Format = "{connecting_ms} {first_byte_ms}".parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(line(&format, &refused), "- -");
    }

    #[test]
    fn a_connection_has_bytes_and_no_status() {
        let (method, path) = (http::Method::GET, PathAndQuery::from_static("/"));
        let mut connection = record(&method, &path, None);
        connection.of = Of::Connection { sent: 7, received: 9 };
        connection.times.answered = None;
        let format: Format = "{protocol} {status} {path} {sent_bytes}/{received_bytes} {waiting_ms}+{connecting_ms}+{first_byte_ms}+{body_ms}"
            .parse()
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(line(&format, &connection), "tcp - - 7/9 1.000+2.000+-+5.000");
    }

    #[test]
    fn a_line_says_what_its_template_asks_for() {
        let (method, path) = (http::Method::GET, PathAndQuery::from_static("/a?secret=1"));
        let line = |format: &str, reason| {
            let format: Format = format.parse().unwrap_or_else(|error| panic!("{error}"));
            super::line(&format, &record(&method, &path, reason))
        };
        let text = line(
            "{{{method}}} {path} {status} {reason} {client} {waiting_ms}+{connecting_ms}+{first_byte_ms}+{body_ms}",
            None,
        );
        assert_eq!(text, "{GET} /a 200 - - 1.000+2.000+3.000+2.000");
        let text = line("{reason} {sentence}", Some(Reason::ConnectRefused));
        assert_eq!(text, r#"connect_refused "the endpoint refused the connection: 10.0.0.1:80 \"x\"""#);
        let json: serde_json::Value = serde_json::from_str(&line("json", Some(Reason::ConnectRefused))).expect("JSON");
        assert_eq!((&json["status"], &json["tries"], &json["duration_ms"]), (&503.into(), &2.into(), &8.0.into()));
        assert_eq!(json.get("client"), None, "what is not known is left out");
        assert!(json["time"].as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z')), "{json}");
    }

    /// A writer that can be read, and that can be made to hang.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines(which: Which, records: &[Record<'_>]) -> (usize, u64) {
        let paper = Paper::default();
        let settings = AccessLogSettings { which, format: "{status}".parse().expect("a template") };
        let log = AccessLog::start(settings, paper.clone()).expect("a thread");
        records.iter().for_each(|record| log.record(record));
        log.flush();
        let written = paper.0.lock().iter().filter(|byte| **byte == b'\n').count();
        (written, log.dropped())
    }

    #[test]
    fn errors_are_always_told_and_the_rest_as_far_as_asked_for() {
        let (method, path) = (http::Method::GET, PathAndQuery::from_static("/"));
        let well = record(&method, &path, None);
        let ill = record(&method, &path, Some(Reason::NoEndpoints));
        let mixed: Vec<_> = (0..1000).map(|number| if number % 10 == 0 { ill } else { well }).collect();
        assert_eq!(lines(Which::Errors, &mixed), (100, 0));
        assert_eq!(lines(Which::Share(1.0), &mixed), (1000, 0));
        let (some, _) = lines(Which::Share(0.5), &mixed);
        // Six standard deviations of a binomial distribution around 100 + 450.
        assert!((460..640).contains(&some), "{some}");
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_nothing_else() {
        let (method, path) = (http::Method::GET, PathAndQuery::from_static("/"));
        let paper = Paper::default();
        let stalled = paper.0.lock();
        let settings = AccessLogSettings { which: Which::Share(1.0), format: Format::Json };
        let log = AccessLog::start(settings, paper.clone()).expect("a thread");
        let number = 3 * QUEUE;
        for _ in 0..number {
            log.record(&record(&method, &path, None));
        }
        assert!(log.dropped() > 0);
        drop(stalled);
        log.flush();
        let written = paper.0.lock().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(written as u64 + log.dropped(), number as u64);
    }
}
