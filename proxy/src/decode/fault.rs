//! Why a resource is refused: the field and the problem, in the words of a NACK.

use std::fmt;

/// What is wrong with a resource, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field from the root of the resource; empty if the resource as a whole is wrong.
    field: String,
    /// What is wrong with it.
    problem: String,
}

impl Fault {
    /// Something is wrong with the value at hand.
    pub fn new(problem: impl Into<String>) -> Self {
        Fault { field: String::new(), problem: problem.into() }
    }

    /// The same, seen from the message that holds the value in `field`.
    pub fn within(mut self, field: impl fmt::Display) -> Self {
        self.field = match self.field.as_str() {
            "" => field.to_string(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.field, self.problem) }
    }
}

impl std::error::Error for Fault {}

/// Adds the field in which something happened.
pub trait At {
    /// `Fault::within`, on the error.
    fn at(self, field: impl fmt::Display) -> Self;
}

impl<T> At for Result<T, Fault> {
    fn at(self, field: impl fmt::Display) -> Self {
        self.map_err(|fault| fault.within(field))
    }
}

/// Checks each element of a repeated field.
pub fn each<T, U>(
    field: &'static str,
    items: impl IntoIterator<Item = T>,
    mut check: impl FnMut(T) -> Result<U, Fault>,
) -> Result<Vec<U>, Fault> {
    items.into_iter().enumerate().map(|(index, item)| check(item).at(format_args!("{field}[{index}]"))).collect()
}
