//! Which route a request takes, over the whole way: compiled by the control server, encoded, read and linked by the sidecar,
//! chosen from; compared with a plain reading of Gateway API.

#[path = "../../control/src/compile/precedence_tests/gateway.rs"]
mod gateway;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use malla_config::mesh::{AppProtocol, EndpointSource, HttpRoute, Mesh, Service, ServiceName, ServicePort, TargetPort};
use malla_proxy::decode::{Decoded, decode};
use malla_proxy::route::{Head, choose};
use malla_proxy::snapshot::HttpRoutes;
use malla_xds::ResourceType;
use malla_xds::wire::Any;
use proptest::collection::vec;
use proptest::prelude::*;

use self::gateway::{Request, chosen_by_gateway_api, request, routes};

/// What a sidecar has after it asked for `cart.shop:80`.
fn applied(routes: &[HttpRoute]) -> HttpRoutes {
    let name = ServiceName::new("shop", "cart");
    let port = ServicePort { name: "".into(), port: 80, target: TargetPort::Number(80), protocol: AppProtocol::Http2 };
    let endpoints = EndpointSource::Selector(BTreeMap::new());
    let service = Service { name: name.clone(), addresses: Vec::new(), ports: vec![port], endpoints };
    let mesh = Mesh { services: [(name, service)].into(), http_routes: routes.to_vec(), ..Mesh::default() };
    let resources = malla_control::source::render(mesh, "bundle").expect("compiles");
    let rendered = resources.get(ResourceType::Route, "cart.shop:80").expect("the service has routes");
    let any = Any { type_url: ResourceType::Route.type_url().to_owned(), value: rendered.body.clone() };
    match decode(ResourceType::Route, "cart.shop:80", &any) {
        Ok(Decoded::Route(table)) => table.linked(None, std::iter::empty()),
        other => panic!("{other:?}"),
    }
}

/// The rule that a sidecar lets a request take.
fn chosen_by_sidecar(routes: &HttpRoutes, request: &Request) -> Option<String> {
    let method: Method = request.method.parse().expect("a method");
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = query.join("&");
    let query = (!query.is_empty()).then_some(query.as_str());
    let head = Head { method: &method, host: request.host, path: request.path, query, headers: &headers };
    choose(routes, &head).map(|route| route.name.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sidecar_chooses_as_gateway_api_says(routes in routes(), requests in vec(request(), 20)) {
        let applied = applied(&routes);
        for request in requests {
            let expected = chosen_by_gateway_api(&routes, &request);
            prop_assert_eq!(chosen_by_sidecar(&applied, &request), expected, "{:?}", request);
        }
    }
}
