//! Routes that claim the same requests. Gateway API lets the older route win; here both are named and nobody guesses.

use std::collections::{HashMap, HashSet};

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::doubts::Doubts;
use crate::index::Index;
use crate::kinds::Kind;
use crate::mesh::{HttpMatch, HttpRoute, ParentRef, PathMatch, ServiceName, TcpRoute, TlsRoute, ValueMatch};
use crate::object::Object;
use crate::route::{Checked, parent_carries};
use crate::source::Span;

/// What a route claims: requests of one service and port, for one host, of one shape.
#[derive(PartialEq, Eq, Hash)]
struct Claim {
    /// The namespace whose clients' requests they are; all others if it is that of the service.
    clients: std::sync::Arc<str>,
    service: ServiceName,
    port: u16,
    host: String,
    shape: String,
}

/// The claims so far, with their places.
pub(crate) struct Claims<'a> {
    index: &'a Index<'a>,
    taken: HashMap<Claim, Cursor<'a>>,
    /// Places that were spoken about: a claim on five ports is one conflict.
    reported: HashSet<(usize, Span)>,
    routes: usize,
}

impl<'a> Claims<'a> {
    pub(crate) fn new(index: &'a Index<'a>) -> Self {
        Claims { index, taken: HashMap::new(), reported: HashSet::new(), routes: 0 }
    }

    /// Takes the claims of an `HTTPRoute` or `GRPCRoute`, and says which were taken before. What is wrong in a route takes
    /// away only the claims that it makes doubtful.
    pub(crate) fn add_http(&mut self, object: &'a Object, checked: &Checked<HttpRoute>, diagnostics: &mut Diagnostics) {
        let Checked { route, whole } = checked;
        let doubts = if *whole { Doubts::none() } else { Doubts::about(object, diagnostics) };
        let rules = if doubts.of_route(object) { &[][..] } else { &route.rules };
        for (at, rule) in rules.iter().enumerate() {
            let written = object.cursor().field("rules").item(at);
            if doubts.of_rule(written, rule.matches.len()) {
                continue;
            }
            let list = written.field("matches");
            for (at, matched) in rule.matches.iter().enumerate() {
                if !doubts.of_match(list.item(at)) {
                    let shape = http_shape(matched);
                    self.add(object, &route.parents, &route.hostnames, &shape, list.item(at), diagnostics);
                }
            }
        }
        self.routes += 1;
    }

    /// Takes the claims of a `TCPRoute`.
    pub(crate) fn add_tcp(&mut self, object: &'a Object, checked: &Checked<TcpRoute>, diagnostics: &mut Diagnostics) {
        let Checked { route, whole } = checked;
        if *whole || !Doubts::about(object, diagnostics).of_route(object) {
            let place = object.cursor().field("parentRefs");
            self.add(object, &route.parents, &[], "every connection", place, diagnostics);
        }
        self.routes += 1;
    }

    /// Takes the claims of a `TLSRoute`.
    pub(crate) fn add_tls(&mut self, object: &'a Object, checked: &Checked<TlsRoute>, diagnostics: &mut Diagnostics) {
        let Checked { route, whole } = checked;
        if *whole || !Doubts::about(object, diagnostics).of_route(object) {
            let place = object.cursor().field("hostnames");
            self.add(object, &route.parents, &route.hostnames, "every TLS connection", place, diagnostics);
        }
        self.routes += 1;
    }

    fn add(
        &mut self,
        object: &'a Object,
        parents: &[ParentRef],
        hostnames: &[std::sync::Arc<str>],
        shape: &str,
        place: Cursor<'a>,
        diagnostics: &mut Diagnostics,
    ) {
        let any = ["*".into()];
        let hosts = if hostnames.is_empty() { &any } else { hostnames };
        for parent in parents {
            for port in self.ports(parent, object.kind) {
                for host in hosts {
                    let (service, host) = (parent.service.clone(), host.to_string());
                    let clients = object.namespace.clone();
                    let claim = Claim { clients, service, port, host, shape: shape.to_owned() };
                    let Some(first) = self.taken.get(&claim) else {
                        self.taken.insert(claim, place);
                        continue;
                    };
                    if self.reported.insert((self.routes, place.place().span)) {
                        report(*first, place, &claim, diagnostics);
                    }
                }
            }
        }
    }

    /// The ports of a parent on which a kind of route has an effect.
    fn ports(&self, parent: &ParentRef, kind: Kind) -> Vec<u16> {
        let declared = self.index.services.get(&parent.service);
        let ports = declared.and_then(|declared| declared.ready.as_ref()).map_or(&[][..], |service| &service.ports);
        ports
            .iter()
            .filter(|port| parent.port.is_none_or(|only| only == port.port) && parent_carries(kind, port.protocol))
            .map(|port| port.port)
            .collect()
    }
}

fn report(first: Cursor<'_>, second: Cursor<'_>, claim: &Claim, diagnostics: &mut Diagnostics) {
    let Claim { clients: _, service, port, host, shape } = claim;
    let of_host = if host == "*" { String::new() } else { format!(" for `{host}`") };
    let message = format!("{shape} to {service}:{port}{of_host} is claimed already, by {}", first.resource());
    let help = "change one of the two matches, or remove one; for a share of the traffic write weights in one rule";
    let problem = second.problem(Code::Conflict, message).help(help);
    second.report(diagnostics, problem.related(first.place(), format!("claimed here, by {}", first.resource())));
}

/// The same text for matches of the same requests, readable in a message.
fn http_shape(matched: &HttpMatch) -> String {
    let HttpMatch { path, headers, query, method } = matched;
    let mut shape = match path {
        PathMatch::Exact(path) => format!("path `{path}`"),
        PathMatch::Prefix(path) => format!("path prefix `{path}`"),
        PathMatch::Regex(path) => format!("path expression `{path}`"),
    };
    if let Some(method) = method {
        shape.push_str(&format!(", method {method}"));
    }
    for (what, values) in [("header", headers), ("query", query)] {
        let mut values: Vec<String> = values
            .iter()
            .map(|(name, value)| match value {
                ValueMatch::Exact(value) => format!("{what} `{name}` = `{value}`"),
                ValueMatch::Regex(value) => format!("{what} `{name}` ~ `{value}`"),
            })
            .collect();
        values.sort();
        for value in values {
            shape.push_str(", ");
            shape.push_str(&value);
        }
    }
    shape
}
