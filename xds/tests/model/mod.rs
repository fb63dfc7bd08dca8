//! A small world, a network that reorders between types, and both kinds of clients.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use malla_xds::envoy::{cluster, core, endpoint, listener, route, rpc, tls};
use malla_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use malla_xds::{
    Answer, Change, DeltaClient, DeltaServer, Limits, Name, Push, Resource, ResourceType, SotwServer, View,
};
use proptest::prelude::*;
use prost::Message;

/// Content that the client rejects.
const BAD: u32 = 3;

pub(crate) fn name(index: u8) -> String {
    format!("n{index}")
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Set(ResourceType, u8, u32),
    Remove(ResourceType, u8),
    /// Listener, alias.
    Alias(u8, u8),
    Unalias(u8),
    Subscribe(ResourceType, u8),
    Unsubscribe(ResourceType, u8),
    Push(Push),
    ToServer(ResourceType),
    ToClient(ResourceType),
    Reconnect,
}

pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = || prop::sample::select(ResourceType::ALL.to_vec());
    let event = prop_oneof![
        4 => (kind(), 0..4u8, 0..=BAD).prop_map(|(kind, index, content)| Event::Set(kind, index, content)),
        2 => (kind(), 0..4u8).prop_map(|(kind, index)| Event::Remove(kind, index)),
        1 => (0..4u8, 2..6u8).prop_map(|(listener, alias)| Event::Alias(listener, alias)),
        1 => (2..6u8).prop_map(Event::Unalias),
        4 => (kind(), 0..6u8).prop_map(|(kind, index)| Event::Subscribe(kind, index)),
        2 => (kind(), 0..6u8).prop_map(|(kind, index)| Event::Unsubscribe(kind, index)),
        3 => prop::bool::ANY.prop_map(|all| Event::Push(if all { Push::All } else { Push::AllButEndpoints })),
        6 => kind().prop_map(Event::ToServer),
        6 => kind().prop_map(Event::ToClient),
        1 => Just(Event::Reconnect),
    ];
    prop::collection::vec(event, 0..120)
}

/// What the server's configuration says.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    version: u64,
    resources: BTreeMap<(ResourceType, String), u32>,
    aliases: BTreeMap<String, String>,
}

impl World {
    /// The encoded resource of a name with some content.
    pub(crate) fn body(kind: ResourceType, name: &str, content: u32) -> Bytes {
        Self::build(kind, name, content, Vec::new()).body
    }

    fn build(kind: ResourceType, name: &str, content: u32, aliases: Vec<Name>) -> Resource {
        let (text, mark) = (name.to_owned(), format!("content {content}"));
        match kind {
            ResourceType::Cluster => {
                let message = cluster::Cluster { name: text, alt_stat_name: mark, ..Default::default() };
                Resource::new(kind, name, aliases, &message)
            }
            ResourceType::Endpoints => {
                let locality = endpoint::LocalityLbEndpoints { priority: content + 1, ..Default::default() };
                let message = endpoint::ClusterLoadAssignment {
                    cluster_name: text,
                    endpoints: vec![locality],
                    ..Default::default()
                };
                Resource::new(kind, name, aliases, &message)
            }
            ResourceType::Listener => {
                let message = listener::Listener { name: text, stat_prefix: mark, ..Default::default() };
                Resource::new(kind, name, aliases, &message)
            }
            ResourceType::Route => {
                let message =
                    route::RouteConfiguration { name: text, internal_only_headers: vec![mark], ..Default::default() };
                Resource::new(kind, name, aliases, &message)
            }
            ResourceType::Secret => {
                let data = core::DataSource {
                    specifier: Some(core::data_source::Specifier::InlineString(mark)),
                    ..Default::default()
                };
                let secret = tls::GenericSecret { secret: Some(data), ..Default::default() };
                let message = tls::Secret { name: text, r#type: Some(tls::secret::Type::GenericSecret(secret)) };
                Resource::new(kind, name, aliases, &message)
            }
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::Set(kind, index, content) => drop(self.resources.insert((*kind, name(*index)), *content)),
            Event::Remove(kind, index) => drop(self.resources.remove(&(*kind, name(*index)))),
            Event::Alias(listener, alias) => drop(self.aliases.insert(name(*alias), name(*listener))),
            Event::Unalias(alias) => drop(self.aliases.remove(&name(*alias))),
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.version += 1;
        self.resources.values_mut().filter(|content| **content == BAD).for_each(|content| *content = 0);
    }

    fn find(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        let own = self.resources.get_key_value(&(kind, name.to_owned()));
        let alias = || {
            let target = self.aliases.get(name).filter(|_| kind == ResourceType::Listener)?;
            self.resources.get_key_value(&(kind, target.clone()))
        };
        let ((_, canonical), content) = own.or_else(alias)?;
        let is_shadowed = |alias: &String| self.resources.contains_key(&(kind, alias.clone()));
        let aliases = self
            .aliases
            .iter()
            .filter(|(alias, target)| *target == canonical && kind == ResourceType::Listener && !is_shadowed(alias))
            .map(|(alias, _)| Name::from(alias.as_str()))
            .collect();
        Some(Arc::new(Self::build(kind, canonical, *content, aliases)))
    }

    /// What a client that wants a name must end up with, under the canonical name.
    fn expected(&self, kind: ResourceType, name: &str) -> Option<Bytes> {
        self.find(kind, name).or_else(|| self.stub(kind, name)).map(|resource| resource.body.clone())
    }
}

impl View for World {
    fn version(&self) -> &str {
        "version"
    }

    fn resource(&self, kind: ResourceType, name: &str) -> Answer {
        self.find(kind, name).map_or(Answer::Absent, Answer::Found)
    }

    fn stub(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        Resource::empty(kind, name).map(Arc::new)
    }

    fn all(&self, kind: ResourceType) -> Vec<Arc<Resource>> {
        self.resources.keys().filter(|(k, _)| *k == kind).filter_map(|(_, name)| self.find(kind, name)).collect()
    }
}

/// Messages on their way: in order within a type, in any order between types.
#[derive(Debug)]
pub(crate) struct Network<M> {
    queues: BTreeMap<ResourceType, VecDeque<M>>,
}

impl<M> Default for Network<M> {
    fn default() -> Self {
        Network { queues: BTreeMap::new() }
    }
}

impl<M> Network<M> {
    fn send(&mut self, type_url: &str, message: M) {
        let kind = ResourceType::from_type_url(type_url).expect("a known type");
        self.queues.entry(kind).or_default().push_back(message);
    }

    fn receive(&mut self, kind: ResourceType) -> Option<M> {
        self.queues.get_mut(&kind)?.pop_front()
    }

    fn any(&mut self) -> Option<M> {
        self.queues.values_mut().rev().find_map(VecDeque::pop_front)
    }
}

type State = BTreeMap<(ResourceType, Name), Bytes>;

fn is_bad(kind: ResourceType, name: &str, body: &Bytes) -> bool {
    *body == World::body(kind, name, BAD)
}

/// A delta client and a server.
pub(crate) struct Simulation {
    world: World,
    /// The configuration of the last push.
    pushed: World,
    client: DeltaClient,
    server: DeltaServer,
    state: State,
    to_server: Network<DeltaDiscoveryRequest>,
    to_client: Network<DeltaDiscoveryResponse>,
    resources_sent: usize,
}

impl Simulation {
    pub(crate) fn delta() -> Self {
        let mut client = DeltaClient::new(core::Node::default());
        assert!(client.connected().is_empty());
        Simulation {
            world: World::default(),
            pushed: World::default(),
            client,
            server: DeltaServer::new(Limits::default()),
            state: State::new(),
            to_server: Network::default(),
            to_client: Network::default(),
            resources_sent: 0,
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Set(..) | Event::Remove(..) | Event::Alias(..) | Event::Unalias(..) => self.world.apply(event),
            Event::Subscribe(kind, index) => {
                let request = self.client.subscribe(*kind, [name(*index)]);
                self.send(request);
            }
            Event::Unsubscribe(kind, index) => {
                let name = name(*index);
                let request = self.client.unsubscribe(*kind, [name.as_str()]);
                self.state.remove(&(*kind, name.into()));
                self.send(request);
            }
            Event::Push(push) => {
                self.pushed = self.world.clone();
                let responses = self.server.push(&self.pushed, *push).expect("within limits");
                self.respond(responses);
            }
            Event::ToServer(kind) => {
                if let Some(request) = self.to_server.receive(*kind) {
                    self.serve(request);
                }
            }
            Event::ToClient(kind) => {
                if let Some(response) = self.to_client.receive(*kind) {
                    self.take(response);
                }
            }
            Event::Reconnect => {
                self.client.disconnected();
                self.to_server = Network::default();
                self.to_client = Network::default();
                self.server = DeltaServer::new(Limits::default());
                self.pushed = self.world.clone();
                for request in self.client.connected() {
                    self.send(Some(request));
                }
            }
        }
    }

    /// Mends what the client rejects, pushes, and delivers everything.
    pub(crate) fn settle(&mut self) {
        self.world.heal();
        self.apply(&Event::Push(Push::All));
        self.deliver();
    }

    fn deliver(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the exchange never ends");
            if let Some(request) = self.to_server.any() {
                self.serve(request);
            } else if let Some(response) = self.to_client.any() {
                self.take(response);
            } else {
                break;
            }
        }
    }

    fn send(&mut self, request: Option<DeltaDiscoveryRequest>) {
        if let Some(request) = request {
            self.to_server.send(&request.type_url.clone(), request);
        }
    }

    fn respond(&mut self, responses: Vec<DeltaDiscoveryResponse>) {
        for response in responses {
            self.resources_sent += response.resources.len();
            self.to_client.send(&response.type_url.clone(), response);
        }
    }

    fn serve(&mut self, request: DeltaDiscoveryRequest) {
        let reply = self.server.request(&request, &self.pushed).expect("within limits");
        self.respond(reply.responses);
    }

    fn take(&mut self, response: DeltaDiscoveryResponse) {
        let state = &mut self.state;
        let answer = self.client.response(&response, |change| {
            match change {
                Change::Set { kind, asked, name, resource, .. } => {
                    if is_bad(kind, name, &resource.value) {
                        return Err("bad content".into());
                    }
                    for name in asked {
                        state.insert((kind, name.clone()), resource.value.clone());
                    }
                }
                Change::Removed { kind, asked } => drop(state.remove(&(kind, asked.clone()))),
                Change::Refused { .. } => {}
            }
            Ok(())
        });
        self.send(Some(answer));
    }

    pub(crate) fn client_state(&self, kind: ResourceType, name: &str) -> Option<Bytes> {
        self.state.get(&(kind, name.into())).cloned()
    }

    pub(crate) fn assert_agreement(&self) {
        for kind in ResourceType::ALL {
            for name in self.client.subscriptions(kind) {
                assert_eq!(self.client_state(kind, name), self.world.expected(kind, name), "{kind} {name}");
            }
        }
        assert_eq!(self.client.unanswered().count(), 0, "every name is answered");
        for progress in self.server.progress() {
            assert_eq!((progress.unanswered, progress.rejections.len()), (0, 0), "{progress:?}");
        }
    }

    pub(crate) fn assert_reconnect_brings_nothing(&mut self) {
        self.resources_sent = 0;
        self.apply(&Event::Reconnect);
        self.deliver();
        assert_eq!(self.resources_sent, 0, "what the client has is not sent again");
        self.assert_agreement();
    }
}

/// A state-of-the-world client, as gRPC's behaves, and a server.
pub(crate) struct SotwSimulation {
    world: World,
    pushed: World,
    server: SotwServer,
    wanted: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Last nonce seen and whether the type was requested, on the present stream.
    nonces: BTreeMap<ResourceType, String>,
    state: State,
    to_server: Network<DiscoveryRequest>,
    to_client: Network<DiscoveryResponse>,
}

impl SotwSimulation {
    pub(crate) fn new() -> Self {
        SotwSimulation {
            world: World::default(),
            pushed: World::default(),
            server: SotwServer::new(Limits::default()),
            wanted: BTreeMap::new(),
            nonces: BTreeMap::new(),
            state: State::new(),
            to_server: Network::default(),
            to_client: Network::default(),
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Set(..) | Event::Remove(..) | Event::Alias(..) | Event::Unalias(..) => self.world.apply(event),
            Event::Subscribe(kind, index) => {
                if self.wanted.entry(*kind).or_default().insert(name(*index)) {
                    self.request(*kind, None);
                }
            }
            Event::Unsubscribe(kind, index) => {
                if self.wanted.entry(*kind).or_default().remove(&name(*index)) {
                    self.state.remove(&(*kind, name(*index).into()));
                    self.request(*kind, None);
                }
            }
            Event::Push(push) => {
                self.pushed = self.world.clone();
                let responses = self.server.push(&self.pushed, *push).expect("within limits");
                self.respond(responses);
            }
            Event::ToServer(kind) => {
                if let Some(request) = self.to_server.receive(*kind) {
                    self.serve(request);
                }
            }
            Event::ToClient(kind) => {
                if let Some(response) = self.to_client.receive(*kind) {
                    self.take(response);
                }
            }
            Event::Reconnect => {
                self.to_server = Network::default();
                self.to_client = Network::default();
                self.nonces.clear();
                self.server = SotwServer::new(Limits::default());
                self.pushed = self.world.clone();
                for kind in ResourceType::ALL {
                    if self.wanted.get(&kind).is_some_and(|names| !names.is_empty()) {
                        self.request(kind, None);
                    }
                }
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        self.world.heal();
        self.apply(&Event::Push(Push::All));
        for round in 0.. {
            assert!(round < 10_000, "the exchange never ends");
            if let Some(request) = self.to_server.any() {
                self.serve(request);
            } else if let Some(response) = self.to_client.any() {
                self.take(response);
            } else {
                break;
            }
        }
    }

    fn request(&mut self, kind: ResourceType, error: Option<String>) {
        let message = DiscoveryRequest {
            resource_names: self.wanted.entry(kind).or_default().iter().cloned().collect(),
            type_url: kind.type_url().to_owned(),
            response_nonce: self.nonces.entry(kind).or_default().clone(),
            error_detail: error.map(|message| rpc::Status { message, ..Default::default() }),
            ..Default::default()
        };
        self.to_server.send(kind.type_url(), message);
    }

    fn respond(&mut self, responses: Vec<DiscoveryResponse>) {
        for response in responses {
            self.to_client.send(&response.type_url.clone(), response);
        }
    }

    fn serve(&mut self, request: DiscoveryRequest) {
        let reply = self.server.request(&request, &self.pushed).expect("within limits");
        self.respond(reply.responses);
    }

    fn take(&mut self, response: DiscoveryResponse) {
        let kind = ResourceType::from_type_url(&response.type_url).expect("a known type");
        self.nonces.insert(kind, response.nonce.clone());
        let mut errors = Vec::new();
        let mut present = BTreeSet::new();
        for any in &response.resources {
            let name = name_of(kind, &any.value);
            present.insert(name.clone());
            if !self.wanted.entry(kind).or_default().contains(&name) {
                continue;
            }
            let body = canonical(kind, &any.value, &name);
            if body == World::body(kind, &name, BAD) {
                errors.push(format!("{name}: bad content"));
            } else {
                self.state.insert((kind, name.into()), body);
            }
        }
        if matches!(kind, ResourceType::Listener | ResourceType::Cluster) {
            self.state.retain(|(k, name), _| *k != kind || present.contains(&**name));
        }
        self.request(kind, (!errors.is_empty()).then(|| errors.join("; ")));
    }

    pub(crate) fn assert_agreement(&self) {
        for (kind, names) in &self.wanted {
            for name in names {
                let actual = self.state.get(&(*kind, name.as_str().into())).cloned();
                let expected = self.world.find(*kind, name).or_else(|| self.world.stub(*kind, name));
                // That a secret is gone cannot be told in this flavour.
                if expected.is_none() && *kind == ResourceType::Secret {
                    continue;
                }
                let expected = expected.map(|resource| canonical(*kind, &resource.render_as(name), name));
                assert_eq!(actual, expected, "{kind} {name}");
            }
        }
        for progress in self.server.progress() {
            // The rejection of a secret that is gone stands: nothing can replace it.
            let stands = if progress.kind == ResourceType::Secret { 0 } else { progress.rejections.len() };
            assert_eq!((progress.unanswered, stands), (0, 0), "{progress:?}");
        }
    }
}

fn name_of(kind: ResourceType, body: &Bytes) -> String {
    let body = body.clone();
    match kind {
        ResourceType::Cluster => cluster::Cluster::decode(body).expect("decodes").name,
        ResourceType::Endpoints => endpoint::ClusterLoadAssignment::decode(body).expect("decodes").cluster_name,
        ResourceType::Listener => listener::Listener::decode(body).expect("decodes").name,
        ResourceType::Route => route::RouteConfiguration::decode(body).expect("decodes").name,
        ResourceType::Secret => tls::Secret::decode(body).expect("decodes").name,
    }
}

/// Listeners under another name have that name twice in their encoding: read and written again, once.
fn canonical(kind: ResourceType, body: &Bytes, name: &str) -> Bytes {
    if kind != ResourceType::Listener {
        return body.clone();
    }
    let message = listener::Listener::decode(body.clone()).expect("decodes");
    assert_eq!(message.name, name);
    message.encode_to_vec().into()
}
