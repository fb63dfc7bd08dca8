//! `AuthorizationPolicy` → RBAC filters, for the ports behind which the policy's targets are.
//!
//! A port has one set of rules, by whatever name it is reached: a policy about a service protects the application's port that
//! the service leads to, and one about a route the requests of the route on the ports behind its backends. Rules that deny come first,
//! then those that allow; what is only audited is in shadow rules.

mod of_route;

use std::collections::BTreeMap;
use std::net::IpAddr;

use malla_config::mesh::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizationTarget, Caller, CallerCondition,
    DefaultAuthorization, HttpRoute, IdentityMatch, Operation, PathMatch, Workload,
};
use malla_xds::envoy::http_connection_manager::{HttpFilter, http_filter};
use malla_xds::envoy::listener::{Filter, filter};
use malla_xds::envoy::matcher::path_matcher::Rule as PathRule;
use malla_xds::envoy::matcher::string_matcher::MatchPattern;
use malla_xds::envoy::matcher::{PathMatcher, StringMatcher};
use malla_xds::envoy::rbac::permission::{self, Rule};
use malla_xds::envoy::rbac::principal::{self, Authenticated, Identifier};
use malla_xds::envoy::rbac::rbac::Action;
use malla_xds::envoy::rbac::{Permission, Policy, Principal, Rbac};
use malla_xds::envoy::route::HeaderMatcher;
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::{core, http_rbac, network_rbac, protobuf};
use prost::Message as _;

use super::filters::number;
use super::route::{regex, string_match};
use crate::world::{ServedPort, ServicePortName, World};

/// The rules of a port of an application, in the order in which they decide.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<RuleSet>);

/// What becomes one filter.
#[derive(Debug)]
struct RuleSet {
    action: Action,
    /// Recorded, not enforced.
    shadow: bool,
    /// By name, in the order of names: the same content has the same bytes.
    policies: BTreeMap<String, Policy>,
}

/// What of a port's traffic a policy is about.
enum Scope {
    /// All.
    Port,
    /// The requests that meet this.
    Requests(Rule),
}

/// The name of what lets through everything that no policy is about.
const OTHERWISE: &str = "default";

/// Those of a workload's port.
pub(super) fn rules(world: &World, workload: &Workload, port: &ServedPort) -> Rules {
    let about = |policy| Some((policy, scope(world, policy, workload, port)?));
    let policies: Vec<(&AuthorizationPolicy, Scope)> =
        world.mesh.authorization_policies.iter().filter_map(about).collect();
    let of = |action: AuthorizationAction| policies.iter().filter(move |(policy, _)| policy.action == action);
    let set = |action: Action, shadow: bool, of_action: AuthorizationAction| RuleSet {
        action,
        shadow,
        policies: of(of_action).flat_map(|(policy, scope)| rendered(world, policy, scope)).collect(),
    };
    let mut rules = Vec::new();
    if of(AuthorizationAction::Audit).next().is_some() {
        rules.push(set(Action::Deny, true, AuthorizationAction::Audit));
    }
    if of(AuthorizationAction::Deny).next().is_some() {
        rules.push(set(Action::Deny, false, AuthorizationAction::Deny));
    }
    let mut allowed = set(Action::Allow, false, AuthorizationAction::Allow);
    let of_routes: Option<Vec<Rule>> = of(AuthorizationAction::Allow)
        .map(|(_, scope)| match scope {
            Scope::Port => None,
            Scope::Requests(requests) => Some(requests.clone()),
        })
        .collect();
    // What no policy that allows is about is left to the default.
    match (of_routes, world.mesh.settings.default_authorization) {
        (None, _) => rules.push(allowed),
        (Some(of_routes), DefaultAuthorization::Allow) if of_routes.is_empty() => {}
        (Some(_), DefaultAuthorization::Deny) => rules.push(allowed),
        (Some(of_routes), default) => {
            let one = |rule: Option<Rule>| {
                let anybody = Principal { identifier: Some(Identifier::Any(true)) };
                let permissions = vec![Permission { rule }];
                let policy = Policy { principals: vec![anybody], permissions, ..Default::default() };
                (OTHERWISE.to_owned(), policy)
            };
            let judged = !of_routes.is_empty();
            let requests = judged.then(|| of_route::any_of(of_routes));
            if default == DefaultAuthorization::Audit {
                let policies = requests.clone().into_iter().map(|rule| one(Some(rule))).collect();
                rules.push(RuleSet { action: Action::Allow, shadow: true, policies });
            }
            if let Some(requests) = requests {
                allowed.policies.extend([one(Some(of_route::not(requests)))]);
                rules.push(allowed);
            }
        }
    }
    Rules(rules)
}

impl Rules {
    /// In front of the router.
    pub(super) fn http_filters(&self) -> impl Iterator<Item = HttpFilter> {
        self.0.iter().map(|set| {
            let one = |rules: Option<Rbac>, shadow_rules: Option<Rbac>| {
                http_rbac::Rbac { rules, shadow_rules, ..Default::default() }.encode_to_vec()
            };
            let config = http_filter::ConfigType::TypedConfig(protobuf::Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC".into(),
                value: set.encoded(one),
            });
            HttpFilter { name: "rbac".into(), config_type: Some(config), ..Default::default() }
        })
    }

    /// In front of the TCP proxy.
    pub(super) fn network_filters(&self, stat_prefix: &str) -> impl Iterator<Item = Filter> {
        self.0.iter().map(move |set| {
            let one = |rules: Option<Rbac>, shadow_rules: Option<Rbac>| {
                let stat_prefix = stat_prefix.to_owned();
                network_rbac::Rbac { rules, shadow_rules, stat_prefix, ..Default::default() }.encode_to_vec()
            };
            let config = filter::ConfigType::TypedConfig(protobuf::Any {
                type_url: "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC".into(),
                value: set.encoded(one),
            });
            Filter { name: "rbac".into(), config_type: Some(config) }
        })
    }
}

impl RuleSet {
    /// The filter's bytes: one message for each policy, one after the other. Messages are merged when they are read (protobuf,
    /// "Last One Wins"), and so the order of the map is this one's, not that of a hash table.
    fn encoded(&self, one: impl Fn(Option<Rbac>, Option<Rbac>) -> Vec<u8>) -> Vec<u8> {
        let of = |policies: &[(&String, &Policy)]| {
            let policies = policies.iter().map(|(name, policy)| ((*name).clone(), (*policy).clone())).collect();
            let rules = Some(Rbac { action: self.action.into(), policies, audit_logging_options: None });
            if self.shadow { one(None, rules) } else { one(rules, None) }
        };
        if self.policies.is_empty() {
            return of(&[]);
        }
        self.policies.iter().flat_map(|policy| of(&[policy])).collect()
    }
}

/// What a policy is about behind a port; nothing if it is not about it.
fn scope(world: &World, policy: &AuthorizationPolicy, workload: &Workload, port: &ServedPort) -> Option<Scope> {
    let named = |served: &ServicePortName, wanted: &str| {
        let service = world.mesh.services.get(&served.service);
        service
            .is_some_and(|service| service.ports.iter().any(|port| port.port == served.port && *port.name == *wanted))
    };
    if policy.namespace != workload.name.namespace {
        return None;
    }
    let whole = |is_about: bool| is_about.then_some(Scope::Port);
    match &policy.target {
        AuthorizationTarget::Namespace => Some(Scope::Port),
        AuthorizationTarget::Workloads(labels) => {
            whole(labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)))
        }
        AuthorizationTarget::Named { services, routes } => {
            let behind = services.iter().any(|(service, port_name)| {
                port.services.iter().any(|served| {
                    served.name.service == *service && port_name.as_ref().is_none_or(|name| named(&served.name, name))
                })
            });
            let leads_here = |route: &&HttpRoute| {
                let mut backends = route.rules.iter().flat_map(|rule| &rule.backends);
                backends.any(|backend| {
                    let served = port.services.iter().map(|served| &served.name);
                    served.into_iter().any(|name| name.service == backend.service && name.port == backend.port)
                })
            };
            let routes = routes.iter().filter_map(|name| of_route::find(&world.mesh, name)).filter(leads_here);
            let requests: Vec<Rule> = routes.map(|route| of_route::requests(&world.mesh, route)).collect();
            whole(behind).or_else(|| (!requests.is_empty()).then(|| Scope::Requests(of_route::any_of(requests))))
        }
    }
}

/// One RBAC policy for each rule, named after it: `namespace/name/rule`.
fn rendered(world: &World, policy: &AuthorizationPolicy, scope: &Scope) -> impl Iterator<Item = (String, Policy)> {
    let AuthorizationPolicy { namespace, name, action, rules, .. } = policy;
    rules.iter().enumerate().map(move |(at, rule)| {
        let AuthorizationRule { from, to } = rule;
        let principals = from.iter().map(|caller| principal(world, caller, *action)).collect();
        let permissions = or_any(to.iter().map(permission).collect(), Permission { rule: Some(Rule::Any(true)) });
        let permissions = match scope {
            Scope::Port => permissions,
            Scope::Requests(requests) => {
                let asked = permissions.into_iter().filter_map(|permission| permission.rule);
                let within = |rule| match rule {
                    Rule::Any(true) => requests.clone(),
                    other => of_route::all_of(vec![requests.clone(), other]),
                };
                asked.map(|rule| Permission { rule: Some(within(rule)) }).collect()
            }
        };
        let policy = Policy {
            principals: or_any(principals, Principal { identifier: Some(Identifier::Any(true)) }),
            permissions,
            ..Default::default()
        };
        (format!("{namespace}/{name}/{at}"), policy)
    })
}

fn or_any<T>(several: Vec<T>, any: T) -> Vec<T> {
    if several.is_empty() { vec![any] } else { several }
}

fn principal(world: &World, caller: &Caller, action: AuthorizationAction) -> Principal {
    let mut all = Vec::new();
    for condition in &caller.0 {
        match condition {
            CallerCondition::Identity(identities) => all.push(any_of(identities.iter().map(|id| identity(world, id)))),
            CallerCondition::NotIdentity(identities) => {
                // Who has no identity is none of these, and must not be allowed for it.
                if action == AuthorizationAction::Allow {
                    all.push(Identifier::Authenticated(Authenticated { principal_name: None }));
                }
                all.push(not(any_of(identities.iter().map(|id| identity(world, id)))));
            }
            CallerCondition::Address(blocks) => all.push(any_of(blocks.iter().map(block))),
            CallerCondition::NotAddress(blocks) => all.push(not(any_of(blocks.iter().map(block)))),
        }
    }
    let identifier = match <[Identifier; 1]>::try_from(all) {
        Ok([only]) => only,
        Err(all) => Identifier::AndIds(ids(all)),
    };
    Principal { identifier: Some(identifier) }
}

fn any_of(identifiers: impl Iterator<Item = Identifier>) -> Identifier {
    match <[Identifier; 1]>::try_from(identifiers.collect::<Vec<_>>()) {
        Ok([only]) => only,
        Err(several) => Identifier::OrIds(ids(several)),
    }
}

fn not(identifier: Identifier) -> Identifier {
    Identifier::NotId(Box::new(Principal { identifier: Some(identifier) }))
}

fn ids(identifiers: Vec<Identifier>) -> principal::Set {
    principal::Set { ids: identifiers.into_iter().map(|one| Principal { identifier: Some(one) }).collect() }
}

fn identity(world: &World, identity: &IdentityMatch) -> Identifier {
    let own = &world.mesh.settings.trust_domain;
    let pattern = match identity {
        IdentityMatch::Exact(identity) => MatchPattern::Exact(identity.to_string()),
        IdentityMatch::ServiceAccount { namespace, name } => {
            MatchPattern::Exact(format!("spiffe://{own}/ns/{namespace}/sa/{name}"))
        }
        IdentityMatch::Namespace(namespace) => MatchPattern::Prefix(format!("spiffe://{own}/ns/{namespace}/sa/")),
        IdentityMatch::TrustDomain(domain) => MatchPattern::Prefix(format!("spiffe://{domain}/")),
    };
    Identifier::Authenticated(Authenticated { principal_name: Some(string(pattern)) })
}

fn block((address, length): &(IpAddr, u8)) -> Identifier {
    Identifier::DirectRemoteIp(core::CidrRange {
        address_prefix: address.to_string(),
        prefix_len: number((*length).into()),
    })
}

fn permission(operation: &Operation) -> Permission {
    let Operation { ports, methods, paths, headers } = operation;
    let mut all = Vec::new();
    let mut any_of = |rules: Vec<Rule>| match <[Rule; 1]>::try_from(rules) {
        Ok([only]) => all.push(only),
        Err(several) if several.is_empty() => {}
        Err(several) => all.push(Rule::OrRules(self::rules_of(several))),
    };
    any_of(ports.iter().map(|port| Rule::DestinationPort((*port).into())).collect());
    any_of(
        methods
            .iter()
            .map(|method| {
                header(
                    ":method",
                    StringMatcher {
                        match_pattern: Some(MatchPattern::Exact(method.to_string())),
                        ..Default::default()
                    },
                )
            })
            .collect(),
    );
    any_of(paths.iter().flat_map(path).collect());
    for (name, value) in headers {
        any_of(vec![header(name, string_match(value))]);
    }
    let rule = match <[Rule; 1]>::try_from(all) {
        Ok([only]) => only,
        Err(all) => Rule::AndRules(rules_of(all)),
    };
    Permission { rule: Some(rule) }
}

fn rules_of(rules: Vec<Rule>) -> permission::Set {
    permission::Set { rules: rules.into_iter().map(|rule| Permission { rule: Some(rule) }).collect() }
}

fn header(name: &str, value: StringMatcher) -> Rule {
    Rule::Header(HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    })
}

/// A prefix is by segments: the path itself, and what is below it.
fn path(path: &PathMatch) -> Vec<Rule> {
    let one = |pattern| {
        let path = Some(PathRule::Path(string(pattern)));
        Rule::UrlPath(PathMatcher { rule: path })
    };
    match path {
        PathMatch::Exact(path) => vec![one(MatchPattern::Exact(path.to_string()))],
        PathMatch::Prefix(root) if &**root == "/" => vec![one(MatchPattern::Prefix("/".into()))],
        PathMatch::Prefix(path) => {
            vec![one(MatchPattern::Exact(path.to_string())), one(MatchPattern::Prefix(format!("{path}/")))]
        }
        PathMatch::Regex(pattern) => vec![one(MatchPattern::SafeRegex(regex(pattern)))],
    }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}
