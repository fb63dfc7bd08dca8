//! `RouteTest` → [`mesh::RouteTest`](RouteTest). Whether the promise is kept is for those to say who know what sidecars do.

use crate::api::{HeaderValue, RouteTestSpec, TestBackend, TestExpectation, TestRequest};
use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostics};
use crate::index::Index;
use crate::mesh::{Expectation, ExpectedBackend, RouteName, RouteTest, ServiceName};
use crate::names;
use crate::object::Object;
use crate::suggest::shown;

/// The test of an object; nothing if something is wrong with it.
pub(crate) fn ready(object: &Object, index: &Index<'_>, diagnostics: &mut Diagnostics) -> Option<RouteTest> {
    let errors = diagnostics.count();
    let RouteTestSpec { from, request, expect } = object.typed(diagnostics)?;
    let spec = object.cursor();
    let from = match from.as_deref().map(|text| (text, text.split_once('/'))) {
        None => (object.namespace.clone(), "default".into()),
        Some((_, Some((namespace, account))))
            if names::dns_label(namespace).is_ok() && names::dns_subdomain(account).is_ok() =>
        {
            (namespace.into(), account.into())
        }
        Some((text, _)) => {
            let message = format!("`{}` is not a service account", shown(text));
            spec.field("from").error(diagnostics, Code::InvalidValue, message, "write `namespace/name`");
            return None;
        }
    };
    let TestRequest { method, url, headers } = request;
    let cursor = spec.field("request");
    if !url.starts_with("http://") && !url.starts_with("https://") {
        let message = format!("`{}` is not an absolute URL", shown(&url));
        cursor.field("url").error(diagnostics, Code::InvalidValue, message, "write it as in `http://cart.shop/`");
    }
    let headers = headers.into_iter().enumerate().map(|(at, HeaderValue { name, value })| {
        if let Err(fault) = names::http_token(&name) {
            let message = format!("`{}` is not the name of a header: {fault}", shown(&name));
            let place = cursor.field("headers").item(at).field("name");
            place.error(diagnostics, Code::InvalidValue, message, "write a name as in `x-canary`");
        }
        (name.into(), value.into())
    });
    let headers = headers.collect();
    let expect = expectation(object, spec.field("expect"), expect, index, diagnostics);
    let name = RouteName::new(object.namespace.clone(), object.name.clone());
    let method = method.unwrap_or_else(|| "GET".to_owned()).into();
    let whole = diagnostics.count() == errors && !object.is_damaged();
    whole.then(|| RouteTest { name, from, method, url: url.into(), headers, expect })
}

fn expectation(
    object: &Object,
    cursor: Cursor<'_>,
    written: TestExpectation,
    index: &Index<'_>,
    diagnostics: &mut Diagnostics,
) -> Expectation {
    let TestExpectation {
        route,
        backends,
        status,
        location,
        host,
        path,
        request_timeout,
        try_timeout,
        attempts,
        allowed,
    } = written;
    let backends = backends.map(|backends| {
        let mut ready = Vec::new();
        for (at, TestBackend { name, namespace, port, subset, percent }) in backends.into_iter().enumerate() {
            let place = cursor.field("backends").item(at);
            let namespace = namespace.map_or_else(|| object.namespace.clone(), Into::into);
            let written = ServiceName::new(namespace, name);
            let service = index.service(place.field("name"), &written, diagnostics);
            let service = service.and_then(|service| index.behind(service));
            let name = service.map_or(written, |service| service.name.clone());
            if let Some(service) = service {
                index.port(place.field("port"), service, port, diagnostics);
            }
            if let Some(subset) = &subset {
                index.subset(place.field("subset"), &name, port, subset, diagnostics);
            }
            ready.push(ExpectedBackend { service: name, port, subset: subset.map(Into::into), percent });
        }
        ready
    });
    let mut time = |field: &str, text: Option<String>| {
        let text = text?;
        let duration = names::duration(&text);
        if duration.is_none() {
            let message = format!("`{}` is not a duration", shown(&text));
            cursor.field(field).error(diagnostics, Code::InvalidValue, message, names::DURATION_HELP);
        }
        duration
    };
    let expectation = Expectation {
        route: route.map(Into::into),
        backends,
        status,
        location: location.map(Into::into),
        host: host.map(Into::into),
        path: path.map(Into::into),
        request_timeout: time("requestTimeout", request_timeout),
        try_timeout: time("tryTimeout", try_timeout),
        attempts,
        allowed,
    };
    if expectation == Expectation::default() {
        let help = "write what becomes of the request, as in `backends: [{name: cart, port: 80}]`";
        cursor.error(diagnostics, Code::MissingField, "the test expects nothing", help);
    }
    expectation
}
