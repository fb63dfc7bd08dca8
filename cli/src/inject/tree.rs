//! YAML documents as trees that know where each value stands in the text.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, bail};
use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Nesting that is taken for a manifest.
const MAX_DEPTH: usize = 64;
/// Values of a text, with what aliases repeat.
const MAX_VALUES: usize = 200_000;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// From its first byte to behind its last; a collection in block style may end lines later.
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
}

/// What a value is made of.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(Value),
    Sequence {
        flow: bool,
        items: Vec<Node>,
    },
    /// Keys with the places where they begin.
    Mapping {
        flow: bool,
        entries: Vec<(String, usize, Node)>,
    },
}

impl Node {
    /// The value without places.
    pub(super) fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::Sequence { items, .. } => items.iter().map(Node::value).collect(),
            Kind::Mapping { entries, .. } => {
                Value::Object(entries.iter().map(|(key, _, node)| (key.clone(), node.value())).collect::<Map<_, _>>())
            }
        }
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Kind::Mapping { entries, .. } = &self.kind else { return None };
        entries.iter().find(|(name, ..)| name == key).map(|(.., node)| node)
    }

    /// Where the first thing in it begins.
    pub(super) fn start(&self) -> usize {
        match &self.kind {
            Kind::Mapping { flow: false, entries } => entries.first().map_or(self.span.start, |(_, start, _)| *start),
            _ => self.span.start,
        }
    }

    /// Where the last thing in it ends that is not white space. What an alias repeats stands elsewhere, before it.
    pub(super) fn end(&self) -> usize {
        let last = match &self.kind {
            Kind::Sequence { flow: false, items } => items.last(),
            Kind::Mapping { flow: false, entries } => entries.last().map(|(.., node)| node),
            _ => None,
        };
        last.map(Node::end).filter(|end| *end >= self.span.start).unwrap_or(self.span.end)
    }
}

struct Open {
    start: usize,
    anchor: usize,
    flow: bool,
    items: Option<Vec<Node>>,
    entries: Vec<(String, usize, Node)>,
    key: Option<(String, usize)>,
}

/// The documents of a text.
///
/// # Errors
/// It is no YAML, or too deep, or uses what manifests do not (keys that are no strings).
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Node>> {
    let mut documents = Vec::new();
    let (mut open, mut anchors): (Vec<Open>, HashMap<usize, Node>) = (Vec::new(), HashMap::new());
    let mut values = 0;
    for next in Parser::new_from_str(text) {
        let (event, span) = next.context("this is not valid YAML")?;
        let span = span.byte_range().context("the parser lost its place")?;
        let is_flow = |opening: &str| text.get(span.clone()).is_some_and(|text| text.starts_with(opening));
        let (node, anchor) = match event {
            Event::DocumentStart(..) => {
                anchors.clear();
                continue;
            }
            Event::Scalar(written, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                // What is not written is told by its place.
                let value = match plain {
                    true if span.is_empty() => Value::Null,
                    true => plain_value(&written),
                    false => Value::String(written.into_owned()),
                };
                (Node { span, kind: Kind::Scalar(value) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let (start, flow) = (span.start, is_flow("["));
                open.push(Open { start, anchor, flow, items: Some(Vec::new()), entries: Vec::new(), key: None });
                continue;
            }
            Event::MappingStart(_, anchor, _) => {
                let (start, flow) = (span.start, is_flow("{"));
                open.push(Open { start, anchor, flow, items: None, entries: Vec::new(), key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { start, anchor, flow, items, entries, .. }) = open.pop() else { continue };
                let kind = match items {
                    Some(items) => Kind::Sequence { flow, items },
                    None => Kind::Mapping { flow, entries },
                };
                (Node { span: start..span.end, kind }, anchor)
            }
            Event::Alias(target) => match anchors.get(&target) {
                Some(node) => {
                    values += size(node, MAX_DEPTH).context("this is nested too deeply for a manifest")?;
                    (Node { span, kind: node.kind.clone() }, 0)
                }
                None => bail!("an alias has no anchor before it"),
            },
            _ => continue,
        };
        values += 1;
        if values > MAX_VALUES || open.len() > MAX_DEPTH {
            bail!("this is too large for a manifest");
        }
        if anchor != 0 {
            anchors.insert(anchor, node.clone());
        }
        match open.last_mut() {
            None => documents.push(node),
            Some(Open { items: Some(items), .. }) => items.push(node),
            Some(Open { key, entries, .. }) => match key.take() {
                Some((name, start)) => entries.push((name, start, node)),
                None => match node.kind {
                    Kind::Scalar(Value::String(name)) => *key = Some((name, node.span.start)),
                    Kind::Scalar(other) if !other.is_null() => *key = Some((other.to_string(), node.span.start)),
                    _ => bail!("a key must be a string"),
                },
            },
        }
    }
    Ok(documents)
}

/// Values in what an alias repeats; `None` if it is too deep.
fn size(node: &Node, depth: usize) -> Option<usize> {
    let depth = depth.checked_sub(1)?;
    Some(match &node.kind {
        Kind::Scalar(_) => 1,
        Kind::Sequence { items, .. } => items.iter().try_fold(1, |sum, item| Some(sum + size(item, depth)?))?,
        Kind::Mapping { entries, .. } => {
            entries.iter().try_fold(1, |sum, (.., item)| Some(sum + size(item, depth)?))?
        }
    })
}

/// What a plain scalar means in the core schema (YAML 1.2 §10.3.2).
fn plain_value(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let begins_like_one = text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.'));
    let digits = text.trim_start_matches(['-', '+']);
    if !begins_like_one || digits.chars().any(|char| !matches!(char, '0'..='9' | '.' | 'e' | 'E' | '-' | '+')) {
        return Value::String(text.to_owned());
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    let number = text.parse().ok().and_then(Number::from_f64);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}
