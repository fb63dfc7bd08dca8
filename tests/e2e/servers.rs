//! Foreign servers, each started and ready.

use std::fs;
use std::time::Duration;

use malla_tests::pod::inside;
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

/// Which of the two gRPC peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grpc {
    /// tonic.
    Tonic,
    /// Python's grpcio.
    Python,
}

/// `malla.test.Echo`.
#[track_caller]
pub(crate) fn grpc(pod: &Pod, with: Grpc, name: &str, port: u16) -> Process {
    let mut process = match with {
        Grpc::Tonic => pod.spawn(&[&inside("malla-peer"), "grpc-server", &format!("[::]:{port}"), name]),
        Grpc::Python => python(pod, "grpc_server.py", &[&port.to_string(), name]),
    };
    pod.wait_listening(&mut process, port);
    process
}

/// A program of `tests/programs`, run by the tests' Python.
#[track_caller]
pub(crate) fn python(pod: &Pod, program: &str, arguments: &[&str]) -> Process {
    let (python, program) = (tools::python(), tools::program(program));
    let (python, program) = (python.to_string_lossy(), program.to_string_lossy());
    let command: Vec<&str> = [&*python, "-u", &*program].into_iter().chain(arguments.iter().copied()).collect();
    pod.spawn(&command)
}

/// Everything that `malla.test.Echo` can do, tried by a client.
#[track_caller]
pub(crate) fn check_grpc(pod: &Pod, with: Grpc, authority: &str) {
    let limit = Duration::from_secs(60);
    let output = match with {
        Grpc::Tonic => pod.spawn(&[&inside("malla-peer"), "grpc-client", authority]).end(limit),
        Grpc::Python => python(pod, "grpc_client.py", &[authority]).end(limit),
    };
    assert_eq!(output.success().text(), "all is well\n");
}
