//! The compiled configuration: immutable, shared by all streams, replaced as a whole.
//!
//! The seam between the side that reads configuration ([`Publisher`]) and the side that distributes it ([`Published`]).
//! Answers every question about a name at once; refuses nothing itself: who may have what is
//! [`Resources::required_identity`], enforced by the streams.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use malla_xds::envoy::{core, http_connection_manager, listener, pack_any, route, router, tcp_proxy};
use malla_xds::names::{self, Name};
use malla_xds::{Resource, ResourceType, SpiffeId};
use tokio::sync::watch;

/// A compiled set of resources.
#[derive(Debug)]
pub struct Resources {
    version: Name,
    trust_domain: Option<Name>,
    unknown_destinations: UnknownDestinations,
    by_name: HashMap<(ResourceType, Name), Arc<Resource>>,
    in_order: Vec<Arc<Resource>>,
    routes: Vec<AttachedRoute>,
    /// What clients of a namespace get instead, by canonical name.
    for_namespaces: HashMap<(Name, ResourceType, Name), Arc<Resource>>,
    workloads: HashMap<Name, SpiffeId>,
    /// What workloads say of their version; not all do.
    versions: HashMap<Name, Name>,
    observers: BTreeSet<SpiffeId>,
    notices: Vec<String>,
    changed: Instant,
}

/// A route, and the resources by which clients follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedRoute {
    /// `HTTPRoute shop/cart`.
    pub name: String,
    /// Listeners (for streams) or route configurations (for requests) of its parents.
    pub resources: Vec<(ResourceType, Name)>,
    /// Whose clients follow it, if not all do.
    pub only_for: Option<Name>,
}

/// What a sidecar is told about names that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownDestinations {
    /// Forward untouched.
    #[default]
    PassThrough,
    /// Refuse.
    Deny,
}

impl Resources {
    /// What a server has before its first good configuration: it certifies, but answers no subscription, so that sidecars
    /// keep what they have. Sidecars must not be told that names are unknown while nothing is known.
    pub fn not_loaded() -> Self {
        Resources {
            version: "".into(),
            trust_domain: None,
            unknown_destinations: UnknownDestinations::Deny,
            by_name: HashMap::new(),
            in_order: Vec::new(),
            routes: Vec::new(),
            for_namespaces: HashMap::new(),
            workloads: HashMap::new(),
            versions: HashMap::new(),
            observers: BTreeSet::new(),
            notices: Vec::new(),
            changed: Instant::now(),
        }
    }

    /// Whether this came from a configuration. If not, subscriptions are noted and answered once one is published.
    pub fn is_loaded(&self) -> bool {
        self.trust_domain.is_some()
    }

    /// A set from its parts. Names and aliases must be unique per type; the first one wins. `for_namespaces` are what clients of
    /// a namespace get instead of resources of the same name. `workloads` maps
    /// `name.namespace` to the identity that may have the workload's `inbound/…` resources.
    pub fn new(
        trust_domain: impl Into<Name>,
        unknown_destinations: UnknownDestinations,
        resources: impl IntoIterator<Item = Resource>,
        for_namespaces: impl IntoIterator<Item = (Name, Resource)>,
        workloads: HashMap<Name, SpiffeId>,
    ) -> Self {
        let resources = resources.into_iter().map(Arc::new).collect();
        let for_namespaces = for_namespaces.into_iter().map(|(namespace, own)| (namespace, Arc::new(own)));
        Resources::shared(trust_domain, unknown_destinations, resources, for_namespaces, workloads)
    }

    /// The same, from what may be part of another set too.
    pub(crate) fn shared(
        trust_domain: impl Into<Name>,
        unknown_destinations: UnknownDestinations,
        resources: Vec<Arc<Resource>>,
        for_namespaces: impl IntoIterator<Item = (Name, Arc<Resource>)>,
        workloads: HashMap<Name, SpiffeId>,
    ) -> Self {
        let mut in_order = resources;
        in_order.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        in_order.dedup_by(|later, first| (later.kind, &later.name) == (first.kind, &first.name));
        let aliases: usize = in_order.iter().map(|resource| resource.aliases.len()).sum();
        let mut by_name = HashMap::with_capacity(in_order.len() + aliases);
        let mut digest = format!("{unknown_destinations:?}");
        for resource in &in_order {
            by_name.insert((resource.kind, resource.name.clone()), resource.clone());
            digest.push_str(&resource.version);
            resource.aliases.iter().for_each(|alias| digest.push_str(alias));
        }
        for resource in &in_order {
            for alias in &resource.aliases {
                by_name.entry((resource.kind, alias.clone())).or_insert_with(|| resource.clone());
            }
        }
        let for_namespaces: HashMap<_, _> = for_namespaces
            .into_iter()
            .map(|(namespace, resource)| ((namespace, resource.kind, resource.name.clone()), resource))
            .collect();
        let mut special: Vec<_> =
            for_namespaces.iter().map(|((namespace, ..), resource)| (namespace, &resource.version)).collect();
        special.sort();
        special.iter().for_each(|(namespace, version)| digest.push_str(&format!("{namespace}:{version} ")));
        let trust_domain: Name = trust_domain.into();
        digest.push_str(&trust_domain);
        let mut owners: Vec<_> = workloads.iter().collect();
        owners.sort();
        owners.iter().for_each(|(workload, identity)| digest.push_str(&format!("{workload}={identity} ")));
        let version = malla_xds::resource::version(digest.as_bytes());
        let trust_domain = Some(trust_domain);
        Resources {
            version,
            trust_domain,
            unknown_destinations,
            by_name,
            in_order,
            routes: Vec::new(),
            for_namespaces,
            workloads,
            versions: HashMap::new(),
            observers: BTreeSet::new(),
            notices: Vec::new(),
            changed: Instant::now(),
        }
    }

    /// The same, with the time when the change was found that it is made of; without it, that is when it was made.
    pub(crate) fn changed_at(self, changed: Instant) -> Self {
        Resources { changed, ..self }
    }

    /// When the change was found that it is made of.
    pub(crate) fn changed(&self) -> Instant {
        self.changed
    }

    /// The same, with what workloads (`cart-1.shop`) say of their version, for people. It is no part of the version of the configuration.
    pub(crate) fn with_versions(self, versions: HashMap<Name, Name>) -> Self {
        Resources { versions, ..self }
    }

    /// All workloads, with their identities, and their versions if they say one.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = (&Name, &SpiffeId, Option<&Name>)> {
        self.workloads.iter().map(|(workload, identity)| (workload, identity, self.versions.get(workload)))
    }

    /// Whether another says the same to people, apart from what it serves.
    pub(crate) fn tells_the_same(&self, other: &Resources) -> bool {
        self.notices == other.notices && self.versions == other.versions
    }

    /// The same, with sentences that are shown to people as long as it serves. They are no part of the version.
    pub fn with_notices(self, notices: Vec<String>) -> Self {
        Resources { notices, ..self }
    }

    /// What people should not forget about this configuration, in sentences.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Whether there is a workload of a name, `cart-1.shop`.
    pub fn has_workload(&self, name: &str) -> bool {
        self.workloads.contains_key(name)
    }

    /// The same, with other trust anchors (PEM).
    pub(crate) fn with_trust_bundle(&self, trust_bundle: &str) -> Self {
        let Some(trust_domain) = self.trust_domain.clone() else { return Resources::not_loaded() };
        let secret =
            crate::compile::with_trust_bundle(trust_bundle, self.get(ResourceType::Secret, names::ROOT_CA).as_deref());
        let others =
            self.in_order.iter().filter(|resource| (resource.kind, &*resource.name) != (secret.kind, &*secret.name));
        let resources = others.cloned().chain([Arc::new(secret.clone())]).collect();
        let special = self.for_namespaces.iter();
        let special = special.map(|((namespace, ..), resource)| (namespace.clone(), resource.clone()));
        Resources::shared(trust_domain, self.unknown_destinations, resources, special, self.workloads.clone())
            .with_notices(self.notices.clone())
            .with_versions(self.versions.clone())
            .with_routes(self.routes.clone())
            .with_observers(self.observers.clone())
    }

    /// Whether these trust anchors (PEM) are what it distributes.
    pub(crate) fn trusts(&self, trust_bundle: &str) -> bool {
        self.get(ResourceType::Secret, names::ROOT_CA)
            .is_some_and(|known| crate::compile::with_trust_bundle(trust_bundle, Some(&known)).version == known.version)
    }

    /// The same, with the routes that it was made of.
    pub fn with_routes(self, routes: Vec<AttachedRoute>) -> Self {
        Resources { routes, ..self }
    }

    /// The same, open to those who may look at traffic from elsewhere: who they are is part of the version. Once for a set.
    pub fn with_observers(self, observers: BTreeSet<SpiffeId>) -> Self {
        let mut digest = self.version.to_string();
        observers.iter().for_each(|observer| digest.push_str(&format!(" {observer}")));
        let version = if observers.is_empty() { self.version } else { malla_xds::resource::version(digest.as_bytes()) };
        Resources { version, observers, ..self }
    }

    /// Whether an identity may look at traffic from elsewhere.
    pub fn may_observe(&self, identity: &SpiffeId) -> bool {
        self.observers.contains(identity)
    }

    /// The routes that it was made of.
    pub fn routes(&self) -> &[AttachedRoute] {
        &self.routes
    }

    /// The canonical name of a name or alias.
    pub fn canonical<'a>(&'a self, kind: ResourceType, name: &'a Name) -> &'a Name {
        self.by_name.get(&(kind, name.clone())).map_or(name, |resource| &resource.name)
    }

    /// Whether clients of a namespace get something else than others under a name.
    pub fn is_special(&self, namespace: &str, kind: ResourceType, name: &Name) -> bool {
        self.for_namespaces.contains_key(&(namespace.into(), kind, name.clone()))
    }

    /// Content hash of the whole set.
    pub fn version(&self) -> &Name {
        &self.version
    }

    /// Trust domain of the mesh: only identities of it are certified. `None` before the first good configuration: then
    /// the identity in a valid token or certificate, which this server signed, is taken at its word.
    pub fn trust_domain(&self) -> Option<&Name> {
        self.trust_domain.as_ref()
    }

    /// The resource of a canonical name or alias.
    pub fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.by_name.get(&(kind, Name::from(name))).cloned()
    }

    /// What clients of a namespace get instead of a resource: the same one, mostly.
    pub fn seen_from<'a>(&'a self, namespace: &str, resource: &'a Arc<Resource>) -> &'a Arc<Resource> {
        if self.for_namespaces.is_empty() {
            return resource;
        }
        let key = (Name::from(namespace), resource.kind, resource.name.clone());
        self.for_namespaces.get(&key).unwrap_or(resource)
    }

    /// All resources, sorted by type and name.
    pub(crate) fn in_order(&self) -> &[Arc<Resource>] {
        &self.in_order
    }

    /// All resources of a type, sorted by name.
    pub fn all(&self, kind: ResourceType) -> impl Iterator<Item = &Arc<Resource>> {
        let start = self.in_order.partition_point(|resource| resource.kind < kind);
        let end = self.in_order.partition_point(|resource| resource.kind <= kind);
        self.in_order.get(start..end).unwrap_or_default().iter()
    }

    /// The identity that a stream must have to obtain a resource; `None`: every identity of the mesh may.
    /// `inbound/…` of a workload that does not exist has no owner either, and nothing to give.
    pub fn required_identity(&self, kind: ResourceType, name: &str) -> Option<SpiffeId> {
        match kind {
            ResourceType::Listener | ResourceType::Cluster | ResourceType::Route | ResourceType::Endpoints => {
                self.workloads.get(names::inbound_workload(name)?).cloned()
            }
            ResourceType::Secret => None,
        }
    }

    /// The listener that answers for a name that does not exist: an API listener whose inline route configuration is empty
    /// (HTTP and gRPC fail at once), and a way out for raw connections if the mesh lets unknown destinations pass.
    pub fn unknown_listener(&self, name: &str) -> Resource {
        if let Some(workload) = names::inbound_workload(name) {
            if self.has_workload(workload) {
                // It is said to have no sidecar.
                let message = listener::Listener { name: name.to_owned(), ..Default::default() };
                return Resource::new(ResourceType::Listener, name, [], &message);
            }
            // An own listener without ports is what a workload has that no service selects: this one says more.
            let fields = malla_xds::resource::string_struct([(names::METADATA_WORKLOAD, names::UNKNOWN_WORKLOAD)]);
            let metadata =
                core::Metadata { filter_metadata: [(names::METADATA.to_owned(), fields)].into(), ..Default::default() };
            let message = listener::Listener { name: name.to_owned(), metadata: Some(metadata), ..Default::default() };
            return Resource::new(ResourceType::Listener, name, [], &message);
        }
        use http_connection_manager::http_connection_manager::RouteSpecifier;
        let route_config = route::RouteConfiguration { name: name.to_owned(), ..Default::default() };
        let manager = http_connection_manager::HttpConnectionManager {
            stat_prefix: "unknown".into(),
            route_specifier: Some(RouteSpecifier::RouteConfig(route_config)),
            http_filters: vec![http_connection_manager::HttpFilter {
                name: "router".into(),
                config_type: Some(http_connection_manager::http_filter::ConfigType::TypedConfig(pack_any(
                    router::Router::default(),
                ))),
                ..Default::default()
            }],
            ..Default::default()
        };
        let default_filter_chain = (self.unknown_destinations == UnknownDestinations::PassThrough).then(|| {
            let proxy = tcp_proxy::TcpProxy {
                stat_prefix: names::PASSTHROUGH.into(),
                cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(names::PASSTHROUGH.into())),
                ..Default::default()
            };
            listener::FilterChain {
                filters: vec![listener::Filter {
                    name: "tcp_proxy".into(),
                    config_type: Some(listener::filter::ConfigType::TypedConfig(pack_any(proxy))),
                }],
                name: names::PASSTHROUGH.into(),
                ..Default::default()
            }
        });
        let message = listener::Listener {
            name: name.to_owned(),
            api_listener: Some(listener::ApiListener { api_listener: Some(pack_any(manager)) }),
            default_filter_chain,
            ..Default::default()
        };
        Resource::new(ResourceType::Listener, name, [], &message)
    }
}

/// The last attempt to load the configuration.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// With what result.
    pub outcome: ReloadOutcome,
}

/// The result of an attempt to load the configuration.
#[derive(Debug, Clone)]
pub enum ReloadOutcome {
    /// It serves.
    Applied {
        /// Version of the resources.
        version: Name,
    },
    /// It was refused as a whole; the one before keeps serving.
    Refused {
        /// All errors, as people should read them.
        errors: Arc<str>,
        /// How many.
        count: usize,
    },
}

/// The sending end: held by the side that reads configuration.
#[derive(Debug)]
pub struct Publisher {
    /// What serves. Replaced by good configurations only.
    pub resources: watch::Sender<Arc<Resources>>,
    /// What the last attempt came to, good or bad.
    pub last_reload: watch::Sender<LastReload>,
}

/// The receiving end: held by streams, status and metrics.
#[derive(Debug, Clone)]
pub struct Published {
    /// What serves.
    pub resources: watch::Receiver<Arc<Resources>>,
    /// What the last attempt came to.
    pub last_reload: watch::Receiver<LastReload>,
}

/// Both ends, starting from what the first attempt came to: its resources, or [`Resources::not_loaded`] and the errors.
pub fn publish(initial: Resources, outcome: ReloadOutcome) -> (Publisher, Published) {
    let (resources, resources_receiver) = watch::channel(Arc::new(initial));
    let (last_reload, last_reload_receiver) = watch::channel(LastReload { at: SystemTime::now(), outcome });
    (
        Publisher { resources, last_reload },
        Published { resources: resources_receiver, last_reload: last_reload_receiver },
    )
}
