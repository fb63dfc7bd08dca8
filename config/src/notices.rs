//! What is no error, and should not be forgotten: who takes plaintext.

use crate::mesh::{Mesh, MtlsMode, Sidecar};
use crate::suggest;

impl Mesh {
    /// Sentences that are shown wherever this configuration is: by checks, in logs, in the status. There are none for a mesh
    /// in which every connection is under mTLS.
    pub fn notices(&self) -> Vec<String> {
        self.plaintext().into_iter().collect()
    }

    /// Who takes plaintext, if anybody does or would.
    fn plaintext(&self) -> Option<String> {
        let settings = &self.settings;
        let takers: Vec<_> = self
            .workloads
            .values()
            .filter(|workload| {
                let outside = workload.sidecar == Sidecar::None && settings.outside.contains(&workload.name.namespace);
                let mode = workload.mtls.unwrap_or_else(|| settings.mtls_in(&workload.name.namespace));
                mode == MtlsMode::Permissive && !outside
            })
            .map(|workload| &workload.name)
            .collect();
        if !takers.is_empty() {
            let (count, all) = (takers.len(), self.workloads.len());
            let listed = suggest::listing(takers);
            return Some(format!("mtls is permissive: plaintext is taken by {listed} ({count} of {all} workloads)"));
        }
        let namespaces: Vec<_> = settings
            .namespace_mtls
            .iter()
            .filter(|(_, mode)| **mode == MtlsMode::Permissive)
            .map(|(namespace, _)| format!("the namespace {namespace}"))
            .collect();
        let mesh = (settings.mtls == MtlsMode::Permissive).then(|| "the mesh".to_owned());
        let places: Vec<String> = mesh.into_iter().chain(namespaces).collect();
        let listed = (!places.is_empty()).then(|| suggest::listing(places))?;
        Some(format!("mtls is permissive for {listed}: no workload takes plaintext yet, a new one will"))
    }
}

#[cfg(test)]
mod tests {
    use crate::{SourceFile, load};

    fn notices(text: &str) -> Vec<String> {
        let workload = |name: &str, more: &str| {
            let metadata = format!("metadata: {{name: {name}, namespace: shop}}");
            format!("---\napiVersion: malla.dev/v1alpha1\nkind: Workload\n{metadata}\nspec: {{{more}}}\n")
        };
        let text = text
            .replace("<strict>", &workload("a", "address: 10.0.0.1, mtls: {mode: strict}"))
            .replace("<silent>", &workload("b", "address: 10.0.0.2"))
            .replace("<permissive>", &workload("c", "address: 10.0.0.3, mtls: {mode: permissive}"));
        load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}")).notices()
    }

    #[test]
    fn says_who_takes_plaintext() {
        let mesh =
            |mtls: &str| format!("apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: m}}\nspec: {mtls}\n");
        assert_eq!(notices("<strict><silent>"), [""; 0]);
        let one = "mtls is permissive: plaintext is taken by c.shop (1 of 3 workloads)";
        assert_eq!(notices("<strict><silent><permissive>"), [one]);
        let two = "mtls is permissive: plaintext is taken by b.shop, c.shop (2 of 3 workloads)";
        assert_eq!(notices(&(mesh("{mtls: {mode: permissive}}") + "<strict><silent><permissive>")), [two]);
        let namespace = "mtls is permissive: plaintext is taken by b.shop (1 of 1 workloads)";
        assert_eq!(notices(&(mesh("{mtls: {namespaces: {shop: permissive}}}") + "<silent>")), [namespace]);
        let nobody = "mtls is permissive for the mesh: no workload takes plaintext yet, a new one will";
        assert_eq!(notices(&(mesh("{mtls: {mode: permissive}}") + "<strict>")), [nobody]);
    }
}
