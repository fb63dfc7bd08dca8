//! Texts of configuration files and positions in them. Reads nothing from disk.

use std::fmt;
use std::sync::Arc;

/// A file's name, for messages, and its whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The name that messages show: usually its path below the configuration directory.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// A file from its name and text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        SourceFile { path: path.into(), text: text.into() }
    }

    /// A file from its bytes. Bytes that are not UTF-8 become U+FFFD, which [`load`](crate::load) refuses with the
    /// position.
    pub fn from_bytes(path: impl Into<String>, bytes: &[u8]) -> Self {
        SourceFile { path: path.into(), text: String::from_utf8_lossy(bytes).into_owned() }
    }
}

/// A file prepared for positions: its lines are indexed once.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text without control characters, if it has some: a snippet must not command a terminal.
    harmless: Option<String>,
    /// Byte offset of the start of each line.
    line_starts: Vec<usize>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn new(file: &SourceFile) -> Arc<Source> {
        let newlines = file.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset + 1);
        let line_starts = std::iter::once(0).chain(newlines).collect();
        let harmful = |character: char| character.is_control() && !matches!(character, '\n' | '\r' | '\t');
        // As many bytes as before, so that positions stay.
        let harmless = file.text.contains(harmful).then(|| {
            let mut harmless = String::with_capacity(file.text.len());
            for character in file.text.chars() {
                if harmful(character) {
                    harmless.extend(std::iter::repeat_n('?', character.len_utf8()));
                } else {
                    harmless.push(character);
                }
            }
            harmless
        });
        Arc::new(Source { path: file.path.clone(), text: file.text.clone(), harmless, line_starts })
    }

    /// The text for snippets.
    pub(crate) fn shown(&self) -> &str {
        self.harmless.as_deref().unwrap_or(&self.text)
    }

    /// Line and column of a byte offset, both from 1; columns count characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.line_index(offset);
        let start = self.line_start(line);
        let characters = self.text.get(start..offset).map_or(0, |before| before.chars().count());
        (line + 1, characters + 1)
    }

    /// The whole lines around `start..end`, with `before` and `after` more of them: their byte range and the index of
    /// the first.
    pub(crate) fn lines_around(
        &self,
        start: usize,
        end: usize,
        before: usize,
        after: usize,
    ) -> (std::ops::Range<usize>, usize) {
        let first = self.line_index(start).saturating_sub(before);
        let last = self.line_index(end.max(start)).saturating_add(after);
        (self.line_start(first)..self.line_start(last.saturating_add(1)), first)
    }

    /// The text of the line on which `offset` lies, without its end.
    pub(crate) fn line_at(&self, offset: usize) -> &str {
        let line = self.line_index(offset);
        let text = self.text.get(self.line_start(line)..self.line_start(line + 1)).unwrap_or_default();
        text.trim_end_matches(['\n', '\r'])
    }

    fn line_index(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line).copied().unwrap_or(self.text.len())
    }
}

/// A piece of a [`Source`].
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) source: Arc<Source>,
    pub(crate) span: Span,
}

impl Place {
    /// Line and column of its start, both from 1.
    pub(crate) fn position(&self) -> (usize, usize) {
        self.source.position(self.span.start)
    }
}

/// Byte offsets in a [`Source`]; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// The empty span at an offset.
    pub(crate) fn at(offset: usize) -> Self {
        Span { start: offset, end: offset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_from_one_and_columns_in_characters() {
        let source = Source::new(&SourceFile::new("a", "x: ñandú\ny: 2"));
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position("x: ñ".len()), (1, 5));
        assert_eq!(source.position("x: ñandú\n".len()), (2, 1));
        assert_eq!(source.position(usize::MAX), (2, 1));
        assert_eq!(source.line_at(3), "x: ñandú");
        assert_eq!(source.line_at(usize::MAX), "y: 2");
    }
}
