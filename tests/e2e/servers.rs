//! Foreign servers, each started and ready.

use std::fs;

use malla_tests::{Pod, Process, tools};

/// nginx on these ports: `/` and every other path answer with `name`; `/files/` are the files of the pod's directory
/// `files` (`PUT` stores there).
#[track_caller]
pub(crate) fn nginx(pod: &Pod, name: &str, ports: &[u16]) -> Process {
    let template = fs::read_to_string(tools::program("nginx.conf")).expect("tests/programs/nginx.conf");
    let listen: String = ports.iter().map(|port| format!("listen {port}; listen [::]:{port};\n")).collect();
    let directory = pod.directory().to_str().expect("temporary directories have plain names");
    fs::create_dir_all(pod.directory().join("files")).expect("the pod's directory is writable");
    let text = template.replace("@listen@", &listen).replace("@directory@", directory).replace("@name@", name);
    let file = pod.directory().join(format!("nginx-{}.conf", ports[0]));
    fs::write(&file, text).expect("the pod's directory is writable");
    let mut process = pod.spawn(&["nginx", "-c", &file.to_string_lossy(), "-e", "stderr"]);
    ports.iter().for_each(|port| pod.wait_listening(&mut process, *port));
    process
}
