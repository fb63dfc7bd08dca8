//! SPIFFE identities as the mesh issues them: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//! Refuses every other form, so that two identities are equal exactly when their texts are.

use std::fmt;
use std::sync::Arc;

/// An identity of the mesh, compared as a whole (SPIFFE-ID §2).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// Why a text is not an identity of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct InvalidSpiffeId(String);

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    /// A part that is empty or has characters outside SPIFFE-ID §2.1 and §2.2.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, InvalidSpiffeId> {
        Self::parse(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// Parses the form that the mesh issues.
    ///
    /// # Errors
    /// Anything that is not `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` with valid parts.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        match parts(text) {
            Some(_) if text.len() <= 2048 => Ok(SpiffeId(text.into())),
            _ => Err(InvalidSpiffeId(text.chars().take(256).collect())),
        }
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Trust domain.
    pub fn trust_domain(&self) -> &str {
        parts(&self.0).map_or("", |[domain, _, _]| domain)
    }

    /// Namespace.
    pub fn namespace(&self) -> &str {
        parts(&self.0).map_or("", |[_, namespace, _]| namespace)
    }

    /// Service account.
    pub fn service_account(&self) -> &str {
        parts(&self.0).map_or("", |[_, _, account]| account)
    }
}

/// Trust domain, namespace and service account.
fn parts(text: &str) -> Option<[&str; 3]> {
    let mut segments = text.strip_prefix("spiffe://")?.split('/');
    let domain = segments.next()?;
    let ("ns", namespace, "sa", account) = (segments.next()?, segments.next()?, segments.next()?, segments.next()?)
    else {
        return None;
    };
    let lower = |part: &str| !part.bytes().any(|b| b.is_ascii_uppercase());
    let valid = segments.next().is_none()
        && [domain, namespace, account].into_iter().all(is_segment)
        && lower(domain)
        && ![namespace, account].contains(&".")
        && ![namespace, account].contains(&"..");
    valid.then_some([domain, namespace, account])
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

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_form_the_mesh_issues_and_nothing_else() {
        let cart = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("valid");
        assert_eq!((cart.trust_domain(), cart.namespace(), cart.service_account()), ("cluster.local", "shop", "cart"));
        for bad in [
            "spiffe://td/ns/shop/sa/",
            "spiffe://td/ns/shop/sa/a/b",
            "spiffe://td/ns/shop/sa/..",
            "spiffe://TD/ns/shop/sa/a",
            "http://td/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://td/ns/a b/sa/c",
            "",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}
