//! Attackers that others wrote: slowhttptest, and varnishtest for bytes that no HTTP client sends.

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
