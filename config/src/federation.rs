//! Other trust domains: `Mesh.spec.federation`, and the workloads that are of one. Whether their roots can be read as certificates
//! is found out by who verifies with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::FederatedDomain;
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::mesh::MeshSettings;
use crate::names;
use crate::suggest::{self, shown};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The trust domains that are written, with their roots.
pub(crate) fn ready(
    list: Cursor<'_>,
    written: Vec<FederatedDomain>,
    own: &str,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Arc<str>, Arc<str>> {
    let mut domains = BTreeMap::new();
    for (at, FederatedDomain { trust_domain, roots }) in written.into_iter().enumerate() {
        let cursor = list.item(at);
        let name = cursor.field("trustDomain");
        if let Err(fault) = names::trust_domain(&trust_domain) {
            let message = format!("`{}` is not a trust domain: {fault}", shown(&trust_domain));
            name.error(diagnostics, Code::InvalidValue, message, "write lower-case letters, digits, `.`, `-` and `_`");
        } else if trust_domain == own {
            let message = format!("`{own}` is the mesh's own trust domain, whose roots the control server has");
            name.error(diagnostics, Code::Conflict, message, "write another one");
        }
        if !is_pem(&roots) {
            let help = "write `roots: |`, and below it the certificates from `-----BEGIN CERTIFICATE-----` on";
            cursor.field("roots").error(diagnostics, Code::InvalidValue, "not certificates in PEM", help);
        }
        if domains.insert(trust_domain.as_str().into(), roots.into()).is_some() {
            let message = format!("the trust domain `{}` is written twice", shown(&trust_domain));
            name.error(diagnostics, Code::Duplicate, message, "write all of its roots into one");
        }
    }
    domains
}

/// Nothing but certificates, at least one.
fn is_pem(text: &str) -> bool {
    let mut rest = text.trim();
    let mut any = false;
    while !rest.is_empty() {
        let body = rest.strip_prefix(BEGIN).and_then(|rest| rest.split_once(END));
        let Some((body, after)) = body else { return false };
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\r\n \t".contains(&byte);
        if body.trim().is_empty() || !body.bytes().all(base64) {
            return false;
        }
        any = true;
        rest = after.trim();
    }
    any
}

/// Workloads of trust domains of which nothing is known.
pub(crate) fn check(index: &Index<'_>, settings: &MeshSettings, diagnostics: &mut Diagnostics) {
    for declared in index.workloads.values() {
        let Some(domain) = declared.ready.as_ref().and_then(|workload| workload.trust_domain.as_deref()) else {
            continue;
        };
        let cursor = declared.object.cursor().field("trustDomain");
        if *domain == *settings.trust_domain {
            let message = format!("`{domain}` is the mesh's own trust domain");
            cursor.error(diagnostics, Code::NoEffect, message, "leave `trustDomain` out");
        } else if !settings.federation.contains_key(domain) {
            let help = match suggest::nearest(domain, settings.federation.keys().map(|known| &**known)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write it with its roots into `Mesh.spec.federation`".to_owned(),
            };
            let message = format!("of the trust domain `{}` no roots are known", shown(domain));
            cursor.error(diagnostics, Code::DanglingReference, message, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_roots() {
        let one = format!("{BEGIN}\nMIIB+/=\n{END}\n");
        assert!(is_pem(&one) && is_pem(&format!("\n{one}\n{one}")));
        let key = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
        for bad in ["", "partner.pem", BEGIN, key, &format!("{one}{key}"), &format!("{BEGIN}\n{END}")] {
            assert!(!is_pem(bad), "{bad}");
        }
    }
}
