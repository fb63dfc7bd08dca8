//! Which route a server name takes.

use super::*;

/// A service with routes for these names, in this order, and one for everything else.
fn service(names: &[&[&str]]) -> OutboundService {
    let route = |name: &str| TcpRoute { name: name.into(), clusters: None };
    let of = |names: &&[&str]| (names.iter().map(|name| Arc::from(*name)).collect(), route(names[0]));
    OutboundService {
        name: "front.shop:443".into(),
        protocol: Protocol::Tls,
        http: None,
        tcp: Some(route("front.shop:443")),
        sni: names.iter().map(of).collect(),
    }
}

#[test]
fn a_server_name_takes_the_route_that_names_it_best() {
    let service = service(&[&["*.example"], &["a.one.example", "b.example"], &["*.one.example"]]);
    for (name, expected) in [
        ("a.one.example", Some("a.one.example")),
        ("b.example", Some("a.one.example")),
        ("c.one.example", Some("*.one.example")),
        ("d.c.one.example", Some("*.one.example")),
        ("one.example", Some("*.example")),
        // A wildcard stands for at least one label, and for whole ones.
        ("example", None),
        (".example", None),
        ("anexample", None),
        ("example.org", None),
        ("", None),
    ] {
        assert_eq!(by_sni(&service, name).map(|route| &*route.name), expected, "{name:?}");
    }
    assert!(by_sni(&self::service(&[]), "a.example").is_none(), "then the service itself answers");
}
