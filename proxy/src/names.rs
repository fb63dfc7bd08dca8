//! Names that travel through the sidecar: xDS names, service authorities, SPIFFE identities.

use std::fmt;
use std::sync::Arc;

/// A resource name of xDS, cheap to clone.
pub type Name = Arc<str>;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, compared as a whole (SPIFFE-ID §2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// Why a text is not a SPIFFE ID of a mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct InvalidSpiffeId(String);

impl SpiffeId {
    /// Parses the form that the mesh issues.
    ///
    /// # Errors
    /// Anything that is not `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` with non-empty parts.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        let valid = text.strip_prefix("spiffe://").is_some_and(|rest| {
            let parts: Vec<&str> = rest.split('/').collect();
            matches!(parts[..], [domain, "ns", namespace, "sa", account]
                if [domain, namespace, account].iter().all(|part| is_segment(part)))
        });
        if valid { Ok(SpiffeId(text.into())) } else { Err(InvalidSpiffeId(text.to_owned())) }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// SPIFFE-ID §2.2: letters, digits, dots, dashes and underscores.
fn is_segment(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_form_the_mesh_issues_and_nothing_else() {
        assert!(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").is_ok());
        for bad in [
            "spiffe://td/ns/shop/sa/",
            "spiffe://td/ns/shop/sa/a/b",
            "http://td/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a b/sa/c",
            "",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}
