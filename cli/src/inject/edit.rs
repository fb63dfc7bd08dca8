//! The least changes of a text that turn a value in it into another.
//!
//! Block collections get and lose whole lines, flow collections (JSON too) what stands between their commas. Members of lists are told
//! by their `name`. What cannot be done so is not tried: the caller compares what the changed text says with what it shall say.

use std::ops::Range;

use serde_json::Value;

use super::emit;
use super::tree::{Kind, Node};

/// A piece of the text and what takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) span: Range<usize>,
    pub(super) text: String,
}

/// The text after the edits, which must not overlap.
pub(super) fn apply(text: &str, mut edits: Vec<Edit>) -> Option<String> {
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let (mut out, mut at) = (String::with_capacity(text.len() + 4096), 0);
    let windows = text.contains("\r\n");
    for Edit { span, text: new } in edits {
        out.push_str(text.get(at..span.start)?);
        out.push_str(&if windows { new.replace('\n', "\r\n") } else { new });
        at = span.end;
    }
    out.push_str(text.get(at..)?);
    Some(out)
}

/// Collects the edits that make a node say `new`. `None` if that takes more than is known here.
pub(super) fn edits(text: &str, node: &Node, new: &Value, edits: &mut Vec<Edit>) -> Option<()> {
    if node.value() == *new {
        return Some(());
    }
    match (&node.kind, new) {
        (Kind::Mapping { flow, entries }, Value::Object(fields)) => {
            mapping(text, node, (*flow, entries), fields, edits)
        }
        (Kind::Sequence { flow, items }, Value::Array(values))
            if named(items.iter().map(Node::value)) && named(values.iter().cloned()) =>
        {
            sequence(text, node, (*flow, items), values, edits)
        }
        (Kind::Scalar(old), Value::String(_) | Value::Number(_) | Value::Bool(_)) if !old.is_null() => {
            edits.push(Edit { span: node.span.clone(), text: Value::to_string(new) });
            Some(())
        }
        _ => None,
    }
}

fn mapping(
    text: &str,
    node: &Node,
    (flow, entries): (bool, &[(String, usize, Node)]),
    fields: &serde_json::Map<String, Value>,
    edits: &mut Vec<Edit>,
) -> Option<()> {
    // What cannot be changed where it stands goes, and comes anew.
    let mut added: Vec<(&String, &Value)> = Vec::new();
    for (key, new) in fields {
        let mut inner = Vec::new();
        match entries.iter().find(|(name, ..)| name == key) {
            Some((.., old)) if self::edits(text, old, new, &mut inner).is_some() => edits.append(&mut inner),
            _ => added.push((key, new)),
        }
    }
    let goes = |key: &String| !fields.contains_key(key) || added.iter().any(|(name, _)| *name == key);
    if flow {
        let places: Vec<Range<usize>> =
            entries.iter().map(|(_, start, node)| *start..node.span.end.max(*start)).collect();
        let new: Vec<String> = added.iter().map(|(key, new)| format!("{}: {new}", Value::from(key.as_str()))).collect();
        let new = new.join(", ");
        if entries.iter().all(|(key, ..)| goes(key)) {
            let at = node.span.start + 1;
            let span = places.first().map_or(at, |first| first.start)..places.last().map_or(at, |last| last.end);
            edits.push(Edit { span, text: new });
            return Some(());
        }
        for (index, _) in entries.iter().enumerate().filter(|(_, (key, ..))| goes(key)) {
            edits.push(Edit { span: between_commas(&places, index), text: String::new() });
        }
        return if new.is_empty() { Some(()) } else { insert_in_flow(text, node, false, new, edits) };
    }
    for (_, start, old) in entries.iter().filter(|(key, ..)| goes(key)) {
        edits.push(Edit { span: lines(text, *start, old)?, text: String::new() });
    }
    if added.is_empty() {
        return Some(());
    }
    // Before the first key that begins its line: the very first of an item stands behind a dash.
    let (_, first, _) = entries.first()?;
    let indentation = column(text, *first);
    let own_line = |at: usize| text.get(line_start(text, at)..at).is_some_and(|before| before.trim().is_empty());
    let at = match entries.iter().find(|(_, start, _)| own_line(*start)) {
        Some((_, start, _)) => above_comments(text, line_start(text, *start)),
        None => line_end(text, node.end()),
    };
    let new = added.iter().map(|(key, new)| emit::entry(key, new, indentation)).collect();
    insert_lines(text, at, new, edits);
    Some(())
}

fn sequence(
    text: &str,
    node: &Node,
    (flow, items): (bool, &[Node]),
    values: &[Value],
    edits: &mut Vec<Edit>,
) -> Option<()> {
    let name = |item: &Node| item.get("name").map(Node::value);
    let mut dashes = Vec::new();
    if !flow {
        for item in items {
            let start = item.start();
            dashes.push(text.get(..start)?.rfind('-').filter(|dash| is_dash(text, *dash, start))?);
        }
    }
    let mut rest = items.iter().enumerate().peekable();
    // Where each new member goes: before which of the old ones.
    let mut added: Vec<(usize, &Value)> = Vec::new();
    let mut removed = Vec::new();
    for value in values {
        let wanted = value.get("name").cloned();
        if rest.clone().any(|(_, item)| name(item) == wanted) {
            while let Some((index, _)) = rest.next_if(|(_, item)| name(item) != wanted) {
                removed.push(index);
            }
            if let Some((_, item)) = rest.next() {
                self::edits(text, item, value, edits)?;
            }
        } else {
            added.push((rest.peek().map_or(items.len(), |(index, _)| *index), value));
        }
    }
    removed.extend(rest.map(|(index, _)| index));
    let places: Vec<Range<usize>> = items.iter().map(|item| item.span.clone()).collect();
    for index in removed {
        let span = if flow {
            between_commas(&places, index)
        } else {
            line_start(text, *dashes.get(index)?)..line_end(text, items.get(index)?.end())
        };
        edits.push(Edit { span, text: String::new() });
    }
    for (before, value) in added {
        match (flow, items.get(before)) {
            (true, None) if before == 0 => insert_in_flow(text, node, true, value.to_string(), edits)?,
            (true, Some(next)) => {
                edits.push(Edit { span: next.span.start..next.span.start, text: format!("{value}, ") });
            }
            (true, None) => {
                let end = items.last()?.span.end;
                edits.push(Edit { span: end..end, text: format!(", {value}") });
            }
            (false, next) => {
                let dash = *dashes.get(before).or(dashes.last())?;
                let at = match next {
                    Some(_) => above_comments(text, line_start(text, dash)),
                    None => line_end(text, node.end()),
                };
                insert_lines(text, at, emit::item(value, column(text, dash)), edits);
            }
        }
    }
    Some(())
}

/// Lines that are put in; the last line of a text may have no end.
fn insert_lines(text: &str, at: usize, lines: String, edits: &mut Vec<Edit>) {
    let unfinished = at == text.len() && !text.is_empty() && !text.ends_with('\n');
    let lines = if unfinished { format!("\n{}", lines.trim_end_matches('\n')) } else { lines };
    edits.push(Edit { span: at..at, text: lines });
}

fn insert_in_flow(text: &str, node: &Node, empty: bool, new: String, edits: &mut Vec<Edit>) -> Option<()> {
    let at = node.span.start + 1;
    text.get(at..)?;
    edits.push(Edit { span: at..at, text: if empty { new } else { format!("{new}, ") } });
    Some(())
}

/// A member of a flow collection with the comma that it brought.
fn between_commas(places: &[Range<usize>], index: usize) -> Range<usize> {
    let end_of = |index: usize| places.get(index).map(|place| place.end);
    let own = places.get(index).cloned().unwrap_or_default();
    match (places.get(index + 1), index.checked_sub(1).and_then(end_of)) {
        (Some(next), _) => own.start..next.start,
        (None, Some(end)) => end..own.end,
        (None, None) => own,
    }
}

/// The lines of an entry of a block mapping; `None` if it does not begin its line.
fn lines(text: &str, key: usize, value: &Node) -> Option<Range<usize>> {
    let start = line_start(text, key);
    text.get(start..key)?.trim().is_empty().then(|| start..line_end(text, value.end().max(key)))
}

/// Whether what stands between a dash and an item is nothing, and nothing stands before the dash.
fn is_dash(text: &str, dash: usize, item: usize) -> bool {
    let blank = |range: Range<usize>| text.get(range).is_some_and(|between| between.trim().is_empty());
    blank(dash + 1..item) && blank(line_start(text, dash)..dash)
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1)
}

/// Behind the end of the line on which the text before `at` ends.
fn line_end(text: &str, at: usize) -> usize {
    let at = text.get(..at).map_or(at, |before| before.trim_end().len());
    text.get(at..).and_then(|after| after.find('\n')).map_or(text.len(), |end| at + end + 1)
}

/// The start of the comments directly above a line: they are about it.
fn above_comments(text: &str, mut at: usize) -> usize {
    while at > 0 {
        let above = line_start(text, at - 1);
        match text.get(above..at) {
            Some(line) if line.trim_start().starts_with('#') => at = above,
            _ => break,
        }
    }
    at
}

fn column(text: &str, at: usize) -> usize {
    text.get(line_start(text, at)..at).map_or(0, |before| before.chars().count())
}

/// Whether all are objects with names of their own.
fn named(values: impl Iterator<Item = Value>) -> bool {
    let names: Vec<Option<Value>> = values.map(|value| value.get("name").cloned()).collect();
    names.iter().all(Option::is_some)
        && names.iter().enumerate().all(|(index, name)| !names.iter().take(index).any(|other| other == name))
}
