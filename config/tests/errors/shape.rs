//! Errors of syntax, kinds, metadata and shape, and how errors are ordered and counted.

use malla_config::{Code, SourceFile, load};

use crate::{errors, expect, http, service, workload};

#[test]
fn the_base_has_no_errors() {
    expect("", &[]);
    expect("# only a comment\n---\n---\n", &[]);
}

#[test]
fn syntax() {
    use Code::Syntax;
    expect("a: [1, 2\n", &[(Syntax, (1, 4), "", "not valid YAML", "closed")]);
    expect("a:\n\tb: 1\n", &[(Syntax, (2, 2), "", "not valid YAML", "spaces")]);
    expect(
        "a: {{ .Values.x }}\n",
        &[
            (Code::MissingField, (1, 1), "", "needs `kind`", ""),
            (Syntax, (1, 5), "", "a key must be a string", "templates"),
        ],
    );
    expect("kind: *x\n", &[(Syntax, (1, 7), "", "the alias `*x` has no anchor", "anchor")]);
    expect(
        "kind: &x [*x]\n",
        &[
            (Code::WrongType, (1, 10), "", "must be a string", ""),
            (Syntax, (1, 11), "", "inside of what it refers to", "in full"),
        ],
    );
    expect("kind: !Foo x\n", &[(Syntax, (1, 12), "", "tags", "remove")]);
    expect("\u{fffd}", &[(Syntax, (1, 1), "", "not UTF-8", "UTF-8")]);
    let nested = format!("a: {}{}", "[".repeat(70), "]".repeat(70));
    assert_eq!(errors(&nested).first().map(|error| error.code), Some(Syntax));
}

#[test]
fn a_broken_document_does_not_hide_the_next() {
    let text = format!("a: [1\n---\n{}", service("  selctor: {app: cart}\n  ports: [{port: 80}]\n"));
    let found = errors(&text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].message.contains("unknown field `selctor`"), "{}", found[1]);
}

#[test]
fn duplicate_keys() {
    let text = service("  selector: {app: cart}\n  ports: [{port: 80}]\n  selector: {app: x}\n");
    expect(&text, &[(Code::Syntax, (7, 3), "", "`selector` is written twice", "keep one")]);
    assert_eq!((errors(&text)[0].related[0].line, errors(&text)[0].related[0].column), (5, 3));
}

#[test]
fn aliases_expand_within_limits() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
    }
    let found = errors(&bomb);
    assert!(found.iter().any(|error| error.message.contains("expand to more than")), "{found:?}");

    let text = "
apiVersion: v1
kind: Service
metadata: {name: &name new, namespace: shop}
spec:
  selector: &labels {app: cart}
  ports: [{port: 80, name: *name}]
";
    expect(text, &[]);
}

#[test]
fn scalars_that_tools_read_differently() {
    use Code::{Syntax, WrongType};
    for (value, what) in [
        ("yes", "a boolean for some"),
        ("on", "a boolean for some"),
        ("08", "read as different values"),
        ("0x10", "read as different values"),
        ("1_000", "read as different values"),
        ("2024-01-31", "a date for some"),
        ("1.10", "a number"),
        ("true", "a boolean"),
    ] {
        let text = workload(&format!("  address: 10.0.0.9\n  serviceAccount: {value}\n"));
        let found = errors(&text);
        assert_eq!(found.len(), 1, "{value}: {found:?}");
        assert_eq!((found[0].code, found[0].line, found[0].column), (WrongType, 6, 19), "{value}");
        assert!(found[0].message.contains(what), "{value}: {}", found[0]);
        assert_eq!(found[0].help.as_deref(), Some(format!("write `\"{value}\"`").as_str()));
        assert_eq!(
            errors(&text.replace(value, &format!("\"w{value}\""))).iter().filter(|e| e.code == WrongType).count(),
            0
        );
    }
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: new, labels: {on: \"1\"}}\n";
    let expected = "the key `on` is a boolean for some";
    let found = errors(&format!("{text}spec: {{selector: {{app: cart}}, ports: [{{port: 80}}]}}\n"));
    assert!(found[0].code == Syntax && found[0].message.contains(expected), "{found:?}");
    let port = service("  selector: {app: cart}\n  ports: [{port: 080}]\n");
    expect(
        &port,
        &[(WrongType, (6, 18), "Service shop/new", "`spec.ports[0].port` must be a whole number", "leading")],
    );
    let quoted = service("  selector: {app: cart}\n  ports: [{port: \"80\"}]\n");
    expect(&quoted, &[(WrongType, (6, 18), "Service shop/new", "must be a whole number", "write `80` without quotes")]);
}

#[test]
fn kinds() {
    use Code::{DanglingReference, MissingField, UnknownKind, WrongType};
    expect("- a\n", &[(WrongType, (1, 1), "", "must be a resource", "apiVersion")]);
    expect("hello\n", &[(WrongType, (1, 1), "", "must be a resource", "apiVersion")]);
    expect("metadata: {name: x}\n", &[(MissingField, (1, 1), "", "needs `kind`", "kind: Service")]);
    expect("Kind: Service\n", &[(MissingField, (1, 1), "", "needs `kind`", "write `kind` instead of `Kind`")]);
    expect(
        "apiVersion: v1\nkind: Servce\nmetadata: {name: x}\n",
        &[(UnknownKind, (2, 7), "Servce default/x", "unknown kind `Servce`", "did you mean `Service`?")],
    );
    expect(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
        &[(
            UnknownKind,
            (2, 7),
            "Deployment default/x",
            "unknown kind `Deployment`",
            "Malla reads Service, EndpointSlice",
        )],
    );
    expect(
        "apiVersion: networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x, namespace: shop}\n",
        &[(UnknownKind, (1, 13), "HTTPRoute shop/x", "not a kind of", "apiVersion: gateway.networking.k8s.io/v1")],
    );
    expect("kind: Service\n", &[(MissingField, (1, 1), "Service", "needs `apiVersion`", "apiVersion: v1")]);
    // A reference to a resource of an unreadable kind does not dangle.
    let text = format!(
        "{}---\napiVersion: v1\nkind: Servce\nmetadata: {{name: gone, namespace: shop}}\n",
        http("  rules: [{backendRefs: [{name: gone, port: 80}]}]\n")
    );
    assert_eq!(errors(&text).len(), 1, "{:?}", errors(&text));
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n  spec: {ports: [{port: 80}]}\nextra: 1\n";
    let found = errors(text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].code, found[0].line), (DanglingReference, 6));
    assert!(found[1].message.contains("unknown field `extra`"));
    expect("apiVersion: v1\nkind: List\nitems: 3\n", &[(MissingField, (1, 1), "List", "items", "items:")]);
}

#[test]
fn metadata() {
    use Code::{InvalidValue, MissingField, NoEffect, NotSupported, UnknownField, WrongType};
    let with = |metadata: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {metadata}\nspec: {{selector: {{app: cart}}, ports: [{{port: 80}}]}}\n"
        )
    };
    let of = |metadata: &str| with(&format!("{{name: new, namespace: shop, {metadata}}}"));
    expect(
        "apiVersion: v1\nkind: Service\nspec: {ports: [{port: 80}]}\n",
        &[(MissingField, (1, 1), "Service", "missing field `metadata`", "write `metadata:`")],
    );
    expect(&with("{namespace: shop}"), &[(MissingField, (3, 12), "Service", "missing field `name`", "name")]);
    expect(
        &with("{name: New, namespace: shop}"),
        &[(
            InvalidValue,
            (3, 18),
            "Service shop/New",
            "`New` is not a valid name: it has an upper-case letter",
            "lower-case",
        )],
    );
    expect(
        &with("{name: 7, namespace: shop}"),
        &[(WrongType, (3, 18), "Service", "`metadata.name` must be a string", "\"7\"")],
    );
    expect(
        &with("{name: new, namespace: a.b}"),
        &[(InvalidValue, (3, 34), "Service a.b/new", "not a valid namespace", "")],
    );
    expect(
        &of("lables: {a: b}"),
        &[(UnknownField, (3, 40), "Service shop/new", "unknown field `lables` in `metadata`", "`labels`")],
    );
    expect(&of("generateName: x"), &[(UnknownField, (3, 40), "Service shop/new", "generateName", "known here")]);
    expect(
        &of("labels: {version: 2}"),
        &[(WrongType, (3, 58), "Service shop/new", "`metadata.labels[version]` must be a string", "\"2\"")],
    );
    expect(&of("labels: {a: 'b c'}"), &[(InvalidValue, (3, 52), "Service shop/new", "it has a ` `", "letters")]);
    expect(
        &of("labels: {malla.dev/x: a}"),
        &[(UnknownField, (3, 49), "Service shop/new", "Malla has no label", "remove")],
    );
    expect(
        &of("annotations: {service.kubernetes.io/topology-mode: Auto}"),
        &[(NotSupported, (3, 54), "Service shop/new", "not supported yet", "remove")],
    );
    expect(&of("creationTimestamp: null, uid: x, annotations: {a.b/c: 'd e'}, labels: {}"), &[]);
    expect(
        "apiVersion: malla.dev/v1alpha1\nkind: Mesh\nmetadata: {name: m, namespace: shop}\nspec: {}\n",
        &[(NoEffect, (3, 21), "Mesh m", "has no namespace", "remove")],
    );
    let tail = "status: {loadBalancer: {}}\nsepc: {}\n";
    expect(
        &(with("{name: new, namespace: shop}") + tail),
        &[(UnknownField, (6, 1), "Service shop/new", "`sepc`", "remove it")],
    );
}

#[test]
fn shape() {
    use Code::{InvalidValue, MissingField, UnknownField, WrongType};
    let route = "HTTPRoute shop/r";
    expect(
        &http("  rules: [{backendRef: [{name: cart, port: 80}]}]\n"),
        &[(
            UnknownField,
            (6, 12),
            route,
            "unknown field `backendRef` in `spec.rules[0]`",
            "did you mean `backendRefs`?",
        )],
    );
    expect(
        &http("  backendRefs: [{name: cart, port: 80}]\n  rules: [{}]\n"),
        &[(UnknownField, (6, 3), route, "unknown field `backendRefs` in `spec`", "is a field of `rules[]`")],
    );
    expect(
        &http("  rules:\n    - timeout: 1s\n      backendRefs: [{name: cart, prot: 80}]\n"),
        &[
            (UnknownField, (7, 7), route, "unknown field `timeout`", "did you mean `timeouts`?"),
            (
                UnknownField,
                (8, 34),
                route,
                "unknown field `prot` in `spec.rules[0].backendRefs[0]`",
                "did you mean `port`?",
            ),
        ],
    );
    // An unknown field does not hide a dangling reference elsewhere.
    expect(
        &http("  rules:\n    - matchs: []\n    - backendRefs: [{name: crat, port: 80}]\n"),
        &[
            (UnknownField, (7, 7), route, "`matchs`", "`matches`"),
            (Code::DanglingReference, (8, 28), route, "there is no service `crat`", "did you mean `cart`?"),
        ],
    );
    expect(
        &http("  rules: {backendRefs: []}\n"),
        &[(WrongType, (6, 10), route, "`spec.rules` must be a list, and this is a mapping", "- ")],
    );
    expect(&http("  rules: [[]]\n"), &[(WrongType, (6, 11), route, "`spec.rules[0]` must be a mapping", "-")]);
    expect(&http("  rules:\n"), &[(WrongType, (6, 3), route, "`spec.rules` has no value", "remove the line")]);
    expect(&http("  rules: all\n"), &[(WrongType, (6, 10), route, "`spec.rules` must be a list", "write `[all]`")]);
    expect(
        &http("  rules: [{backendRefs: [{port: 80}]}]\n"),
        &[(MissingField, (6, 27), route, "missing field `name` in `spec.rules[0].backendRefs[0]`", "write `name:`")],
    );
    expect(
        &http("  rules: [{backendRefs: [{name: cart, port: eighty}]}]\n"),
        &[(WrongType, (6, 45), route, "`spec.rules[0].backendRefs[0].port` must be a whole number", "decimal")],
    );
    expect(
        &http("  rules: [{matches: [{method: get}], backendRefs: []}]\n"),
        &[(InvalidValue, (6, 31), route, "`spec.rules[0].matches[0].method` cannot be `get`", "did you mean `GET`?")],
    );
    expect(
        &http("  rules: [{matches: [{path: {type: Prefix, value: /}}], backendRefs: []}]\n"),
        &[(InvalidValue, (6, 36), route, "cannot be `Prefix`", "`PathPrefix`")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  ports: {http: 70000}\n"),
        &[(InvalidValue, (6, 17), "Workload shop/w", "`spec.ports[http]` cannot be 70000", "from 0 to 65535")],
    );
    expect(
        &workload("  address: 10.0.0.9\n  sidecar: transparent\n"),
        &[(WrongType, (6, 12), "Workload shop/w", "`spec.sidecar` must be a mapping", "fields")],
    );
    expect(
        "apiVersion: v1\nkind: Service\nmetadata: {name: new}\n",
        &[(MissingField, (1, 1), "Service default/new", "missing field `spec`", "spec")],
    );
}

#[test]
fn the_order_of_errors_is_that_of_files_and_lines() {
    let bad = "kind: A\n---\nkind: B\n";
    let files = [SourceFile::new("z.yaml", bad), SourceFile::new("a.yaml", bad)];
    let report = load(&files).unwrap_err();
    let places: Vec<(&str, usize)> =
        report.diagnostics().iter().map(|error| (error.file.as_str(), error.line)).collect();
    assert_eq!(places, [("z.yaml", 1), ("z.yaml", 3), ("a.yaml", 1), ("a.yaml", 3)]);
    assert_eq!((report.error_count(), report.file_count()), (4, 2));
}

#[test]
fn very_many_errors_are_counted_and_not_kept() {
    let text = "a: 1\n---\n".repeat(1_500);
    let report = load(&[SourceFile::new("a.yaml", text)]).unwrap_err();
    assert_eq!((report.error_count(), report.diagnostics().len()), (1_500, 1_000));
    assert!(report.to_string().contains("and 500 more, not shown"));
}
