//! Targets and hosts: what is judged is what is forwarded, in either version of HTTP, once and for all.

use malla_proxy::http::reading::{Forwarded, forwarded};

use crate::mutate::Form;
use crate::{Target, no_seeds};

pub(crate) const TARGET: Target = Target {
    name: "path",
    form: Form::Bytes,
    words: &[
        "/", "//", "/.", "/..", "%2e", "%2E", "%2f", "%5c", "\\", "?", "#", ";", "@", ":", "http://", " ", "*", "..%2f",
    ],
    run,
    seeds: no_seeds,
};

/// An input is a target, and after a space a host.
fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (target, host) = text.split_once(' ').unwrap_or((text, "cart.shop"));
    let Some(once) = forwarded("GET", target, host) else { return };
    let Forwarded { judged: (judged_host, judged_path), http1, http2 } = &once;
    assert_eq!(judged_path, &http1.1, "rules see another path than the next hop in HTTP/1");
    assert_eq!(judged_path, &http2.1, "rules see another path than the next hop in HTTP/2");
    if !judged_host.is_empty() {
        assert_eq!(http1.0, http2.0);
        assert_eq!(
            http1.0.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(&*http1.0, |(host, _)| host),
            judged_host
        );
    }
    let path = judged_path.split('?').next().unwrap_or_default();
    for segment in path.split('/') {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        assert!(plain != "." && plain != "..", "{judged_path:?} has a dot segment");
    }
    if target.starts_with('/') {
        let written = target.split('#').next().unwrap_or_default();
        assert_eq!(judged_path, &canonical(written), "another reading of RFC 3986 §5.2.4");
    }
    let again = forwarded("GET", &http1.1, &http1.0);
    assert_eq!(again.as_ref(), Some(&once), "what is forwarded is read differently by the next sidecar");
}

/// RFC 3986 §5.2.4 to the letter, with encoded dots taken for dots.
pub(crate) fn canonical(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let decoded: Vec<String> = path
        .split('/')
        .map(|segment| match &*segment.to_ascii_lowercase().replace("%2e", ".") {
            dots @ ("." | "..") => dots.to_owned(),
            _ => segment.to_owned(),
        })
        .collect();
    let (decoded, mut output) = (decoded.join("/"), String::new());
    let mut input = &*decoded;
    while !input.is_empty() {
        if let Some(rest) = input.strip_prefix("/./") {
            input = &input[input.len() - rest.len() - 1..];
        } else if input == "/." {
            input = "/";
        } else if let Some(rest) = input.strip_prefix("/../") {
            input = &input[input.len() - rest.len() - 1..];
            output.truncate(output.rfind('/').unwrap_or(0));
        } else if input == "/.." {
            input = "/";
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |end| end + 1);
            output.push_str(&input[..end]);
            input = &input[end..];
        }
    }
    match query {
        Some(query) => format!("{output}?{query}"),
        None => output,
    }
}
