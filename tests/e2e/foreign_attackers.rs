//! Attackers that others wrote: slowhttptest, varnishtest for bytes that no HTTP client sends, and Python's h2 for frames of that kind.

use std::fs;
use std::time::Duration;

use malla_tests::Mesh;

use crate::attacks::Attacked;
use crate::servers;

#[test]
fn slowhttptest_keeps_nobody_out() {
    let mut attacked = Attacked::start();
    for (what, mode) in [
        ("slow heads", "-H -i 1 -x 24"),
        ("slow bodies", "-B -i 1 -s 8192 -t PUT"),
        ("ranges", "-R -t GET"),
        ("slow readers", "-X -k 3 -w 512 -y 1024 -n 2 -z 32 -u http://web.shop/files/large"),
    ] {
        // The tool asks on a connection of its own, too, whether it is served.
        let command = format!("ulimit -n 20000; exec slowhttptest -c 400 -r 200 -l 8 -p 8 -u http://web.shop/ {mode}");
        attacked.while_others_are_served(what, 4 * 400 + 100, |attacked| {
            let report = attacked.client.shell_spawn(&command).end(Duration::from_secs(60)).both();
            let answered = report.contains("service available:   YES") || report.contains("service available:\u{1b}[");
            if !answered || report.contains("service available:   NO") {
                attacked.faults.push(format!("{what}: {report}"));
            }
        });
    }
    attacked.end();
}

/// What no HTTP/1.1 server may take (RFC 9112), as varnishtest writes it; each on a connection of its own.
#[rustfmt::skip]
const REFUSED: &[(&str, &str)] = &[
    ("both framings", r"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", r"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    ("a list of lengths", r"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 3, 4\r\n\r\nabcd"),
    ("a length with a sign", r"POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: +3\r\n\r\nabc"),
    ("chunks that are not last", r"POST / HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    ("chunks in HTTP/1.0", r"POST / HTTP/1.0\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a size that is none", r"POST / HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"),
    ("bare line feeds", r"GET / HTTP/1.1\nhost: web.shop\n\n"),
    ("a folded header", r"GET / HTTP/1.1\r\nhost: web.shop\r\nx: 1\r\n 2\r\n\r\n"),
    ("a space before the colon", r"GET / HTTP/1.1\r\nhost: web.shop\r\nx : 1\r\n\r\n"),
    ("a name with a space", r"GET / HTTP/1.1\r\nhost: web.shop\r\nx y: 1\r\n\r\n"),
    ("a control character", r"GET / HTTP/1.1\r\nhost: web.shop\r\nx: \x01\r\n\r\n"),
    ("no host", r"GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", r"GET / HTTP/1.1\r\nhost: web.shop\r\nhost: other.shop\r\n\r\n"),
    ("another host than the target's", r"GET http://other.shop/ HTTP/1.1\r\nhost: web.shop\r\n\r\n"),
    ("another version", r"GET / HTTP/1.7\r\nhost: web.shop\r\n\r\n"),
];

#[test]
fn varnishtest_is_refused_what_is_no_http_and_given_what_is() {
    let mut mesh = Mesh::new();
    mesh.service("web", &["{name: http, port: 80, targetPort: 8080}"]);
    let (mut client, mut web) = (mesh.member("client"), mesh.member("web-1"));
    mesh.start();
    let _nginx = servers::nginx(&web, "web-1", &["8080"]);
    mesh.join([&mut client, &mut web]);
    let mut script = "vtest \"requests that could be read in two ways, and ones that cannot\"\n".to_owned();
    for (at, (what, bytes)) in REFUSED.iter().enumerate() {
        let status = if *what == "another version" { 505 } else { 400 };
        let expect = format!(
            "rxresp\n  expect resp.status == {status}\n  expect resp.http.malla-reason == protocol_error\n  expect_close"
        );
        script +=
            &format!("# {what}\nclient c{at} -connect 10.96.0.1:80 {{\n  send \"{bytes}\"\n  {expect}\n}} -run\n");
    }
    script += r#"
client cwell -connect 10.96.0.1:80 {
  txreq -hdr "host: web.shop"
  rxresp
  expect resp.status == 200
  txreq -method "PUT" -url "/files/whole" -hdr "host: web.shop" -hdr "transfer-encoding: chunked"
  chunkedlen 100
  chunkedlen 20000
  chunkedlen 0
  rxresp
  expect resp.status == 201
  send "GET /files/whole HTTP/1.1\r\nhost: web.shop\r\n\r\nGET / HTTP/1.1\r\nhost: web.shop\r\n\r\n"
  rxresp
  expect resp.bodylen == 20100
  rxresp
  expect resp.status == 200
  txreq -proto "HTTP/1.0" -hdr "host: web.shop"
  rxresp
  expect resp.status == 200
  expect_close
} -run
"#;
    let file = client.directory().join("requests.vtc");
    fs::write(&file, script).expect("the pod's directory is writable");
    client.exec(&["varnishtest", "-t", "60", &file.to_string_lossy()]).success();
}

/// What becomes of a request, or of a connection, that breaks the rules of HTTP/2 (RFC 9113, RFC 7541).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its stream is reset with PROTOCOL_ERROR.
    Reset,
    /// Its answer is 400.
    Refused,
    /// It is allowed: the sidecar goes by the address, or without what nobody sends on.
    Served,
    /// The connection is ended with GOAWAY.
    Ended,
}
use Fate::{Ended, Refused, Reset, Served};

/// As `http2_malformed.py` calls them.
const MALFORMED: &[(Fate, &[&str])] = &[
    (
        Reset,
        &[
            "no method",
            "two methods",
            "no scheme",
            "two schemes",
            "no path",
            "two paths",
            "an empty path",
            "a path without slash",
            "a path with a space",
            "a path with a line end",
            "two authorities",
            "two hosts",
            "a pseudo-header after headers",
            "a status",
            "a protocol without CONNECT",
            "CONNECT with a path",
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "te: gzip",
            "a length that is none",
            "two lengths",
            "less than its length",
            "more than its length",
            "a length and no data",
        ],
    ),
    (Refused, &["an authority with a user", "another host", "CONNECT without authority"]),
    (Served, &["a path with a fragment", "neither authority nor host"]),
    (
        Ended,
        &[
            "an empty method",
            "a method with a space",
            "an unknown pseudo-header",
            "a name in upper case",
            "a name with a space",
            "a name with a line end",
            "an empty name",
            "a value with a line end",
            "a value with NUL",
            "the index zero",
            "an index out of range",
            "an integer that overflows",
            "an integer that does not end",
            "a literal longer than its block",
            "the end of the string, in Huffman's code",
            "padding of Huffman's code that is none",
            "a table larger than allowed",
            "headers of no stream",
            "headers of a stream that is the server's",
            "data of a stream that is not open",
            "a continuation of nothing",
            "headers between headers",
            "more padding than frame",
            "a frame larger than allowed",
            "a window of nothing",
            "a window that overflows",
        ],
    ),
];

#[test]
fn python_h2_is_refused_what_is_no_http2_and_others_go_on() {
    let mut attacked = Attacked::start();
    let counted = |attacked: &Attacked| {
        ["malla_requests_total", "malla_connections_refused_total"]
            .map(|name| attacked.client.metric(name, &[("reason", "protocol_error")]))
    };
    let (before, mut told) = (counted(&attacked), String::new());
    attacked.while_others_are_served("malformed HTTP/2", 200, |attacked| {
        let program = servers::python(&attacked.client, "http2_malformed.py", &["10.96.0.1", "80", "web.shop"]);
        told = program.end(Duration::from_secs(120)).success().text();
    });
    let mut expected = [0, 0];
    for (fate, names) in MALFORMED {
        for name in *names {
            let line = told.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            let (became, then) =
                line.unwrap_or("nothing").split_once(", then ").unwrap_or((line.unwrap_or_default(), ""));
            let as_expected = match fate {
                Reset => became == "reset 1",
                Refused => became == "400",
                Served => became == "200",
                // GOAWAY is lost where the client was still writing.
                Ended => became.starts_with("goaway ") && became != "goaway 0" || became == "closed",
            };
            let goes_on = matches!(then, "201 200" | "204 200") == (*fate != Ended);
            if !as_expected || !goes_on {
                attacked.faults.push(format!("{name}: {line:?}, not {fate:?}"));
            }
            match fate {
                Reset | Refused => expected[0] += 1,
                Served => {}
                Ended => expected[1] += 1,
            }
        }
    }
    assert_eq!(told.lines().count(), MALFORMED.iter().map(|(_, names)| names.len()).sum::<usize>(), "{told}");
    assert!(told.matches(": goaway 1").count() > 15, "{told}");
    let counted = counted(&attacked);
    let difference = [counted[0] - before[0], counted[1] - before[1]];
    assert_eq!(difference, expected.map(f64::from), "{told}\n{:#?}", attacked.faults);
    attacked.end();
}
