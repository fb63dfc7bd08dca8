//! Errors of routes: parents, backends, matches, conflicts, and what is not supported yet.

use malla_config::Code;

use crate::{errors, expect, http, route, service};

#[test]
fn parents() {
    use Code::{DanglingReference, Duplicate, InvalidValue, MissingField, NoEffect, NotSupported};
    let of = "HTTPRoute shop/r";
    let with = |parents: &str| {
        http("  rules: [{backendRefs: [{name: cart, port: 80}]}]\n")
            .replace("[{group: \"\", kind: Service, name: cart}]", parents)
    };
    expect(&with("[]"), &[(MissingField, (5, 15), of, "needs a parent", "kind: Service")]);
    expect(
        &with("[{name: gw}]"),
        &[(NotSupported, (5, 16), of, "a parent of the kind `Gateway` is not supported yet", "kind: Service")],
    );
    expect(&with("[{kind: Service, name: cart}]"), &[(InvalidValue, (5, 16), of, "empty group", "group: \"\"")]);
    let service = |rest: &str| with(&format!("[{{group: \"\", kind: Service, {rest}}}]"));
    expect(
        &service("name: crat"),
        &[(DanglingReference, (5, 49), of, "there is no service `crat` in the namespace `shop`", "`cart`")],
    );
    expect(
        &service("name: zzz"),
        &[(DanglingReference, (5, 49), of, "`zzz`", "services in the namespace `shop`: cart, front")],
    );
    expect(
        &service("name: ledger"),
        &[(DanglingReference, (5, 49), of, "`ledger`", "there is one in the namespace `bank`")],
    );
    expect(&service("name: ledger, namespace: bank"), &[]);
    expect(&service("name: cart, port: 81"), &[(DanglingReference, (5, 61), of, "has no port 81", "80 (http)")]);
    expect(
        &service("name: cart, sectionName: htpp"),
        &[(DanglingReference, (5, 68), of, "no port named `htpp`", "`http`")],
    );
    expect(
        &service("name: cart, sectionName: http, port: 3306"),
        &[(InvalidValue, (5, 68), of, "is 80, not `port`", "one of both")],
    );
    expect(&service("name: cart, sectionName: http"), &[]);
    expect(
        &service("name: cart, port: 3306"),
        &[(NoEffect, (5, 16), of, "no effect on port 3306 of cart.shop, which carries TCP", "appProtocol: http")],
    );
    let twice = with("[{group: \"\", kind: Service, name: cart}, {group: \"\", kind: Service, name: cart, port: 80}]");
    expect(&twice, &[(Duplicate, (5, 56), of, "twice", "port")]);
    let tcp = route("TCPRoute", "  rules: [{backendRefs: [{name: cart, port: 3306}]}]\n")
        .replace("name: cart}]", "name: cart, port: 80}]");
    expect(&tcp, &[(NoEffect, (5, 16), "TCPRoute shop/r", "carries HTTP/1", "appProtocol: tcp")]);
    let all = http("  useDefaultGateways: All\n  rules: [{backendRefs: [{name: cart, port: 80}]}]\n");
    expect(&all, &[(NotSupported, (6, 3), of, "useDefaultGateways", "remove")]);
}

#[test]
fn backends() {
    use Code::{DanglingReference, InvalidValue, MissingField, NotGranted, NotSupported};
    let of = "HTTPRoute shop/r";
    let with = |backend: &str| http(&format!("  rules: [{{backendRefs: [{{{backend}}}]}}]\n"));
    expect(&with("name: crat, port: 80"), &[(DanglingReference, (6, 33), of, "there is no service `crat`", "`cart`")]);
    expect(
        &with("name: cart, port: 81"),
        &[(DanglingReference, (6, 45), of, "the service cart.shop has no port 81", "80 (http), 50051 (grpc)")],
    );
    expect(&with("name: cart"), &[(MissingField, (6, 26), of, "needs the port", "80 (http)")]);
    expect(
        &with("name: cart, port: 80, weight: -1"),
        &[(InvalidValue, (6, 57), of, "the weight cannot be -1", "1000000")],
    );
    expect(&with("name: cart, port: 80, weight: 1000001"), &[(InvalidValue, (6, 57), of, "the weight", "1000000")]);
    expect(
        &with("name: cart, port: 80, weight: 99999999999"),
        &[(InvalidValue, (6, 57), of, "cannot be 99999999999", "")],
    );
    expect(
        &with("kind: Bucket, name: cart, port: 80"),
        &[(NotSupported, (6, 26), of, "a backend of the kind `Bucket` is not supported yet", "Service")],
    );
    expect(
        &with("name: cart, port: 3306"),
        &[(InvalidValue, (6, 26), of, "carries TCP, which an HTTPRoute cannot send", "another backend")],
    );
    expect(
        &with("name: ledger, namespace: bank, port: 80"),
        &[(
            NotGranted,
            (6, 52),
            of,
            "no ReferenceGrant lets an HTTPRoute of `shop` use services of `bank`",
            "kind: HTTPRoute, namespace: shop",
        )],
    );
    let grant = |from: &str, to: &str| {
        format!(
            "{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: bank}}\nspec:\n  \
             from: [{{group: gateway.networking.k8s.io, kind: {from}, namespace: shop}}]\n  to: [{{group: \"\", kind: {to}}}]\n",
            with("name: ledger, namespace: bank, port: 80")
        )
    };
    expect(&grant("HTTPRoute", "Service"), &[]);
    expect(&grant("HTTPRoute", "Service, name: ledger"), &[]);
    expect(
        &grant("HTTPRoute", "Service, name: leger"),
        &[(DanglingReference, (13, 41), "ReferenceGrant bank/g", "`leger`", "`ledger`")],
    );
    expect(
        &grant("HTTPRoute", "Secret"),
        &[(Code::NoEffect, (13, 8), "ReferenceGrant bank/g", "Secret", "kind: Service")],
    );
    expect(
        &grant("GRPCRoute", "Service"),
        &[(NotGranted, (6, 52), of, "lets an HTTPRoute of `shop`", "kind: HTTPRoute")],
    );
    let many = (0..17).map(|_| "{name: cart, port: 80}").collect::<Vec<_>>().join(", ");
    expect(
        &http(&format!("  rules: [{{backendRefs: [{many}]}}]\n")),
        &[(InvalidValue, (6, 12), of, "17 items", "several routes")],
    );
}

#[test]
fn matches() {
    use Code::{InvalidValue, MissingField, NoEffect};
    let of = "HTTPRoute shop/r";
    let with = |matched: &str| {
        http(&format!("  rules: [{{matches: [{{{matched}}}], backendRefs: [{{name: cart, port: 80}}]}}]\n"))
    };
    for (path, fault) in [
        ("cart", "does not begin with `/`"),
        ("/a//b", "it has `//`"),
        ("/a/../b", "it has `/../`"),
        ("/a/..", "ends with `/..`"),
        ("/a%2fb", "it has `%2f`"),
        ("/a?b=c", "it has a `?`"),
        ("/a b", "it has a ` `"),
        ("/ñ", "it has a `ñ`"),
        ("/%zz", "it has a `%`"),
    ] {
        expect(&with(&format!("path: {{value: \"{path}\"}}")), &[(InvalidValue, (6, 37), of, fault, "")]);
    }
    let regex = |pattern: &str| with(&format!("path: {{type: RegularExpression, value: '{pattern}'}}"));
    expect(&regex("/a(b"), &[(InvalidValue, (6, 62), of, "does not compile: unclosed group", "RE2")]);
    expect(&regex("/a)|(b"), &[(InvalidValue, (6, 62), of, "does not compile: unopened group", "RE2")]);
    expect(&regex("/(?=a)b"), &[(InvalidValue, (6, 62), of, "does not compile: look-around", "not available")]);
    expect(&regex(r"/\w{500}{50}"), &[(InvalidValue, (6, 62), of, "KiB when compiled", "repetitions")]);
    expect(
        &with("headers: [{name: 'x y', value: a}]"),
        &[(InvalidValue, (6, 40), of, "not the name of a header", "x-canary")],
    );
    expect(
        &with("headers: [{name: Host, value: a}]"),
        &[(InvalidValue, (6, 40), of, "host is not matched as a header", "hostnames")],
    );
    expect(
        &with("headers: [{name: A, value: a}, {name: a, value: b}]"),
        &[(NoEffect, (6, 61), of, "the header `a` is written twice", "one match")],
    );
    expect(&with("headers: [{name: a, value: ''}]"), &[(InvalidValue, (6, 50), of, "1 to 4096", "")]);
    expect(
        &with("queryParams: [{name: a, value: b}, {name: a, value: c}]"),
        &[(NoEffect, (6, 65), of, "`a` is written twice", "remove")],
    );

    expect(&http("  rules: []\n"), &[(MissingField, (6, 10), of, "a route without rules", "backendRefs")]);
    let rules = "  rules: [{name: a, matches: [{path: {value: /a}}]}, {name: a, matches: [{path: {value: /b}}]}]\n";
    expect(&http(rules), &[(Code::Duplicate, (6, 61), of, "the rule name `a`", "")]);

    let host = |name: &str| http(&format!("  hostnames: ['{name}']\n  rules: [{{backendRefs: []}}]\n"));
    for (name, fault) in
        [("10.0.0.1", "IP address"), ("Shop.com", "upper-case"), ("a.*.com", "first part"), ("a:80", "port")]
    {
        expect(&host(name), &[(InvalidValue, (6, 15), of, fault, "lower case")]);
    }
    let twice = http("  hostnames: [a.com, a.com]\n  rules: [{backendRefs: []}]\n");
    expect(&twice, &[(Code::Duplicate, (6, 22), of, "`a.com` is written twice", "")]);

    let timeouts = |timeouts: &str| http(&format!("  rules: [{{timeouts: {{{timeouts}}}, backendRefs: []}}]\n"));
    expect(&timeouts("request: 1.5s"), &[(InvalidValue, (6, 32), of, "`1.5s` is not a duration", "1m30s")]);
    expect(
        &timeouts("request: 1s, backendRequest: 2s"),
        &[(InvalidValue, (6, 52), of, "longer than `request`", "one try")],
    );
    expect(&timeouts("request: 0s, backendRequest: 2s"), &[]);
}

#[test]
fn grpc_and_stream_routes() {
    use Code::{InvalidValue, MissingField};
    let of = "GRPCRoute shop/r";
    let with = |method: &str| {
        route(
            "GRPCRoute",
            &format!("  rules: [{{matches: [{{method: {method}}}], backendRefs: [{{name: cart, port: 50051}}]}}]\n"),
        )
    };
    expect(&with("{}"), &[(MissingField, (6, 31), of, "names nothing", "service:")]);
    expect(&with("{service: a/b}"), &[(InvalidValue, (6, 41), of, "not the name of a gRPC service", "shop.v1.Cart")]);
    expect(&with("{method: a.b}"), &[(InvalidValue, (6, 40), of, "not the name of a gRPC method", "AddItem")]);
    expect(&with("{type: RegularExpression, method: '('}"), &[(InvalidValue, (6, 65), of, "does not compile", "")]);
    let http_backend = with("{service: a}").replace("port: 50051", "port: 80");
    expect(&http_backend, &[(InvalidValue, (6, 61), of, "carries HTTP/1", "appProtocol: grpc")]);

    let tcp = |rules: &str| route("TCPRoute", &format!("  rules: {rules}\n"));
    expect(&tcp("[]"), &[(InvalidValue, (6, 10), "TCPRoute shop/r", "has one rule, and this has 0", "")]);
    expect(&tcp("[{backendRefs: []}]"), &[(MissingField, (6, 25), "TCPRoute shop/r", "without backends", "")]);
    let rule = "{backendRefs: [{name: cart, port: 3306}]}";
    expect(&tcp(&format!("[{rule}, {rule}]")), &[(InvalidValue, (6, 10), "TCPRoute shop/r", "this has 2", "one rule")]);
    let tls = route("TLSRoute", "  hostnames: []\n  rules: [{backendRefs: [{name: cart, port: 443}]}]\n");
    expect(&tls, &[(MissingField, (6, 14), "TLSRoute shop/r", "needs hostnames", "")]);
}

#[test]
fn what_is_not_supported_yet() {
    use Code::{InvalidValue, NotSupported};
    let of = "HTTPRoute shop/r";
    let rule =
        |fields: &str| http(&format!("  rules:\n    - backendRefs: [{{name: cart, port: 80}}]\n      {fields}\n"));
    expect(
        &rule(
            "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {}, backendRef: {name: cart, port: 80}}}]",
        ),
        &[(NotSupported, (8, 17), of, "the filter `ExternalAuth` is not supported yet", "remove")],
    );
    let policy = |kind: &str, spec: &str| {
        format!("apiVersion: malla.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}")
    };
    expect(
        &policy(
            "AuthorizationPolicy",
            "  action: Allow\n  rules: [{from: [{identities: [web]}], to: [{methods: [get]}]}]\n",
        ),
        &[
            (InvalidValue, (6, 33), "AuthorizationPolicy shop/p", "`web` is not valid in `identities`", "spiffe://"),
            (InvalidValue, (6, 57), "AuthorizationPolicy shop/p", "`get` is not a method", "upper case"),
        ],
    );
    let rejected = |spec: &str, code: Code, place: (usize, usize), message: &'static str, help: &'static str| {
        expect(&policy("AuthorizationPolicy", spec), &[(code, place, "AuthorizationPolicy shop/p", message, help)]);
    };
    rejected("  action: Deny\n", Code::NoEffect, (5, 3), "without rules this policy matches nothing", "rules: [{}]");
    rejected(
        "  action: Allow\n  rules: [{from: []}]\n",
        Code::NoEffect,
        (6, 18),
        "an empty `from`",
        "leave `from` out",
    );
    rejected("  action: Allow\n  rules: [{to: [{}]}]\n", Code::MissingField, (6, 17), "without any condition", "ports");
    rejected(
        "  action: Allow\n  rules: [{from: [{ipBlocks: [10.0.0.1/8]}]}]\n",
        InvalidValue,
        (6, 31),
        "`10.0.0.1/8` is not valid in `ipBlocks`",
        "10.0.0.0/8",
    );
    rejected(
        "  action: Allow\n  targetRefs: [{group: '', kind: Service, name: crat}]\n",
        Code::DanglingReference,
        (6, 49),
        "`crat`",
        "`cart`",
    );
    rejected(
        "  action: Allow\n  targetRefs: [{group: g, kind: HTTPRoute, name: r}]\n",
        NotSupported,
        (6, 16),
        "a target of the kind `HTTPRoute` is not supported yet",
        "kind: Service",
    );
    rejected(
        "  action: Allow\n  selector: {matchLabels: {app: nobody}}\n",
        Code::DanglingReference,
        (6, 13),
        "selects no Workload",
        "labels",
    );
    expect(
        &policy(
            "AuthorizationPolicy",
            "  action: Deny\n  rules: [{from: [{notNamespaces: [shop]}], to: [{paths: [{value: /admin}], ports: [8080]}]}]\n",
        ),
        &[],
    );
}

#[test]
fn routes_that_no_policy_can_be_about() {
    use Code::NotSupported;
    let case = |target: &str, route: &str, code: Code, column: usize, message: &'static str, help: &'static str| {
        let policy = format!(
            "apiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
             action: Allow\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {target}}}]\n---\n{route}"
        );
        expect(&policy, &[(code, (6, column), "AuthorizationPolicy shop/p", message, help)]);
    };
    let told = |rule: &str, message: &'static str| {
        let rule = format!("  rules:\n    - {rule}\n      backendRefs: [{{name: cart, port: 80}}]\n");
        case("r", &http(&rule), NotSupported, 74, message, "conditions of the rules");
    };
    told("matches: [{queryParams: [{name: a, value: b}]}]", "rule 0 matches query parameters");
    told("matches: [{path: {value: /a%20b}}]", "rule 0 matches a path that is percent-encoded");
    let rewrite = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /b}}}]";
    told(rewrite, "rule 0 rewrites the path");
    told(
        "matches: [{headers: [{name: x-a, value: b}]}]\n      \
         filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [X-A]}}]",
        "rule 0 changes the header `x-a`",
    );
    let whole = http("  rules:\n    - backendRefs: [{name: cart, port: 80}]\n");
    let missing = "there is no HTTPRoute `s` in the namespace `shop`";
    case("s", &whole, Code::DanglingReference, 74, missing, "did you mean `r`?");
    let redirect = http("  rules:\n    - filters: [{type: RequestRedirect, requestRedirect: {port: 81}}]\n");
    case("r", &redirect, NotSupported, 74, "leads to no workload", "of its own namespace");
    case("r, sectionName: a", &whole, NotSupported, 77, "a single rule of a route", "a route of its own");
    let text = format!(
        "apiVersion: malla.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n  \
         action: Allow\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}}]\n---\n{whole}"
    );
    expect(&text, &[]);
}

#[test]
fn duplicates_and_conflicts() {
    let service_twice = service("  selector: {app: cart}\n  ports: [{port: 80}]\n").replace("name: new", "name: cart");
    expect(
        &service_twice,
        &[(Code::Duplicate, (3, 18), "Service shop/cart", "a Service of this name is declared already", "rename")],
    );
    assert_eq!(errors(&service_twice)[0].related[0].file, "base.yaml");

    let rule = "  rules:\n    - matches: [{path: {value: /a}, headers: [{name: X, value: a}, {name: y, value: b}]}]\n      backendRefs: [{name: cart, port: 80}]\n";
    let same = rule
        .replace("value: /a", "value: /a/")
        .replace("{name: X, value: a}, {name: y, value: b}", "{name: Y, value: b}, {name: x, value: a}");
    let two = format!("{}---\n{}", http(rule), http(&same).replace("name: r", "name: s"));
    expect(
        &two,
        &[(
            Code::Conflict,
            (16, 17),
            "HTTPRoute shop/s",
            "path prefix `/a`, header `x` = `a`, header `y` = `b` to cart.shop:80 is claimed already, by HTTPRoute shop/r",
            "weights",
        )],
    );
    assert_eq!((errors(&two)[0].related[0].line, errors(&two)[0].related[0].column), (7, 17));
    let other_host =
        format!("{}---\n{}", http(rule), http(&format!("  hostnames: [a.com]\n{same}")).replace("name: r", "name: s"));
    expect(&other_host, &[]);
    let in_itself = http("  rules: [{backendRefs: []}, {backendRefs: []}]\n");
    expect(&in_itself, &[(Code::Conflict, (6, 30), "HTTPRoute shop/r", "path prefix `/`", "")]);
    let tcp = route("TCPRoute", "  rules: [{backendRefs: [{name: cart, port: 3306}]}]\n");
    let two = format!("{tcp}---\n{}", tcp.replace("name: r", "name: s"));
    expect(&two, &[(Code::Conflict, (12, 15), "TCPRoute shop/s", "every connection to cart.shop", "")]);
}

#[test]
fn the_second_of_a_name_is_checked_too() {
    let twice = service("  selector: {app: cart}\n  ports: [{port: 0}]\n").replace("name: new", "name: cart");
    expect(
        &twice,
        &[
            (Code::Duplicate, (3, 18), "Service shop/cart", "declared already", "rename"),
            (Code::InvalidValue, (6, 18), "Service shop/cart", "0 is not a port", ""),
        ],
    );
    let one = http("  rules: [{backendRefs: [{name: cart, port: 80}]}]\n");
    let two = http("  rules: [{backendRefs: [{name: crat, port: 80}]}]\n");
    expect(
        &format!("{one}---\n{two}"),
        &[
            (Code::Duplicate, (10, 18), "HTTPRoute shop/r", "declared already", "rename"),
            (Code::DanglingReference, (13, 33), "HTTPRoute shop/r", "`crat`", "`cart`"),
        ],
    );
}

#[test]
fn a_wrong_name_or_namespace_does_not_hide_the_rest() {
    let text = http("  rules: [{backendRefs: [{name: crat, port: 80}], matches: [{path: {value: a}}]}]\n");
    let rest = [(6, 33, "`crat`"), (6, 76, "`a`")];
    let found = errors(&text.replace("name: r,", "name: R_,"));
    let places: Vec<_> = found.iter().map(|error| (error.line, error.column)).collect();
    assert_eq!(places, [(3, 18), (rest[0].0, rest[0].1), (rest[1].0, rest[1].1)], "{found:?}");
    let found = errors(&text.replace("name: r, ", ""));
    assert_eq!(found.len(), 3, "{found:?}");
    // Where it is unknown in which namespace a route is, what it refers to may be there.
    let found = errors(&text.replace("namespace: shop", "namespace: S_"));
    let told: Vec<_> = found.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(found.len(), 2, "{told:?}");
    assert!(told[0].contains("`S_` is not a valid namespace") && told[1].contains(rest[1].2), "{told:?}");
    // Two without names are not the same.
    let nameless = service("  selector: {app: cart}\n  ports: [{port: 80}]\n").replace("name: new, ", "");
    let found = errors(&format!("{nameless}---\n{nameless}"));
    assert!(found.len() == 2 && found.iter().all(|error| error.code == Code::MissingField), "{found:?}");
}

#[test]
fn routes_with_errors_conflict_too() {
    let rule = |matches: &str, backend: &str| {
        format!("    - {{matches: [{matches}], backendRefs: [{{name: {backend}, port: 80}}]}}\n")
    };
    let two =
        |first: &str, second: &str| format!("{}---\n{}", http(first), http(second).replace("name: r,", "name: s,"));
    let conflicts = |text: &str| errors(text).iter().filter(|error| error.code == Code::Conflict).count();
    let good = format!("  rules:\n{}", rule("{path: {value: /a}}", "cart"));
    // What the errors are about says nothing about the match.
    for wrong in [
        format!("  rules:\n{}", rule("{path: {value: /a}}", "crat")),
        format!("  rules:\n{}", rule("{path: {value: /a}}, {path: {value: b}}", "cart")),
        format!("  rules:\n{}{}", rule("{path: {value: /a}}", "cart"), rule("{header: []}", "cart")),
        "  rules:\n    - {timeouts: {request: 1}, matches: [{path: {value: /a}}], backendRefs: []}\n".to_owned(),
    ] {
        let text = two(&wrong, &good);
        assert_eq!((errors(&text).len(), conflicts(&text)), (2, 1), "{text}\n{:?}", errors(&text));
        let text = two(&good, &wrong);
        assert_eq!((errors(&text).len(), conflicts(&text)), (2, 1), "{text}\n{:?}", errors(&text));
    }
    // What may mean something else does not conflict.
    let everything = "  rules: [{backendRefs: [{name: cart, port: 80}]}]\n".to_owned();
    for (wrong, good) in [
        (format!("  hostname: [a.com]\n{good}"), &good),
        (format!("  hostnames: [A_]\n{good}"), &good),
        (good.replace("{path:", "{headres: [], path:"), &good),
        ("  rules: [{mathces: [], backendRefs: [{name: cart, port: 80}]}]\n".to_owned(), &everything),
        ("  rules: [{matches: [{path: 1}], backendRefs: [{name: cart, port: 80}]}]\n".to_owned(), &everything),
    ] {
        let text = two(&wrong, good);
        assert_eq!((errors(&text).len(), conflicts(&text)), (1, 0), "{text}\n{:?}", errors(&text));
    }
    let tcp = route("TCPRoute", "  rules: [{backendRefs: [{name: crat, port: 3306}]}]\n");
    assert_eq!(conflicts(&format!("{tcp}---\n{}", tcp.replace("name: r,", "name: s,"))), 1);
}
