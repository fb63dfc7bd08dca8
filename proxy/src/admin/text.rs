//! What is applied, for people: `/config` as text.

use std::fmt::Write;

use super::config::{ClusterView, Config, Destination, EndpointView, EndpointsView, RouteView};

/// The whole page.
pub(super) fn render(config: &Config) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut page, config);
    page
}

fn write(page: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(page, "{} (malla-proxy {})", config.workload, config.version)?;
    match &config.missing {
        None => writeln!(page, "ready")?,
        Some(why) => writeln!(page, "not ready: {why}")?,
    }
    control(page, config)?;
    identity(page, config)?;
    inbound(page, config)?;
    writeln!(page, "\nDESTINATIONS ({})", config.outbound.len())?;
    for known in &config.outbound {
        destination(page, known)?;
    }
    writeln!(page, "\nCLUSTERS ({})", config.clusters.len())?;
    for known in &config.clusters {
        cluster(page, known)?;
    }
    Ok(())
}

fn control(page: &mut String, config: &Config) -> std::fmt::Result {
    let control = &config.control;
    let since = control.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
    writeln!(page, "\nCONTROL SERVER {}", control.address)?;
    writeln!(page, "  {}{since}", control.connection)?;
    if let Some(problem) = &control.problem {
        writeln!(page, "  {problem}")?;
    }
    let subscriptions = control.subscriptions.iter().map(|(kind, number)| format!("{number} {kind}"));
    writeln!(page, "  subscribed to {}", subscriptions.collect::<Vec<_>>().join(", "))?;
    writeln!(page, "  {} responses, {} rejected", control.responses, control.rejections)?;
    if let Some(last) = &control.last_rejection {
        writeln!(page, "  last rejection, {}: {}", last.at, last.text)?;
    }
    for problem in &control.problems {
        writeln!(page, "  ! {} {}: {}", problem.kind, problem.name, problem.problem)?;
    }
    Ok(())
}

fn identity(page: &mut String, config: &Config) -> std::fmt::Result {
    let identity = &config.identity;
    writeln!(page, "\nIDENTITY {}", identity.spiffe_id.as_deref().unwrap_or("none yet"))?;
    if let (Some(start), Some(end)) = (&identity.not_before, &identity.not_after) {
        let left = identity.seconds_left.map_or("expired".to_owned(), |seconds| format!("{} min left", seconds / 60));
        writeln!(page, "  from {start} until {end} ({left}), {} trust anchors", identity.trust_anchors)?;
    }
    if let Some(failure) = &identity.last_failure {
        writeln!(page, "  ! the last attempt to obtain a certificate failed, {}: {}", failure.at, failure.text)?;
    }
    Ok(())
}

fn inbound(page: &mut String, config: &Config) -> std::fmt::Result {
    let Some(ports) = &config.inbound else { return writeln!(page, "\nINBOUND not known yet") };
    writeln!(page, "\nINBOUND ({} ports)", ports.len())?;
    for port in ports {
        writeln!(
            page,
            "  port {}  {}  {}  as {}, plaintext {}, to {}",
            port.port, port.service, port.protocol, port.server_name, port.plaintext, port.cluster
        )?;
        for rules in &port.authorization {
            writeln!(page, "    {rules}")?;
        }
    }
    Ok(())
}

fn destination(page: &mut String, known: &Destination) -> std::fmt::Result {
    let protocol = known.protocol.map(|protocol| format!("  {protocol}")).unwrap_or_default();
    let is = if known.is == known.name { String::new() } else { format!("  {}", known.is) };
    writeln!(page, "  {}{is}{protocol}", known.name)?;
    for known in &known.routes {
        route(page, known)?;
    }
    Ok(())
}

fn route(page: &mut String, route: &RouteView) -> std::fmt::Result {
    let total: u64 = route.to.iter().map(|target| u64::from(target.weight)).sum();
    let share = |weight: u32| (u64::from(weight) * 1000).checked_div(total).unwrap_or(0);
    let targets = route.to.iter().map(|target| match share(target.weight) {
        1000 => target.cluster.clone(),
        share => format!("{}.{} % {}", share / 10, share % 10, target.cluster),
    });
    let to = if route.to.is_empty() { "nowhere".to_owned() } else { targets.collect::<Vec<_>>().join(", ") };
    write!(page, "    {}: {} → {to}", route.name, route.when)?;
    if let Some(timeout) = &route.timeout {
        write!(page, ", within {timeout}")?;
    }
    if let Some(timeout) = &route.try_timeout {
        write!(page, ", each try within {timeout}")?;
    }
    match route.retries {
        Some(1) | None => writeln!(page),
        Some(retries) => writeln!(page, ", {retries} retries"),
    }
}

fn cluster(page: &mut String, cluster: &ClusterView) -> std::fmt::Result {
    let tls = cluster.server_name.as_ref().map_or("plaintext".to_owned(), |name| format!("mTLS as {name}"));
    writeln!(
        page,
        "  {}  {tls}, HTTP {}, {} requests, {} connections",
        cluster.name, cluster.http, cluster.requests, cluster.connections
    )?;
    match &cluster.endpoints {
        EndpointsView::Dns(host) => writeln!(page, "    {host} by DNS"),
        EndpointsView::OriginalDestination => writeln!(page, "    where the connection wanted to go"),
        EndpointsView::Known(endpoints) if endpoints.is_empty() => writeln!(page, "    no endpoints"),
        EndpointsView::Known(endpoints) => endpoints.iter().try_for_each(|known| endpoint(page, known)),
    }
}

fn endpoint(page: &mut String, endpoint: &EndpointView) -> std::fmt::Result {
    let identity = endpoint.identity.as_deref().unwrap_or("without a sidecar");
    let paused = if endpoint.paused { ", paused after a failure" } else { "" };
    let standing = match endpoint.standing {
        "available" => String::new(),
        word => format!(", {}", word.replace('_', " ")),
    };
    let priority = if endpoint.priority == 0 { String::new() } else { format!(", priority {}", endpoint.priority) };
    let weight = if endpoint.weight == 1 { String::new() } else { format!(", weight {}", endpoint.weight) };
    writeln!(
        page,
        "    {}  {}  {identity}  {} live, {} ms{weight}{priority}{standing}{paused}",
        endpoint.address, endpoint.workload, endpoint.live, endpoint.latency_ms
    )
}
