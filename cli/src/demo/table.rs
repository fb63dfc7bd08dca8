//! The live table: edges as people read them. It owns the drawing; where the numbers come from is `edges`' part.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment};

use super::edges::{Edge, EdgeName, Sample};
use super::topology::INSTANCES;
use crate::output::{self, Paint, Tone};

/// Lines of the table of `edges` over `length`, heading first.
pub(crate) fn draw(paint: Paint, edges: &Sample, length: Duration) -> Vec<String> {
    let headings = ["SOURCE", "DESTINATION", "PROTOCOL", "RATE", "SUCCESS", "P50", "P99", "IDENTITY PROVED BY mTLS"];
    let mut table = output::table(paint, &headings);
    let mut names: Vec<&EdgeName> = edges.keys().collect();
    names.sort_by_key(|(source, destination)| (position(source), position(destination), destination));
    for name @ (source, destination) in names {
        let edge = &edges[name];
        table.add_row([
            Cell::new(first_label(source)),
            Cell::new(service_and_port(destination)),
            Cell::new(&edge.protocol),
            Cell::new(rate(edge, length)),
            success(edge),
            Cell::new(edge.quantile(0.5).map_or("-".to_owned(), milliseconds)),
            Cell::new(edge.quantile(0.99).map_or("-".to_owned(), milliseconds)),
            identity(edge),
        ]);
    }
    for column in 3..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    output::lines(&table)
}

/// The order in which a request meets them.
fn position(name: &str) -> usize {
    let name = first_label(name);
    INSTANCES.iter().position(|one| one.name == name || one.service == name).unwrap_or(usize::MAX)
}

fn first_label(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// `discounts-v1.travel-agency:8000` → `discounts-v1:8000`. The identity beside it tells the namespace.
fn service_and_port(name: &str) -> String {
    let port = name.rsplit_once(':').map_or("", |(_, port)| port);
    format!("{}:{port}", first_label(name))
}

fn rate(edge: &Edge, length: Duration) -> String {
    match length.is_zero() {
        true => "-".to_owned(),
        false => format!("{:.1}/s", edge.requests as f64 / length.as_secs_f64()),
    }
}

fn success(edge: &Edge) -> Cell {
    match edge.success() {
        None => Cell::new("-"),
        Some(_) if edge.failures == 0 => output::cell("100 %", Tone::Good),
        // Rounded down: 99.96 % is not 100 %.
        Some(share) => output::cell(format!("{:.1} %", (share * 1000.0).floor() / 10.0), Tone::Bad),
    }
}

/// `1.42 ms`, `0.31 ms`, `1203 ms`.
pub(crate) fn milliseconds(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    match milliseconds {
        small if small < 10.0 => format!("{small:.2} ms"),
        middle if middle < 100.0 => format!("{middle:.1} ms"),
        large => format!("{large:.0} ms"),
    }
}

fn identity(edge: &Edge) -> Cell {
    match short_identity(&edge.identity) {
        _ if edge.plaintext > 0 => output::cell("none: PLAINTEXT", Tone::Bad),
        "" => Cell::new("-"),
        short => Cell::new(short.replacen("/sa/", "/", 1)),
    }
}

/// `spiffe://cluster.local/ns/travel-agency/sa/cars` → `travel-agency/sa/cars`.
fn short_identity(identity: &str) -> &str {
    identity.split_once("/ns/").map_or(identity, |(_trust_domain, rest)| rest)
}

/// Where the live view is drawn.
#[derive(Debug)]
pub(crate) enum Screen {
    /// A terminal: the view has a screen of its own and is redrawn in place.
    Terminal,
    /// A file or pipe: views follow each other.
    Stream,
}

impl Screen {
    /// Standard output, as what it is.
    pub(crate) fn open() -> Self {
        if io::stdout().is_terminal() {
            // The alternate screen: what was on the terminal comes back afterwards. The cursor would only flicker.
            let _ = write!(io::stdout(), "\x1b[?1049h\x1b[?25l");
            Screen::Terminal
        } else {
            Screen::Stream
        }
    }

    /// How long to wait between two views.
    pub(crate) fn pace(&self) -> Duration {
        match self {
            Screen::Terminal => Duration::from_secs(1),
            Screen::Stream => Duration::from_secs(5),
        }
    }

    /// Shows a view: `main` as far as it fits, `below` always.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(crate) fn show(&self, main: &[String], below: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Screen::Stream => {
                for line in main {
                    writeln!(out, "{line}")?;
                }
                writeln!(out)?;
            }
            Screen::Terminal => {
                let (_, height) = output::size();
                let room = height.saturating_sub(below.len() + 1);
                let shown = if main.len() > room { room.saturating_sub(1) } else { main.len() };
                // Home; autowrap off, so that the terminal itself cuts long lines.
                write!(out, "\x1b[H\x1b[?7l")?;
                for line in &main[..shown] {
                    write!(out, "{line}\x1b[K\r\n")?;
                }
                if shown < main.len() {
                    write!(out, "… {} more lines in a taller window\x1b[K\r\n", main.len() - shown)?;
                }
                for line in below {
                    write!(out, "{line}\x1b[K\r\n")?;
                }
                write!(out, "\x1b[J\x1b[?7h")?;
            }
        }
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if matches!(self, Screen::Terminal) {
            let mut out = io::stdout();
            // Nothing is left to be done if the terminal is gone.
            let _ = write!(out, "\x1b[?25h\x1b[?1049l").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_way_of_a_request_and_marks_plaintext() {
        let edge = |plaintext, failures, identity: &str| Edge {
            protocol: "http/2".to_owned(),
            identity: identity.to_owned(),
            requests: 100,
            failures,
            plaintext,
            ..Edge::default()
        };
        let name = |source: &str, destination: &str| (source.to_owned(), destination.to_owned());
        let sample = Sample::from([
            (
                name("cars-v1.travel-agency", "discounts-v2.travel-agency:8000"),
                edge(0, 1, "spiffe://td/ns/travel-agency/sa/discounts"),
            ),
            (name("viaggi-portal.travel-portal", "travels-v1.travel-agency:8000"), edge(100, 0, "")),
        ]);
        let lines = draw(Paint::none(), &sample, Duration::from_secs(5));
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            words[1],
            ["viaggi-portal", "travels-v1:8000", "http/2", "20.0/s", "100", "%", "-", "-", "none:", "PLAINTEXT"]
        );
        assert_eq!(
            words[2],
            ["cars-v1", "discounts-v2:8000", "http/2", "20.0/s", "99.0", "%", "-", "-", "travel-agency/discounts"]
        );
    }

    #[test]
    fn durations_keep_three_digits() {
        let shown = [0.000_314, 0.001_42, 0.0123, 1.203].map(|seconds| milliseconds(Duration::from_secs_f64(seconds)));
        assert_eq!(shown, ["0.31 ms", "1.42 ms", "12.3 ms", "1203 ms"]);
    }
}
