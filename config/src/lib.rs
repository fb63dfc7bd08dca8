//! What people write: YAML documents → a validated [`Mesh`]. No I/O, no async.
//!
//! [`load`] takes the texts of all files and answers with a [`Mesh`] in which every value is valid and every reference
//! resolves, or with a [`Report`] of everything that is wrong: file, line, column, resource, the snippet, and what to
//! write instead. Nothing that is accepted is ignored: what Malla does not implement yet is refused by name.
//!
//! The way of a file:
//!
//! ```text
//! text ─ yaml ─→ located tree ─ kinds ─→ objects ─ schema_walk ─→ typed structs ─ one module per kind ─→ Mesh
//!                                                                                 └ references, conflicts ┘
//! ```

pub mod api;
mod assemble;
mod authorization_policy;
mod checks;
mod conflicts;
mod cursor;
mod diagnostic;
mod doubts;
mod endpoint_slice;
mod extension;
mod external_names;
mod federation;
mod filter;
mod grpc_route;
mod http_match;
mod http_route;
mod index;
mod kinds;
mod loader;
pub mod mesh;
mod mesh_settings;
mod metadata;
mod names;
mod notices;
mod object;
mod protocol;
mod reference;
mod reference_grant;
mod render;
mod retry;
mod route;
mod route_test;
mod scalar;
mod schema;
mod schema_walk;
mod service;
mod session;
mod source;
mod stream_route;
mod subset;
mod suggest;
mod traffic_policy;
mod workload;
mod yaml;

pub use diagnostic::{Code, Diagnostic, Related, Report, Severity};
pub use loader::{Loader, Surroundings};
pub use mesh::Mesh;
pub use protocol::is_declarable;
pub use reference::reference;
pub use render::Style;
pub use schema::{KindSchema, schema};
pub use source::SourceFile;

/// Reads a whole configuration.
///
/// The order of `files` decides the order between routes of equal precedence, so callers sort them by path. The result
/// depends on nothing but the arguments.
///
/// ```
/// use malla_config::{SourceFile, load};
///
/// let mesh = load(&[SourceFile::new("empty.yaml", "# nothing yet\n")]).unwrap();
/// assert!(mesh.services.is_empty());
///
/// let report = load(&[SourceFile::new("bad.yaml", "kind: Servce\n")]).unwrap_err();
/// assert_eq!((report.diagnostics()[0].line, report.diagnostics()[0].column), (1, 7));
/// ```
///
/// # Errors
///
/// Everything that is wrong, in the order of files and lines. There is no partial result.
pub fn load(files: &[SourceFile]) -> Result<Mesh, Report> {
    let (mesh, report) = inspect(files);
    mesh.ok_or(report)
}

/// Reads a whole configuration, like [`load`], and tells besides what is suspicious in one that is taken: there is no mesh
/// exactly if the report has errors.
pub fn inspect(files: &[SourceFile]) -> (Option<Mesh>, Report) {
    let files: Vec<_> = files.iter().cloned().map(std::sync::Arc::new).collect();
    Loader::default().inspect(&files, &Surroundings::Nothing)
}
