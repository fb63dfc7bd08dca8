//! RBAC filters: who may. Stricter than anything else: what is not understood here might have kept somebody out.

use std::sync::Arc;

use ipnet::IpNet;
use malla_xds::envoy::core::CidrRange;
use malla_xds::envoy::http_connection_manager::HttpFilter;
use malla_xds::envoy::http_connection_manager::http_filter::ConfigType as HttpConfigType;
use malla_xds::envoy::listener::Filter;
use malla_xds::envoy::listener::filter::ConfigType;
use malla_xds::envoy::matcher::PathMatcher;
use malla_xds::envoy::matcher::path_matcher::Rule as PathRule;
use malla_xds::envoy::rbac::permission::Rule;
use malla_xds::envoy::rbac::principal::Identifier;
use malla_xds::envoy::rbac::{self, Permission, Principal, Rbac};
use malla_xds::envoy::{http_rbac, network_rbac};

use super::fault::{At, Fault, each};
use super::matcher::{self, Condition as Written};
use super::{message, type_name, unsupported};
use crate::authorize::{Action, Authorization, Condition, Enforcement, Policy, RuleSet};

const HTTP_RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const NETWORK_RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";

/// The rules of one filter, as written: enforced, and shadow.
pub(super) type Rules = (Option<Rbac>, Option<Rbac>);

/// Takes the RBAC filters from those of an HTTP connection manager.
pub(super) fn from_http(filters: &mut Vec<HttpFilter>) -> Result<Vec<Rules>, Fault> {
    let mut rules = Vec::new();
    let mut others = Vec::with_capacity(filters.len());
    for (index, filter) in filters.drain(..).enumerate() {
        let field = format!("http_filters[{index}]");
        match &filter.config_type {
            Some(HttpConfigType::TypedConfig(any)) if type_name(&any.type_url) == HTTP_RBAC => {
                // Rules behind another filter would see a request that it has changed.
                if !others.is_empty() {
                    return Err(Fault::new("must be before every other filter").within(field));
                }
                unsupported("disabled", filter.disabled).at(&field)?;
                let rbac: http_rbac::Rbac = message(&any.value).at(&field)?;
                unsupported("matcher", rbac.matcher.is_some()).at(&field)?;
                unsupported("shadow_matcher", rbac.shadow_matcher.is_some()).at(&field)?;
                rules.push((rbac.rules, rbac.shadow_rules));
            }
            _ => others.push(filter),
        }
    }
    *filters = others;
    Ok(rules)
}

/// The rules of a network filter; nothing if it is none of RBAC.
pub(super) fn from_network(filter: &Filter) -> Result<Option<Rules>, Fault> {
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { return Ok(None) };
    if type_name(&any.type_url) != NETWORK_RBAC {
        return Ok(None);
    }
    let rbac: network_rbac::Rbac = message(&any.value)?;
    unsupported("matcher", rbac.matcher.is_some())?;
    unsupported("shadow_matcher", rbac.shadow_matcher.is_some())?;
    unsupported("delay_deny", rbac.delay_deny.is_some())?;
    Ok(Some((rbac.rules, rbac.shadow_rules)))
}

/// Checks them; nothing where there are none.
pub(super) fn compile(written: &[Rules]) -> Result<Option<Arc<Authorization>>, Fault> {
    let mut sets = Vec::new();
    for (index, (rules, shadow_rules)) in written.iter().enumerate() {
        let field = |name: &str| format!("rbac[{index}].{name}");
        if let Some(rules) = shadow_rules {
            sets.push(set(rules, Enforcement::Shadow).at(field("shadow_rules"))?);
        }
        if let Some(rules) = rules {
            sets.push(set(rules, Enforcement::Enforced).at(field("rules"))?);
        }
    }
    Ok((!sets.is_empty()).then(|| Arc::new(Authorization { sets })))
}

fn set(written: &Rbac, enforcement: Enforcement) -> Result<RuleSet, Fault> {
    unsupported("audit_logging_options", written.audit_logging_options.is_some())?;
    let action = match rbac::rbac::Action::try_from(written.action) {
        Ok(rbac::rbac::Action::Allow) => Action::Allow,
        Ok(rbac::rbac::Action::Deny) => Action::Deny,
        _ => return Err(Fault::new("must be ALLOW or DENY").within("action")),
    };
    let mut names: Vec<&String> = written.policies.keys().collect();
    names.sort_unstable();
    let policies = names.into_iter().filter_map(|name| Some((name, written.policies.get(name)?)));
    let policies = policies.map(|(name, written)| policy(name, written).at(format_args!("policies[{name:?}]")));
    Ok(RuleSet { action, enforcement, policies: policies.collect::<Result<_, _>>()? })
}

fn policy(name: &str, written: &rbac::Policy) -> Result<Policy, Fault> {
    unsupported("condition", written.condition.is_some())?;
    unsupported("checked_condition", written.checked_condition.is_some())?;
    Ok(Policy {
        name: name.into(),
        permissions: each("permissions", &written.permissions, permission)?,
        principals: each("principals", &written.principals, principal)?,
    })
}

fn permission(written: &Permission) -> Result<Condition, Fault> {
    match &written.rule {
        Some(Rule::Any(true)) => Ok(Condition::Any),
        Some(Rule::AndRules(set)) => Ok(Condition::All(each("and_rules.rules", &set.rules, permission)?)),
        Some(Rule::OrRules(set)) => Ok(Condition::OneOf(each("or_rules.rules", &set.rules, permission)?)),
        Some(Rule::NotRule(other)) => Ok(Condition::Not(Box::new(permission(other).at("not_rule")?))),
        Some(Rule::Header(written)) => header(written),
        Some(Rule::UrlPath(written)) => path(written),
        Some(Rule::DestinationPort(port)) => u16::try_from(*port)
            .map(Condition::Port)
            .map_err(|_| Fault::new(format!("{port} is not a port")).within("destination_port")),
        Some(_) => Err(Fault::new("is a permission that this sidecar does not support").within("rule")),
        None => Err(Fault::new("is missing").within("rule")),
    }
}

fn principal(written: &Principal) -> Result<Condition, Fault> {
    match &written.identifier {
        Some(Identifier::Any(true)) => Ok(Condition::Any),
        Some(Identifier::AndIds(set)) => Ok(Condition::All(each("and_ids.ids", &set.ids, principal)?)),
        Some(Identifier::OrIds(set)) => Ok(Condition::OneOf(each("or_ids.ids", &set.ids, principal)?)),
        Some(Identifier::NotId(other)) => Ok(Condition::Not(Box::new(principal(other).at("not_id")?))),
        Some(Identifier::Authenticated(written)) => match &written.principal_name {
            None => Ok(Condition::Authenticated),
            Some(name) => matcher::string(name).map(Condition::Identity).at("authenticated.principal_name"),
        },
        Some(Identifier::DirectRemoteIp(range)) => block(range).map(Condition::Source).at("direct_remote_ip"),
        Some(Identifier::Header(written)) => header(written),
        Some(Identifier::UrlPath(written)) => path(written),
        Some(_) => Err(Fault::new("is a principal that this sidecar does not support").within("identifier")),
        None => Err(Fault::new("is missing").within("identifier")),
    }
}

fn header(written: &malla_xds::envoy::route::HeaderMatcher) -> Result<Condition, Fault> {
    Ok(match matcher::condition(written).at("header")? {
        Written::Header(name, value) => Condition::Header(name, value),
        Written::Method(method) => Condition::Method(method),
        Written::Host(value) => Condition::Host(value),
    })
}

fn path(written: &PathMatcher) -> Result<Condition, Fault> {
    match &written.rule {
        Some(PathRule::Path(text)) => matcher::string(text).map(Condition::Path).at("url_path.path"),
        None => Err(Fault::new("is missing").within("url_path.rule")),
    }
}

fn block(written: &CidrRange) -> Result<IpNet, Fault> {
    let length = written.prefix_len.as_ref().map_or(0, |length| length.value);
    let problem = || Fault::new(format!("{}/{length} is not a block of addresses", written.address_prefix));
    let address = written.address_prefix.parse().map_err(|_| problem())?;
    IpNet::new(address, u8::try_from(length).map_err(|_| problem())?).map_err(|_| problem())
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::matcher::StringMatcher;
    use malla_xds::envoy::matcher::string_matcher::MatchPattern;
    use malla_xds::envoy::rbac::principal::Authenticated;

    use super::*;
    use crate::snapshot::ValueMatch;

    fn rules(policy: rbac::Policy) -> Rules {
        let policies = [("shop/p/0".to_owned(), policy)].into();
        (Some(Rbac { action: 0, policies, audit_logging_options: None }), None)
    }

    fn fault(policy: rbac::Policy) -> String {
        compile(&[rules(policy)]).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_not_understood_is_refused_by_field() {
        let any = Permission { rule: Some(Rule::Any(true)) };
        let server_name = Permission { rule: Some(Rule::RequestedServerName(StringMatcher::default())) };
        let policy = rbac::Policy { permissions: vec![any.clone(), server_name], ..Default::default() };
        assert_eq!(
            fault(policy),
            "rbac[0].rules.policies[\"shop/p/0\"].permissions[1].rule: is a permission that this sidecar does not support"
        );
        let remote = Principal { identifier: Some(Identifier::RemoteIp(CidrRange::default())) };
        let inner = Principal { identifier: Some(Identifier::NotId(Box::new(remote))) };
        let policy = rbac::Policy { permissions: vec![any], principals: vec![inner], ..Default::default() };
        assert!(fault(policy).contains("principals[0].not_id.identifier: is a principal"));
        let log = (Some(Rbac { action: 2, ..Default::default() }), None);
        assert_eq!(compile(&[log]).expect_err("refused").to_string(), "rbac[0].rules.action: must be ALLOW or DENY");
    }

    #[test]
    fn blocks_and_names_are_checked() {
        let range = |address: &str, length: u32| CidrRange {
            address_prefix: address.to_owned(),
            prefix_len: Some(malla_xds::envoy::protobuf::UInt32Value { value: length }),
        };
        assert!(block(&range("10.0.0.0", 8)).is_ok() && block(&range("fd00::", 8)).is_ok());
        assert!(block(&range("10.0.0.0", 33)).is_err() && block(&range("ten", 8)).is_err());
        let name =
            StringMatcher { match_pattern: Some(MatchPattern::Exact("spiffe://a/b".into())), ..Default::default() };
        let identity =
            Principal { identifier: Some(Identifier::Authenticated(Authenticated { principal_name: Some(name) })) };
        assert!(
            matches!(principal(&identity), Ok(Condition::Identity(ValueMatch::Exact(id))) if &*id == "spiffe://a/b")
        );
        let nobody = Principal { identifier: Some(Identifier::Authenticated(Authenticated { principal_name: None })) };
        assert!(matches!(principal(&nobody), Ok(Condition::Authenticated)));
    }
}
