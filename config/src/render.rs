//! A [`Report`] as text with snippets. Decides no colours by itself: the caller knows whether it writes to a terminal.

use std::fmt;
use std::sync::Arc;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan,
    SpanContents,
};

use crate::diagnostic::{Diagnostic, Related, Report, Severity};
use crate::source::{Place, Source};

/// How [`Report::render`] draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// ASCII without colours: files, pipes, logs.
    Plain,
    /// Line-drawing characters and ANSI colours, wrapped at this many columns.
    Terminal {
        /// Columns of the terminal.
        width: usize,
    },
    /// Line-drawing characters without colours (`NO_COLOR`).
    Monochrome {
        /// Columns of the terminal.
        width: usize,
    },
}

impl Report {
    /// All diagnostics with snippets, then how many there are.
    pub fn render(&self, style: Style) -> String {
        let (theme, width) = match style {
            Style::Plain => (GraphicalTheme::none(), 120),
            Style::Terminal { width } => (GraphicalTheme::unicode(), width),
            Style::Monochrome { width } => (GraphicalTheme::unicode_nocolor(), width),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(width.max(40))
            .with_links(false)
            .with_show_related_as_nested(true);
        let mut out = String::new();
        for diagnostic in self.diagnostics() {
            let drawn = has_short_lines(diagnostic) && handler.render_report(&mut out, &Drawn::new(diagnostic)).is_ok();
            if !drawn {
                let help = diagnostic.help.as_deref().unwrap_or_default();
                out.push_str(&format!("  {diagnostic}\n  help: {help}\n"));
            }
            out.push('\n');
        }
        let omitted = (self.error_count() + self.warning_count()).saturating_sub(self.diagnostics().len());
        if omitted > 0 {
            out.push_str(&format!("and {omitted} more, not shown\n"));
        }
        let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let counts = match (self.error_count(), self.warning_count()) {
            (errors, 0) => plural(errors, "error"),
            (0, warnings) => plural(warnings, "warning"),
            (errors, warnings) => format!("{} and {}", plural(errors, "error"), plural(warnings, "warning")),
        };
        out.push_str(&format!("{counts} in {}\n", plural(self.file_count(), "file")));
        out
    }
}

/// The rendering in [`Style::Plain`].
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

/// Whether its snippets are for people. A line of a megabyte is not shown.
fn has_short_lines(diagnostic: &Diagnostic) -> bool {
    const LONGEST: usize = 1_000;
    std::iter::once(&diagnostic.place).chain(diagnostic.related.iter().map(|related| &related.place)).all(|place| {
        let (lines, _) = place.source.lines_around(place.span.start, place.span.start, 1, 1);
        lines.len() <= 3 * LONGEST
    })
}

/// A diagnostic in the form that miette draws.
#[derive(Debug)]
struct Drawn<'a> {
    diagnostic: &'a Diagnostic,
    source: Lines,
    elsewhere: Vec<DrawnRelated<'a>>,
}

impl<'a> Drawn<'a> {
    fn new(diagnostic: &'a Diagnostic) -> Self {
        let elsewhere = diagnostic
            .related
            .iter()
            .filter(|related| !same_source(&related.place, &diagnostic.place))
            .map(|related| DrawnRelated { related, source: Lines(related.place.source.clone()) })
            .collect();
        Drawn { diagnostic, source: Lines(diagnostic.place.source.clone()), elsewhere }
    }
}

fn same_source(a: &Place, b: &Place) -> bool {
    Arc::ptr_eq(&a.source, &b.source)
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(resource) = &self.diagnostic.resource {
            write!(f, "{resource}: ")?;
        }
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        self.diagnostic.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let own = LabeledSpan::new_primary_with_span(Some("here".into()), drawn_span(&self.diagnostic.place));
        let others = self
            .diagnostic
            .related
            .iter()
            .filter(|related| same_source(&related.place, &self.diagnostic.place))
            .map(|related| LabeledSpan::new_with_span(Some(related.message.clone()), drawn_span(&related.place)));
        Some(Box::new(std::iter::once(own).chain(others)))
    }

    fn related<'b>(&'b self) -> Option<Box<dyn Iterator<Item = &'b dyn miette::Diagnostic> + 'b>> {
        if self.elsewhere.is_empty() {
            return None;
        }
        Some(Box::new(self.elsewhere.iter().map(|related| related as &dyn miette::Diagnostic)))
    }
}

/// A place in another file.
#[derive(Debug)]
struct DrawnRelated<'a> {
    related: &'a Related,
    source: Lines,
}

impl fmt::Display for DrawnRelated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.related.message)
    }
}

impl std::error::Error for DrawnRelated<'_> {}

impl miette::Diagnostic for DrawnRelated<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(miette::Severity::Advice)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_primary_with_span(Some("here".into()), drawn_span(&self.related.place));
        Some(Box::new(std::iter::once(label)))
    }
}

/// The part of a place on its first line: a mapping of thirty lines is pointed at by its beginning.
fn drawn_span(place: &Place) -> SourceSpan {
    let (line, _) = place.source.lines_around(place.span.start, place.span.start, 0, 0);
    let text = place.source.text.get(place.span.start..line.end.min(place.span.end.max(place.span.start)));
    let length = text.map_or(0, |text| text.trim_end().len());
    (place.span.start, length).into()
}

/// A source whose lines are found by index instead of by reading it from the start for each snippet.
#[derive(Debug)]
struct Lines(Arc<Source>);

impl SourceCode for Lines {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let end = (span.offset() + span.len()).saturating_sub(usize::from(!span.is_empty()));
        let (range, first) = self.0.lines_around(span.offset(), end, before, after);
        let text = self.0.shown().get(range.clone()).ok_or(MietteError::OutOfBounds)?;
        // Without context miette asks for the position that it prints above the snippet.
        let column = if before == 0 { self.0.position(span.offset()).1 - 1 } else { 0 };
        let contents = MietteSpanContents::new_named(
            self.0.path.clone(),
            text.as_bytes(),
            (range.start, range.len()).into(),
            first,
            column,
            text.lines().count(),
        );
        Ok(Box::new(contents))
    }
}
