//! Every example of the documentation as a configuration of its own: the directories of `config/examples`, and the YAML on the pages of
//! `docs`, each made whole by what its page takes for granted.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::tools::repository;

/// A configuration that people are shown.
#[derive(Debug)]
pub struct Example {
    /// Where: `docs/routes.md:9`, `config/examples/grpc`.
    pub name: String,
    /// All of its documents.
    pub text: String,
}

/// Services that pages speak of without writing them down, all in the namespace `shop`.
const TAKEN_FOR_GRANTED: [&str; 6] = ["basket", "cart", "checkout", "checkout-v2", "orders", "reviews"];

/// All of them.
///
/// # Panics
///
/// When a file cannot be read.
#[track_caller]
pub fn all() -> Vec<Example> {
    let directories = entries(&repository().join("config/examples"));
    let mut examples: Vec<Example> = directories.iter().map(|directory| of_directory(directory)).collect();
    for page in entries(&repository().join("docs")).iter().chain([&repository().join("README.md")]) {
        if page.extension().is_some_and(|extension| extension == "md") {
            examples.extend(of_page(page));
        }
    }
    examples
}

fn of_directory(directory: &Path) -> Example {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let texts: Vec<String> = entries(directory).iter().map(|file| read(file)).collect();
    Example { name: format!("config/examples/{name}"), text: texts.join("\n---\n") }
}

fn of_page(page: &Path) -> Vec<Example> {
    let name = page.strip_prefix(repository()).unwrap_or(page).display().to_string();
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for (number, line) in (1..).zip(read(page).lines()) {
        match &mut open {
            None if line == "```yaml" => open = Some(Example { name: format!("{name}:{number}"), text: String::new() }),
            Some(_) if line == "```" => {
                examples.extend(open.take().map(|example| Example { text: whole(&example.text), ..example }));
            }
            Some(example) => {
                // Writing to a String cannot fail.
                let _ = writeln!(example.text, "{line}");
            }
            None => {}
        }
    }
    examples
}

/// With what its page takes for granted: the head of its document, services and their workloads, who uses what it declares, and what
/// it is about.
fn whole(text: &str) -> String {
    let mut text = match text.split_whitespace().next() {
        Some("rules:") => {
            let service = after(text, "backendRefs: [{name: ");
            format!("{}spec:\n  parentRefs: [{{group: '', kind: Service, name: {service}}}]\n{text}", route("shown"))
        }
        Some("spec:") => format!(
            "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: shown, namespace: shop}}\n{text}"
        ),
        Some("kind:") => format!("apiVersion: malla.dev/v1alpha1\n{text}"),
        _ => text.to_owned(),
    };
    if let Some((before, _)) = text.split_once("      -----BEGIN CERTIFICATE-----") {
        text = format!("{before}{}", indented(&root()));
    }
    for kind in ["RetryPolicy", "FaultInjection"] {
        if text.contains(&format!("kind: {kind}\n")) {
            let name = after(&text, "metadata: {name: ");
            let filter =
                format!("{{type: ExtensionRef, extensionRef: {{group: malla.dev, kind: {kind}, name: {name}}}}}");
            text += &format!("---\n{}{}", route("uses-it"), to("orders", &format!("filters: [{filter}]")));
        }
    }
    if text.contains("kind: HTTPRoute, name: admin") {
        text += &format!("---\n{}{}", route("admin"), to("cart", "matches: [{path: {value: /admin}}]"));
    }
    if text.contains("namespace: web}\nspec:\n  parentRefs") {
        text += "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: web, namespace: shop}\n\
                 spec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]\n  \
                 to: [{group: '', kind: Service}]\n";
    }
    let shown = text.clone();
    for (number, service) in (1..).zip(TAKEN_FOR_GRANTED) {
        // Somebody must be there to ask.
        if !shown.contains(service) && service != "cart" {
            continue;
        }
        if !shown.contains(&format!("kind: Service\nmetadata: {{name: {service},")) {
            text += &format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\n\
                 spec: {{selector: {{app: {service}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
            );
        }
        for version in ["v1", "v2"] {
            let last = 2 * number + i32::from(version == "v2");
            text += &format!(
                "---\napiVersion: malla.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: {service}-{version}-1, namespace: shop, labels: {{app: {service}, version: {version}}}}}\n\
                 spec: {{address: 10.200.0.{last}, serviceAccount: {service}}}\n"
            );
        }
    }
    text
}

fn route(name: &str) -> String {
    format!("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n")
}

fn to(service: &str, rule: &str) -> String {
    format!(
        "spec:\n  parentRefs: [{{group: '', kind: Service, name: {service}}}]\n  rules: [{{{rule}, backendRefs: [{{name: {service}, port: 80}}]}}]\n"
    )
}

/// The word that follows.
fn after<'a>(text: &'a str, before: &str) -> &'a str {
    let rest = text.split_once(before).map_or("", |(_, rest)| rest);
    rest.split([',', '}']).next().unwrap_or_default()
}

/// The root of another mesh.
fn root() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.self_signed(&key).expect("a certificate").pem()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}

/// What is in a directory, by name.
#[track_caller]
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

#[track_caller]
fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
