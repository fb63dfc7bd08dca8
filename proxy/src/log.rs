//! Which of its own events a program logs.

use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};

/// Levels, of everything and of single modules: `info`, or `info,malla_proxy=debug`.
#[derive(Debug, Clone)]
pub struct LogFilter(pub Targets);

/// Why a text is no filter.
#[derive(Debug, thiserror::Error)]
pub enum LogFilterError {
    /// A word alone would be taken for a module, of which everything is logged, and of nothing else anything.
    #[error("`{0}` is not a level: write error, warn, info, debug or off, or for one module `info,malla_proxy=debug`")]
    NotALevel(String),
    /// Of a module.
    #[error("{0}: write levels of modules as in `info,malla_proxy=debug`")]
    Directive(#[from] ParseError),
}

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<LogFilter, LogFilterError> {
        let mut words = text.split(',').map(str::trim).filter(|word| !word.contains('='));
        // An empty word would be the level `error`.
        match words.find(|word| word.is_empty() || word.parse::<LevelFilter>().is_err()) {
            Some(word) => Err(LogFilterError::NotALevel(word.to_owned())),
            None => Ok(LogFilter(text.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn levels_are_taken_and_other_words_are_not() {
        for (text, target, most) in [
            ("warn", "h2", LevelFilter::WARN),
            ("off", "h2", LevelFilter::OFF),
            ("info, malla_proxy=debug", "h2", LevelFilter::INFO),
            ("info,malla_proxy=debug", "malla_proxy::pool", LevelFilter::DEBUG),
        ] {
            let LogFilter(filter) = text.parse().expect("is one");
            for level in [tracing::Level::ERROR, tracing::Level::WARN, tracing::Level::INFO, tracing::Level::DEBUG] {
                assert_eq!(filter.would_enable(target, &level), level <= most, "{text}: {target} {level}");
            }
        }
        for wrong in ["loud", "", "info,loud", "malla_proxy=loud"] {
            let error = wrong.parse::<LogFilter>().expect_err("is none").to_string();
            assert!(error.contains("info,malla_proxy=debug"), "{wrong}: {error}");
        }
    }
}
