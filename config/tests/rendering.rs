//! What a person sees, and what a program reads.

use malla_config::{Report, SourceFile, Style, load};

const CART: &str = "\
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  selector: {app: cart}
  ports: [{name: http, port: 80}]
---
apiVersion: malla.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop, labels: {app: cart}}
spec: {address: 10.0.0.1}
";

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: \"\", kind: Service, name: cart}]
  rules:
    - backendRefs:
        - {name: cart, port: 80}
";

fn report(route: &str) -> Report {
    load(&[SourceFile::new("cart.yaml", CART), SourceFile::new("routes/cart.yaml", route)]).unwrap_err()
}

#[test]
fn an_error_in_plain_text() {
    let report = report(&ROUTE.replace("80}", "8080}"));
    assert_eq!(
        report.to_string(),
        r"  x HTTPRoute shop/cart: the service cart.shop has no port 8080
   ,-[routes/cart.yaml:8:30]
 7 |     - backendRefs:
 8 |         - {name: cart, port: 8080}
   :                              ^^|^
   :                                `-- here
   `----
  help: its ports: 80 (http)

1 error in 1 file
"
    );
    assert_eq!(
        report.summary(),
        "1 error: routes/cart.yaml:8:30: HTTPRoute shop/cart: the service cart.shop has no port 8080"
    );
}

#[test]
fn a_misspelt_field_on_a_terminal() {
    let report = report(&ROUTE.replace("backendRefs", "backendRef"));
    assert_eq!(
        report.render(Style::Monochrome { width: 100 }),
        "  × HTTPRoute shop/cart: unknown field `backendRef` in `spec.rules[0]`
   ╭─[routes/cart.yaml:7:7]
 6 │   rules:
 7 │     - backendRef:
   ·       ─────┬────
   ·            ╰── here
 8 │         - {name: cart, port: 80}
   ╰────
  help: did you mean `backendRefs`?

1 error in 1 file
"
    );
    let coloured = report.render(Style::Terminal { width: 100 });
    assert!(coloured.contains("\u{1b}["), "{coloured}");
}

#[test]
fn two_places_in_one_file() {
    let report = report(&ROUTE.replace("80}\n", "80}\n    - backendRefs: []\n"));
    assert_eq!(
        report.render(Style::Monochrome { width: 120 }),
        "  × HTTPRoute shop/cart: path prefix `/` to cart.shop:80 is claimed already, by HTTPRoute shop/cart
   ╭─[routes/cart.yaml:9:7]
 6 │   rules:
 7 │     - backendRefs:
   ·       ──────┬─────
   ·             ╰── claimed here, by HTTPRoute shop/cart
 8 │         - {name: cart, port: 80}
 9 │     - backendRefs: []
   ·       ───────┬───────
   ·              ╰── here
   ╰────
  help: change one of the two matches, or remove one; for a share of the traffic write weights in one rule

1 error in 1 file
"
    );
}

#[test]
fn two_places_in_two_files() {
    let service = &CART[..CART.find("---").unwrap()];
    assert_eq!(
        report(service).render(Style::Monochrome { width: 100 }),
        "  × Service shop/cart: a Service of this name is declared already
   ╭─[routes/cart.yaml:3:18]
 2 │ kind: Service
 3 │ metadata: {name: cart, namespace: shop}
   ·                  ──┬─
   ·                    ╰── here
 4 │ spec:
   ╰────
  help: rename or remove one of them
  ╰─▶   ☞ declared here
         ╭─[cart.yaml:3:18]
       2 │ kind: Service
       3 │ metadata: {name: cart, namespace: shop}
         ·                  ──┬─
         ·                    ╰── here
       4 │ spec:
         ╰────

1 error in 1 file
"
    );
}

#[test]
fn machine_readable() {
    let report = report(&ROUTE.replace("80}\n", "80}\n    - backendRefs: []\n"));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "errors": 1,
            "warnings": 0,
            "diagnostics": [{
                "severity": "error",
                "code": "conflict",
                "file": "routes/cart.yaml",
                "line": 9,
                "column": 7,
                "resource": "HTTPRoute shop/cart",
                "message": "path prefix `/` to cart.shop:80 is claimed already, by HTTPRoute shop/cart",
                "help": "change one of the two matches, or remove one; for a share of the traffic write weights in one rule",
                "related": [{
                    "file": "routes/cart.yaml",
                    "line": 7,
                    "column": 7,
                    "message": "claimed here, by HTTPRoute shop/cart",
                }],
            }],
        })
    );
}

#[test]
fn what_does_not_belong_on_a_terminal() {
    let text = format!("kind: Service # \u{1b}[31m \u{9b}31m\n# {}\n", "x".repeat(100_000));
    let report = load(&[SourceFile::new("a.yaml", &*text)]).unwrap_err();
    let plain = report.to_string();
    assert!(!plain.contains('\u{1b}') && !plain.contains('\u{9b}') && plain.len() < 1_000, "{plain}");
    let report = load(&[SourceFile::new("a.yaml", "kind: Service # \u{1b}[31m \u{9b}31m\n")]).unwrap_err();
    assert!(report.to_string().contains("kind: Service # ?[31m ??31m"), "{report}");
    let report = load(&[SourceFile::new("a.yaml", "kind: \"\\e[31m\"\n\"\\e[0m\": 1\n")]).unwrap_err();
    assert!(report.diagnostics().iter().all(|error| !error.to_string().contains('\u{1b}')), "{report:?}");
}
