//! What the demo says to people: where things are, and what to try, with commands that work as they stand.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::addresses::Addresses;
use super::files::route_file;
use super::offers;
use super::prometheus;
use super::topology::INSTANCES;
use crate::arguments::DemoArguments;
use crate::duration::display_duration;
use crate::output::Paint;

/// The guide of one run.
#[derive(Debug)]
pub(crate) struct Guide {
    lines: Vec<String>,
    paint: Paint,
}

impl Guide {
    /// For a mesh whose files are in `directory`.
    pub(crate) fn new(paint: Paint, addresses: &Addresses, directory: &Path, arguments: &DemoArguments) -> Self {
        let mut lines = vec![paint.strong("Try, in another terminal:")];
        for (what, commands) in experiments(directory, addresses.switchboard) {
            lines.push(format!("  {what}"));
            lines.extend(commands.into_iter().map(|command| format!("    {}", paint.good(command))));
        }
        let admin = addresses.control_admin;
        lines.push(paint.faint(format!("See who has applied what: malla status --admin {admin}")));
        if let Some(directory) = &arguments.prometheus {
            let file = quoted(&directory.join(prometheus::FILE));
            lines.push(paint.faint(format!(
                "Watch the metrics: prometheus --config.file={file} --enable-feature=exemplar-storage"
            )));
        }
        if let Some(collector) = &arguments.otlp {
            lines.push(paint.faint(format!("Traces of every travel go to {collector}")));
        }
        Guide { lines, paint }
    }

    /// The things to try.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.clone()
    }

    /// One line above the table.
    pub(crate) fn heading(&self, elapsed: Duration, total: Option<Duration>) -> String {
        let elapsed = Duration::from_secs(elapsed.as_secs().max(1));
        let time = match total {
            Some(total) => format!("{} of {}", display_duration(elapsed), display_duration(total)),
            None => format!("{}, Ctrl-C ends it", display_duration(elapsed)),
        };
        let count = INSTANCES.len();
        format!("{} {count} programs, {count} sidecars, mTLS between them; {time}", self.paint.strong("malla demo:"))
    }
}

/// (what it shows, commands): shift traffic, break an instance, break the configuration, try a policy.
fn experiments(directory: &Path, switchboard: SocketAddr) -> [(&'static str, Vec<String>); 4] {
    let travels = quoted(&directory.join(route_file("travels")));
    let discounts = quoted(&directory.join(route_file("discounts")));
    let offers = directory.join(offers::DIRECTORY);
    let (offered, tried) = (quoted(&offers.join(offers::file("fault"))), quoted(&directory.join("tried.yaml")));
    let weights = |service: &str, v1: u32, v2: u32, file: &str| {
        format!(
            "sed -i -e '/{service}-v1/s/weight: [0-9]*/weight: {v1}/' -e '/{service}-v2/s/weight: [0-9]*/weight: {v2}/' {file}"
        )
    };
    [
        ("1. Shift nine tenths of the traffic to travels-v2:", vec![weights("travels", 10, 90, &travels)]),
        (
            "2. Break an instance, watch its edges fail, and lead the traffic around it:",
            vec![
                format!("curl -X POST http://{switchboard}/break/discounts-v1"),
                weights("discounts", 0, 100, &discounts),
                format!("curl -X POST http://{switchboard}/mend/discounts-v1"),
            ],
        ),
        (
            "3. Break the configuration (it is refused, the traffic goes on), and mend it:",
            vec![
                format!("sed -i 's/backendRefs/backendRef/' {travels}"),
                format!("sed -i 's/backendRef:/backendRefs:/' {travels}"),
            ],
        ),
        (
            "4. Put one of the ready files into the mesh (each says in its first lines what you will see), and take it out:",
            vec![format!("head -n 2 {}/*", quoted(&offers)), format!("cp {offered} {tried}"), format!("rm {tried}")],
        ),
    ]
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::files::MeshDirectory;
    use super::*;

    /// Runs those commands of an experiment that edit files, and answers the text of `file` afterwards.
    fn after(experiment: usize, commands: std::ops::Range<usize>, file: &str) -> String {
        let addresses = Addresses::choose().expect("loopback addresses");
        let directory = tempfile::tempdir().expect("a directory");
        let mesh = directory.path().join("a mesh's files");
        let _written = MeshDirectory::prepare(Some(&mesh), &addresses).expect("a mesh");
        let experiments = experiments(&mesh, addresses.switchboard);
        for command in &experiments[experiment].1[commands] {
            assert!(Command::new("sh").args(["-c", command]).status().expect("a shell").success(), "{command}");
        }
        std::fs::read_to_string(mesh.join(file)).expect("the file")
    }

    #[test]
    fn shifting_commands_change_the_weights() {
        let text = after(0, 0..1, "route-travels.yaml");
        assert!(text.contains("name: travels-v1, port: 8000, weight: 10}"), "{text}");
        assert!(text.contains("name: travels-v2, port: 8000, weight: 90}"), "{text}");
        let text = after(1, 1..2, "route-discounts.yaml");
        assert!(text.contains("name: discounts-v1, port: 8000, weight: 0}"), "{text}");
    }

    #[test]
    fn a_ready_file_is_put_into_the_mesh() {
        assert!(after(3, 1..2, "tried.yaml").contains("kind: FaultInjection"));
    }

    #[test]
    fn breaking_and_mending_the_configuration_leaves_it_as_it_was() {
        assert!(after(2, 0..1, "route-travels.yaml").contains("- backendRef:"));
        assert_eq!(after(2, 0..2, "route-travels.yaml"), after(2, 0..0, "route-travels.yaml"));
    }
}
