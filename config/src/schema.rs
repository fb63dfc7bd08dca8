//! Schemas of Malla's own kinds, generated from the Rust types: CRDs for clusters, JSON Schemas for editors.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::api;
use crate::kinds::Kind;

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
    /// The `CustomResourceDefinition` as a YAML document, for `kubectl apply`.
    pub fn crd_yaml(&self) -> String {
        // A tree of JSON values has nothing that YAML could not say; JSON itself is YAML.
        serde_saphyr::to_string(&self.crd).unwrap_or_else(|_| self.crd.to_string())
    }
}

/// The schemas of all of Malla's own kinds, by kind.
///
/// ```
/// let kinds: Vec<&str> = malla_config::schema().iter().map(|schema| schema.kind).collect();
/// assert_eq!(kinds, [
///     "AuthorizationPolicy",
///     "FaultInjection",
///     "Mesh",
///     "RateLimit",
///     "RetryPolicy",
///     "RouteTest",
///     "TraceSampling",
///     "TrafficPolicy",
///     "Workload",
/// ]);
/// ```
pub fn schema() -> Vec<KindSchema> {
    vec![
        of(Kind::AuthorizationPolicy, &api::AuthorizationPolicy::crd()),
        of(Kind::FaultInjection, &api::FaultInjection::crd()),
        of(Kind::Mesh, &api::Mesh::crd()),
        of(Kind::RateLimit, &api::RateLimit::crd()),
        of(Kind::RetryPolicy, &api::RetryPolicy::crd()),
        of(Kind::RouteTest, &api::RouteTest::crd()),
        of(Kind::TraceSampling, &api::TraceSampling::crd()),
        of(Kind::TrafficPolicy, &api::TrafficPolicy::crd()),
        of(Kind::Workload, &api::Workload::crd()),
    ]
}

fn of(kind: Kind, crd: &CustomResourceDefinition) -> KindSchema {
    // The types hold strings, numbers and maps with string keys only, which JSON always has words for.
    let crd = serde_json::to_value(crd).unwrap_or_default();
    KindSchema { kind: kind.name(), crd, json_schema: document_schema(kind) }
}

/// The schema of `spec` inside of that of a document.
fn document_schema(kind: Kind) -> Value {
    let mut spec = kind.schema().clone();
    let definitions = spec.as_object_mut().and_then(|spec| {
        spec.remove("$schema");
        spec.remove("$defs")
    });
    let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let mut metadata = json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "labels": labels, "annotations": labels},
    });
    if kind.namespaced() {
        metadata["properties"]["namespace"] = json!({"type": "string"});
    }
    let versions = kind.api_versions();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name(),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"enum": versions},
            "kind": {"const": kind.name()},
            "metadata": metadata,
            "spec": spec,
        },
    });
    if let Some(definitions) = definitions {
        schema["$defs"] = definitions;
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnostics;
    use crate::source::{Source, SourceFile};
    use crate::yaml;

    #[test]
    fn describes_each_kind() {
        for schema in schema() {
            let version = &schema.crd["spec"]["versions"][0];
            assert_eq!(version["name"], "v1alpha1", "{}", schema.kind);
            let crd_spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let json_spec = &schema.json_schema["properties"]["spec"];
            let fields = |spec: &Value| spec["properties"].as_object().map(|fields| fields.keys().cloned().collect());
            let fields: [Option<Vec<String>>; 2] = [fields(crd_spec), fields(json_spec)];
            assert!(fields[0].as_ref().is_some_and(|fields| !fields.is_empty()), "{}", schema.kind);
            assert_eq!(fields[0], fields[1], "{}", schema.kind);
            assert!(schema.crd_yaml().starts_with("apiVersion: apiextensions.k8s.io/v1\n"), "{}", schema.crd_yaml());
        }
    }

    #[test]
    fn prints_crds_that_can_be_read_back() {
        for schema in schema() {
            let source = Source::new(&SourceFile::new("crd.yaml", schema.crd_yaml()));
            let mut diagnostics = Diagnostics::default();
            let (documents, whole) = yaml::parse(&source, &mut diagnostics);
            assert!(whole && diagnostics.count() == 0, "{diagnostics:?}");
            let kind = documents[0].get("spec").and_then(|spec| spec.get("names")?.get("kind")?.as_str());
            assert_eq!(kind, Some(schema.kind));
        }
    }

    #[test]
    fn makes_only_the_mesh_global() {
        for schema in schema() {
            let scope = if schema.kind == "Mesh" { "Cluster" } else { "Namespaced" };
            assert_eq!(schema.crd["spec"]["scope"], scope, "{}", schema.kind);
        }
    }
}
