//! `Mesh` → [`MeshSettings`].

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::{self, MeshMtls, MeshSpec, Observer, UnknownDestinations as Written};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::federation;
use crate::mesh::{DefaultAuthorization, MeshSettings, UnknownDestinations};
use crate::names;
use crate::object::Object;
use crate::suggest::shown;
use crate::workload::mtls_mode;

/// The settings of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, diagnostics: &mut Diagnostics) -> Option<MeshSettings> {
    let errors = diagnostics.count();
    let MeshSpec { trust_domain, mtls, unknown_destinations, default_authorization, federation, observers } =
        object.typed(diagnostics)?;
    let spec = object.cursor();
    let mut settings = MeshSettings::default();
    if let Some(domain) = trust_domain {
        if let Err(fault) = names::trust_domain(&domain) {
            let message = format!("`{}` is not a trust domain: {fault}", shown(&domain));
            let help = "write lower-case letters, digits, `.`, `-` and `_`";
            spec.field("trustDomain").error(diagnostics, Code::InvalidValue, message, help);
        }
        settings.trust_domain = domain.into();
    }
    if let Some(MeshMtls { mode, namespaces }) = mtls {
        settings.mtls = mode.map(mtls_mode).unwrap_or_default();
        settings.namespace_mtls =
            namespaces.into_iter().map(|(namespace, mode)| (namespace.into(), mtls_mode(mode))).collect();
    }
    if let Some(written) = unknown_destinations {
        settings.unknown_destinations = match written {
            Written::PassThrough => UnknownDestinations::PassThrough,
            Written::Deny => UnknownDestinations::Deny,
        };
    }
    if let Some(written) = default_authorization {
        settings.default_authorization = match written {
            api::DefaultAuthorization::Allow => DefaultAuthorization::Allow,
            api::DefaultAuthorization::Deny => DefaultAuthorization::Deny,
            api::DefaultAuthorization::Audit => DefaultAuthorization::Audit,
        };
    }
    settings.federation = federation::ready(spec.field("federation"), federation, &settings.trust_domain, diagnostics);
    settings.observers = self::observers(spec.field("observers"), observers, diagnostics);
    (diagnostics.count() == errors && !object.is_damaged()).then_some(settings)
}

/// Who may look: an identity that nobody can have, or that is written twice, is a mistake.
fn observers(
    list: Cursor<'_>,
    written: Vec<Observer>,
    diagnostics: &mut Diagnostics,
) -> BTreeSet<(Arc<str>, Arc<str>)> {
    let mut observers = BTreeSet::new();
    for (at, Observer { namespace, service_account }) in written.into_iter().enumerate() {
        let observer = list.item(at);
        if let Err(fault) = names::dns_label(&namespace) {
            let message = format!("`{}` is not a namespace: {fault}", shown(&namespace));
            observer.field("namespace").error(diagnostics, Code::InvalidValue, message, names::DNS_LABEL_HELP);
        }
        if let Err(fault) = names::dns_subdomain(&service_account) {
            let message = format!("`{}` is not a service account: {fault}", shown(&service_account));
            observer.field("serviceAccount").error(diagnostics, Code::InvalidValue, message, names::DNS_SUBDOMAIN_HELP);
        }
        if !observers.insert((namespace.as_str().into(), service_account.as_str().into())) {
            let message = format!("`{}/{}` is written twice", shown(&namespace), shown(&service_account));
            observer.error(diagnostics, Code::Duplicate, message, "leave one of them out");
        }
    }
    observers
}
