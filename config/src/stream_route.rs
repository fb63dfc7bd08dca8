//! `TCPRoute` and `TLSRoute` → [`mesh::TcpRoute`](TcpRoute) and [`mesh::TlsRoute`](TlsRoute).

use gateway_api::apis::experimental::{tcproutes, tlsroutes};

use crate::diagnostic::{Code, Diagnostics};
use crate::mesh::{Backend, TcpRoute, TlsRoute};
use crate::route::{Checked, Context, RawBackend};

/// The TCP route of an object; nothing if it has not the shape of one.
pub(crate) fn ready_tcp(context: Context<'_>, diagnostics: &mut Diagnostics) -> Option<Checked<TcpRoute>> {
    let errors = diagnostics.count();
    let tcproutes::TcpRouteSpec { parent_refs, rules, use_default_gateways } = context.object.typed(diagnostics)?;
    let asks = matches!(use_default_gateways, Some(tcproutes::TcpRouteUseDefaultGateways::All));
    context.no_default_gateways(asks, diagnostics);
    let parents = context.parents(parent_refs, diagnostics);
    let rules = rules.into_iter().map(|tcproutes::TcpRouteRules { backend_refs, name }| {
        let raw = backend_refs.into_iter().map(|written| {
            let tcproutes::TcpRouteRulesBackendRefs { group, kind, name, namespace, port, weight } = written;
            RawBackend { group, kind, name, namespace, port, weight, filters: Default::default() }
        });
        (name, raw.collect())
    });
    let backends = only_rule(context, rules.collect(), diagnostics);
    let whole = diagnostics.count() == errors && !context.object.is_damaged();
    let route = TcpRoute { name: context.name(), parents, backends };
    Some(Checked { route, whole })
}

/// The TLS route of an object; nothing if it has not the shape of one.
pub(crate) fn ready_tls(context: Context<'_>, diagnostics: &mut Diagnostics) -> Option<Checked<TlsRoute>> {
    let errors = diagnostics.count();
    let tlsroutes::TlsRouteSpec { hostnames, parent_refs, rules, use_default_gateways } =
        context.object.typed(diagnostics)?;
    let asks = matches!(use_default_gateways, Some(tlsroutes::TlsRouteUseDefaultGateways::All));
    context.no_default_gateways(asks, diagnostics);
    let parents = context.parents(parent_refs, diagnostics);
    if hostnames.is_empty() {
        let help = "write the server names that clients ask for, as in `hostnames: [api.example.com]`";
        let list = context.object.cursor().field("hostnames");
        list.error(diagnostics, Code::MissingField, "a TLSRoute needs hostnames", help);
    }
    let hostnames = context.hostnames(hostnames, diagnostics);
    let rules = rules.into_iter().map(|tlsroutes::TlsRouteRules { backend_refs, name }| {
        let raw = backend_refs.into_iter().map(|written| {
            let tlsroutes::TlsRouteRulesBackendRefs { group, kind, name, namespace, port, weight } = written;
            RawBackend { group, kind, name, namespace, port, weight, filters: Default::default() }
        });
        (name, raw.collect())
    });
    let backends = only_rule(context, rules.collect(), diagnostics);
    let whole = diagnostics.count() == errors && !context.object.is_damaged();
    let route = TlsRoute { name: context.name(), parents, hostnames, backends };
    Some(Checked { route, whole })
}

/// The backends of the only rule that such routes have.
fn only_rule(
    context: Context<'_>,
    rules: Vec<(Option<String>, Vec<RawBackend>)>,
    diagnostics: &mut Diagnostics,
) -> Vec<Backend> {
    let list = context.object.cursor().field("rules");
    let kind = context.object.kind;
    if rules.len() != 1 {
        let message = format!("{} has one rule, and this has {}", kind.with_article(), rules.len());
        let help = "write one rule with all backends; a connection cannot be divided further";
        list.error(diagnostics, Code::InvalidValue, message, help);
    }
    let mut names = std::collections::HashSet::new();
    let mut backends = Vec::new();
    for (at, (name, written)) in rules.into_iter().enumerate() {
        context.rule_name(list.item(at), name, &mut names, diagnostics);
        let cursor = list.item(at).field("backendRefs");
        if written.is_empty() {
            let message = format!("{} without backends closes every connection", kind.with_article());
            cursor.error(
                diagnostics,
                Code::MissingField,
                message,
                "write a backend; one of weight 0 to close on purpose",
            );
        }
        backends.extend(context.backends(cursor, written, diagnostics));
    }
    backends
}
