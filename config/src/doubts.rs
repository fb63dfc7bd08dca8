//! Which parts of a route with errors still say what was meant: those that no error is about. A wrong backend does not make
//! doubtful which requests a rule is for; a misspelt `matches` does.

use crate::cursor::Cursor;
use crate::diagnostic::Diagnostics;
use crate::object::Object;
use crate::source::Span;

/// Fields of a rule that say nothing about which requests it is for.
const BESIDE_MATCHES: [&str; 6] = ["backendRefs", "filters", "name", "retry", "sessionPersistence", "timeouts"];

/// The places of the errors of one object.
pub(crate) struct Doubts {
    errors: Vec<Span>,
    /// There were too many errors to keep them all.
    everywhere: bool,
}

impl Doubts {
    /// Of an object without errors.
    pub(crate) fn none() -> Doubts {
        Doubts { errors: Vec::new(), everywhere: false }
    }

    /// Of an object with errors, which have been reported.
    pub(crate) fn about(object: &Object, diagnostics: &Diagnostics) -> Doubts {
        let errors = diagnostics.spans_in(&object.source).filter(|error| within(*error, object.root.span)).collect();
        Doubts { errors, everywhere: diagnostics.is_full() }
    }

    /// Whether the whole route may be for other requests than it seems.
    pub(crate) fn of_route(&self, object: &Object) -> bool {
        self.beside(object.root_cursor(), &["metadata", "spec", "status"])
            || self.beside(object.cursor(), &["parentRefs", "rules", "useDefaultGateways"])
    }

    /// Whether a rule, read as having so many matches, may have others.
    pub(crate) fn of_rule(&self, rule: Cursor<'_>, matches: usize) -> bool {
        let written = rule.field("matches").items().len();
        // A rule without matches has the one that matches everything.
        let unread = rule.has("matches") && written.max(1) != matches;
        unread || self.beside(rule, &[&BESIDE_MATCHES[..], &["matches"]].concat())
    }

    /// Whether a match may be another.
    pub(crate) fn of_match(&self, matching: Cursor<'_>) -> bool {
        self.beside(matching, &[])
    }

    /// Whether an error is in a mapping, and not in one of these fields of it.
    fn beside(&self, mapping: Cursor<'_>, fields: &[&str]) -> bool {
        let apart: Vec<Span> = fields.iter().filter_map(|field| mapping.spans(field)).flatten().collect();
        let place = mapping.place().span;
        let counts = |error: &Span| within(*error, place) && !apart.iter().any(|span| within(*error, *span));
        self.everywhere || self.errors.iter().any(counts)
    }
}

fn within(inner: Span, outer: Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
