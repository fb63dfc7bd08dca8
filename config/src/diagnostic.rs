//! Errors and warnings of a configuration: what, where, and what to write instead. Rendering is `render.rs`'s part.

use std::fmt;

use serde::Serialize;

use crate::source::{Place, Span};

/// How many diagnostics a [`Report`] keeps; further ones are only counted.
const MAX_DIAGNOSTICS: usize = 1_000;

/// Everything that is wrong, or suspicious, with a configuration.
///
/// `Display` prints each diagnostic with its snippet, without colours. Serializes as
/// `{"errors": 2, "warnings": 0, "diagnostics": […]}`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    errors: usize,
    warnings: usize,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The diagnostics in the order of files and lines: all of them, up to a thousand.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// The same, to keep.
    pub(crate) fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.diagnostics
    }

    /// How many errors were found, including those beyond the thousand that are kept.
    pub fn error_count(&self) -> usize {
        self.errors
    }

    /// How many warnings there are: the configuration is taken, but hardly means what was wanted.
    pub fn warning_count(&self) -> usize {
        self.warnings
    }

    /// How many files have diagnostics.
    pub fn file_count(&self) -> usize {
        let mut files: Vec<&str> = self.diagnostics.iter().map(|diagnostic| diagnostic.file.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    }

    /// One line for logs and status pages: the count and the first error.
    pub fn summary(&self) -> String {
        let count = match self.errors {
            1 => "1 error".to_owned(),
            errors => format!("{errors} errors"),
        };
        match self.diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error) {
            Some(first) => format!("{count}: {first}"),
            None => count,
        }
    }
}

impl std::error::Error for Report {}

/// The kind of an error, stable for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Code {
    /// Not YAML, or YAML that different tools read differently.
    Syntax,
    /// An `apiVersion` and `kind` that Malla does not know.
    UnknownKind,
    /// A field that the kind does not have.
    UnknownField,
    /// A field that the kind requires is absent.
    MissingField,
    /// A value of another type than the field's.
    WrongType,
    /// A value that the field does not take.
    InvalidValue,
    /// A reference to something that is not there.
    DanglingReference,
    /// A reference across namespaces that no `ReferenceGrant` allows.
    NotGranted,
    /// Two things with the same name or address.
    Duplicate,
    /// Two routes that claim the same requests.
    Conflict,
    /// A reference that leads back to itself.
    Cycle,
    /// Something that would never have an effect.
    NoEffect,
    /// Valid, and not implemented.
    NotSupported,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is taken.
    Warning,
}

/// One error or warning.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of error.
    pub code: Code,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The resource, as `HTTPRoute shop/cart`; absent where the error is not in one.
    pub resource: Option<String>,
    /// What is wrong: a sentence without a dot.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Other places that take part in it.
    pub related: Vec<Related>,
    #[serde(skip)]
    pub(crate) place: Place,
}

/// Another place that takes part in an error.
#[derive(Debug, Clone, Serialize)]
pub struct Related {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is there.
    pub message: String,
    #[serde(skip)]
    pub(crate) place: Place,
}

/// `file:line:column: HTTPRoute shop/cart: message`, on one line.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Diagnostic {
    pub(crate) fn new(code: Code, place: Place, message: impl Into<String>) -> Self {
        let (line, column) = place.position();
        Diagnostic {
            severity: Severity::Error,
            code,
            file: place.source.path.clone(),
            line,
            column,
            resource: None,
            message: harmless(message.into()),
            help: None,
            related: Vec::new(),
            place,
        }
    }

    pub(crate) fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    pub(crate) fn of(mut self, resource: impl fmt::Display) -> Self {
        self.resource = Some(harmless(resource.to_string()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(harmless(help.into()));
        self
    }

    pub(crate) fn related(mut self, place: Place, message: impl Into<String>) -> Self {
        let (line, column) = place.position();
        self.related.push(Related { file: place.source.path.clone(), line, column, message: message.into(), place });
        self
    }
}

/// Text without the control characters that a quoted string of YAML may bring in.
fn harmless(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, "?") } else { text }
}

/// Collects diagnostics while loading.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    found: Vec<Diagnostic>,
    omitted: usize,
    warnings: usize,
}

impl Diagnostics {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.is_full() {
            self.omitted += usize::from(diagnostic.severity == Severity::Error);
        } else {
            self.warnings += usize::from(diagnostic.severity == Severity::Warning);
            self.found.push(diagnostic);
        }
    }

    /// Errors that were found and not kept.
    pub(crate) fn omitted(&self) -> usize {
        self.omitted
    }

    /// Further errors that are not kept.
    pub(crate) fn omit(&mut self, errors: usize) {
        self.omitted += errors;
    }

    /// Whether further errors are only counted: what would be said about them is not worth finding out.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= MAX_DIAGNOSTICS
    }

    /// The places in a source of what was found so far.
    pub(crate) fn spans_in<'a>(
        &'a self,
        source: &'a std::sync::Arc<crate::source::Source>,
    ) -> impl Iterator<Item = Span> {
        let here = move |found: &&Diagnostic| std::sync::Arc::ptr_eq(&found.place.source, source);
        self.found.iter().filter(here).map(|found| found.place.span)
    }

    /// How many errors there are so far.
    pub(crate) fn count(&self) -> usize {
        self.found.len() - self.warnings + self.omitted
    }

    /// How much has been said so far, warnings too.
    pub(crate) fn said(&self) -> usize {
        self.found.len() + self.omitted
    }

    /// The report, sorted by the order of `files` and then by place.
    pub(crate) fn into_report(self, files: &[std::sync::Arc<crate::source::Source>]) -> Report {
        let errors = self.count();
        let mut diagnostics = self.found;
        let rank = |diagnostic: &Diagnostic| {
            files.iter().position(|source| std::sync::Arc::ptr_eq(source, &diagnostic.place.source))
        };
        diagnostics.sort_by_cached_key(|diagnostic| (rank(diagnostic), diagnostic.place.span));
        Report { errors, warnings: self.warnings, diagnostics }
    }
}
