//! Each class of error: how many there are, where they are, whose they are, what they say and what to write.

mod filters;
mod resources;
mod routes;
mod shape;
mod traffic_policy;

use malla_config::{Code, Diagnostic, SourceFile, load};

/// A configuration without errors, which the cases add to.
const BASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports:
    - {name: http, port: 80, targetPort: http}
    - {name: grpc, port: 50051}
    - {name: mysql, port: 3306}
    - {name: tls, port: 443}
    - {name: any, port: 9999}
---
apiVersion: v1
kind: Service
metadata: {name: front, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart, version: v1}}
spec: {address: 10.0.0.1, ports: {http: 8080}}
---
apiVersion: v1
kind: Service
metadata: {name: ledger, namespace: bank}
spec:
  selector: {app: ledger}
  ports: [{name: http, port: 80}]
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: ledger-1, namespace: bank, labels: {app: ledger}}
spec: {address: 10.0.0.2}
"#;

/// The errors of a text beside the base.
fn errors(text: &str) -> Vec<Diagnostic> {
    let files = [SourceFile::new("base.yaml", BASE), SourceFile::new("case.yaml", text)];
    match load(&files) {
        Ok(_) => Vec::new(),
        Err(report) => report.diagnostics().to_vec(),
    }
}

/// What is expected of one error: code, line and column, resource, parts of the message and of the help.
type Expected = (Code, (usize, usize), &'static str, &'static str, &'static str);

#[track_caller]
fn expect(text: &str, expected: &[Expected]) {
    let found = errors(text);
    let told: String = found.iter().map(|error| format!("{:?} {error}\n    {:?}\n", error.code, error.help)).collect();
    assert_eq!(found.len(), expected.len(), "{text}\n{told}");
    for (error, (code, place, resource, message, help)) in found.iter().zip(expected) {
        let help_found = error.help.as_deref().unwrap_or_default();
        assert_eq!(error.code, *code, "{text}\n{told}");
        assert_eq!((error.line, error.column), *place, "{text}\n{told}");
        assert_eq!(error.resource.as_deref().unwrap_or_default(), *resource, "{text}\n{told}");
        assert!(error.message.contains(message), "{message:?} is not in\n{text}\n{told}");
        assert!(!help_found.is_empty() && help_found.contains(help), "{help:?} is not in\n{text}\n{told}");
        assert_eq!(error.file, "case.yaml", "{told}");
    }
}

/// A route of the kind for the service `cart`; the rest of its `spec` begins at line 6.
fn route(kind: &str, spec: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r, namespace: shop}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: cart}}]\n{spec}"
    )
}

fn http(spec: &str) -> String {
    route("HTTPRoute", spec)
}

/// A service; the rest of its `spec` begins at line 5.
fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: new, namespace: shop}}\nspec:\n{spec}")
}

/// A workload; the rest of its `spec` begins at line 5.
fn workload(spec: &str) -> String {
    format!("apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w, namespace: shop}}\nspec:\n{spec}")
}
