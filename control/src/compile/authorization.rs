//! `AuthorizationPolicy` → RBAC filters, for the ports behind which the policy's targets are.
//!
//! A port has one set of rules, by whatever name it is reached: a policy about a service protects the application's port that
//! the service leads to. Rules that deny come first, then those that allow; what is only audited is in shadow rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use malla_config::mesh::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizationTarget, Caller, CallerCondition,
    DefaultAuthorization, IdentityMatch, Operation, PathMatch, Workload,
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

/// Those of a workload's port.
pub(super) fn rules(world: &World, workload: &Workload, port: &ServedPort) -> Rules {
    let about = |policy: &&AuthorizationPolicy| is_about(world, policy, workload, port);
    let policies: Vec<_> = world.mesh.authorization_policies.iter().filter(about).collect();
    let of = |action: AuthorizationAction| policies.iter().filter(move |policy| policy.action == action);
    let set = |action: Action, shadow: bool, of_action: AuthorizationAction| RuleSet {
        action,
        shadow,
        policies: of(of_action).flat_map(|policy| rendered(world, policy)).collect(),
    };
    let mut rules = Vec::new();
    if of(AuthorizationAction::Audit).next().is_some() {
        rules.push(set(Action::Deny, true, AuthorizationAction::Audit));
    }
    if of(AuthorizationAction::Deny).next().is_some() {
        rules.push(set(Action::Deny, false, AuthorizationAction::Deny));
    }
    let allows = of(AuthorizationAction::Allow).next().is_some();
    match world.mesh.settings.default_authorization {
        _ if allows => rules.push(set(Action::Allow, false, AuthorizationAction::Allow)),
        DefaultAuthorization::Allow => {}
        DefaultAuthorization::Deny => {
            rules.push(RuleSet { action: Action::Allow, shadow: false, policies: BTreeMap::new() });
        }
        DefaultAuthorization::Audit => {
            rules.push(RuleSet { action: Action::Allow, shadow: true, policies: BTreeMap::new() });
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

fn is_about(world: &World, policy: &AuthorizationPolicy, workload: &Workload, port: &ServedPort) -> bool {
    let named = |served: &ServicePortName, wanted: &str| {
        let service = world.mesh.services.get(&served.service);
        service
            .is_some_and(|service| service.ports.iter().any(|port| port.port == served.port && *port.name == *wanted))
    };
    policy.namespace == workload.name.namespace
        && match &policy.target {
            AuthorizationTarget::Namespace => true,
            AuthorizationTarget::Workloads(labels) => {
                labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
            }
            AuthorizationTarget::Services(targets) => targets.iter().any(|(service, port_name)| {
                port.services.iter().any(|served| {
                    served.name.service == *service && port_name.as_ref().is_none_or(|name| named(&served.name, name))
                })
            }),
        }
}

/// One RBAC policy for each rule, named after it: `namespace/name/rule`.
fn rendered(world: &World, policy: &AuthorizationPolicy) -> impl Iterator<Item = (String, Policy)> {
    let AuthorizationPolicy { namespace, name, action, rules, .. } = policy;
    rules.iter().enumerate().map(move |(at, rule)| {
        let AuthorizationRule { from, to } = rule;
        let principals = from.iter().map(|caller| principal(world, caller, *action)).collect();
        let permissions = to.iter().map(permission).collect();
        let policy = Policy {
            principals: or_any(principals, Principal { identifier: Some(Identifier::Any(true)) }),
            permissions: or_any(permissions, Permission { rule: Some(Rule::Any(true)) }),
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
