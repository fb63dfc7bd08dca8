//! YAML text → trees in which every key and value knows its place.
//!
//! Owns the syntax: documents, anchors, duplicate keys, tags and the limits on size and depth. What a scalar *means* is
//! `scalar.rs`'s part, and which fields exist `schema_walk.rs`'s. A broken document does not hide the ones after it.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::scalar::{self, Plain};
use crate::source::{Place, Source, Span};

/// A file longer than this is not a mesh's configuration.
const MAX_FILE_BYTES: usize = 8 << 20;
/// Nesting of values, with what aliases bring in.
const MAX_DEPTH: u32 = 64;
/// Values that the aliases of one file may expand to.
const MAX_ALIASED_VALUES: u32 = 50_000;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
    /// Values in it, itself included.
    size: u32,
    /// Levels of collections in it.
    depth: u32,
}

/// What a [`Node`] is. Collections are shared, so an alias costs nothing.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Scalar(Scalar),
    Sequence(Arc<[Node]>),
    Mapping(Arc<[Entry]>),
    /// Already reported; whoever meets it says nothing more.
    Broken,
}

/// A scalar as written.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: Arc<str>,
    /// Neither quoted, nor a block, nor tagged `!!str`.
    pub(crate) plain: bool,
}

/// One `key: value`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Arc<str>,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// The entry of a mapping.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| &*entry.key == key)
    }

    /// The value of a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entries of a mapping; none of anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a sequence; none of anything else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar that is a string for every YAML tool.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if !scalar.plain || scalar::resolve(&scalar.text) == Plain::String => {
                Some(&scalar.text)
            }
            _ => None,
        }
    }

    fn new(span: Span, value: Value) -> Self {
        let (size, depth) = match &value {
            Value::Scalar(_) | Value::Broken => (0, 0),
            Value::Sequence(items) => measure(items.iter()),
            Value::Mapping(entries) => measure(entries.iter().map(|entry| &entry.value)),
        };
        Node { span, value, size: size.saturating_add(1), depth }
    }
}

fn measure<'a>(children: impl Iterator<Item = &'a Node>) -> (u32, u32) {
    children.fold((0, 1), |(size, depth), child| (size.saturating_add(child.size), depth.max(child.depth + 1)))
}

/// The documents of a file, empty ones left out, and whether all of them could be read.
pub(crate) fn parse(source: &Arc<Source>, diagnostics: &mut Diagnostics) -> (Vec<Node>, bool) {
    if source.text.len() > MAX_FILE_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
        diagnostics.push(problem(source, Span::at(0), message).help("split it, or remove what is not configuration"));
        return (Vec::new(), false);
    }
    if let Some(offset) = source.text.find('\u{fffd}') {
        let span = Span { start: offset, end: offset + '\u{fffd}'.len_utf8() };
        diagnostics.push(problem(source, span, "the file is not UTF-8").help("save it as UTF-8"));
        return (Vec::new(), false);
    }
    let mut reader = Reader { source, diagnostics, complete: true, aliased: 0 };
    let documents = reader.documents();
    (documents, reader.complete)
}

fn problem(source: &Arc<Source>, span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(Code::Syntax, Place { source: source.clone(), span }, message)
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    diagnostics: &'a mut Diagnostics,
    complete: bool,
    aliased: u32,
}

/// A collection whose end has not been met.
struct Open {
    span: Span,
    anchor: usize,
    children: Children,
}

enum Children {
    Items(Vec<Node>),
    Entries(Entries),
}

#[derive(Default)]
struct Entries {
    entries: Vec<Entry>,
    /// Where each key stands.
    seen: HashMap<Arc<str>, Span>,
    /// The key whose value comes next.
    waiting: Option<Key>,
}

/// A key that waits for its value; one without text was refused.
struct Key {
    text: Option<Arc<str>>,
    span: Span,
}

impl Reader<'_> {
    fn documents(&mut self) -> Vec<Node> {
        let options = granit_parser::options! {
            emit_unresolved_aliases: true,
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH as usize,
            block_nesting_limit: MAX_DEPTH as usize,
        };
        let text = self.source.text.strip_prefix('\u{feff}').unwrap_or(&self.source.text);
        let skipped = self.source.text.len() - text.len();
        let mut parser = Parser::new_from_str_with_options(text, options);
        let mut documents = Vec::new();
        loop {
            match self.document(&mut parser, skipped) {
                Ok(Some(node)) => documents.push(node),
                Ok(None) => return documents,
                Err(error) => {
                    self.complete = false;
                    self.syntax_error(&error, skipped);
                    if !matches!(parser.proceed_next_document(), Ok(true)) {
                        return documents;
                    }
                }
            }
        }
    }

    /// The next document that is not empty.
    fn document<'text>(
        &mut self,
        parser: &mut Parser<'text, StrInput<'text>>,
        skipped: usize,
    ) -> Result<Option<Node>, granit_parser::ScanError> {
        let mut open: Vec<Open> = Vec::new();
        let mut anchors: HashMap<usize, Node> = HashMap::new();
        let mut root = None;
        while let Some(next) = parser.next_event() {
            let (event, span) = next?;
            let range = span.byte_range().unwrap_or_default();
            let span = Span { start: range.start + skipped, end: range.end + skipped };
            let (node, anchor) = match event {
                Event::DocumentEnd => match root.take() {
                    Some(Node { value: Value::Scalar(scalar), .. }) if scalar.plain && scalar.text.is_empty() => {
                        continue;
                    }
                    Some(node) => return Ok(Some(node)),
                    None => continue,
                },
                Event::Scalar(text, style, anchor, tag) => {
                    let string_tag = tag.as_deref().is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                    let foreign_tag = tag.is_some() && !string_tag;
                    let plain = style == ScalarStyle::Plain && !string_tag;
                    // What is not written is told by its place: the parser gives it the text `~`.
                    let text = if plain && span.start == span.end { "" } else { text.as_ref() };
                    let value = Value::Scalar(Scalar { text: text.into(), plain });
                    (self.untagged(span, value, foreign_tag), anchor)
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.untagged(span, Value::Broken, tag.is_some());
                    open.push(Open { span, anchor, children: Children::Items(Vec::new()) });
                    continue;
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.untagged(span, Value::Broken, tag.is_some());
                    open.push(Open { span, anchor, children: Children::Entries(Entries::default()) });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    Some(collection) => (self.close(&collection, span), collection.anchor),
                    None => continue,
                },
                Event::Alias(target) => (self.alias(span, anchors.get(&target)), 0),
                Event::UnresolvedAlias(name) => {
                    let message = format!("the alias `*{name}` has no anchor `&{name}` before it");
                    let diagnostic = problem(self.source, span, message);
                    self.diagnostics
                        .push(diagnostic.help("define the anchor in the same document, or write the value"));
                    (Node::new(span, Value::Broken), 0)
                }
                _ => continue,
            };
            if anchor != 0 {
                anchors.insert(anchor, node.clone());
            }
            match open.last_mut() {
                Some(collection) => self.add(collection, node),
                None => root = Some(node),
            }
        }
        Ok(None)
    }

    /// A node, or a broken one if a tag other than `!!str` was on it.
    fn untagged(&mut self, span: Span, value: Value, tagged: bool) -> Node {
        if !tagged {
            return Node::new(span, value);
        }
        let diagnostic = problem(self.source, span, "YAML tags are not supported here");
        self.diagnostics.push(diagnostic.help("remove the `!…` before the value; quote it if it is a string"));
        Node::new(span, Value::Broken)
    }

    fn close(&mut self, collection: &Open, end: Span) -> Node {
        let (value, first, last) = match &collection.children {
            Children::Items(items) => {
                let ends = (items.first().map(|item| item.span.start), items.last().map(|item| item.span.end));
                (Value::Sequence(items.as_slice().into()), ends.0, ends.1)
            }
            Children::Entries(Entries { entries, .. }) => {
                let ends = (entries.first().map(|e| e.key_span.start), entries.last().map(|e| e.value.span.end));
                (Value::Mapping(entries.as_slice().into()), ends.0, ends.1)
            }
        };
        // A block collection ends where the next token starts, lines later; its last child ends where the eye says.
        let flow = end.end > end.start;
        let start = match (&value, first) {
            (Value::Mapping(_), Some(first)) if !flow => first,
            _ => collection.span.start,
        };
        let end = if flow { end.end } else { last.unwrap_or(end.end) };
        let node = Node::new(Span { start, end: end.max(start) }, value);
        if node.depth <= MAX_DEPTH {
            return node;
        }
        let message = format!("nested deeper than {MAX_DEPTH} levels");
        self.diagnostics.push(problem(self.source, node.span, message));
        Node::new(node.span, Value::Broken)
    }

    fn alias(&mut self, span: Span, target: Option<&Node>) -> Node {
        let Some(target) = target else {
            let diagnostic = problem(self.source, span, "this alias is inside of what it refers to");
            self.diagnostics.push(diagnostic.help("write the value in full"));
            return Node::new(span, Value::Broken);
        };
        let before = self.aliased;
        self.aliased = before.saturating_add(target.size);
        if self.aliased <= MAX_ALIASED_VALUES {
            return Node { span, ..target.clone() };
        }
        if before <= MAX_ALIASED_VALUES {
            let message = format!("the aliases of this file expand to more than {MAX_ALIASED_VALUES} values");
            self.diagnostics.push(problem(self.source, span, message).help("write the values in full"));
        }
        Node::new(span, Value::Broken)
    }

    fn add(&mut self, collection: &mut Open, node: Node) {
        let mapping = match &mut collection.children {
            Children::Items(items) => return items.push(node),
            Children::Entries(mapping) => mapping,
        };
        let Some(key) = mapping.waiting.take() else {
            mapping.waiting = Some(self.key(&node));
            return;
        };
        let Some(text) = key.text else { return };
        if let Some(first) = mapping.seen.insert(text.clone(), key.span) {
            let message = format!("the key `{text}` is written twice");
            let first = Place { source: self.source.clone(), span: first };
            let diagnostic = problem(self.source, key.span, message).related(first, "before it here");
            self.diagnostics.push(diagnostic.help("keep one of them; two lists are joined by writing one"));
            return;
        }
        // A value that is not written is pointed at by its key.
        let absent = matches!(&node.value, Value::Scalar(scalar) if scalar.plain && scalar.text.is_empty());
        let value = if absent { Node { span: key.span, ..node } } else { node };
        mapping.entries.push(Entry { key: text, key_span: key.span, value });
    }

    fn key(&mut self, node: &Node) -> Key {
        let span = node.span;
        let (message, help) = match &node.value {
            Value::Broken => return Key { text: None, span },
            Value::Sequence(_) | Value::Mapping(_) => {
                let help = match self.source.line_at(span.start).contains("{{") {
                    true => "templates must be rendered before: Malla reads what comes out of them",
                    false => "put quotes around it if the braces are meant literally",
                };
                ("a key must be a string".to_owned(), help.to_owned())
            }
            Value::Scalar(scalar) if &*scalar.text == "<<" && scalar.plain => {
                ("merge keys (`<<`) are not supported".to_owned(), "write the fields in full".to_owned())
            }
            Value::Scalar(scalar) => match scalar.plain.then(|| scalar::resolve(&scalar.text)) {
                None | Some(Plain::String) => return Key { text: Some(scalar.text.clone()), span },
                Some(other) => (
                    format!("the key `{}` is {}, not a string", scalar.text, other.describe()),
                    format!("write `\"{}\"`", scalar.text),
                ),
            },
        };
        self.diagnostics.push(problem(self.source, span, message).help(help));
        Key { text: None, span }
    }

    fn syntax_error(&mut self, error: &granit_parser::ScanError, skipped: usize) {
        let length = self.source.text.len();
        let offset = error.marker().byte_offset().map_or(length, |offset| (offset + skipped).min(length));
        let line = self.source.line_at(offset);
        let indentation: &str = &line[..line.len() - line.trim_start().len()];
        let mut diagnostic = problem(self.source, Span::at(offset), format!("not valid YAML: {}", error.info()));
        if indentation.contains('\t') {
            diagnostic = diagnostic.help("YAML is indented with spaces; this line has a tab");
        } else if line.trim_start().starts_with(['{', '%', '@', '`']) || line.contains("{{") || line.contains(": :") {
            diagnostic =
                diagnostic.help("put quotes around values that start with a sign; templates must be rendered first");
        } else {
            diagnostic =
                diagnostic.help("check the indentation, and that quotes and brackets are closed, here and above");
        }
        self.diagnostics.push(diagnostic);
    }
}
