//! What references can name: services, workloads and grants, and the search for them with suggestions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::extension::Extension;
use crate::kinds::Kind;
use crate::mesh::{
    EndpointSource, Service, ServiceName, ServicePort, TrafficPolicy, TrafficTarget, Workload, WorkloadName,
};
use crate::object::Object;
use crate::suggest::{self, shown};

/// Something that was declared.
#[derive(Debug)]
pub(crate) struct Declared<'a, T> {
    pub(crate) object: &'a Object,
    /// Nothing if something is wrong with it: then what it lacks means nothing.
    pub(crate) ready: Option<T>,
}

/// One pair of a `ReferenceGrant`: routes of `kind` in the namespace `from` may use services of the namespace `to`.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) kind: Kind,
    pub(crate) from: Arc<str>,
    pub(crate) to: Arc<str>,
    /// One service, or all.
    pub(crate) service: Option<Arc<str>>,
}

/// Everything that references can name.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    pub(crate) services: BTreeMap<ServiceName, Declared<'a, Service>>,
    pub(crate) workloads: BTreeMap<WorkloadName, Declared<'a, Workload>>,
    pub(crate) grants: Vec<Grant>,
    /// What filters `ExtensionRef` can name, by kind, namespace and name; nothing for one with errors of its own.
    pub(crate) extensions: BTreeMap<(Kind, Arc<str>, Arc<str>), Option<Extension>>,
    /// What policies say, by what they are about.
    pub(crate) traffic_policies: BTreeMap<TrafficTarget, Arc<TrafficPolicy>>,
    /// Namespaces with a grant that has errors: it may have meant anything.
    pub(crate) doubtful_grants: HashSet<Arc<str>>,
    /// Names of documents that could not be read.
    pub(crate) unreadable: &'a HashSet<Arc<str>>,
    /// Whether every document could be parsed. If not, what seems to be missing may be in the others.
    pub(crate) complete: bool,
    /// Whether what is not there may come and go by itself, object by object: as in a cluster.
    pub(crate) in_flux: bool,
}

impl Index<'_> {
    /// Says that a protecting policy is about something that is not there: a mistake, unless it may come. Then the policy waits for it, and holds
    /// up nothing else.
    pub(crate) fn nothing_to_protect(
        &self,
        cursor: Cursor<'_>,
        (message, help): (String, String),
        diagnostics: &mut Diagnostics,
    ) {
        match self.in_flux {
            true => cursor.warning(
                diagnostics,
                Code::DanglingReference,
                format!("the policy protects nothing here yet: {message}"),
                help,
            ),
            false => cursor.error(diagnostics, Code::DanglingReference, message, help),
        }
    }

    /// The service of a name. Says that there is none at `cursor`; says nothing, and has nothing, if there is one with
    /// errors of its own.
    pub(crate) fn service(
        &self,
        cursor: Cursor<'_>,
        name: &ServiceName,
        diagnostics: &mut Diagnostics,
    ) -> Option<&Service> {
        if let Some(declared) = self.services.get(name) {
            return declared.ready.as_ref();
        }
        if cursor.is_placed()
            && let Some((message, help)) = self.no_service(name)
        {
            cursor.error(diagnostics, Code::DanglingReference, message, help);
        }
        None
    }

    /// The service of a name, for a policy that may wait for it: that there is none is a warning.
    pub(crate) fn service_of_policy(
        &self,
        cursor: Cursor<'_>,
        name: &ServiceName,
        diagnostics: &mut Diagnostics,
    ) -> Option<&Service> {
        if let Some(declared) = self.services.get(name) {
            return declared.ready.as_ref();
        }
        if let Some((message, help)) = self.no_service(name) {
            let message = format!("the policy targets nothing: {message}");
            cursor.warning(diagnostics, Code::DanglingReference, message, help);
        }
        None
    }

    /// The service that a service is another name of, or itself.
    pub(crate) fn behind<'s>(&'s self, service: &'s Service) -> Option<&'s Service> {
        match &service.endpoints {
            EndpointSource::Service(name) => self.services.get(name)?.ready.as_ref(),
            _ => Some(service),
        }
    }

    /// Says at `cursor` that a service is another name only: what is attached to the name would have no effect on the service.
    pub(crate) fn is_no_other_name(cursor: Cursor<'_>, service: &Service, diagnostics: &mut Diagnostics) -> bool {
        let EndpointSource::Service(behind) = &service.endpoints else { return true };
        let message =
            format!("{} is another name of {behind} (`ExternalName`), and has no traffic of its own", service.name);
        cursor.error(diagnostics, Code::NoEffect, message, format!("write it about {behind}"));
        false
    }

    /// That there is no service of a name, and what may have been meant; nothing if it may be in what could not be read.
    pub(crate) fn no_service(&self, name: &ServiceName) -> Option<(String, String)> {
        if self.may_exist(&name.name) {
            return None;
        }
        let neighbours = self.services.keys().filter(|other| other.namespace == name.namespace);
        let elsewhere = self.services.keys().find(|other| other.name == name.name);
        let near = suggest::nearest(&name.name, neighbours.clone().map(|other| &*other.name));
        let help = match (near, elsewhere) {
            (_, Some(other)) => format!("there is one in the namespace `{}`", other.namespace),
            (Some(near), None) => format!("did you mean `{near}`?"),
            (None, None) if neighbours.clone().next().is_none() => {
                format!("no service is in the namespace `{}`", name.namespace)
            }
            (None, None) => {
                let listed = suggest::listing(neighbours.map(|other| &other.name));
                format!("services in the namespace `{}`: {listed}", name.namespace)
            }
        };
        let message =
            format!("there is no service `{}` in the namespace `{}`", shown(&name.name), shown(&name.namespace));
        Some((message, help))
    }

    /// The port of a service; says at `cursor` that there is none.
    pub(crate) fn port<'s>(
        &self,
        cursor: Cursor<'_>,
        service: &'s Service,
        port: u16,
        diagnostics: &mut Diagnostics,
    ) -> Option<&'s ServicePort> {
        let found = service.ports.iter().find(|known| known.port == port);
        if found.is_none() {
            let message = format!("the service {} has no port {port}", service.name);
            let help = format!("its ports: {}", port_listing(service));
            cursor.error(diagnostics, Code::DanglingReference, message, help);
        }
        found
    }

    /// The workload of a name; says at `cursor` that there is none.
    pub(crate) fn workload_exists(&self, cursor: Cursor<'_>, name: &WorkloadName, diagnostics: &mut Diagnostics) {
        if self.workloads.contains_key(name) || self.may_exist(&name.name) || !cursor.is_placed() {
            return;
        }
        let neighbours = self.workloads.keys().filter(|other| other.namespace == name.namespace);
        let help = match suggest::nearest(&name.name, neighbours.map(|other| &*other.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "write a Workload of this name, or leave `targetRef` out if the endpoint has no sidecar".to_owned(),
        };
        let message =
            format!("there is no Workload `{}` in the namespace `{}`", shown(&name.name), shown(&name.namespace));
        cursor.error(diagnostics, Code::DanglingReference, message, help);
    }

    /// The extension of a kind and name in a namespace; says at `cursor` that there is none.
    pub(crate) fn extension(
        &self,
        cursor: Cursor<'_>,
        kind: Kind,
        namespace: &Arc<str>,
        name: &str,
        diagnostics: &mut Diagnostics,
    ) -> Option<&Extension> {
        if let Some(known) = self.extensions.get(&(kind, namespace.clone(), name.into())) {
            return known.as_ref();
        }
        if self.may_exist(name) {
            return None;
        }
        let neighbours = self.extensions.keys().filter(|(of, within, _)| *of == kind && within == namespace);
        let help = match suggest::nearest(name, neighbours.map(|(_, _, name)| &**name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write {} of this name in the namespace `{namespace}`", kind.with_article()),
        };
        let message = format!("there is no {kind} `{}` in the namespace `{namespace}`", shown(name));
        cursor.error(diagnostics, Code::DanglingReference, message, help);
        None
    }

    /// Says at `cursor` that a service has no subset of a name at a port.
    pub(crate) fn subset(
        &self,
        cursor: Cursor<'_>,
        service: &ServiceName,
        port: u16,
        subset: &str,
        diagnostics: &mut Diagnostics,
    ) {
        let of = |port| self.traffic_policies.get(&TrafficTarget { service: service.clone(), port });
        let known = of(Some(port)).or_else(|| of(None)).map(|policy| &policy.subsets);
        if known.is_some_and(|subsets| subsets.contains_key(subset)) || !self.complete || !self.unreadable.is_empty() {
            return;
        }
        let names = || known.into_iter().flat_map(|subsets| subsets.keys()).map(|name| &**name);
        let help = match (suggest::nearest(subset, names()), names().next()) {
            (Some(near), _) => format!("did you mean `{}.{near}`?", service.name),
            (None, Some(_)) => format!("its subsets: {}", suggest::listing(names())),
            (None, None) => format!(
                "write `subsets: [{{name: {}, labels: …}}]` in the TrafficPolicy that is about port {port} of the service",
                shown(subset)
            ),
        };
        let message = format!("no TrafficPolicy gives {service}:{port} a subset `{}`", shown(subset));
        cursor.error(diagnostics, Code::DanglingReference, message, help);
    }

    /// Whether routes of a kind and namespace may use a service.
    pub(crate) fn granted(&self, kind: Kind, from: &str, service: &ServiceName) -> bool {
        *from == *service.namespace
            || self.doubtful_grants.contains(&service.namespace)
            || self.grants.iter().any(|grant| {
                grant.kind == kind
                    && *grant.from == *from
                    && grant.to == service.namespace
                    && grant.service.as_ref().is_none_or(|only| *only == service.name)
            })
    }

    /// Whether a name that was not found may be in a document that could not be read.
    pub(crate) fn may_exist(&self, name: &str) -> bool {
        !self.complete || self.unreadable.contains(name)
    }
}

/// `80 (http), 9090`.
pub(crate) fn port_listing(service: &Service) -> String {
    suggest::listing(service.ports.iter().map(|port| match &*port.name {
        "" => port.port.to_string(),
        name => format!("{} ({name})", port.port),
    }))
}
