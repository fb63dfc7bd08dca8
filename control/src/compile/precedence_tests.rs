//! The rendered routes against a plain reading of Gateway API: random routes, random requests, the same rule chosen.

mod gateway;

use malla_config::mesh::HttpRoute;
use malla_xds::envoy::matcher::{StringMatcher, string_matcher::MatchPattern};
use malla_xds::envoy::route::header_matcher::HeaderMatchSpecifier;
use malla_xds::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use malla_xds::envoy::route::route_match::PathSpecifier;
use malla_xds::envoy::route::{RouteConfiguration, RouteMatch};
use proptest::collection::vec;
use proptest::prelude::*;

use self::gateway::{Request, chosen_by_gateway_api, request, routes, value_of, whole};
use super::describe::decode;
use super::route::configuration;

// What xDS says: the best virtual host, then its first route that matches.

fn chosen_by_xds(configuration: &RouteConfiguration, request: &Request) -> Option<String> {
    let fit = |domain: &String| match domain.strip_prefix('*') {
        Some("") => Some((0, 0)),
        Some(suffix) if request.host.ends_with(suffix) && request.host != suffix => Some((1, suffix.len())),
        None if domain == request.host => Some((2, 0)),
        _ => None,
    };
    let hosts = configuration.virtual_hosts.iter();
    let best =
        hosts.filter_map(|host| Some((host.domains.iter().filter_map(fit).max()?, host))).max_by_key(|(fit, _)| *fit);
    let (_, host) = best?;
    let found = host.routes.iter().find(|route| xds_matches(route.r#match.as_ref().expect("is set"), request))?;
    Some(found.name.clone())
}

fn xds_matches(matching: &RouteMatch, request: &Request) -> bool {
    let path = match matching.path_specifier.as_ref().expect("is set") {
        PathSpecifier::Path(path) => path == request.path,
        PathSpecifier::Prefix(prefix) => request.path.starts_with(prefix.as_str()),
        PathSpecifier::SafeRegex(regex) => whole(&regex.regex, request.path),
        other => panic!("{other:?}"),
    };
    let headers = matching.headers.iter().all(|header| {
        let Some(HeaderMatchSpecifier::StringMatch(expected)) = &header.header_match_specifier else { return false };
        let value = match header.name.as_str() {
            ":method" => Some(request.method),
            name => value_of(&request.headers, name),
        };
        value.is_some_and(|value| string_matches(expected, value))
    });
    let query = matching.query_parameters.iter().all(|query| {
        let Some(QueryParameterMatchSpecifier::StringMatch(expected)) = &query.query_parameter_match_specifier else {
            return false;
        };
        value_of(&request.query, &query.name).is_some_and(|value| string_matches(expected, value))
    });
    path && headers && query
}

fn string_matches(expected: &StringMatcher, value: &str) -> bool {
    match expected.match_pattern.as_ref().expect("is set") {
        MatchPattern::Exact(text) => text == value,
        MatchPattern::SafeRegex(regex) => whole(&regex.regex, value),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_rendered_routes_choose_as_gateway_api_says(routes in routes(), requests in vec(request(), 20)) {
        let attached: Vec<&HttpRoute> = routes.iter().collect();
        let rendered: RouteConfiguration = decode(configuration("cart.shop:80", &attached, &super::policy::Hashing::default()).body);
        for request in requests {
            prop_assert_eq!(chosen_by_xds(&rendered, &request), chosen_by_gateway_api(&routes, &request), "{:?}", request);
        }
    }
}
