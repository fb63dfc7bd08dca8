//! Values as YAML, as a person would write them.

use serde_json::Value;

/// Lines of `key: value` at an indentation.
pub(super) fn entry(key: &str, value: &Value, indentation: usize) -> String {
    let indent = " ".repeat(indentation);
    let key = string(key);
    match value {
        Value::Object(fields) if !fields.is_empty() => format!("{indent}{key}:\n{}", block(value, indentation + 2)),
        Value::Array(items) if !items.is_empty() => format!("{indent}{key}:\n{}", block(value, indentation)),
        Value::String(text) if is_literal(text) => {
            let lines: String = text.lines().map(|line| format!("{indent}  {line}\n")).collect();
            format!("{indent}{key}: |\n{lines}")
        }
        _ => format!("{indent}{key}: {}\n", inline(value)),
    }
}

/// Lines of `- item` at an indentation.
pub(super) fn item(value: &Value, indentation: usize) -> String {
    let indent = " ".repeat(indentation);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let lines = block(value, indentation + 2);
            format!("{indent}- {}", lines.get(indentation + 2..).unwrap_or_default())
        }
        _ => format!("{indent}- {}\n", inline(value)),
    }
}

/// Lines of a whole value at an indentation. Names come first, because a person looks for them.
pub(super) fn block(value: &Value, indentation: usize) -> String {
    match value {
        Value::Object(fields) => {
            let named = fields.get_key_value("name");
            let others = fields.iter().filter(|(key, _)| *key != "name");
            named.into_iter().chain(others).map(|(key, value)| entry(key, value, indentation)).collect()
        }
        Value::Array(items) => items.iter().map(|value| item(value, indentation)).collect(),
        scalar => format!("{}{}\n", " ".repeat(indentation), inline(scalar)),
    }
}

/// A value on one line: JSON, which is YAML.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

/// Plain where nobody can take it for something else, else quoted.
fn string(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.' | '/');
    let word = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/') && text.chars().all(plain);
    let other = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if word && !other { text.to_owned() } else { Value::from(text).to_string() }
}

/// Whether a text of several lines can stand as it is behind `|`.
fn is_literal(text: &str) -> bool {
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && text.lines().count() > 1
        && text.lines().all(|line| {
            !line.is_empty()
                && !line.starts_with([' ', '\t'])
                && line
                    .chars()
                    .all(|char| !char.is_control() && !matches!(char, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
        })
}
