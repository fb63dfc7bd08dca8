//! Route tests: what was promised of requests, beside what a sidecar would do with them.

use malla_config::mesh::{Expectation, ExpectedBackend, Mesh, RouteTest};
use malla_control::resources::Resources;
use malla_proxy::explain::Request;

use crate::explain::{self, Client, Fate, What};

/// The promises that are broken: `RouteTest shop/x: …`.
///
/// # Errors
/// The configuration is valid and yet cannot be served.
pub(crate) fn broken(mesh: &Mesh) -> anyhow::Result<Vec<String>> {
    if mesh.route_tests.is_empty() {
        return Ok(Vec::new());
    }
    let resources = malla_control::offline::compiled(mesh.clone())?;
    let mut broken = Vec::new();
    for test in &mesh.route_tests {
        let name = format!("RouteTest {}/{}", test.name.namespace, test.name.name);
        broken.extend(run(&resources, test)?.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    Ok(broken)
}

fn run(resources: &Resources, test: &RouteTest) -> anyhow::Result<Vec<String>> {
    let (namespace, account) = &test.from;
    let client = Client { namespace: namespace.to_string(), service_account: account.to_string(), address: None };
    let headers = test.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let request = match Request::new(&test.method, &test.url, headers) {
        Ok(request) => request,
        Err(error) => return Ok(vec![format!("the request is none: {error}")]),
    };
    let fate = explain::fate(resources, &client, &request)?;
    let faults = compare(&fate, &test.expect);
    let what = explain::describe(&fate);
    Ok(faults.into_iter().map(|fault| format!("{fault}; {} {} goes {what}", test.method, test.url)).collect())
}

fn compare(fate: &Fate, expect: &Expectation) -> Vec<String> {
    let Expectation { route, backends, status, location, host, path, request_timeout, try_timeout, attempts, allowed } =
        expect;
    let mut faults = Vec::new();
    let mut same = |what: &str, expected: Option<String>, found: Option<String>| {
        if let Some(expected) = expected
            && found.as_ref() != Some(&expected)
        {
            faults.push(format!("{what} should be {expected}, and is {}", found.as_deref().unwrap_or("none")));
        }
    };
    let (sent_to, answered) = match &fate.what {
        What::Forward { backends } => (&backends[..], None),
        What::Answer { status, location, .. } => (&[][..], Some((*status, location.clone()))),
        What::PassThrough | What::Stream { .. } => (&[][..], None),
    };
    same("the route", route.as_deref().map(str::to_owned), fate.route.clone());
    let written = backends.as_ref().map(|expected| {
        let each = expected.iter().map(|ExpectedBackend { service, port, subset, percent }| {
            let subset = subset.as_ref().map_or_else(String::new, |subset| format!("/{subset}"));
            let percent = percent.map_or_else(String::new, |percent| format!(" {percent} %"));
            format!("{service}:{port}{subset}{percent}")
        });
        sorted(each.collect())
    });
    let with_shares =
        backends.as_ref().is_some_and(|expected| expected.iter().any(|backend| backend.percent.is_some()));
    let forwarded = sent_to.iter().map(|backend| (&backend.cluster, backend.percent));
    let carried = match &fate.what {
        What::Stream { backends, .. } => &backends[..],
        _ => &[],
    };
    let carried = carried.iter().map(|backend| (&backend.cluster, backend.percent));
    let found = forwarded.chain(carried).map(|(cluster, percent)| match with_shares {
        true => format!("{cluster} {percent} %"),
        false => cluster.clone(),
    });
    same("the backends", written, Some(sorted(found.collect())));
    same(
        "the status",
        status.map(|status| status.to_string()),
        answered.as_ref().map(|(status, _)| status.to_string()),
    );
    same("the location", location.as_deref().map(str::to_owned), answered.and_then(|(_, location)| location));
    let first = sent_to.first();
    same("the host", host.as_deref().map(str::to_owned), first.map(|backend| backend.host.clone()));
    same("the path", path.as_deref().map(str::to_owned), first.map(|backend| backend.path.clone()));
    let admissions = || sent_to.iter().flat_map(|backend| &backend.admissions);
    let let_in = match admissions().filter(|admission| admission.allowed).count() {
        0 if admissions().next().is_some() => "refused",
        number if number < admissions().count() => "refused by some",
        _ => "let in",
    };
    same(
        "the caller",
        allowed.map(|allowed| if allowed { "let in" } else { "refused" }.to_owned()),
        Some(let_in.to_owned()),
    );
    let facts = fate.facts.as_ref();
    let time = |time: std::time::Duration| format!("{time:?}");
    same("the request's time-out", request_timeout.map(time), facts.and_then(|facts| facts.timeout).map(time));
    same("the time-out of a try", try_timeout.map(time), facts.and_then(|facts| facts.try_timeout).map(time));
    same(
        "the number of retries",
        attempts.map(|number| number.to_string()),
        facts.map(|facts| facts.attempts.to_string()),
    );
    faults
}

fn sorted(mut items: Vec<String>) -> String {
    items.sort();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn example(name: &str) -> Mesh {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/examples").join(name);
        let files = malla_control::source::read(&path).expect("readable");
        malla_config::load(&files).expect("valid")
    }

    #[test]
    fn promises_that_are_kept_and_broken() {
        let mut mesh = example("canary-by-header");
        assert_eq!(mesh.route_tests.len(), 2);
        assert_eq!(broken(&mesh).expect("compiles"), Vec::<String>::new());
        mesh.http_routes[0].rules.swap(0, 1);
        mesh.http_routes[0].rules[0].matches[0].headers.clear();
        mesh.http_routes[0].rules[1].matches.truncate(1);
        let faults = broken(&mesh).expect("compiles");
        let told = "RouteTest shop/testers-see-the-canary: the backends should be checkout-v2.shop:80, and is checkout-v1.shop:80";
        assert!(faults.iter().any(|fault| fault.starts_with(told)), "{faults:?}");
    }

    #[test]
    fn every_example_is_one_that_sidecars_would_take() {
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
        for entry in std::fs::read_dir(examples).expect("readable") {
            let name = entry.expect("readable").file_name().to_string_lossy().into_owned();
            let mesh = example(&name);
            let resources = malla_control::offline::compiled(mesh.clone()).expect("compiles");
            for kind in malla_xds::ResourceType::ALL {
                for resource in resources.all(kind) {
                    let any = malla_xds::wire::Any { type_url: kind.type_url().into(), value: resource.body.clone() };
                    // The bundle of an offline configuration is empty.
                    if kind != malla_xds::ResourceType::Secret {
                        malla_proxy::decode::decode(kind, &resource.name, &any)
                            .unwrap_or_else(|fault| panic!("{name}: {kind} {}: {fault}", resource.name));
                    }
                }
            }
            assert_eq!(broken(&mesh).expect("compiles"), Vec::<String>::new(), "{name}");
        }
    }
}
