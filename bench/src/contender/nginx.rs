//! nginx. Between the two sides it speaks HTTP/1.1 over TLS: it has no HTTP/2 towards upstreams.

use anyhow::Result;
use malla_tests::Process;

use super::{Contender, INBOUND, OUTBOUND, configure, launch, upstream};
use crate::stage::{Place, Stage, Way};

pub(super) fn start(stage: &Stage, way: Way) -> Result<Vec<Process>> {
    let pods = stage.pods(Contender::Nginx)?;
    let certificates = stage.certificates.display();
    let (_, port) = way.carried.ports();
    let mut processes = Vec::new();
    let sides = [
        (&pods.client, OUTBOUND, upstream(Contender::Nginx, stage, way)?.to_string()),
        (&pods.server, INBOUND, format!("127.0.0.1:{port}")),
    ];
    for (pod, listen, to) in sides {
        let inbound = listen == INBOUND;
        if way.place == Place::Hop && inbound {
            break;
        }
        let encrypted = way.place == Place::Pair;
        let (scheme, listen_tls) =
            (if encrypted && !inbound { "https" } else { "http" }, if inbound { " ssl" } else { "" });
        let tls = if !encrypted {
            String::new()
        } else if inbound {
            format!(
                "ssl_certificate {certificates}/certificates.pem; ssl_certificate_key {certificates}/private_key.pem;
                 ssl_client_certificate {certificates}/ca_certificates.pem; ssl_verify_client on; ssl_protocols TLSv1.3;"
            )
        } else {
            format!(
                "proxy_ssl_certificate {certificates}/certificates.pem; proxy_ssl_certificate_key {certificates}/private_key.pem;
                 proxy_ssl_trusted_certificate {certificates}/ca_certificates.pem; proxy_ssl_verify on;
                 proxy_ssl_name bench.mesh; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"
            )
        };
        let directory = pod.directory().join("nginx");
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};", directory.display()))
            .join("\n");
        let text = format!(
            "daemon off; worker_processes 1; pid {0}/pid; error_log stderr error;
             events {{ worker_connections 32000; }}
             http {{
                 {temporary}
                 access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
                 map $http_upgrade $hop {{ default upgrade; '' ''; }}
                 upstream next {{ server {to}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 1h; }}
                 server {{ listen 127.0.0.1:15020; location /metrics {{ stub_status on; }} }}
                 server {{
                     listen {listen}{listen_tls};
                     {tls}
                     location / {{
                         proxy_pass {scheme}://next;
                         proxy_http_version 1.1; proxy_set_header Host $http_host;
                         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop;
                         proxy_max_temp_file_size 0; proxy_read_timeout 1h;
                     }}
                 }}
             }}\n",
            directory.display()
        );
        std::fs::create_dir_all(&directory)?;
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let file = configure(pod, "nginx.conf", &text)?;
        processes.push(launch(stage, pod, listen, &["nginx", "-c", &file, "-e", "stderr"]));
    }
    Ok(processes)
}
