//! Sidecars in manifests: what [`malla_control::inject`] makes of the pods in YAML documents, written into their text so that everything
//! else stays byte for byte as it was. Reads and writes nothing by itself.

mod edit;
mod emit;
mod manifest;
mod tree;

pub(crate) use self::manifest::{Rewritten, inject, uninject};
