//! A located tree against a JSON Schema: unknown fields, missing fields, wrong types, values outside of an enumeration.
//!
//! One walk serves all kinds, because Kubernetes', Gateway API's and Malla's own types all publish their schemas. Its
//! result is the tree as JSON without what is wrong, so one wrong field does not hide the errors behind the others.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value as Json, json};

use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::object::Resource;
use crate::scalar::{self, Plain};
use crate::source::{Place, Source, Span};
use crate::suggest::{self, shown};
use crate::yaml::{Node, Scalar, Value};

/// The schema of labels and annotations.
pub(crate) fn string_map() -> &'static Json {
    static SCHEMA: LazyLock<Json> =
        LazyLock::new(|| json!({"type": "object", "additionalProperties": {"type": "string"}}));
    &SCHEMA
}

/// The walk over one document.
pub(crate) struct Walk<'a> {
    source: &'a Arc<Source>,
    resource: &'a Resource,
    diagnostics: &'a mut Diagnostics,
    reported: HashSet<Span>,
    /// Where the walk is, as `spec.rules[0]`.
    path: String,
}

/// What a schema asks for, as far as the walk checks it.
enum Shape<'s> {
    Any,
    Fields(&'s Map<String, Json>, Vec<&'s str>),
    Map(&'s Json),
    List(&'s Json),
    Text,
    Choice(Vec<&'s str>),
    Integer { minimum: Option<i64>, maximum: Option<i64> },
    Number,
    Boolean,
    IntegerOrText,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(source: &'a Arc<Source>, resource: &'a Resource, diagnostics: &'a mut Diagnostics) -> Self {
        Walk { source, resource, diagnostics, reported: HashSet::new(), path: String::new() }
    }

    /// The places that were spoken about.
    pub(crate) fn into_reported(self) -> HashSet<Span> {
        self.reported
    }

    pub(crate) fn report(&mut self, code: Code, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let place = Place { source: self.source.clone(), span };
        self.diagnostics.push(Diagnostic::new(code, place, message).of(self.resource).help(help));
    }

    /// Says that a mapping lacks a field.
    pub(crate) fn missing(&mut self, node: &Node, field: &str) {
        let inside = self.inside();
        let near = suggest::nearest(field, node.entries().iter().map(|entry| &*entry.key));
        let help = match near {
            Some(near) => format!("write `{field}` instead of `{near}`"),
            None => format!("write `{field}:`"),
        };
        let first = node.entries().first().map_or(node.span, |entry| entry.key_span);
        self.report(Code::MissingField, first, format!("missing field `{field}`{inside}"), help);
        self.reported.insert(node.span);
    }

    /// Refuses fields of the document other than these.
    pub(crate) fn known_fields(&mut self, root: &Node, known: &[&str]) {
        for entry in root.entries() {
            if !known.contains(&&*entry.key) {
                let absent = known.iter().copied().filter(|name| root.entry(name).is_none());
                self.unknown(&entry.key, entry.key_span, absent, None);
                self.reported.insert(root.span);
            }
        }
    }

    /// The content of a document that stands beside `metadata` instead of in `spec`.
    pub(crate) fn fields_beside(&mut self, root: &Node, schema: &Json, beside: &[&str]) -> Option<Json> {
        self.path.clear();
        let Shape::Fields(properties, required) = shape(schema, schema) else { return None };
        self.fields(root, properties, &required, schema, beside)
    }

    /// The content in `spec`.
    pub(crate) fn spec(&mut self, node: &Node, schema: &Json) -> Option<Json> {
        self.value("spec", node, schema)
    }

    /// A value at a path, against a schema of its own.
    pub(crate) fn value(&mut self, path: &str, node: &Node, schema: &Json) -> Option<Json> {
        path.clone_into(&mut self.path);
        let value = self.any(node, schema, schema);
        self.path.clear();
        value
    }

    /// A string at a path.
    pub(crate) fn string(&mut self, path: &str, node: &Node) -> Option<String> {
        static TEXT: LazyLock<Json> = LazyLock::new(|| json!({"type": "string"}));
        match self.value(path, node, &TEXT) {
            Some(Json::String(text)) => Some(text),
            _ => None,
        }
    }

    /// ` in spec.rules[0]`, or nothing at the root.
    fn inside(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) }
    }

    fn any(&mut self, node: &Node, schema: &Json, root: &Json) -> Option<Json> {
        let value = match (shape(schema, root), &node.value) {
            (_, Value::Broken) => None,
            (Shape::Any, _) => Some(untyped(node)),
            (Shape::Fields(properties, required), Value::Mapping(_)) => {
                return self.fields(node, properties, &required, root, &[]);
            }
            (Shape::Map(of), Value::Mapping(_)) => self.map(node, of, root),
            (Shape::List(of), Value::Sequence(items)) => self.list(items, of, root),
            (expected, Value::Scalar(scalar)) => self.scalar(node, scalar, &expected),
            (expected, found) => {
                let found = if matches!(found, Value::Sequence(_)) { "a list" } else { "a mapping" };
                self.wrong_type(node, &expected, found, None);
                None
            }
        };
        if value.is_none() {
            self.reported.insert(node.span);
        }
        value
    }

    fn fields(
        &mut self,
        node: &Node,
        properties: &Map<String, Json>,
        required: &[&str],
        root: &Json,
        beside: &[&str],
    ) -> Option<Json> {
        let length = self.path.len();
        let mut written = Map::new();
        let mut whole = true;
        let mut suggested = BTreeSet::new();
        let mut absent = None;
        for entry in node.entries() {
            if beside.contains(&&*entry.key) {
                continue;
            }
            let Some(schema) = properties.get(&*entry.key) else {
                let absent = absent.get_or_insert_with(|| {
                    let written: HashSet<&str> = node.entries().iter().map(|entry| &*entry.key).collect();
                    properties.keys().map(String::as_str).filter(|name| !written.contains(name)).collect::<Vec<_>>()
                });
                let near = self.unknown(&entry.key, entry.key_span, absent.iter().copied(), Some((properties, root)));
                suggested.extend(near);
                self.reported.insert(node.span);
                continue;
            };
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(&entry.key);
            let value = self.any(&entry.value, schema, root);
            self.path.truncate(length);
            match value {
                Some(value) => {
                    written.insert(entry.key.to_string(), value);
                }
                None => {
                    self.reported.insert(node.span);
                    whole &= !required.contains(&&*entry.key);
                }
            }
        }
        for field in required {
            if node.entry(field).is_none() && !beside.contains(field) {
                whole = false;
                // "did you mean `name`?" has said it.
                if !suggested.contains(*field) {
                    self.missing(node, field);
                }
            }
        }
        if !whole {
            self.reported.insert(node.span);
        }
        whole.then_some(Json::Object(written))
    }

    fn map(&mut self, node: &Node, of: &Json, root: &Json) -> Option<Json> {
        let length = self.path.len();
        let mut written = Map::new();
        for entry in node.entries() {
            self.path.push_str(&format!("[{}]", shown(&entry.key)));
            let value = self.any(&entry.value, of, root);
            self.path.truncate(length);
            match value {
                Some(value) => {
                    written.insert(entry.key.to_string(), value);
                }
                None => {
                    self.reported.insert(node.span);
                }
            }
        }
        Some(Json::Object(written))
    }

    /// All items, or nothing: leaving one out would move the others.
    fn list(&mut self, items: &[Node], of: &Json, root: &Json) -> Option<Json> {
        let length = self.path.len();
        let mut written = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            written.push(self.any(item, of, root));
            self.path.truncate(length);
        }
        written.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    fn scalar(&mut self, node: &Node, scalar: &Scalar, expected: &Shape<'_>) -> Option<Json> {
        let text = &*scalar.text;
        let meaning = if scalar.plain { scalar::resolve(text) } else { Plain::String };
        match (expected, meaning) {
            (_, Plain::Null) => {
                let message = format!("`{}` has no value", self.path);
                self.report(Code::WrongType, node.span, message, "write one, or remove the line");
                return None;
            }
            (Shape::Text | Shape::IntegerOrText, Plain::String) => return Some(text.into()),
            (Shape::Choice(choices), _) => return self.choice(node, text, meaning, choices),
            (Shape::IntegerOrText, Plain::Integer(number)) => return Some(number.into()),
            (Shape::Integer { minimum, maximum }, Plain::Integer(number)) => {
                let range = minimum.unwrap_or(i64::MIN)..=maximum.unwrap_or(i64::MAX);
                if range.contains(&number) {
                    return Some(number.into());
                }
                let help = match (minimum, maximum) {
                    (Some(minimum), Some(maximum)) => format!("write a number from {minimum} to {maximum}"),
                    (Some(minimum), None) => format!("write a number from {minimum}"),
                    _ => "write a smaller number".to_owned(),
                };
                let message = format!("`{}` cannot be {number}", self.path);
                self.report(Code::InvalidValue, node.span, message, help);
                return None;
            }
            (Shape::Number, Plain::Integer(_) | Plain::Number) => {
                if let Some(number) = text.parse().ok().and_then(serde_json::Number::from_f64) {
                    return Some(Json::Number(number));
                }
            }
            (Shape::Boolean, Plain::Bool(value)) => return Some(value.into()),
            _ => {}
        }
        let help = match (expected, meaning) {
            (Shape::Text | Shape::IntegerOrText, _) => Some(format!("write `\"{}\"`", shown(text))),
            (Shape::Integer { .. } | Shape::Number, Plain::String) if text.parse::<i64>().is_ok() => {
                Some(format!("write `{}` without quotes", shown(text)))
            }
            (Shape::Integer { .. } | Shape::Number, Plain::MaybeNumber) => {
                Some("write it in decimal digits, without leading zeros".to_owned())
            }
            (Shape::Boolean, _) => Some("write `true` or `false`".to_owned()),
            (Shape::List(_), Plain::String) => Some(format!("write `[{}]`", shown(text))),
            _ => None,
        };
        self.wrong_type(node, expected, meaning.describe(), help);
        None
    }

    fn choice(&mut self, node: &Node, text: &str, meaning: Plain, choices: &[&str]) -> Option<Json> {
        if choices.contains(&text) {
            return Some(text.into());
        }
        let listed = choices.iter().map(|choice| format!("`{choice}`"));
        let help = match suggest::nearest(text, choices.iter().copied()) {
            Some(near) if meaning == Plain::String => format!("did you mean `{near}`?"),
            _ => format!("write one of {}", suggest::listing(listed)),
        };
        let message = format!("`{}` cannot be `{}`", self.path, shown(text));
        self.report(Code::InvalidValue, node.span, message, help);
        None
    }

    fn wrong_type(&mut self, node: &Node, expected: &Shape<'_>, found: &str, help: Option<String>) {
        let (expected, general) = match expected {
            Shape::Any => ("anything", "remove it"),
            Shape::Fields(..) | Shape::Map(_) if found == "a list" => ("a mapping", "remove the `-` before its fields"),
            Shape::Fields(..) | Shape::Map(_) => ("a mapping", "write its fields below it, indented"),
            Shape::List(_) if found == "a mapping" => ("a list", "put `- ` before its first field"),
            Shape::List(_) => ("a list", "write each item below it, after `- `"),
            Shape::Text | Shape::Choice(_) => ("a string", "write a string"),
            Shape::Integer { .. } => ("a whole number", "write it in decimal digits"),
            Shape::Number => ("a number", "write it in decimal digits"),
            Shape::Boolean => ("a boolean", "write `true` or `false`"),
            Shape::IntegerOrText => ("a number or a string", "write a number or a string"),
        };
        let found = match &node.value {
            Value::Scalar(scalar) => format!("`{}` is {found}", shown(&scalar.text)),
            _ => format!("this is {found}"),
        };
        let message = format!("`{}` must be {expected}, and {found}", self.path);
        self.report(Code::WrongType, node.span, message, help.unwrap_or_else(|| general.to_owned()));
    }

    /// Says that a field is unknown, and returns the name that it suggested.
    fn unknown<'s>(
        &mut self,
        field: &str,
        span: Span,
        candidates: impl Iterator<Item = &'s str> + Clone,
        schema: Option<(&'s Map<String, Json>, &'s Json)>,
    ) -> Option<String> {
        let worth = !self.diagnostics.is_full();
        let near = worth.then(|| suggest::nearest(field, candidates.clone())).flatten();
        let help = match near {
            None if !worth => String::new(),
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let elsewhere = schema.and_then(|(fields, root)| home_of(field, fields, root));
                let known = suggest::listing(candidates);
                match elsewhere {
                    Some(path) if known.is_empty() => format!("`{field}` is a field of `{path}`"),
                    Some(path) => format!("`{field}` is a field of `{path}`; known here: {known}"),
                    None if known.is_empty() => "remove it".to_owned(),
                    None => format!("known here: {known}"),
                }
            }
        };
        let message = format!("unknown field `{}`{}", shown(field), self.inside());
        self.report(Code::UnknownField, span, message, help);
        near.map(str::to_owned)
    }
}

/// The field or list, up to two levels below `fields` or anywhere from the root, that has a field of this name.
fn home_of(field: &str, fields: &Map<String, Json>, root: &Json) -> Option<String> {
    fn search(field: &str, schema: &Json, root: &Json, path: &str, depth: usize) -> Option<String> {
        match shape(schema, root) {
            Shape::Fields(fields, _) if fields.contains_key(field) && !path.is_empty() => Some(path.to_owned()),
            Shape::Fields(fields, _) if depth > 0 => fields.iter().find_map(|(name, schema)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                search(field, schema, root, &path, depth - 1)
            }),
            Shape::List(of) => search(field, of, root, &format!("{path}[]"), depth),
            _ => None,
        }
    }
    fields
        .iter()
        .find_map(|(name, schema)| search(field, schema, root, name, 2))
        .or_else(|| search(field, root, root, "spec", 3))
}

/// What a schema asks for, through its references and its ways to say "or null".
fn shape<'s>(schema: &'s Json, root: &'s Json) -> Shape<'s> {
    let mut schema = schema;
    // References among the types of one kind are few and without cycles at this level.
    for _ in 0..16 {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let name = reference.rsplit('/').next().unwrap_or_default();
            let Some(target) = root.get("$defs").and_then(|definitions| definitions.get(name)) else {
                return Shape::Any;
            };
            schema = target;
            continue;
        }
        let Some(options) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array) else { break };
        let mut present = options.iter().filter(|option| option.get("type") != Some(&json!("null")));
        match (present.next(), present.next()) {
            (Some(only), None) => schema = only,
            _ => {
                let choices: Option<Vec<Vec<&str>>> = options.iter().map(choices).collect();
                return choices.map_or(Shape::Any, |choices| Shape::Choice(choices.concat()));
            }
        }
    }
    if let Some(choices) = choices(schema) {
        return Shape::Choice(choices);
    }
    if schema.get("x-kubernetes-int-or-string") == Some(&Json::Bool(true)) {
        return Shape::IntegerOrText;
    }
    let kind = match schema.get("type") {
        Some(Json::Array(types)) => types.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
        Some(kind) => kind.as_str(),
        None => None,
    };
    match kind {
        Some("object") => fields_or_map(schema),
        Some("array") => schema.get("items").map_or(Shape::Any, Shape::List),
        Some("string") => Shape::Text,
        Some("integer") => {
            let (low, high) = match schema.get("format").and_then(Json::as_str) {
                Some("int32") => (Some(i64::from(i32::MIN)), Some(i64::from(i32::MAX))),
                Some("uint32") => (Some(0), Some(i64::from(u32::MAX))),
                Some("uint16") => (Some(0), Some(i64::from(u16::MAX))),
                _ => (None, None),
            };
            let bound = |name: &str| schema.get(name).and_then(Json::as_f64).map(|bound| bound as i64);
            Shape::Integer { minimum: bound("minimum").or(low), maximum: bound("maximum").or(high) }
        }
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        _ => Shape::Any,
    }
}

fn fields_or_map(schema: &Json) -> Shape<'_> {
    let required = schema.get("required").and_then(Json::as_array).into_iter().flatten();
    match (schema.get("properties").and_then(Json::as_object), schema.get("additionalProperties")) {
        (Some(properties), _) => Shape::Fields(properties, required.filter_map(Json::as_str).collect()),
        (None, Some(of)) if of.is_object() => Shape::Map(of),
        _ => Shape::Any,
    }
}

/// The strings of an enumeration.
fn choices(schema: &Json) -> Option<Vec<&str>> {
    if let Some(only) = schema.get("const").and_then(Json::as_str) {
        return Some(vec![only]);
    }
    let listed = schema.get("enum")?.as_array()?;
    listed.iter().filter(|choice| !choice.is_null()).map(Json::as_str).collect()
}

/// A value for which there is no schema.
fn untyped(node: &Node) -> Json {
    match &node.value {
        Value::Broken => Json::Null,
        Value::Sequence(items) => items.iter().map(untyped).collect(),
        Value::Mapping(entries) => {
            entries.iter().map(|entry| (entry.key.to_string(), untyped(&entry.value))).collect::<Map<_, _>>().into()
        }
        Value::Scalar(scalar) if !scalar.plain => (*scalar.text).into(),
        Value::Scalar(scalar) => match scalar::resolve(&scalar.text) {
            Plain::Null => Json::Null,
            Plain::Bool(value) => value.into(),
            Plain::Integer(number) => number.into(),
            _ => (*scalar.text).into(),
        },
    }
}
