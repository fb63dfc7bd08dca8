//! `ReferenceGrant` → [`Grant`]s: which routes may use services of another namespace.

use gateway_api::apis::experimental::referencegrants::{ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};

use crate::diagnostic::{Code, Diagnostics};
use crate::index::{Grant, Index};
use crate::kinds::Kind;
use crate::mesh::ServiceName;
use crate::names;
use crate::object::Object;
use crate::suggest::shown;

/// The kinds that have backends.
const ROUTES: [Kind; 4] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute, Kind::TlsRoute];

/// The grants of an object; nothing if something is wrong with it. Those that could never matter to the mesh are
/// refused.
pub(crate) fn ready(object: &Object, index: &Index<'_>, diagnostics: &mut Diagnostics) -> Option<Vec<Grant>> {
    let errors = diagnostics.count();
    let ReferenceGrantSpec { from, to } = object.typed(diagnostics)?;
    let spec = object.cursor();
    for (field, empty) in [("from", from.is_empty()), ("to", to.is_empty())] {
        if empty {
            let message = format!("`{field}` of a ReferenceGrant is empty");
            spec.field(field).error(diagnostics, Code::NoEffect, message, "write who may refer to what");
        }
    }
    let mut sources = Vec::new();
    for (at, ReferenceGrantFrom { group, kind, namespace }) in from.into_iter().enumerate() {
        let cursor = spec.field("from").item(at);
        let known = ROUTES.into_iter().find(|known| known.name() == kind);
        let Some(kind) = known.filter(|_| group == "gateway.networking.k8s.io") else {
            let message = format!("a grant from the kind `{}` of `{}` has no effect", shown(&kind), shown(&group));
            let help = "write `group: gateway.networking.k8s.io` and HTTPRoute, GRPCRoute, TCPRoute or TLSRoute";
            cursor.error(diagnostics, Code::NoEffect, message, help);
            continue;
        };
        if let Err(fault) = names::dns_label(&namespace) {
            let message = format!("`{}` is not a valid namespace: {fault}", shown(&namespace));
            cursor.field("namespace").error(diagnostics, Code::InvalidValue, message, names::DNS_LABEL_HELP);
        }
        sources.push((kind, namespace));
    }
    let mut grants = Vec::new();
    for (at, ReferenceGrantTo { group, kind, name }) in to.into_iter().enumerate() {
        let cursor = spec.field("to").item(at);
        if !group.is_empty() || kind != "Service" {
            let message = format!("a grant to the kind `{}` of `{}` has no effect", shown(&kind), shown(&group));
            cursor.error(diagnostics, Code::NoEffect, message, "write `group: \"\"` and `kind: Service`");
            continue;
        }
        if let Some(name) = &name {
            let name = ServiceName::new(object.namespace.clone(), name.as_str());
            let service = index.service(cursor.field("name"), &name, diagnostics);
            // The permission is that of the service behind a name.
            service.map(|service| Index::is_no_other_name(cursor.field("name"), service, diagnostics));
        }
        grants.extend(sources.iter().map(|(kind, namespace)| Grant {
            kind: *kind,
            from: namespace.as_str().into(),
            to: object.namespace.clone(),
            service: name.as_deref().map(Into::into),
        }));
    }
    (diagnostics.count() == errors && !object.is_damaged()).then_some(grants)
}
