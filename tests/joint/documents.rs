//! YAML documents of a small mesh in the namespace `shop`, for tests that need many of them.

use std::net::SocketAddr;

/// A service on port 80 that leads to these applications; `protocol` is declared, if it is any.
pub(crate) fn service(name: &str, protocol: &str, applications: &[SocketAddr]) -> String {
    let declared = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
    let slices = applications.iter().map(|application| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{port}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: main, port: {port}}}]\nendpoints: [{{addresses: [{ip}]}}]\n---\n",
            port = application.port(),
            ip = application.ip()
        )
    });
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{ports: [{{name: main, port: 80{declared}}}]}}\n---\n{}",
        slices.collect::<String>()
    )
}

/// One of our own kinds.
pub(crate) fn own(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: malla.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n"
    )
}

/// A policy of the service of the same name; `fields` are those beside its target, without braces around them.
pub(crate) fn policy(name: &str, fields: &str) -> String {
    own("TrafficPolicy", name, &format!("{{targetRefs: [{{group: '', kind: Service, name: {name}}}], {fields}}}"))
}

/// Rules of a route of a service; each begins with two spaces and a dash. `rest` are other lines of its `spec`.
pub(crate) fn route(kind: &str, name: &str, service: &str, rest: &str, rules: &[String]) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: {service}, port: 80}}]\n{rest}  rules:\n{}---\n",
        rules.concat()
    )
}

/// A filter that names one of our own kinds.
pub(crate) fn extension(kind: &str, name: &str) -> String {
    format!("{{type: ExtensionRef, extensionRef: {{group: malla.dev, kind: {kind}, name: {name}}}}}")
}
