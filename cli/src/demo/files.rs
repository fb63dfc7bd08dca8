//! The mesh's files: what the demo writes for people to read and edit.
//!
//! It owns the texts and where they go. It never overwrites what somebody may have edited: routes and services are written
//! only into a directory that has no YAML yet; only the list of workloads, which follows the addresses of this run, and what is
//! offered to be tried are written at every start.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::addresses::Addresses;
use super::offers;
use super::topology::{AGENCY, DATABASE_PORT, HTTP_PORT, INSTANCES, PARTS, VERSIONED};

/// File with the workloads: written at each start.
const WORKLOADS: &str = "workloads.yaml";
/// File with the route of a versioned service.
pub(crate) fn route_file(service: &str) -> String {
    format!("route-{service}.yaml")
}

/// The directory that the control server watches, and who removes it.
#[derive(Debug)]
pub(crate) struct MeshDirectory {
    path: PathBuf,
    // Removes the directory when dropped.
    _temporary: Option<tempfile::TempDir>,
}

impl MeshDirectory {
    /// Writes the mesh into `given`, or into a temporary directory.
    ///
    /// # Errors
    /// The directory or a file cannot be written; the sentence says which.
    pub(crate) fn prepare(given: Option<&Path>, addresses: &Addresses) -> anyhow::Result<Self> {
        let (path, temporary) = match given {
            Some(path) => (path.to_owned(), None),
            None => {
                let directory = tempfile::Builder::new()
                    .prefix("malla-demo-")
                    .tempdir()
                    .context("cannot make a temporary directory; name one with --config")?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make the directory {}", path.display()))?;
        if has_no_yaml(&path)? {
            write(&path, "services.yaml", &services())?;
            for service in VERSIONED {
                write(&path, &route_file(service), &route(service))?;
            }
        }
        write(&path, WORKLOADS, &workloads(addresses))?;
        offers::write(&path)?;
        Ok(MeshDirectory { path, _temporary: temporary })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn has_no_yaml(path: &Path) -> anyhow::Result<bool> {
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the directory {}", path.display()))?;
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read the directory {}", path.display()))?.file_name();
        let yaml = matches!(Path::new(&name).extension().and_then(|e| e.to_str()), Some("yaml" | "yml"));
        if yaml && name != WORKLOADS {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes beside and renames, so that nobody who watches the directory reads half a file.
fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = directory.join(name);
    let beside = directory.join(format!(".{name}.new"));
    std::fs::write(&beside, text)
        .and_then(|()| std::fs::rename(&beside, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn services() -> String {
    let mut text = String::from(
        "# The services of the travel agency. A service selects the workloads that carry its labels.\n\
         # The portals have none: nobody calls them.\n",
    );
    for service in ["travels", "discounts"].into_iter().chain(PARTS) {
        text.push_str(&service_document(service, &[("app", service)], "http", HTTP_PORT));
    }
    for service in VERSIONED {
        for version in ["v1", "v2"] {
            let name = format!("{service}-{version}");
            text.push_str(&service_document(&name, &[("app", service), ("version", version)], "http", HTTP_PORT));
        }
    }
    text.push_str(&service_document("mysqldb", &[("app", "mysqldb")], "mysql", DATABASE_PORT));
    text
}

fn service_document(name: &str, selector: &[(&str, &str)], protocol: &str, port: u16) -> String {
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    format!(
        "---\n\
         apiVersion: v1\n\
         kind: Service\n\
         metadata: {{name: {name}, namespace: {AGENCY}}}\n\
         spec:\n\
         \x20 selector: {{{}}}\n\
         \x20 ports: [{{name: {protocol}, port: {port}, targetPort: {protocol}}}]\n",
        labels.join(", ")
    )
}

/// One weight per line, so that `sed` reaches each.
fn route(service: &str) -> String {
    format!(
        "# Who calls `{service}` reaches one of its two versions. Change the weights and watch the table.\n\
         apiVersion: gateway.networking.k8s.io/v1\n\
         kind: HTTPRoute\n\
         metadata: {{name: {service}, namespace: {AGENCY}}}\n\
         spec:\n\
         \x20 parentRefs:\n\
         \x20 - {{group: \"\", kind: Service, name: {service}, port: {HTTP_PORT}}}\n\
         \x20 rules:\n\
         \x20 - backendRefs:\n\
         \x20   - {{name: {service}-v1, port: {HTTP_PORT}, weight: 50}}\n\
         \x20   - {{name: {service}-v2, port: {HTTP_PORT}, weight: 50}}\n"
    )
}

fn workloads(addresses: &Addresses) -> String {
    let mut text = String::from(
        "# Written by `malla demo` at every start: the processes of this run and where their sidecars listen.\n",
    );
    for instance in INSTANCES {
        let place = addresses.place(instance);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---\n\
             apiVersion: malla.dev/v1alpha1\n\
             kind: Workload\n\
             metadata:\n\
             \x20 name: {name}\n\
             \x20 namespace: {namespace}\n\
             \x20 labels: {{app: {service}, version: {version}}}\n\
             spec:\n\
             \x20 serviceAccount: {service}\n\
             \x20 address: {ip}\n\
             {ports}\
             \x20 locality: {{region: demo, zone: {zone}}}\n\
             \x20 sidecar: {{mode: explicit, inboundPort: {inbound}, application: {ip}}}\n",
            name = instance.name,
            namespace = instance.namespace,
            service = instance.service,
            version = instance.version,
            ip = place.ip,
            ports = if instance.serves() {
                format!("  ports: {{{}: {}}}\n", instance.protocol(), place.application.port())
            } else {
                String::new()
            },
            inbound = place.inbound.port(),
            zone = if instance.version == "v2" { "b" } else { "a" },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path) -> Vec<malla_config::SourceFile> {
        let addresses = Addresses::choose().expect("loopback addresses");
        let _mesh = MeshDirectory::prepare(Some(directory), &addresses).expect("a mesh");
        malla_control::source::read(directory).expect("files")
    }

    #[test]
    fn the_files_are_a_valid_mesh() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = written(directory.path());
        let mesh = malla_config::load(&files).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(mesh.workloads.len(), INSTANCES.len());
        assert_eq!(mesh.http_routes.len(), VERSIONED.len());
    }

    #[test]
    fn files_that_were_edited_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        written(directory.path());
        std::fs::write(directory.path().join("services.yaml"), "# mine\n").expect("writable");
        let files = written(directory.path());
        assert!(files.iter().any(|file| file.path.ends_with("services.yaml") && file.text == "# mine\n"));
    }
}
