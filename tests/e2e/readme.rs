//! The commands of the README and of the first page of the guide, run as they stand on two pods: only the addresses are replaced.

use std::path::Path;
use std::time::Duration;

use malla_tests::{Pod, Process, Sandbox, tools, wait};

/// A fenced block of the README.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// What follows the fence: `sh run=a`, `output`.
    information: String,
    text: String,
}

/// Two machines, and what the last block printed.
struct Machines {
    a: Pod,
    b: Pod,
    printed: String,
    run: usize,
    /// What was started in a terminal of its own.
    terminals: Vec<Process>,
    sandbox: Sandbox,
}

impl Machines {
    fn new() -> Machines {
        let sandbox = Sandbox::new();
        let (a, b) = (sandbox.pod("a"), sandbox.pod("b"));
        Machines { a, b, printed: String::new(), run: 0, terminals: Vec::new(), sandbox }
    }

    /// The blocks of a page of this repository, with the addresses of the machines.
    fn blocks(&self, page: &str) -> Vec<Block> {
        let text = std::fs::read_to_string(tools::repository().join(page)).expect("the page");
        let (a, b) = (self.a.ipv4().to_string(), self.b.ipv4().to_string());
        blocks(&text.replace("192.0.2.10", &a).replace("192.0.2.20", &b))
    }

    /// Runs a block where it says, or compares what the last one printed; `false` if it says neither.
    #[track_caller]
    fn play(&mut self, block: &Block) -> bool {
        match block.information.as_str() {
            "sh run=a" | "sh transparent=a" => {
                self.printed = self.a.exec(&["bash", "-c", &script(&self.a, &self.b, &block.text)]).success().both();
            }
            "sh run=b" | "sh transparent=b" => {
                self.printed = self.b.exec(&["bash", "-c", &script(&self.b, &self.a, &block.text)]).success().both();
            }
            "sh run=terminal" => {
                self.terminals.push(self.a.spawn(&["bash", "-c", &script(&self.a, &self.b, &block.text)]));
            }
            "output" => {
                // Headers end in CR LF.
                let printed = self.printed.replace('\r', "");
                assert!(printed.contains(block.text.trim_end()), "expected\n{}after\n{printed}", block.text);
                return true;
            }
            _ => return false,
        }
        self.run += 1;
        true
    }
}

#[test]
fn the_steps_for_two_machines_work_as_the_readme_says() {
    let mut machines = Machines::new();
    let blocks = machines.blocks("README.md");
    let transparent = |block: &&Block| block.information.contains("transparent");
    for block in blocks.iter().take_while(|block| !transparent(block)) {
        machines.play(block);
    }
    assert!(machines.run >= 6, "the README has lost its steps: {} blocks were run", machines.run);
}

#[test]
fn the_steps_for_transparent_mode_work_as_the_readme_says() {
    let mut machines = Machines::new();
    let blocks = machines.blocks("README.md");
    // The mesh and the tokens; then those of the section.
    for block in blocks.iter().filter(|block| block.information == "sh run=a").take(2) {
        machines.play(block);
    }
    for block in blocks.iter().skip_while(|block| !block.information.contains("transparent")) {
        machines.play(block);
    }
    assert_eq!(machines.run, 5, "the README has lost its steps");
    // Others are refused on that port now: it is the sidecar that answers there.
    let stranger = machines.sandbox.pod("stranger");
    let url = format!("http://{}:8080/", machines.b.ipv4());
    let answer = stranger.exec(&["curl", "-sSi", "--max-time", "5", &url]).text();
    assert!(answer.contains("malla-reason: plaintext_refused"), "{answer}");
}

#[test]
fn the_commands_of_getting_started_work_as_it_says() {
    let mut machines = Machines::new();
    for block in machines.blocks("docs/getting-started.md") {
        machines.play(&block);
        if let Some(demo) = machines.terminals.last_mut() {
            wait::until("the demonstration to be watched", Duration::from_secs(60), || {
                assert!(!demo.has_ended(), "it ended:\n{}", demo.tail());
                // By what people would look at: traffic on all edges.
                let ready = machines.a.exec(&["curl", "-sf", "--max-time", "5", "http://127.77.1.1:15014/status"]);
                ready.text().contains("travels-v1").then_some(())
            });
        }
    }
    assert_eq!(machines.run, 5, "the page has lost its steps");
}

/// A block as a script for a pod: in its own directory, with the programs on the `PATH`; `scp` copies into the other pod's
/// directory.
fn script(pod: &Pod, other: &Pod, commands: &str) -> String {
    let program = malla_tests::pod::inside("malla");
    let programs = Path::new(&program).parent().expect("a binary is in a directory");
    format!(
        "set -e
         cd {}
         PATH={}:$PATH
         scp() {{
             for file; do
                 case $file in *:) ;; *) cp -p \"$file\" {} ;; esac
             done
         }}
         {commands}",
        pod.directory().display(),
        programs.display(),
        other.directory().display(),
    )
}

fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(information), None) => {
                open = Some(Block { information: information.to_owned(), text: String::new() });
            }
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}
