//! YAML as people write it: everything is accepted or refused with a place and a sentence, and whatever is accepted is compiled to what
//! sidecars take.

use std::fs;
use std::path::Path;

use malla_config::{SourceFile, inspect};
use malla_proxy::decode::decode;
use malla_xds::ResourceType;
use malla_xds::wire::Any;

use crate::Target;
use crate::mutate::Form;

pub(crate) const TARGET: Target = Target {
    name: "yaml",
    form: Form::Lines,
    words: &[
        "\t",
        "{",
        "}",
        "[",
        "]",
        "- ",
        ": ",
        "&a ",
        "*a",
        "!x ",
        "|\n",
        "'",
        "\"",
        "#",
        "---\n",
        "null",
        "yes",
        "08",
        "-1",
        "1.5",
        "\0",
        "<<: ",
        "~",
        "99999999999999999999",
    ],
    run,
    seeds,
};

fn run(bytes: &[u8]) {
    let (mesh, report) = inspect(&[SourceFile::from_bytes("mesh.yaml", bytes)]);
    for diagnostic in report.diagnostics() {
        assert!(diagnostic.line > 0 && diagnostic.column > 0 && !diagnostic.message.is_empty(), "{diagnostic:?}");
    }
    let Some(mesh) = mesh else {
        assert!(!report.to_string().is_empty(), "what is refused is told");
        return;
    };
    let Ok(resources) = malla_control::offline::compiled(mesh) else { return };
    for kind in ResourceType::ALL.into_iter().filter(|kind| *kind != ResourceType::Secret) {
        for found in resources.all(kind) {
            let any = Any { type_url: kind.type_url().to_owned(), value: found.body.clone() };
            if let Err(fault) = decode(kind, &found.name, &any) {
                panic!("the control server renders what sidecars refuse, {} of {kind}: {fault}", found.name);
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    let entries = fs::read_dir(root).expect("the examples").filter_map(Result::ok);
    let mut seeds: Vec<Vec<u8>> = entries.filter_map(|entry| fs::read(entry.path().join("mesh.yaml")).ok()).collect();
    seeds.sort();
    seeds
}
