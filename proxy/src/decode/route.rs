//! Route configurations.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use malla_xds::envoy::route::route::Action;
use malla_xds::envoy::route::route_action::ClusterSpecifier;
use malla_xds::envoy::route::{self, HedgePolicy, RouteConfiguration, WeightedCluster};

use super::fault::{At, Fault, each};
use super::filters::{self, header_lists};
use super::overrides::{self, Overrides};
use super::retry::{Retries, hedged, retry};
use super::{matcher, optional_duration, unsupported};
use crate::filter::{Filters, HeaderFilters, RateLimit, Redirect, Share};
use crate::names::Name;
use crate::snapshot::{Retry, RouteMatch};

/// A route configuration whose clusters are still names.
#[derive(Debug)]
pub struct RouteTable {
    /// Its name.
    pub name: Name,
    /// Virtual hosts.
    pub virtual_hosts: Vec<VirtualHostSpec>,
}

/// Routes for some hosts.
#[derive(Debug)]
pub struct VirtualHostSpec {
    /// Exact names, `*.suffix`, or `*`; lower case, without port.
    pub domains: Vec<Arc<str>>,
    /// Routes in the order of precedence.
    pub routes: Vec<RouteSpec>,
}

/// One match and where it leads.
#[derive(Debug)]
pub struct RouteSpec {
    /// Label for metrics.
    pub name: Arc<str>,
    /// What must hold.
    pub matcher: RouteMatch,
    /// Clusters and weights above zero; empty leads nowhere.
    pub clusters: Vec<(Name, u32)>,
    /// Where requests are sent to instead.
    pub redirect: Option<Arc<Redirect>>,
    /// What is done besides.
    pub filters: Option<Arc<Filters>>,
    /// Clusters that get copies, and of how many requests.
    pub mirrors: Vec<(Name, Share)>,
    /// How many requests are let through.
    pub limits: Vec<Arc<RateLimit>>,
    /// Limit of the whole request.
    pub timeout: Option<Duration>,
    /// Limit of one try.
    pub try_timeout: Option<Duration>,
    /// Retries.
    pub retry: Retry,
}

impl RouteTable {
    /// Every cluster that it leads to, of each route first those that answer, then mirrors; with repetitions.
    pub fn clusters(&self) -> impl Iterator<Item = &Name> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(|route| {
            let mirrors = route.mirrors.iter().map(|(name, _)| name);
            route.clusters.iter().map(|(name, _)| name).chain(mirrors)
        })
    }
}

/// Checks a route configuration.
pub(super) fn decode(name: &str, written: RouteConfiguration) -> Result<RouteTable, Fault> {
    unsupported("vhds", written.vhds.is_some())?;
    unsupported("vhost_header", !written.vhost_header.is_empty())?;
    unsupported("ignore_path_parameters_in_path_matching", written.ignore_path_parameters_in_path_matching)?;
    unsupported("route_specifiers", !written.route_specifiers.is_empty())?;
    let plugin = written.cluster_specifier_plugins.iter().any(|plugin| !plugin.is_optional);
    unsupported("cluster_specifier_plugins", plugin)?;
    overrides::only_optional(&written.typed_per_filter_config)?;
    let mut seen = HashSet::new();
    let order = if written.most_specific_header_mutations_wins { Order::SpecificLast } else { Order::SpecificFirst };
    let outer = Outer { order, headers: vec![filters::headers(&header_lists!(written))?] };
    let virtual_hosts = each("virtual_hosts", &written.virtual_hosts, |host| virtual_host(host, &outer, &mut seen))?;
    Ok(RouteTable { name: name.into(), virtual_hosts })
}

/// The header changes of what a route is in.
#[derive(Clone)]
struct Outer {
    order: Order,
    /// The outermost first.
    headers: Vec<HeaderFilters>,
}

/// In which order header changes are made where several levels have some.
#[derive(Clone, Copy)]
enum Order {
    SpecificFirst,
    SpecificLast,
}

impl Outer {
    fn with(&self, inner: HeaderFilters) -> Outer {
        let mut headers = self.headers.clone();
        headers.push(inner);
        Outer { headers, ..*self }
    }

    /// All changes as one list.
    fn flat(&self) -> HeaderFilters {
        let mut flat = HeaderFilters::default();
        let mut add = |level: &HeaderFilters| {
            flat.request.0.extend_from_slice(&level.request.0);
            flat.response.0.extend_from_slice(&level.response.0);
        };
        match self.order {
            Order::SpecificFirst => self.headers.iter().rev().for_each(&mut add),
            Order::SpecificLast => self.headers.iter().for_each(&mut add),
        }
        flat
    }
}

fn virtual_host(
    written: &route::VirtualHost,
    outer: &Outer,
    seen: &mut HashSet<Arc<str>>,
) -> Result<VirtualHostSpec, Fault> {
    unsupported("matcher", written.matcher.is_some())?;
    unsupported("require_tls", written.require_tls != 0)?;
    unsupported("retry_policy_typed_config", written.retry_policy_typed_config.is_some())?;
    unsupported("route_specifiers", !written.route_specifiers.is_empty())?;
    overrides::only_optional(&written.typed_per_filter_config)?;
    let mut domains: Vec<Arc<str>> = Vec::new();
    for (index, text) in written.domains.iter().enumerate() {
        let domain = domain(text).at(format_args!("domains[{index}]"))?;
        if domains.contains(&domain) {
            continue; // `cart.shop` and `cart.shop:80` are one to us.
        }
        if !seen.insert(domain.clone()) {
            return Err(Fault::new(format!("{domain:?} is claimed by another virtual host too"))
                .within(format_args!("domains[{index}]")));
        }
        domains.push(domain);
    }
    if domains.is_empty() {
        return Err(Fault::new("is empty").within("domains"));
    }
    let retries = written.retry_policy.as_ref().map(retry).transpose().at("retry_policy")?;
    let inherited = Inherited { retries, hedging: written.hedge_policy.as_ref() };
    let outer = outer.with(filters::headers(&header_lists!(written))?);
    let routes = each("routes", &written.routes, |route| self::route(route, &inherited, &outer))?;
    Ok(VirtualHostSpec { domains, routes })
}

/// A domain without its port: a listener is for one port, so the port tells nothing more.
fn domain(text: &str) -> Result<Arc<str>, Fault> {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port == "*" || port.parse::<u16>().is_ok() => {
            // `[::1]:80`, but not the last group of a bare `::1`.
            if host.contains(':') && !host.ends_with(']') { text } else { host }
        }
        _ => text,
    };
    let rest = host.strip_prefix("*.").unwrap_or(host);
    if host != "*" && (rest.is_empty() || rest.contains('*')) {
        return Err(Fault::new(format!("{text:?} is not supported: write a name, *.suffix or *")));
    }
    Ok(host.to_ascii_lowercase().into())
}

/// What a route takes over from its virtual host where it says nothing itself.
struct Inherited<'a> {
    retries: Option<Retries>,
    hedging: Option<&'a HedgePolicy>,
}

fn route(written: &route::Route, inherited: &Inherited<'_>, outer: &Outer) -> Result<RouteSpec, Fault> {
    let Overrides { fault, limits, cors, session, hedge } = overrides::of_route(&written.typed_per_filter_config)?;
    unsupported("route_specifiers", !written.route_specifiers.is_empty())?;
    let matcher = written.r#match.as_ref().ok_or_else(|| Fault::new("is missing").within("match"))?;
    let matcher = matcher::route_match(matcher).at("match")?;
    let name = if written.name.is_empty() { "default" } else { &written.name };
    let outer = outer.with(filters::headers(&header_lists!(written))?);
    let sampling = written.tracing.as_ref().map(sampling).transpose().at("tracing")?;
    let nowhere = RouteSpec {
        name: name.into(),
        matcher,
        clusters: Vec::new(),
        redirect: None,
        filters: Filters { fault: fault.clone(), cors: cors.clone(), sampling, ..Filters::default() }.shared(),
        mirrors: Vec::new(),
        limits,
        timeout: None,
        try_timeout: None,
        retry: Retry::default(),
    };
    match &written.action {
        Some(Action::Route(action)) => {
            let retries = action.retry_policy.as_ref().map(retry).transpose().at("route.retry_policy")?;
            let retries = retries.or_else(|| inherited.retries.clone());
            let policy = action.hedge_policy.as_ref().or(inherited.hedging);
            let retries = hedged(retries, policy, hedge).at("route.hedge_policy")?;
            let (clusters, of_clusters) = clusters(action, &outer).at("route")?;
            let filters = Filters {
                headers: outer.flat(),
                clusters: of_clusters,
                rewrite: filters::rewrite(action, &nowhere.matcher.path).at("route")?,
                fault,
                cors,
                session,
                sampling,
            };
            Ok(RouteSpec {
                clusters,
                filters: filters.shared(),
                mirrors: overrides::mirrors(&action.request_mirror_policies).at("route")?,
                timeout: timeout(action).at("route")?,
                try_timeout: retries.try_timeout,
                retry: retries.retry,
                ..nowhere
            })
        }
        Some(Action::DirectResponse(response)) if response.status == 500 => Ok(nowhere),
        Some(Action::DirectResponse(response)) => {
            Err(Fault::new(format!("{} is not supported, only 500", response.status)).within("direct_response.status"))
        }
        Some(Action::Redirect(redirect)) => {
            let redirect = filters::redirect(redirect, &nowhere.matcher.path).at("redirect")?;
            Ok(RouteSpec { redirect: Some(redirect.into()), ..nowhere })
        }
        Some(Action::FilterAction(_)) => Err(Fault::new("is not supported").within("filter_action")),
        Some(Action::NonForwardingAction(_)) => Err(Fault::new("is not supported").within("non_forwarding_action")),
        None => Err(Fault::new("is missing").within("action")),
    }
}

/// Of the traces that begin with requests of a route, those that are followed. A sidecar asks nobody whether a client wants its trace
/// followed, and has one limit for all of its routes.
fn sampling(written: &route::Tracing) -> Result<Share, Fault> {
    unsupported("client_sampling", written.client_sampling.is_some())?;
    unsupported("overall_sampling", written.overall_sampling.is_some())?;
    unsupported("custom_tags", !written.custom_tags.is_empty())?;
    unsupported("operation", !written.operation.is_empty())?;
    unsupported("upstream_operation", !written.upstream_operation.is_empty())?;
    match &written.random_sampling {
        Some(random) => overrides::share(Some(random)).at("random_sampling"),
        // As Envoy has it.
        None => Ok(Share(1_000_000)),
    }
}

/// Clusters by weight, and their header changes, if any of them has its own.
type Clusters = (Vec<(Name, u32)>, Vec<HeaderFilters>);

fn clusters(action: &route::RouteAction, outer: &Outer) -> Result<Clusters, Fault> {
    unsupported("metadata_match", action.metadata_match.is_some())?;
    unsupported("retry_policy_typed_config", action.retry_policy_typed_config.is_some())?;
    unsupported("internal_redirect_policy", action.internal_redirect_policy.is_some())?;
    match action.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) if name.is_empty() => Err(Fault::new("is empty").within("cluster")),
        Some(ClusterSpecifier::Cluster(name)) => Ok((vec![(name.as_str().into(), 1)], Vec::new())),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted, outer).at("weighted_clusters")
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => Err(Fault::new("is not supported").within("cluster_header")),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(_) | ClusterSpecifier::InlineClusterSpecifierPlugin(_)) => {
            Err(Fault::new("is not supported").within("cluster_specifier_plugin"))
        }
        None => Err(Fault::new("is missing").within("cluster_specifier")),
    }
}

fn weighted_clusters(written: &WeightedCluster, outer: &Outer) -> Result<Clusters, Fault> {
    unsupported("random_value_specifier", written.random_value_specifier.is_some())?;
    let mut own = Vec::new();
    let clusters = each("clusters", &written.clusters, |cluster| {
        unsupported("cluster_header", !cluster.cluster_header.is_empty())?;
        unsupported("metadata_match", cluster.metadata_match.is_some())?;
        unsupported("host_rewrite_specifier", cluster.host_rewrite_specifier.is_some())?;
        overrides::only_optional(&cluster.typed_per_filter_config)?;
        let weight = cluster.weight.as_ref().map_or(0, |weight| weight.value);
        let headers = filters::headers(&header_lists!(cluster))?;
        if weight > 0 {
            own.push(headers);
        }
        Ok((cluster.name.as_str(), weight))
    })?;
    let clusters = weights(clusters)?;
    if own.iter().all(HeaderFilters::is_nothing) {
        own.clear();
    }
    Ok((clusters, own.into_iter().map(|headers| outer.with(headers).flat()).collect()))
}

/// Clusters with their weights, without those of weight zero.
pub(super) fn weights<'a>(written: impl IntoIterator<Item = (&'a str, u32)>) -> Result<Vec<(Name, u32)>, Fault> {
    let mut total: u32 = 0;
    let mut clusters = Vec::new();
    for (index, (name, weight)) in written.into_iter().enumerate() {
        if name.is_empty() {
            return Err(Fault::new("is empty").within(format_args!("clusters[{index}].name")));
        }
        total = total
            .checked_add(weight)
            .ok_or_else(|| Fault::new("the sum of the weights exceeds 4294967295").within("clusters"))?;
        if weight > 0 {
            clusters.push((Name::from(name), weight));
        }
    }
    Ok(clusters)
}

/// The shorter of `timeout` and `max_stream_duration`; zero is none (for gRPC clients only the second counts).
fn timeout(action: &route::RouteAction) -> Result<Option<Duration>, Fault> {
    let timeout = optional_duration(action.timeout.as_ref()).at("timeout")?;
    let stream = action.max_stream_duration.as_ref().and_then(|stream| stream.max_stream_duration.as_ref());
    let stream = optional_duration(stream).at("max_stream_duration")?;
    Ok([timeout, stream].into_iter().flatten().min())
}

#[cfg(test)]
mod tests {
    use malla_xds::envoy::protobuf::{self, Any};
    use malla_xds::envoy::route::FilterConfig;
    use malla_xds::envoy::route::route_match::PathSpecifier;
    use malla_xds::envoy::route::weighted_cluster::ClusterWeight;
    use malla_xds::envoy::types::FractionalPercent;
    use malla_xds::envoy::types::fractional_percent::DenominatorType;

    use super::*;

    fn table(host: route::VirtualHost) -> Result<RouteTable, Fault> {
        decode("cart.shop:80", RouteConfiguration { virtual_hosts: vec![host], ..Default::default() })
    }

    fn host(routes: Vec<route::Route>) -> route::VirtualHost {
        route::VirtualHost { domains: vec!["*".into()], routes, ..Default::default() }
    }

    fn to(action: route::RouteAction) -> route::Route {
        route::Route {
            r#match: Some(route::RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix("/".into())),
                ..Default::default()
            }),
            action: Some(Action::Route(action)),
            ..Default::default()
        }
    }

    fn weighted(weights: &[(&str, u32)]) -> route::Route {
        let clusters = weights.iter().map(|(name, weight)| ClusterWeight {
            name: (*name).into(),
            weight: Some(protobuf::UInt32Value { value: *weight }),
            ..Default::default()
        });
        to(route::RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: clusters.collect(),
                ..Default::default()
            })),
            ..Default::default()
        })
    }

    #[test]
    fn drops_zero_weights_and_refuses_their_overflow() {
        let decoded = table(host(vec![weighted(&[("a", 1), ("b", 0)])])).expect("valid");
        assert_eq!(decoded.clusters().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        let fault = table(host(vec![weighted(&[("a", u32::MAX), ("b", 1)])])).expect_err("refused");
        assert_eq!(
            fault.to_string(),
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters: the sum of the weights exceeds 4294967295"
        );
    }

    #[test]
    fn takes_the_shorter_of_both_timeouts() {
        let seconds = |seconds| Some(protobuf::Duration { seconds, nanos: 0 });
        let action = |timeout, stream| route::RouteAction {
            timeout,
            max_stream_duration: Some(route::route_action::MaxStreamDuration {
                max_stream_duration: stream,
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(timeout(&action(seconds(0), seconds(3))), Ok(Some(Duration::from_secs(3))));
        assert_eq!(timeout(&action(seconds(2), seconds(3))), Ok(Some(Duration::from_secs(2))));
        assert_eq!(timeout(&action(seconds(0), None)), Ok(None));
        assert!(timeout(&action(seconds(-1), None)).is_err());
        assert!(timeout(&action(seconds(i64::MAX), None)).is_err());
    }

    #[test]
    fn a_direct_response_of_500_leads_nowhere() {
        let answer = |status| route::Route {
            action: Some(Action::DirectResponse(route::DirectResponseAction { status, ..Default::default() })),
            ..weighted(&[])
        };
        assert!(table(host(vec![answer(500)])).expect("valid").virtual_hosts[0].routes[0].clusters.is_empty());
        let fault = table(host(vec![answer(200)])).expect_err("refused");
        assert_eq!(
            fault.to_string(),
            "virtual_hosts[0].routes[0].direct_response.status: 200 is not supported, only 500"
        );
    }

    #[test]
    fn domains_lose_their_port_and_are_claimed_once() {
        let with = |domains: &[&str]| route::VirtualHost {
            domains: domains.iter().map(|domain| (*domain).into()).collect(),
            ..Default::default()
        };
        let decoded = table(with(&["Cart.shop", "cart.shop:80", "*.cart.shop", "*"])).expect("valid");
        let domains: Vec<&str> = decoded.virtual_hosts[0].domains.iter().map(|domain| &**domain).collect();
        assert_eq!(domains, ["cart.shop", "*.cart.shop", "*"]);
        for bad in ["cart.*", "*cart", "", "*.*.shop"] {
            assert!(table(with(&[bad])).is_err(), "{bad}");
        }
        let hosts = vec![with(&["cart.shop"]), with(&["cart.shop:80"])];
        assert!(decode("x", RouteConfiguration { virtual_hosts: hosts, ..Default::default() }).is_err());
    }

    #[test]
    fn an_override_of_a_filter_must_be_optional() {
        let with = |any: Any| {
            let mut host = host(Vec::new());
            host.typed_per_filter_config.insert("rbac".into(), any);
            host
        };
        assert!(table(with(Any { type_url: "x/envoy.Rbac".into(), value: Vec::new() })).is_err());
        let optional = FilterConfig { is_optional: true, ..Default::default() };
        assert!(table(with(malla_xds::envoy::pack_any(optional))).is_ok());
    }

    #[test]
    fn what_is_sampled_of_traces_is_the_random_share_alone() {
        let share = |numerator| FractionalPercent { numerator, denominator: DenominatorType::Million.into() };
        let sampled = |tracing: route::Tracing| {
            let one = to(route::RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster("cart.shop:80".into())),
                ..Default::default()
            });
            let table = table(host(vec![route::Route { tracing: Some(tracing), ..one }]))?;
            Ok(table.virtual_hosts[0].routes[0].filters.as_ref().and_then(|filters| filters.sampling))
        };
        let random = |numerator| route::Tracing { random_sampling: Some(share(numerator)), ..Default::default() };
        let found = |tracing| sampled(tracing).map_err(|fault: Fault| fault.to_string());
        assert_eq!(found(random(2500)), Ok(Some(Share(2500))));
        assert_eq!(found(random(0)), Ok(Some(Share(0))));
        assert_eq!(found(route::Tracing::default()), Ok(Some(Share(1_000_000))), "as Envoy has it");
        let others = [
            (route::Tracing { client_sampling: Some(share(1)), ..random(1) }, "client_sampling"),
            (route::Tracing { overall_sampling: Some(share(1)), ..random(1) }, "overall_sampling"),
            (route::Tracing { custom_tags: vec![Default::default()], ..random(1) }, "custom_tags"),
        ];
        for (tracing, field) in others {
            let refused = found(tracing).expect_err(field);
            assert!(refused.contains(&format!("tracing.{field}")), "{refused}");
        }
    }
}
