//! Errors of filters: header changes, rewrites, redirects.

use malla_config::Code::{self, Duplicate, InvalidValue, MissingField, NoEffect, NotSupported};

use crate::{expect, http, route};

const OF: &str = "HTTPRoute shop/r";

/// A rule with filters (line 8, column 17) before its backend.
fn rule(filters: &str) -> String {
    http(&format!("  rules:\n    - backendRefs: [{{name: cart, port: 80}}]\n      filters: [{filters}]\n"))
}

#[test]
fn header_changes() {
    let change = |changes: &str| rule(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {changes}}}"));
    expect(&change("{set: [{name: X-A, value: a}], add: [{name: x-b, value: b}], remove: [x-c]}"), &[]);
    expect(&change("{}"), &[(MissingField, (8, 70), OF, "changes no header", "`set:`")]);
    expect(
        &change("{set: [{name: Host, value: a}]}"),
        &[(InvalidValue, (8, 84), OF, "`Host` is not changed as a header", "URLRewrite")],
    );
    for name in ["connection", "Transfer-Encoding", "content-length", "te", "upgrade"] {
        expect(&change(&format!("{{remove: [{name}]}}")), &[(InvalidValue, (8, 80), OF, "one connection only", "hop")]);
    }
    expect(
        &change("{set: [{name: malla-http, value: '2'}]}"),
        &[(InvalidValue, (8, 84), OF, "written by sidecars only", "another name")],
    );
    expect(
        &change("{set: [{name: x-a, value: a}], remove: [X-A]}"),
        &[(Duplicate, (8, 110), OF, "the header `x-a` is in `set` already", "once")],
    );
    expect(
        &change("{set: [{name: x-a, value: \"a\\nb\"}]}"),
        &[(InvalidValue, (8, 96), OF, "cannot carry `\\n`", "ASCII")],
    );
    let many = (0..17).map(|number| format!("x-{number}")).collect::<Vec<_>>().join(", ");
    expect(&change(&format!("{{remove: [{many}]}}")), &[(InvalidValue, (8, 71), OF, "17 items", "several")]);
}

#[test]
fn rewrites() {
    let rewrite = |rewrite: &str| rule(&format!("{{type: URLRewrite, urlRewrite: {rewrite}}}"));
    expect(&rewrite("{hostname: a.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /a}}"), &[]);
    expect(&rewrite("{}"), &[(MissingField, (8, 48), OF, "rewrites nothing", "`hostname:`")]);
    for (name, fault) in [("'*.a'", "stands for many"), ("A.example", "upper-case"), ("'a:80'", "port")] {
        expect(&rewrite(&format!("{{hostname: {name}}}")), &[(InvalidValue, (8, 59), OF, fault, "DNS name")]);
    }
    expect(
        &rewrite("{path: {type: ReplaceFullPath, replaceFullPath: /a/../b}}"),
        &[(InvalidValue, (8, 96), OF, "it has `/../`", "normalized")],
    );
    expect(
        &rewrite("{path: {type: ReplaceFullPath, replacePrefixMatch: /a}}"),
        &[
            (MissingField, (8, 55), OF, "needs `replaceFullPath`", "replaceFullPath"),
            (
                NoEffect,
                (8, 79),
                OF,
                "`replacePrefixMatch` has no effect with `type: ReplaceFullPath`",
                "replaceFullPath",
            ),
        ],
    );
    let exact = http(
        "  rules:\n    - matches: [{path: {type: Exact, value: /a}}]\n      backendRefs: [{name: cart, port: 80}]\n      \
         filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]\n",
    );
    expect(&exact, &[(InvalidValue, (9, 55), OF, "needs a `PathPrefix` in every match", "ReplaceFullPath")]);
}

#[test]
fn redirects() {
    let rule = |filters: &str| http(&format!("  rules:\n    - filters: [{filters}]\n"));
    let redirect = |redirect: &str| rule(&format!("{{type: RequestRedirect, requestRedirect: {redirect}}}"));
    expect(&redirect("{scheme: https, statusCode: 301}"), &[]);
    expect(&redirect("{}"), &[(MissingField, (7, 58), OF, "the same place", "`scheme:`")]);
    expect(
        &redirect("{scheme: https, statusCode: 200}"),
        &[(InvalidValue, (7, 86), OF, "200 is not the status of a redirect", "301, 302")],
    );
    expect(&redirect("{port: 0}"), &[(InvalidValue, (7, 65), OF, "", "port")]);
    let both =
        "{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: URLRewrite, urlRewrite: {hostname: a}}";
    expect(&rule(both), &[(InvalidValue, (7, 16), OF, "both redirect and rewrite", "remove one")]);
    let with_backends = http(
        "  rules:\n    - backendRefs: [{name: cart, port: 80}]\n      filters: [{type: RequestRedirect, requestRedirect: \
         {scheme: https}}]\n",
    );
    expect(&with_backends, &[(NoEffect, (7, 7), OF, "forwards nothing to its backends", "remove")]);
}

#[test]
fn the_shape_of_filters() {
    expect(
        &rule("{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}"),
        &[(Duplicate, (8, 64), OF, "a filter `URLRewrite` already", "one filter")],
    );
    expect(
        &rule("{type: URLRewrite, urlRewrite: {hostname: a}, requestRedirect: {scheme: https}}"),
        &[(NoEffect, (8, 63), OF, "`requestRedirect` has no effect in a filter of the type `URLRewrite`", "type")],
    );
    let backend = |filters: &str| {
        http(&format!("  rules: [{{backendRefs: [{{name: cart, port: 80, filters: [{filters}]}}]}}]\n"))
    };
    let header = "requestHeaderModifier: {remove: [x-a]}";
    expect(&backend(&format!("{{type: RequestHeaderModifier, {header}}}")), &[]);
    expect(
        &backend("{type: URLRewrite, urlRewrite: {hostname: a}}"),
        &[(NotSupported, (6, 59), OF, "`URLRewrite` of a single backend is not supported yet", "of the rule")],
    );
    let grpc = route(
        "GRPCRoute",
        &format!("  rules: [{{backendRefs: [{{name: cart, port: 50051}}], filters: [{{type: RequestHeaderModifier, {header}}}]}}]\n"),
    )
    .replace("name: cart}]", "name: cart, port: 50051}]");
    expect(&grpc, &[]);
}

/// A rule that names an extension, and the extension (its `spec` begins at line 14).
fn extended(kind: &str, spec: &str) -> String {
    let filter = format!("{{type: ExtensionRef, extensionRef: {{group: malla.dev, kind: {kind}, name: x}}}}");
    format!(
        "{}---\napiVersion: malla.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec:\n  {spec}\n",
        rule(&filter)
    )
}

#[test]
fn extensions_that_are_named() {
    let named = |group: &str, kind: &str, name: &str| {
        rule(&format!("{{type: ExtensionRef, extensionRef: {{group: {group}, kind: {kind}, name: {name}}}}}"))
    };
    expect(
        &named("malla.dev", "FaultInjection", "none"),
        &[(Code::DanglingReference, (8, 99), OF, "there is no FaultInjection `none` in the namespace `shop`", "write")],
    );
    expect(
        &named("example.com", "Magic", "x"),
        &[(NotSupported, (8, 52), OF, "the kind `Magic` of `example.com` is no filter", "FaultInjection")],
    );
    expect(&rule("{type: ExtensionRef}"), &[(MissingField, (8, 17), OF, "names nothing", "extensionRef")]);
    let twice = extended("RateLimit", "requests: 1").replace(
        "}]\n---",
        "}, {type: ExtensionRef, extensionRef: {group: malla.dev, kind: RateLimit, name: x}}]\n---",
    );
    expect(&twice, &[(Duplicate, (8, 134), OF, "names a RateLimit already", "remove")]);
}

#[test]
fn trace_samplings() {
    let of = "TraceSampling shop/x";
    for good in ["0", "100", "0.0001"] {
        expect(&extended("TraceSampling", &format!("percent: {good}")), &[]);
    }
    for (bad, message) in [("-1", "-1 is not"), ("100.1", "100.1 is not"), ("0.00001", "0.00001 is not")] {
        let written = extended("TraceSampling", &format!("percent: {bad}"));
        expect(&written, &[(InvalidValue, (14, 12), of, message, "0 to 100")]);
    }
    expect(&extended("TraceSampling", "{}"), &[(MissingField, (14, 3), of, "percent", "")]);
}

#[test]
fn faults() {
    let of = "FaultInjection shop/x";
    let fault = |spec: &str| extended("FaultInjection", spec);
    expect(&fault("delay: {duration: 2s, percent: 0.5}"), &[]);
    expect(&fault("{}"), &[(MissingField, (14, 3), of, "does nothing", "`delay:`")]);
    expect(&fault("delay: {duration: 2h}"), &[(InvalidValue, (14, 21), of, "out of bounds", "3600s")]);
    expect(&fault("abort: {percent: 101, httpStatus: 503}"), &[(InvalidValue, (14, 20), of, "101 is not", "0 to 100")]);
    expect(
        &fault("abort: {httpStatus: 503, grpcStatus: Unavailable}"),
        &[(InvalidValue, (14, 10), of, "exactly one status", "one of")],
    );
    expect(
        &fault("{abort: {httpStatus: 503}, onlyWithHeader: {name: connection, value: x}}"),
        &[(InvalidValue, (14, 53), of, "one connection only", "hop")],
    );
}

#[test]
fn rate_limits() {
    let of = "RateLimit shop/x";
    let limit = |spec: &str| extended("RateLimit", &format!("{{requests: 10, {spec}}}"));
    expect(&limit("interval: 1m, burst: 20, clients: [{serviceAccount: web/front, requests: 1}]"), &[]);
    expect(&limit("interval: 1ms"), &[(InvalidValue, (14, 28), of, "out of bounds", "10ms")]);
    expect(
        &limit("clients: [{serviceAccount: front, requests: 1}]"),
        &[(InvalidValue, (14, 45), of, "`front` is not a service account", "namespace/name")],
    );
    expect(
        &limit("header: {name: x-t, values: [{value: a, requests: 1}, {value: a, requests: 2}]}"),
        &[(Duplicate, (14, 80), of, "the value `a` is written twice", "remove")],
    );
    expect(&limit("header: {name: x-t, values: []}"), &[(NoEffect, (14, 26), of, "no values", "values")]);
}

#[test]
fn retries() {
    let of = "RetryPolicy shop/x";
    let policy = |spec: &str| extended("RetryPolicy", spec);
    expect(&policy("{attempts: 2, codes: [503], grpcStatuses: [Unavailable], backoff: {base: 10ms}}"), &[]);
    expect(
        &policy("grpcStatuses: [NotFound]"),
        &[(InvalidValue, (14, 18), of, "NotFound are not tried again", "Unavailable")],
    );
    expect(&policy("hedging: {quantile: 99.9, minimumDelay: 1ms, minimumSamples: 2000}"), &[]);
    expect(&policy("{attempts: 0, hedging: {}}"), &[(InvalidValue, (14, 17), of, "permits none", "`attempts: 1`")]);
    for (quantile, message) in [("49", "49 is out of bounds"), ("100", "100 is out of bounds")] {
        let written = policy(&format!("hedging: {{quantile: {quantile}}}"));
        expect(&written, &[(InvalidValue, (14, 23), of, message, "from 50 to 99.9")]);
    }
    expect(&policy("hedging: {minimumDelay: 0s}"), &[(InvalidValue, (14, 27), of, "out of bounds", "1ms to 60s")]);
    expect(
        &policy("{perTryTimeout: 10ms, hedging: {}}"),
        &[(NoEffect, (14, 25), of, "over before a second one", "`perTryTimeout` longer")],
    );
    let field =
        |retry: &str| http(&format!("  rules:\n    - backendRefs: [{{name: cart, port: 80}}]\n      retry: {retry}\n"));
    expect(&field("{attempts: 2, codes: [500, 503], backoff: 100ms}"), &[]);
    expect(&field("{attempts: 11}"), &[(InvalidValue, (8, 25), OF, "11 is not a number", "0 to 10")]);
    expect(&field("{backoff: 0s}"), &[(InvalidValue, (8, 24), OF, "`0s` is not a duration", "")]);
    let both = policy("attempts: 2").replace("      filters:", "      retry: {attempts: 1}\n      filters:");
    expect(&both, &[(Duplicate, (8, 7), OF, "names a `RetryPolicy` too", "remove one")]);
}

#[test]
fn hedging_that_could_never_be_or_contradicts_the_rule() {
    let rule = |spec: &str, rest: &str| {
        extended("RetryPolicy", spec).replace("      filters:", &format!("{rest}      filters:"))
    };
    let (usual, any) = ("hedging: {minimumDelay: 20ms}", "{methods: any, hedging: {minimumDelay: 20ms}}");
    expect(&rule(usual, "      matches: [{method: POST}, {method: GET}]\n"), &[]);
    let writing = "      matches: [{method: POST}, {method: PATCH}]\n";
    expect(
        &rule(usual, writing),
        &[(NoEffect, (9, 7), OF, "every request of this rule is of another", "`methods: any`")],
    );
    expect(&rule(any, writing), &[]);
    let session = "      sessionPersistence: {}\n";
    expect(&rule(usual, session), &[(InvalidValue, (9, 7), OF, "keeps a client at one endpoint", "remove the one")]);
    for field in ["request", "backendRequest"] {
        let short = format!("      timeouts: {{{field}: 20ms}}\n");
        expect(&rule(usual, &short), &[(NoEffect, (8, 18), OF, "is over before", "a longer time")]);
    }
    let calls = |spec: &str| rule(spec, "").replace("HTTPRoute", "GRPCRoute").replace("port: 80}", "port: 50051}");
    let refused = |spec: &str| {
        let found = crate::errors(&calls(spec));
        found.iter().any(|error| error.message.contains("gRPC calls are `POST`"))
    };
    assert!(refused(usual) && !refused(any));
}

#[test]
fn mirrors() {
    let mirror = |rest: &str| rule(&format!("{{type: RequestMirror, requestMirror: {{backendRef: {{{rest}}}}}}}"));
    expect(
        &mirror("name: cart, port: 80}, percent: 10, fraction: {numerator: 1"),
        &[(InvalidValue, (8, 100), OF, "`fraction` says the share already", "one of both")],
    );
    expect(&mirror("name: cart, port: 80}, fraction: {numerator: 1, denominator: 1000"), &[]);
    expect(
        &mirror("name: cart, port: 80}, fraction: {numerator: 3, denominator: 2"),
        &[(InvalidValue, (8, 101), OF, "not a part of the whole", "denominator")],
    );
    expect(&mirror("name: crat, port: 80"), &[(Code::DanglingReference, (8, 74), OF, "no service `crat`", "`cart`")]);
    expect(&mirror("name: cart"), &[(MissingField, (8, 67), OF, "needs the port", "80 (http)")]);
}

#[test]
fn cross_origin_requests() {
    let cors = |spec: &str| rule(&format!("{{type: CORS, cors: {{{spec}}}}}"));
    expect(&cors("allowOrigins: ['https://*.example.com', 'http://localhost:3000'], allowMethods: ['*']"), &[]);
    expect(&cors("allowOrigins: ['*']"), &[]);
    expect(&cors("allowMethods: [GET]"), &[(MissingField, (8, 36), OF, "no origin", "allowOrigins")]);
    for (origin, fault) in [
        ("ftp://a.example", "begins neither"),
        ("https://a.example:0", "port"),
        ("https://a_b", "`_`"),
        ("https://A", "upper"),
    ] {
        expect(&cors(&format!("allowOrigins: ['{origin}']")), &[(InvalidValue, (8, 52), OF, fault, "https://")]);
    }
    expect(
        &cors("allowOrigins: ['*'], allowHeaders: ['*', x-a]"),
        &[(InvalidValue, (8, 73), OF, "beside others", "alone")],
    );
}

#[test]
fn route_tests() {
    let of = "RouteTest shop/x";
    let test = |spec: &str| {
        format!(
            "apiVersion: malla.dev/v1alpha1\nkind: RouteTest\nmetadata: {{name: x, namespace: shop}}\nspec:\n{spec}"
        )
    };
    let request = "  request: {url: 'http://cart.shop/'}\n";
    expect(&test(&format!("{request}  expect: {{backends: [{{name: cart, port: 80}}]}}\n")), &[]);
    expect(&test(&format!("{request}  expect: {{}}\n")), &[(MissingField, (6, 11), of, "expects nothing", "backends")]);
    expect(
        &test(&format!("{request}  expect: {{backends: [{{name: crat, port: 80}}]}}\n")),
        &[(Code::DanglingReference, (6, 30), of, "no service `crat`", "`cart`")],
    );
    expect(
        &test("  from: web\n  request: {url: 'http://cart.shop/'}\n  expect: {status: 404}\n"),
        &[(InvalidValue, (5, 9), of, "`web` is not a service account", "namespace/name")],
    );
    expect(
        &test("  request: {url: /a}\n  expect: {status: 404}\n"),
        &[(InvalidValue, (5, 18), of, "`/a` is not an absolute URL", "http://")],
    );
}

#[test]
fn sessions() {
    let field = |session: &str| {
        http(&format!("  rules:\n    - backendRefs: [{{name: cart, port: 80}}]\n      sessionPersistence: {session}\n"))
    };
    expect(&field("{}"), &[]);
    expect(&field("{sessionName: basket, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}"), &[]);
    expect(&field("{sessionName: X-Basket, type: Header, absoluteTimeout: 1h, idleTimeout: 5m}"), &[]);
    for (session, code, column, message, help) in [
        ("{idleTimeout: 1ms}", InvalidValue, 41, "`1ms` is not a duration of a second", ""),
        ("{absoluteTimeout: 1m, idleTimeout: 1h}", NoEffect, 62, "never idle for 3600s", "shorter"),
        ("{absoluteTimeout: 10ms}", InvalidValue, 45, "`10ms` is not a duration of a second", ""),
        ("{sessionName: 'a b'}", InvalidValue, 41, "`a b` cannot be the name", "letters"),
        ("{sessionName: host, type: Header}", InvalidValue, 41, "`host` cannot be the name", ""),
        ("{cookieConfig: {lifetimeType: Permanent}}", MissingField, 42, "until when", "`absoluteTimeout:`"),
        ("{type: Header, cookieConfig: {}}", NoEffect, 42, "a header carries", "`type: Cookie`"),
    ] {
        expect(&field(session), &[(code, (8, column), OF, message, help)]);
    }
    let redirect =
        rule("{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /}}}");
    let both = format!("{}\n      sessionPersistence: {{}}\n", redirect.trim_end());
    let found = super::errors(&both);
    assert!(found.iter().any(|error| error.message.contains("could come back to")), "{found:?}");
}
