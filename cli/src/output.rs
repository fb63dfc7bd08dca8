//! Tables, colours and errors: how every command speaks to people, and JSON for programs.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use comfy_table::{Attribute, Cell, Color, Table, presets};
use owo_colors::{OwoColorize, Style};
use serde::Serialize;

/// Colours, or none. Decided once, from where the output goes and what its owner wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    coloured: bool,
}

impl Paint {
    /// Colours only if `stream` is a terminal and they are not refused.
    pub(crate) fn on(stream: &impl IsTerminal, refused: bool) -> Self {
        Paint { coloured: stream.is_terminal() && !refused }
    }

    /// Never colours.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Paint { coloured: false }
    }

    fn apply(self, text: impl Display, style: Style) -> String {
        if self.coloured { text.style(style).to_string() } else { text.to_string() }
    }

    /// How reports of configuration errors are drawn there.
    pub(crate) fn report_style(self) -> malla_config::Style {
        if self.coloured { malla_config::Style::Terminal { width: size().0 } } else { malla_config::Style::Plain }
    }

    /// Something that is as it should be.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.apply(text, Style::new().green())
    }

    /// Something that needs attention.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.apply(text, Style::new().red().bold())
    }

    /// A heading.
    pub(crate) fn strong(self, text: impl Display) -> String {
        self.apply(text, Style::new().bold())
    }

    /// Something that may be skipped.
    pub(crate) fn faint(self, text: impl Display) -> String {
        self.apply(text, Style::new().dimmed())
    }
}

/// What a cell of a table means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Needs attention.
    Bad,
}

/// A cell that shows `text` in the colour of its meaning.
pub(crate) fn cell(text: impl Display, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red).add_attribute(Attribute::Bold),
    }
}

/// A table without lines: readable, and easy to cut with `awk`.
pub(crate) fn table(paint: Paint, headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if paint.coloured {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    table
}

/// Lines of a table, without the blanks at their ends.
pub(crate) fn lines(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}

/// Columns and lines of the terminal, or what is usual.
pub(crate) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// Prints to standard output; a reader that went away (`malla status | head -1`) ends the program quietly.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    print_as_it_is(format_args!("{text}\n"))
}

/// The same without an end of line of its own.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn print_as_it_is(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Prints `value` as indented JSON.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(serde_json::to_string_pretty(value)?)
}

/// Prints an error and its causes as one sentence: `error: reading mesh/: No such file or directory`.
pub(crate) fn print_error(paint: Paint, error: &anyhow::Error) {
    let mut sentence = String::new();
    for cause in error.chain() {
        let level = cause.to_string();
        // Many library errors repeat their cause in their own text: say it once.
        if sentence.contains(&level) {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push_str(": ");
        }
        sentence.push_str(&level);
    }
    // Nothing is left to be done if standard error is gone.
    let _ = writeln!(std::io::stderr(), "{} {sentence}", paint.bad("error:"));
}
