//! JSON Patch (RFC 6902): what leads from one document to another. Members of lists are told by their `name`, so that what is added
//! in front does not rewrite what follows.

use serde::Serialize;
use serde_json::Value;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Adds a field, or a member of a list before the one at this place.
    Add {
        /// JSON Pointer (RFC 6901).
        path: String,
        /// What is added.
        value: Value,
    },
    /// Replaces what is there.
    Replace {
        /// JSON Pointer.
        path: String,
        /// What stands there now.
        value: Value,
    },
    /// Removes what is there.
    Remove {
        /// JSON Pointer.
        path: String,
    },
}

/// What leads from `old` to `new`; nothing if they are the same.
pub fn diff(old: &Value, new: &Value) -> Vec<Operation> {
    let mut steps = Vec::new();
    value("", old, new, &mut steps);
    steps
}

fn value(path: &str, old: &Value, new: &Value, steps: &mut Vec<Operation>) {
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                steps.push(Operation::Remove { path: below(path, key) });
            }
            for (key, new) in new {
                match old.get(key) {
                    Some(old) => value(&below(path, key), old, new, steps),
                    None => steps.push(Operation::Add { path: below(path, key), value: new.clone() }),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if have_names(old) && have_names(new) => list(path, old, new, steps),
        _ => steps.push(Operation::Replace { path: path.to_owned(), value: new.clone() }),
    }
}

fn list(path: &str, old: &[Value], new: &[Value], steps: &mut Vec<Operation>) {
    let mut rest = old.iter().peekable();
    let mut at = 0;
    for item in new {
        // What does not come next in the new order goes; where it comes later, it is added there.
        let kept = |old: &Value| old["name"] == item["name"];
        if rest.clone().any(kept) {
            while rest.next_if(|old| !kept(old)).is_some() {
                steps.push(Operation::Remove { path: below(path, &at.to_string()) });
            }
            if let Some(old) = rest.next() {
                value(&below(path, &at.to_string()), old, item, steps);
            }
        } else {
            steps.push(Operation::Add { path: below(path, &at.to_string()), value: item.clone() });
        }
        at += 1;
    }
    for _ in rest {
        steps.push(Operation::Remove { path: below(path, &at.to_string()) });
    }
}

/// Whether all members are objects with names of their own.
fn have_names(items: &[Value]) -> bool {
    let mut names: Vec<&str> = items.iter().filter_map(|item| item.get("name").and_then(Value::as_str)).collect();
    names.sort_unstable();
    names.len() == items.len() && names.windows(2).all(|pair| pair.first() != pair.last())
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}
