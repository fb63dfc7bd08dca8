//! A typed value's way back to its place: the same path, walked over the located tree.

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::object::{Object, Resource};
use crate::source::{Place, Span};
use crate::yaml::Node;

/// A position in an [`Object`]. The position of a field that is not written is that of the mapping which lacks it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    object: &'a Object,
    node: &'a Node,
    key: Option<Span>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(object: &'a Object) -> Self {
        Cursor { object, node: &object.root, key: None }
    }

    /// A field of a mapping.
    pub(crate) fn field(self, name: &str) -> Self {
        match self.node.entry(name) {
            Some(entry) => Cursor { node: &entry.value, key: Some(entry.key_span), ..self },
            None => Cursor { key: None, ..self },
        }
    }

    /// An item of a sequence.
    pub(crate) fn item(self, index: usize) -> Self {
        match self.node.items().get(index) {
            Some(item) => Cursor { node: item, key: None, ..self },
            None => Cursor { key: None, ..self },
        }
    }

    /// All items of a sequence.
    pub(crate) fn items(self) -> Vec<Self> {
        self.node.items().iter().map(|node| Cursor { node, key: None, ..self }).collect()
    }

    /// The resource that it is in.
    pub(crate) fn resource(self) -> &'a Resource {
        &self.object.resource
    }

    /// Whether the mapping has this field.
    pub(crate) fn has(self, name: &str) -> bool {
        self.node.entry(name).is_some()
    }

    /// Where a field of a mapping is written: its key and its value.
    pub(crate) fn spans(self, name: &str) -> Option<[Span; 2]> {
        self.node.entry(name).map(|entry| [entry.key_span, entry.value.span])
    }

    /// Whether what is named here without a namespace, or in another one, can be looked for: not if the namespace of the
    /// object is itself wrong.
    pub(crate) fn is_placed(self) -> bool {
        self.object.placed
    }

    /// The same position, shown by its key rather than its value.
    pub(crate) fn key(self) -> Key<'a> {
        Key(self)
    }

    /// Whether it is a mapping or sequence without anything in it.
    pub(crate) fn is_empty(self) -> bool {
        self.node.items().is_empty() && self.node.entries().is_empty()
    }

    pub(crate) fn place(self) -> Place {
        self.object.place(self.node.span)
    }

    /// An error here. Say so to [`report`](Self::report) when it is complete.
    pub(crate) fn problem(self, code: Code, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new(code, self.place(), message).of(&self.object.resource)
    }

    /// Reports an error made here, unless the shape of this very place was wrong already.
    pub(crate) fn report(self, diagnostics: &mut Diagnostics, diagnostic: Diagnostic) {
        if !self.object.reported.contains(&self.node.span) {
            diagnostics.push(diagnostic);
        }
    }

    /// Reports an error with the advice what to write.
    pub(crate) fn error(
        self,
        diagnostics: &mut Diagnostics,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(diagnostics, self.problem(code, message).help(help));
    }

    /// Warns, with the advice what to write.
    pub(crate) fn warning(
        self,
        diagnostics: &mut Diagnostics,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(diagnostics, self.problem(code, message).help(help).warning());
    }

    /// The text of a string.
    pub(crate) fn text(self) -> Option<&'a str> {
        self.node.as_str()
    }

    /// Refuses something valid that is not implemented.
    pub(crate) fn unsupported(self, diagnostics: &mut Diagnostics, what: &str) {
        self.unsupported_because(diagnostics, what, "remove it");
    }

    /// Refuses something valid that is not implemented, with the advice what to write.
    pub(crate) fn unsupported_because(self, diagnostics: &mut Diagnostics, what: &str, help: &str) {
        self.key().error(diagnostics, Code::NotSupported, format!("{what} is not supported yet"), help);
    }
}

/// A position shown by its key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a>(Cursor<'a>);

impl Key<'_> {
    pub(crate) fn place(self) -> Place {
        self.0.object.place(self.0.key.unwrap_or(self.0.node.span))
    }

    /// Reports an error with the advice what to write.
    pub(crate) fn error(
        self,
        diagnostics: &mut Diagnostics,
        code: Code,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::new(code, self.place(), message).of(&self.0.object.resource).help(help);
        self.0.report(diagnostics, diagnostic);
    }
}
