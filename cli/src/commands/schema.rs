//! `malla schema`: what may be written in Malla's own kinds.

use std::process::ExitCode;

use anyhow::bail;
use malla_config::KindSchema;
use serde_json::{Value, json};

use crate::arguments::{SchemaArguments, SchemaFormat};
use crate::output;

/// Prints the schemas that were asked for: one document for one kind, all in one JSON object or YAML stream otherwise.
///
/// # Errors
/// There is no such kind, or standard output is gone.
pub(crate) fn run(arguments: &SchemaArguments) -> anyhow::Result<ExitCode> {
    if arguments.format == SchemaFormat::Markdown && arguments.kind.is_none() {
        output::print(malla_config::reference().trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut schemas = malla_config::schema();
    if let Some(wanted) = &arguments.kind {
        let kinds: Vec<&str> = schemas.iter().map(|schema| schema.kind).collect();
        let kinds = kinds.join(", ");
        schemas.retain(|schema| schema.kind.eq_ignore_ascii_case(wanted));
        if schemas.is_empty() {
            bail!("{wanted:?} is not one of Malla's own kinds, which are {kinds}");
        }
    }
    match (arguments.format, schemas.as_slice()) {
        (SchemaFormat::Crd, schemas) => {
            let documents: Vec<String> = schemas.iter().map(|schema| schema.crd_yaml().trim_end().to_owned()).collect();
            output::print(documents.join("\n---\n"))?;
        }
        (SchemaFormat::Json, [one]) if arguments.kind.is_some() => output::print_json(&one.json_schema)?,
        (SchemaFormat::Markdown, _) => bail!("the reference is of all kinds: leave the kind out"),
        (SchemaFormat::Json, schemas) => output::print_json(&any_of(schemas))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A schema that each of the kinds satisfies, for editors that know one schema per file. Definitions move to the top, where
/// references look for them.
fn any_of(schemas: &[KindSchema]) -> Value {
    let mut definitions = serde_json::Map::new();
    let mut kinds = Vec::new();
    for schema in schemas {
        let mut kind = schema.json_schema.clone();
        if let Value::Object(fields) = &mut kind {
            fields.remove("$schema");
            if let Some(Value::Object(of_kind)) = fields.remove("$defs") {
                definitions.extend(of_kind);
            }
        }
        kinds.push(kind);
    }
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": definitions, "anyOf": kinds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_share_definitions_only_if_they_mean_the_same() {
        let schemas = malla_config::schema();
        let all = any_of(&schemas);
        for schema in &schemas {
            let Some(definitions) = schema.json_schema.get("$defs").and_then(Value::as_object) else { continue };
            for (name, definition) in definitions {
                assert_eq!(&all["$defs"][name], definition, "{name} of {}", schema.kind);
            }
        }
    }
}
