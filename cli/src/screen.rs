//! A view that is drawn again and again: on a terminal in place, into a file one after the other.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::output;

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
