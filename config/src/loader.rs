//! Reads a configuration again and again: what has not changed is not parsed a second time.
//!
//! A cluster's mesh is thousands of documents of which one changes. Only texts and what a single text says are kept; everything that
//! spans several documents is checked anew each time, so that the answer is the one that [`inspect`](crate::inspect) gives.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Diagnostics, Report};
use crate::mesh::Mesh;
use crate::object::Objects;
use crate::source::{Source, SourceFile};
use crate::{assemble, yaml};

/// What lies around the documents: whether all that they name is written in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Surroundings {
    /// Nothing: the documents are the whole mesh, and what is missing was forgotten.
    #[default]
    Nothing,
    /// A cluster, which says who serves what: services may be without endpoints, and endpoints without sidecars.
    Cluster {
        /// Namespaces whose workloads get no sidecars: those without one are reached in plaintext there, whatever mode holds for
        /// the mesh.
        outside: BTreeSet<Arc<str>>,
    },
}

/// Reads configurations, and remembers the documents of the last one.
#[derive(Debug, Default)]
pub struct Loader {
    known: HashMap<String, Parsed>,
    /// Counts what was read.
    round: u64,
}

/// What one text says by itself.
#[derive(Debug)]
struct Parsed {
    file: Arc<SourceFile>,
    /// When it was last part of a configuration.
    round: u64,
    source: Arc<Source>,
    objects: Objects,
    diagnostics: Vec<Diagnostic>,
    /// Errors beyond those that are kept.
    omitted: usize,
    whole: bool,
}

impl Loader {
    /// Reads a whole configuration, like [`inspect`](crate::inspect).
    pub fn inspect(&mut self, files: &[Arc<SourceFile>], surroundings: &Surroundings) -> (Option<Mesh>, Report) {
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        let mut sources = Vec::with_capacity(files.len());
        let mut objects = Objects::default();
        let mut diagnostics = Diagnostics::default();
        let mut complete = true;
        let mut take = |parsed: &Parsed| {
            objects.objects.extend(parsed.objects.objects.iter().cloned());
            objects.unreadable.extend(parsed.objects.unreadable.iter().cloned());
            parsed.diagnostics.iter().for_each(|found| diagnostics.push(found.clone()));
            diagnostics.omit(parsed.omitted);
            complete &= parsed.whole;
            sources.push(parsed.source.clone());
        };
        for file in files {
            match self.known.get_mut(&file.path) {
                // A second file of the same name is read each time.
                Some(known) if known.round == round => take(&Parsed::of(file, round)),
                Some(known) if known.is(file) => {
                    known.round = round;
                    // To be known at once the next time.
                    known.file = file.clone();
                    take(known);
                }
                _ => {
                    let parsed = Parsed::of(file, round);
                    take(&parsed);
                    self.known.insert(file.path.clone(), parsed);
                }
            }
        }
        self.known.retain(|_, parsed| parsed.round == round);
        let mesh = assemble::mesh(&objects, complete, surroundings, &mut diagnostics);
        let report = diagnostics.into_report(&sources);
        ((report.error_count() == 0).then_some(mesh), report)
    }
}

impl Parsed {
    /// Whether it is what a file says now.
    fn is(&self, file: &Arc<SourceFile>) -> bool {
        Arc::ptr_eq(&self.file, file) || self.file.text == file.text
    }

    fn of(file: &Arc<SourceFile>, round: u64) -> Parsed {
        let source = Source::new(file);
        let mut diagnostics = Diagnostics::default();
        let mut objects = Objects::default();
        let (documents, whole) = yaml::parse(&source, &mut diagnostics);
        for document in &documents {
            objects.add(&source, document, &mut diagnostics);
        }
        let omitted = diagnostics.omitted();
        let diagnostics = diagnostics.into_report(std::slice::from_ref(&source)).into_diagnostics();
        Parsed { file: file.clone(), round, source, objects, diagnostics, omitted, whole }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::MtlsMode;

    fn service(name: &str) -> SourceFile {
        let spec = "{type: ExternalName, externalName: example.com, ports: [{port: 80}]}";
        let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        SourceFile::new(format!("{name}.yaml"), text)
    }

    #[test]
    fn answers_as_if_it_had_never_read_anything_before() {
        let mut loader = Loader::default();
        let broken = SourceFile::new("b.yaml", "kind: Servce\n");
        let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{group: '', kind: Service, name: b}], rules: [{}]}\n";
        let route = SourceFile::new("r.yaml", route);
        for files in [
            vec![service("a"), service("b")],
            vec![service("a"), broken],
            vec![service("a"), service("b"), route.clone()],
            vec![service("a"), route],
            vec![],
            vec![service("b")],
        ] {
            let shared: Vec<_> = files.iter().cloned().map(Arc::new).collect();
            let (mesh, report) = loader.inspect(&shared, &Surroundings::Nothing);
            let (expected, expected_report) = crate::inspect(&files);
            assert_eq!(mesh, expected);
            assert_eq!(report.to_string(), expected_report.to_string());
        }
    }

    #[test]
    fn a_cluster_has_services_without_endpoints_and_endpoints_without_sidecars() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: idle}\nspec: {ports: [{port: 80}]}\n---\n\
                    apiVersion: malla.dev/v1alpha1\nkind: Workload\nmetadata: {name: db}\nspec: {address: 10.0.0.1, sidecar: {mode: none}}\n";
        let files = [SourceFile::new("a.yaml", text)];
        assert_eq!(crate::inspect(&files).1.error_count(), 2);
        let outside: BTreeSet<Arc<str>> = ["default".into()].into();
        let (mesh, report) =
            Loader::default().inspect(&files.map(Arc::new), &Surroundings::Cluster { outside: outside.clone() });
        let mesh = mesh.unwrap_or_else(|| panic!("{report}"));
        assert_eq!((mesh.settings.mtls, &mesh.settings.outside), (MtlsMode::Strict, &outside));
        assert!(mesh.notices().is_empty(), "{:?}", mesh.notices());
    }
}
