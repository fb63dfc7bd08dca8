//! `malla explain`: what a sidecar would do with a request, and which requests two configurations treat differently.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use malla_config::Mesh;
use malla_control::resources::Resources;
use malla_proxy::explain::Request;
use serde_json::json;

use crate::arguments::{ExplainArguments, OutputFormat};
use crate::explain::{self, Backend, Client, Fate, What};
use crate::output::{self, Paint};

/// Prints the fate of a request; or of several, where two configurations differ: then the exit code is 1 if any does.
///
/// # Errors
/// The files cannot be read or have errors, the request is none, or standard output is gone.
pub(crate) fn run(arguments: &ExplainArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    match (&arguments.diff[..], &arguments.config) {
        ([old, new], _) => diff(arguments, old, new, paint),
        (_, Some(config)) => one(arguments, config, paint),
        (_, None) => anyhow::bail!("give `--config DIR`, or `--diff OLD NEW`"),
    }
}

fn one(arguments: &ExplainArguments, config: &Path, paint: Paint) -> anyhow::Result<ExitCode> {
    let (resources, _) = load(config)?;
    let asked = Asked::of_arguments(arguments)?.context("give a request, as in `GET http://cart.shop/`")?;
    let fate = explain::fate(&resources, &asked.client, &asked.request)?;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&fate)?,
        OutputFormat::Table => explain::print(&fate, paint)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn diff(arguments: &ExplainArguments, old: &Path, new: &Path, paint: Paint) -> anyhow::Result<ExitCode> {
    let ((before, tests_before), (after, tests_after)) = (load(old)?, load(new)?);
    let mut asked: Vec<Asked> = Asked::of_arguments(arguments)?.into_iter().collect();
    if let Some(file) = &arguments.requests {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        {
            let place = || format!("{}, line {}", file.display(), number + 1);
            asked.push(Asked::of_line(line, &arguments.from).with_context(place)?);
        }
    }
    for test in tests_before.route_tests.iter().chain(&tests_after.route_tests) {
        asked.push(Asked::of_test(test).with_context(|| format!("RouteTest {}", test.name))?);
    }
    asked.dedup_by(|later, first| later.text == first.text);
    anyhow::ensure!(!asked.is_empty(), "give a request, `--requests FILE`, or RouteTests in the configurations");
    let differences = differences(&before, &after, &asked)?;
    match arguments.output.format {
        OutputFormat::Json => {
            let each =
                differences.iter().map(|(asked, old, new)| json!({"request": asked.text, "old": old, "new": new}));
            output::print_json(&json!({"requests": asked.len(), "differences": each.collect::<Vec<_>>()}))?;
        }
        OutputFormat::Table => {
            for (asked, old, new) in &differences {
                output::print(paint.strong(&asked.text))?;
                output::print(format!("  old  {}", in_full(old)))?;
                output::print(format!("  new  {}", in_full(new)))?;
            }
            output::print(format!("{} of {} requests are treated differently", differences.len(), asked.len()))?;
        }
    }
    Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Those requests that two configurations treat differently, with what becomes of them in the one and in the other.
fn differences<'a>(
    before: &Resources,
    after: &Resources,
    asked: &'a [Asked],
) -> anyhow::Result<Vec<(&'a Asked, Fate, Fate)>> {
    let mut differences = Vec::new();
    for asked in asked {
        let then = explain::fate(before, &asked.client, &asked.request)?;
        let now = explain::fate(after, &asked.client, &asked.request)?;
        if !same(&then, &now) {
            differences.push((asked, then, now));
        }
    }
    Ok(differences)
}

/// Whether it makes no difference to the request, whatever the routes are called.
fn same(one: &Fate, other: &Fate) -> bool {
    one.what == other.what && one.policies == other.policies
}

fn in_full(fate: &Fate) -> String {
    let mut policies = fate.policies.clone();
    if let What::Forward { backends } = &fate.what {
        let told = |backend: &Backend| format!("{}: {}", backend.cluster, backend.policy.join("; "));
        policies.extend(backends.iter().filter(|backend| !backend.policy.is_empty()).map(told));
    }
    let policies = policies.join("; ");
    if policies.is_empty() { explain::describe(fate) } else { format!("{}; {policies}", explain::describe(fate)) }
}

/// A configuration as sidecars would be told it.
pub(crate) fn load(config: &Path) -> anyhow::Result<(Resources, Mesh)> {
    let files = malla_control::source::read(config)?;
    let mesh = malla_config::load(&files)
        .map_err(|report| anyhow::anyhow!("{}: see `malla check {}`", report.summary(), config.display()))?;
    Ok((malla_control::offline::compiled(mesh.clone())?, mesh))
}

/// A request that is asked about.
struct Asked {
    text: String,
    client: Client,
    request: Request,
}

impl Asked {
    fn of_arguments(arguments: &ExplainArguments) -> anyhow::Result<Option<Asked>> {
        let Some((method, url)) = method_and_target(&arguments.request) else { return Ok(None) };
        let headers = arguments.header.iter().map(|header| self::header(header)).collect::<Result<_, _>>()?;
        Self::new(arguments.from.clone(), method, url, headers).map(Some)
    }

    /// `[from=web/front] [METHOD] URL [| name: value]…`
    fn of_line(line: &str, from: &Client) -> anyhow::Result<Asked> {
        let mut parts = line.split('|').map(str::trim);
        let mut words = parts.next().unwrap_or_default().split_whitespace().peekable();
        let client = match words.peek().and_then(|word| word.strip_prefix("from=")) {
            Some(client) => {
                words.next();
                client.parse().map_err(anyhow::Error::msg)?
            }
            None => from.clone(),
        };
        let (method, url) = match (words.next(), words.next(), words.next()) {
            (Some(url), None, _) => ("GET", url),
            (Some(method), Some(url), None) => (method, url),
            _ => anyhow::bail!("{line:?} is not `[from=NAMESPACE/ACCOUNT] [METHOD] URL [| name: value]…`"),
        };
        Self::new(client, method, url, parts.map(header).collect::<Result<_, _>>()?)
    }

    fn of_test(test: &malla_config::mesh::RouteTest) -> anyhow::Result<Asked> {
        let (namespace, service_account) = &test.from;
        let client =
            Client { namespace: namespace.to_string(), service_account: service_account.to_string(), address: None };
        let headers = test.headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Self::new(client, &test.method, &test.url, headers.collect())
    }

    fn new(client: Client, method: &str, url: &str, headers: Vec<(String, String)>) -> anyhow::Result<Asked> {
        let Client { namespace, service_account, address } = &client;
        let mut text = format!("{method} {url} from {namespace}/{service_account}");
        text.extend(address.map(|address| format!("@{address}")));
        headers.iter().for_each(|(name, value)| text += &format!(", {name}: {value}"));
        Ok(Asked { request: Request::new(method, url, headers)?, text, client })
    }
}

/// `[METHOD] TARGET` as typed: `GET` if there is no method, nothing if there is no target.
pub(crate) fn method_and_target(typed: &[String]) -> Option<(&str, &str)> {
    match typed {
        [] => None,
        [target] => Some(("GET", target)),
        [method, target, ..] => Some((method, target)),
    }
}

/// `name: value` as typed.
pub(crate) fn header(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once(':').with_context(|| format!("{text:?} is not `name: value`"))?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use malla_config::SourceFile;

    use super::*;

    fn mesh(rules: &str, more: &str) -> Resources {
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: cart, namespace: shop}}
spec: {{selector: {{app: cart}}, ports: [{{name: http, port: 80, appProtocol: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: cart-v2, namespace: shop}}
spec: {{selector: {{app: v2}}, ports: [{{name: http, port: 80, appProtocol: http}}]}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {{name: cart-1, namespace: shop, labels: {{app: cart}}}}
spec: {{address: 10.0.0.1}}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {{name: cart-2, namespace: shop, labels: {{app: v2}}}}
spec: {{address: 10.0.0.2}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
{rules}---
{more}"
        );
        let mesh =
            malla_config::load(&[SourceFile::new("mesh.yaml", text)]).unwrap_or_else(|report| panic!("{report}"));
        malla_control::offline::compiled(mesh).expect("compiles")
    }

    #[test]
    fn the_requests_that_a_change_concerns_are_found_and_no_others() {
        const REST: &str = "  - backendRefs: [{name: cart, port: 80}]\n";
        let from: Client = "web/front".parse().expect("a client");
        let asked: Vec<Asked> = [
            "http://cart.shop/",
            "GET http://cart.shop/new | x-tester: 1",
            "from=shop/batch POST http://cart.shop/new",
            "http://cart-v2.shop/",
        ]
        .iter()
        .map(|line| Asked::of_line(line, &from).expect("a request"))
        .collect();
        let before = mesh(REST, "");
        let moved = |after: &Resources| -> Vec<String> {
            let differences = differences(&before, after, &asked).expect("both are understood");
            differences.into_iter().map(|(asked, _, _)| asked.text.clone()).collect()
        };
        assert!(moved(&mesh(REST, "")).is_empty());
        let named = REST.replace("- backendRefs", "- name: rest\n    backendRefs");
        assert!(moved(&mesh(&named, "")).is_empty(), "what a rule is called makes no difference");
        let canary =
            "  - matches: [{headers: [{name: x-tester, value: '1'}]}]\n    backendRefs: [{name: cart-v2, port: 80}]\n";
        let tester = "GET http://cart.shop/new from web/front, x-tester: 1";
        assert_eq!(moved(&mesh(&format!("{canary}{REST}"), "")), [tester]);
        let timed =
            "  - matches: [{method: POST}]\n    timeouts: {request: 1s}\n    backendRefs: [{name: cart, port: 80}]\n";
        assert_eq!(moved(&mesh(&format!("{timed}{REST}"), "")), ["POST http://cart.shop/new from shop/batch"]);
        let policy = "apiVersion: malla.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: v2, namespace: shop}\n\
                      spec: {targetRefs: [{group: '', kind: Service, name: cart-v2}], limits: {maxRequests: 5}}\n";
        let found = differences(&before, &mesh(REST, policy), &asked).expect("both are understood");
        let [(one, then, now)] = &found[..] else { panic!("one difference") };
        assert_eq!(one.text, "GET http://cart-v2.shop/ from web/front");
        assert!(!in_full(then).contains("5 requests at once") && in_full(now).contains("5 requests at once"));
        for line in ["", "a b c", "from=web http://a/", "GET http://a/ | no-colon"] {
            assert!(Asked::of_line(line, &from).is_err(), "{line:?}");
        }
    }
}
