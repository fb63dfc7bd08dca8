//! Who would let a request in: the rules of the ports behind a cluster, put to the very function that asks them for real requests.

use std::net::{IpAddr, Ipv4Addr};

use malla_control::resources::Resources;
use malla_proxy::authorize::{Subject, Verdict, authorize};
use malla_proxy::decode::Decoded;
use malla_proxy::decode::endpoints::{EndpointSpec, Sidecar};
use malla_proxy::decode::inbound::InboundPortSpec;
use malla_proxy::decode::route::RouteSpec;
use malla_proxy::explain::Request;
use malla_xds::{ResourceType, SpiffeId, names};
use serde::Serialize;

use super::{Client, read};

/// What the sidecars of some workloads say to a request.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Admission {
    /// Whether it is let in.
    pub(crate) allowed: bool,
    /// The policy and rule that refuse it: `shop/callers/0`; `none` where none allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused_by: Option<String>,
    /// What would refuse it, if what is only audited were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) audited_by: Option<String>,
    /// Every policy and rule that was asked.
    pub(crate) asked: Vec<String>,
    /// Whether there is a sidecar that could ask.
    pub(crate) sidecar: bool,
    /// Where this is so.
    pub(crate) workloads: Vec<String>,
}

/// Asks the rules of a port. A caller without identity came in plaintext, one without address is in no block, and what has no request is a
/// raw stream.
pub(crate) fn judge<'a>(
    port: &'a InboundPortSpec,
    caller: Option<&SpiffeId>,
    address: Option<IpAddr>,
    request: Option<&Request>,
) -> Verdict<'a> {
    let Some(rules) = &port.authorization else { return Verdict::default() };
    let source = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let subject = Subject { peer: caller, source, port: port.port, head: request.map(Request::looked_at) };
    authorize(rules, &subject)
}

/// What the endpoints of a route's cluster say, those of one opinion together.
pub(super) fn admissions(
    resources: &Resources,
    client: &Client,
    request: &Request,
    (route, place): (&RouteSpec, usize),
    cluster: &str,
) -> anyhow::Result<Vec<Admission>> {
    let Some(Decoded::Endpoints(endpoints)) = read(resources, client, ResourceType::Endpoints, cluster)? else {
        return Ok(Vec::new());
    };
    let service = cluster.split_once('/').map_or(cluster, |(service, _subset)| service);
    let trust_domain = resources.trust_domain().map_or("", |domain| domain);
    let peer = SpiffeId::new(trust_domain, &client.namespace, &client.service_account)?;
    let mut admissions: Vec<Admission> = Vec::new();
    for endpoint in endpoints.iter() {
        let one = admission(resources, client, request, (route, place), service, &peer, endpoint)?;
        let same = |known: &&mut Admission| {
            let Admission { allowed, refused_by, audited_by, asked, sidecar, workloads: _ } = &**known;
            (allowed, refused_by, audited_by, asked, sidecar)
                == (&one.allowed, &one.refused_by, &one.audited_by, &one.asked, &one.sidecar)
        };
        let workload = match &*endpoint.workload {
            "" => endpoint.address.to_string(),
            workload => workload.to_owned(),
        };
        match admissions.iter_mut().find(same) {
            Some(known) => known.workloads.push(workload),
            None => admissions.push(Admission { workloads: vec![workload], ..one }),
        }
    }
    Ok(admissions)
}

fn admission(
    resources: &Resources,
    client: &Client,
    request: &Request,
    (route, place): (&RouteSpec, usize),
    service: &str,
    peer: &SpiffeId,
    endpoint: &EndpointSpec,
) -> anyhow::Result<Admission> {
    let sidecar = matches!(endpoint.sidecar, Sidecar::Identity(_));
    let open = Admission {
        allowed: true,
        refused_by: None,
        audited_by: None,
        asked: Vec::new(),
        sidecar,
        workloads: Vec::new(),
    };
    let listener = names::inbound_listener(&endpoint.workload);
    let Some(Decoded::Inbound(inbound)) = read(resources, client, ResourceType::Listener, &listener)? else {
        return Ok(open);
    };
    let Some(port) = inbound.ports.iter().find(|port| *port.service == *service) else { return Ok(open) };
    let Verdict { allowed: _, denied, audited } =
        judge(port, Some(peer), client.address, Some(&request.sent(route, place)));
    let sets = port.authorization.iter().flat_map(|rules| &rules.sets);
    Ok(Admission {
        allowed: denied.is_none(),
        refused_by: denied.map(ToOwned::to_owned),
        audited_by: audited.map(ToOwned::to_owned),
        asked: sets.flat_map(|set| &set.policies).map(|policy| policy.name.to_string()).collect(),
        ..open
    })
}
