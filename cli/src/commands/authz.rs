//! `malla authz`: whether a caller may, and by which rule: what the sidecar of the called workload is told, judged by the function with
//! which it judges.

use std::net::IpAddr;
use std::process::ExitCode;

use malla_control::resources::Resources;
use malla_proxy::authorize::{NO_POLICY, Verdict};
use malla_proxy::decode::Decoded;
use malla_proxy::explain::Request;
use malla_xds::{ResourceType, SpiffeId};
use serde::Serialize;

use crate::arguments::{AuthzArguments, OutputFormat};
use crate::commands::explain::{header, load, method_and_target};
use crate::explain::{decoded, judge};
use crate::output::{self, Paint};

/// What the sidecar of a workload says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Answer {
    /// `cart-1.shop`.
    workload: String,
    allowed: bool,
    /// The rule that decides, `namespace/name/rule`; none where no rule has to.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// The rule that would refuse it, if what is audited were enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    audited: Option<String>,
}

/// Prints what each workload behind a port would say; exit code 0 if all would let the caller through, 1 if one would not.
///
/// # Errors
/// The files cannot be read or have errors, or there is no such port.
pub(crate) fn run(arguments: &AuthzArguments, paint: Paint) -> anyhow::Result<ExitCode> {
    let (resources, mesh) = load(&arguments.config)?;
    let caller = match arguments.plaintext {
        true => None,
        false => {
            let from = &arguments.from;
            Some(SpiffeId::new(&mesh.settings.trust_domain, &from.namespace, &from.service_account)?)
        }
    };
    let request = arguments.request()?;
    let answers = ask(&resources, &arguments.to, caller.as_ref(), arguments.source(), request.as_ref())?;
    match arguments.output.format {
        OutputFormat::Json => output::print_json(&answers)?,
        OutputFormat::Table => answers.iter().try_for_each(|answer| output::print(sentence(answer, paint)))?,
    }
    Ok(if answers.iter().all(|answer| answer.allowed) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl AuthzArguments {
    /// Where the caller connects from, as far as it was said.
    fn source(&self) -> Option<IpAddr> {
        self.address.or(self.from.address)
    }

    /// The request; nothing for a raw stream.
    fn request(&self) -> anyhow::Result<Option<Request>> {
        let Some((method, path)) = method_and_target(&self.request) else { return Ok(None) };
        anyhow::ensure!(path.starts_with('/'), "{path:?} is not a path: it begins with a slash, as in `GET /items`");
        let headers: Vec<_> = self.header.iter().map(|text| header(text)).collect::<Result<_, _>>()?;
        Ok(Some(Request::new(method, &format!("http://{}{path}", self.to), headers)?))
    }
}

/// What the sidecars behind a port of a service say.
fn ask(
    resources: &Resources,
    to: &str,
    caller: Option<&SpiffeId>,
    address: Option<IpAddr>,
    request: Option<&Request>,
) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    for resource in resources.all(ResourceType::Listener) {
        let Some(workload) = malla_xds::names::inbound_workload(&resource.name) else { continue };
        let Decoded::Inbound(inbound) = decoded(ResourceType::Listener, resource)? else { continue };
        for port in inbound.ports.iter().filter(|port| *port.service == *to) {
            let Verdict { allowed, denied, audited } = judge(port, caller, address, request);
            answers.push(Answer {
                workload: workload.to_owned(),
                allowed: denied.is_none(),
                rule: denied.or(allowed).map(str::to_owned),
                audited: audited.map(str::to_owned),
            });
        }
    }
    anyhow::ensure!(
        !answers.is_empty(),
        "no workload with a sidecar is behind {to}: write name.namespace:port of a service, as in cart.shop:80"
    );
    Ok(answers)
}

fn sentence(answer: &Answer, paint: Paint) -> String {
    let workload = &answer.workload;
    let mut text = match (answer.allowed, answer.rule.as_deref()) {
        (true, Some(rule)) => format!("{workload}: {} by {rule}", paint.good("allowed")),
        (true, None) => format!("{workload}: {}, no policy refuses it", paint.good("allowed")),
        (false, Some(NO_POLICY) | None) => format!("{workload}: {}, no policy allows it", paint.bad("denied")),
        (false, Some(rule)) => format!("{workload}: {} by {rule}", paint.bad("denied")),
    };
    match answer.audited.as_deref() {
        Some(NO_POLICY) => text += " (would be denied if the audited default were enforced)",
        Some(rule) => text += &format!(" (would be denied by {rule} if it were enforced)"),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.1.0.1, serviceAccount: cart}
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  action: Allow
  rules: [{from: [{serviceAccounts: [web/front]}], to: [{methods: [GET]}]}]
---
apiVersion: malla.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: Deny
  rules: [{to: [{paths: [{value: /admin}]}]}]
";

    #[test]
    fn names_the_rule_that_decides() {
        let files = [malla_config::SourceFile { path: "mesh.yaml".into(), text: MESH.into() }];
        let mesh = malla_config::load(&files).unwrap_or_else(|report| panic!("{report}"));
        let resources = malla_control::offline::compiled(mesh).expect("compiles");
        let asked = |caller: Option<&str>, method: &str, path: &str| {
            let caller = caller.map(|account| SpiffeId::new("cluster.local", "web", account).expect("valid"));
            let request = Request::new(method, &format!("http://cart.shop:80{path}"), []).expect("a request");
            let answers = ask(&resources, "cart.shop:80", caller.as_ref(), None, Some(&request)).expect("asked");
            sentence(&answers[0], Paint::none())
        };
        assert_eq!(asked(Some("front"), "GET", "/items"), "cart-1.shop: allowed by shop/readers/0");
        assert_eq!(asked(Some("front"), "POST", "/items"), "cart-1.shop: denied, no policy allows it");
        assert_eq!(asked(Some("other"), "GET", "/items"), "cart-1.shop: denied, no policy allows it");
        assert_eq!(asked(None, "GET", "/items"), "cart-1.shop: denied, no policy allows it");
        assert_eq!(asked(Some("front"), "GET", "/x/../admin/a"), "cart-1.shop: denied by shop/no-admin/0");
        // A raw stream has no path: what denies by one denies it.
        let front = SpiffeId::new("cluster.local", "web", "front").expect("valid");
        let stream = ask(&resources, "cart.shop:80", Some(&front), None, None).expect("asked");
        assert_eq!(sentence(&stream[0], Paint::none()), "cart-1.shop: denied by shop/no-admin/0");
        assert!(ask(&resources, "cart.shop:81", None, None, None).is_err());
    }
}
