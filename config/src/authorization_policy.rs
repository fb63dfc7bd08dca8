//! `AuthorizationPolicy` → [`AuthorizationPolicy`]: what is wrong in one is an error, because a policy that is half understood
//! protects by half.

mod route;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::api::{self, AuthorizationPolicySpec, HeaderConditionType, PathConditionType, PolicyTarget, Selector};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::http_match::{self, How};
use crate::index::{Index, port_listing};
use crate::mesh::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizationTarget, Caller, CallerCondition,
    IdentityMatch, Operation, PathMatch, ServiceName,
};
use crate::names;
use crate::object::Object;
use crate::suggest::{self, shown};

pub(crate) use self::route::Routes;

/// The policy of an object; nothing if something is wrong with it.
pub(crate) fn ready(
    object: &Object,
    index: &Index<'_>,
    routes: Routes<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<AuthorizationPolicy> {
    let errors = diagnostics.count();
    let AuthorizationPolicySpec { target_refs, selector, action, rules } = object.typed(diagnostics)?;
    let spec = object.cursor();
    let target = target(object, target_refs, selector, index, routes, diagnostics);
    let action = match action {
        api::AuthorizationAction::Allow => AuthorizationAction::Allow,
        api::AuthorizationAction::Deny => AuthorizationAction::Deny,
        api::AuthorizationAction::Audit => AuthorizationAction::Audit,
    };
    if rules.is_empty() && action != AuthorizationAction::Allow {
        let message = "without rules this policy matches nothing";
        let help = "write `rules: [{}]` to match every request";
        spec.error(diagnostics, Code::NoEffect, message, help);
    }
    let rules = rules.into_iter().enumerate().map(|(at, rule)| {
        let cursor = spec.field("rules").item(at);
        let each = |field: &str, length: usize, diagnostics: &mut Diagnostics| {
            if length == 0 {
                let message = format!("an empty `{field}` matches nobody");
                let help = format!("leave `{field}` out to match all, or write what it shall match");
                cursor.field(field).error(diagnostics, Code::NoEffect, message, help);
            }
        };
        let (from, to) = (rule.from, rule.to);
        from.as_ref().inspect(|from| each("from", from.len(), diagnostics));
        to.as_ref().inspect(|to| each("to", to.len(), diagnostics));
        let from = from.into_iter().flatten().enumerate();
        let to = to.into_iter().flatten().enumerate();
        AuthorizationRule {
            from: from.map(|(at, from)| caller(cursor.field("from").item(at), from, diagnostics)).collect(),
            to: to.map(|(at, to)| operation(cursor.field("to").item(at), to, diagnostics)).collect(),
        }
    });
    let rules = rules.collect();
    let (namespace, name) = (object.namespace.clone(), object.name.clone());
    let policy = AuthorizationPolicy { namespace, name, target, action, rules };
    (diagnostics.count() == errors && !object.is_damaged()).then_some(policy)
}

fn target(
    object: &Object,
    target_refs: Option<Vec<PolicyTarget>>,
    selector: Option<Selector>,
    index: &Index<'_>,
    routes: Routes<'_>,
    diagnostics: &mut Diagnostics,
) -> AuthorizationTarget {
    let spec = object.cursor();
    match (target_refs, selector) {
        (None, None) => AuthorizationTarget::Namespace,
        (None, Some(Selector { match_labels })) => {
            selects(object, &match_labels, index, diagnostics);
            AuthorizationTarget::Workloads(match_labels)
        }
        (Some(targets), None) => {
            let list = spec.field("targetRefs");
            if targets.is_empty() {
                let help = "write the services, or leave it out to protect the whole namespace";
                list.error(diagnostics, Code::MissingField, "`targetRefs` is empty", help);
            }
            let (mut named_services, mut named_routes) = (Vec::new(), Vec::new());
            for (at, target) in targets.into_iter().enumerate() {
                let cursor = list.item(at);
                match route::kind_of(&target) {
                    Some(kind) => {
                        named_routes.extend(route::target(object, cursor, kind, &target, routes, index, diagnostics));
                    }
                    None => named_services.extend(service(object, cursor, target, index, diagnostics)),
                }
            }
            AuthorizationTarget::Named { services: named_services, routes: named_routes }
        }
        (Some(_), Some(_)) => {
            let help = "write one of them, or two policies";
            spec.field("selector").key().error(
                diagnostics,
                Code::Conflict,
                "`selector` does not go together with `targetRefs`",
                help,
            );
            AuthorizationTarget::Namespace
        }
    }
}

fn selects(object: &Object, labels: &BTreeMap<String, String>, index: &Index<'_>, diagnostics: &mut Diagnostics) {
    let mut workloads = index.workloads.values().filter(|workload| workload.object.namespace == object.namespace);
    let carries = |known: &BTreeMap<String, String>| labels.iter().all(|(key, value)| known.get(key) == Some(value));
    let cursor = object.cursor().field("selector");
    if labels.is_empty() {
        let help = "write labels, or leave `selector` out to protect the whole namespace";
        cursor.error(diagnostics, Code::MissingField, "a selector without labels", help);
    } else if !workloads.any(|workload| carries(&workload.object.labels)) && index.complete {
        let message = format!("the selector selects no Workload of the namespace `{}`", object.namespace);
        index.nothing_to_protect(cursor, (message, "write labels that its workloads carry".to_owned()), diagnostics);
    }
}

fn service(
    object: &Object,
    cursor: Cursor<'_>,
    target: PolicyTarget,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<(ServiceName, Option<Arc<str>>)> {
    let PolicyTarget { group, kind, name, section_name } = target;
    if !group.is_empty() || kind != "Service" {
        let message = format!("a target of the kind `{}` is not supported yet", shown(&kind));
        let help = format!(
            "write `group: \"\"` and `kind: Service`, or `group: {}` and `kind: HTTPRoute` or `GRPCRoute`",
            route::GROUP
        );
        cursor.error(diagnostics, Code::NotSupported, message, help);
        return None;
    }
    let name = ServiceName::new(object.namespace.clone(), name);
    let Some(declared) = index.services.get(&name) else {
        if let Some(missing) = index.no_service(&name) {
            index.nothing_to_protect(cursor.field("name"), missing, diagnostics);
        }
        return Some((name, section_name.map(Arc::from)));
    };
    let service = declared.ready.as_ref()?;
    if !Index::is_no_other_name(cursor.field("name"), service, diagnostics) {
        return None;
    }
    if let Some(section) = &section_name
        && !service.ports.iter().any(|port| *port.name == **section)
    {
        let help = match suggest::nearest(section, service.ports.iter().map(|port| &*port.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("its ports: {}", port_listing(service)),
        };
        let message = format!("the service {name} has no port named `{}`", shown(section));
        index.nothing_to_protect(cursor.field("sectionName"), (message, help), diagnostics);
    }
    Some((name, section_name.map(Arc::from)))
}

fn caller(cursor: Cursor<'_>, written: api::Caller, diagnostics: &mut Diagnostics) -> Caller {
    let mut conditions = Vec::new();
    let mut identities = |field: &str, not: bool, values: Option<Vec<String>>, read: ReadIdentity, help: &str| {
        let Some(values) = values else { return };
        let found = each(cursor.field(field), field, values, read, help, diagnostics);
        conditions.push(if not { CallerCondition::NotIdentity(found) } else { CallerCondition::Identity(found) });
    };
    let api::Caller { namespaces, not_namespaces, service_accounts, not_service_accounts, .. } = &written;
    identities("namespaces", false, namespaces.clone(), namespace, names::DNS_LABEL_HELP);
    identities("notNamespaces", true, not_namespaces.clone(), namespace, names::DNS_LABEL_HELP);
    let help = "write `namespace/name`";
    identities("serviceAccounts", false, service_accounts.clone(), service_account, help);
    identities("notServiceAccounts", true, not_service_accounts.clone(), service_account, help);
    let help = "write `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`";
    identities("identities", false, written.identities, identity, help);
    identities("notIdentities", true, written.not_identities, identity, help);
    identities("trustDomains", false, written.trust_domains, trust_domain, "write a name as in `cluster.local`");
    let help = "write an address and a length, as in `10.0.0.0/8`";
    if let Some(blocks) = written.ip_blocks {
        let field = cursor.field("ipBlocks");
        conditions.push(CallerCondition::Address(each(field, "ipBlocks", blocks, ip_block, help, diagnostics)));
    }
    if let Some(blocks) = written.not_ip_blocks {
        let field = cursor.field("notIpBlocks");
        conditions.push(CallerCondition::NotAddress(each(field, "notIpBlocks", blocks, ip_block, help, diagnostics)));
    }
    if conditions.is_empty() {
        let help = "write one, as in `namespaces: [shop]`; leave `from` out for everybody";
        cursor.error(diagnostics, Code::MissingField, "a caller without any condition", help);
    }
    Caller(conditions)
}

type ReadIdentity = fn(&str) -> Option<IdentityMatch>;

/// Reads each value of a list, which must not be empty.
fn each<T>(
    cursor: Cursor<'_>,
    field: &str,
    values: Vec<String>,
    read: fn(&str) -> Option<T>,
    help: &str,
    diagnostics: &mut Diagnostics,
) -> Vec<T> {
    if values.is_empty() {
        let message = format!("`{field}` is empty");
        cursor.error(diagnostics, Code::NoEffect, message, "leave it out, or write what it shall match");
    }
    let mut found = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        match read(value) {
            Some(value) => found.push(value),
            None => {
                let message = format!("`{}` is not valid in `{field}`", shown(value));
                cursor.item(at).error(diagnostics, Code::InvalidValue, message, help);
            }
        }
    }
    found
}

fn namespace(text: &str) -> Option<IdentityMatch> {
    names::dns_label(text).ok().map(|()| IdentityMatch::Namespace(text.into()))
}

fn service_account(text: &str) -> Option<IdentityMatch> {
    let (namespace, name) = text.split_once('/')?;
    names::dns_label(namespace).ok()?;
    names::dns_subdomain(name).ok()?;
    Some(IdentityMatch::ServiceAccount { namespace: namespace.into(), name: name.into() })
}

fn identity(text: &str) -> Option<IdentityMatch> {
    let (domain, path) = text.strip_prefix("spiffe://")?.split_once('/')?;
    names::trust_domain(domain).ok()?;
    let segment = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    path.split('/').all(segment).then(|| IdentityMatch::Exact(text.into()))
}

fn trust_domain(text: &str) -> Option<IdentityMatch> {
    names::trust_domain(text).ok().map(|()| IdentityMatch::TrustDomain(text.into()))
}

/// A block of addresses whose bits beyond the prefix are zero; an address alone is a block of one.
fn ip_block(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (IpAddr::from_str(address).ok()?, u8::from_str(length).ok()?),
        None => {
            let address = IpAddr::from_str(text).ok()?;
            (address, if address.is_ipv4() { 32 } else { 128 })
        }
    };
    let beyond = match address {
        IpAddr::V4(address) if length <= 32 => {
            u64::from(address.to_bits().checked_shl(length.into()).unwrap_or(0)) != 0
        }
        IpAddr::V6(address) if length <= 128 => address.to_bits().checked_shl(length.into()).unwrap_or(0) != 0,
        _ => return None,
    };
    (!beyond).then_some((address, length))
}

fn operation(cursor: Cursor<'_>, written: api::Operation, diagnostics: &mut Diagnostics) -> Operation {
    let api::Operation { ports, methods, paths, headers, grpc_methods } = written;
    let empty = |length: Option<usize>| length == Some(0);
    for (field, length) in [
        ("ports", ports.as_ref().map(Vec::len)),
        ("methods", methods.as_ref().map(Vec::len)),
        ("paths", paths.as_ref().map(Vec::len)),
        ("headers", headers.as_ref().map(Vec::len)),
        ("grpcMethods", grpc_methods.as_ref().map(Vec::len)),
    ] {
        if empty(length) {
            let message = format!("`{field}` is empty");
            let help = "leave it out, or write what it shall match";
            cursor.field(field).error(diagnostics, Code::NoEffect, message, help);
        }
    }
    if let (None, None, None, None, None) = (&ports, &methods, &paths, &headers, &grpc_methods) {
        let help = "write one, as in `ports: [8080]`; leave `to` out for every request";
        cursor.error(diagnostics, Code::MissingField, "a request without any condition", help);
    }
    if paths.is_some() && grpc_methods.is_some() {
        let message = "`grpcMethods` are paths: both cannot hold";
        cursor.field("grpcMethods").key().error(diagnostics, Code::Conflict, message, "write two items of `to`");
    }
    let mut operation = Operation { ports: ports.unwrap_or_default(), ..Operation::default() };
    for (at, port) in operation.ports.iter().enumerate() {
        if *port == 0 {
            let help = "write a number from 1 to 65535";
            cursor.field("ports").item(at).error(diagnostics, Code::InvalidValue, "0 is not a port", help);
        }
    }
    for (at, method) in methods.into_iter().flatten().enumerate() {
        if names::http_token(&method).is_err() || method != method.to_ascii_uppercase() {
            let message = format!("`{}` is not a method", shown(&method));
            let help = "write it in upper case, as in `GET`";
            cursor.field("methods").item(at).error(diagnostics, Code::InvalidValue, message, help);
        }
        operation.methods.push(method.into());
    }
    for (at, api::PathCondition { kind, value }) in paths.into_iter().flatten().enumerate() {
        let how = match kind.unwrap_or(PathConditionType::PathPrefix) {
            PathConditionType::Exact => How::Exact,
            PathConditionType::PathPrefix => How::Prefix,
            PathConditionType::RegularExpression => How::Regex,
        };
        let place = cursor.field("paths").item(at);
        if how != How::Regex && value.contains('%') {
            let message = format!("`{}` is percent-encoded", shown(&value));
            let help = "write the path as it is after decoding, or a regular expression";
            place.field("value").error(diagnostics, Code::InvalidValue, message, help);
        }
        operation.paths.push(http_match::path(place, how, &value, diagnostics));
    }
    for (at, api::GrpcMethod { service, method }) in grpc_methods.into_iter().flatten().enumerate() {
        let place = cursor.field("grpcMethods").item(at);
        let word = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
        };
        for (field, text) in [("service", Some(&service)), ("method", method.as_ref())] {
            if let Some(text) = text.filter(|text| !word(text)) {
                let message = format!("`{}` is not the name of a gRPC {field}", shown(text));
                let help = "write names as in the .proto file: `shop.v1.Cart`, `AddItem`";
                place.field(field).error(diagnostics, Code::InvalidValue, message, help);
            }
        }
        operation.paths.push(match method {
            Some(method) => PathMatch::Exact(format!("/{service}/{method}").into()),
            None => PathMatch::Prefix(format!("/{service}").into()),
        });
    }
    let mut seen = HashSet::new();
    for (at, api::HeaderCondition { kind, name, value }) in headers.into_iter().flatten().enumerate() {
        let place = cursor.field("headers").item(at);
        let how = match kind.unwrap_or(HeaderConditionType::Exact) {
            HeaderConditionType::Exact => How::Exact,
            HeaderConditionType::RegularExpression => How::Regex,
        };
        let name = http_match::header_name(place, &name, &mut seen, diagnostics);
        operation.headers.push((name, http_match::value(place, how, &value, diagnostics)));
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_addresses_have_no_bits_beyond_their_prefix() {
        for good in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "::/0", "fd00::1/128"] {
            assert!(ip_block(good).is_some(), "{good}");
        }
        for bad in ["10.0.0.1/8", "10.0.0.0/33", "fd00::1/8", "10.0.0/8", "", "a", "10.0.0.0/", "::/129"] {
            assert!(ip_block(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn identities_are_whole() {
        assert!(identity("spiffe://cluster.local/ns/shop/sa/web").is_some());
        for bad in
            ["web", "spiffe://cluster.local", "spiffe://cluster.local/", "spiffe://c/ns/*/sa/web", "spiffe://c//a"]
        {
            assert!(identity(bad).is_none(), "{bad}");
        }
        assert!(service_account("shop/web").is_some() && service_account("web").is_none());
    }
}
