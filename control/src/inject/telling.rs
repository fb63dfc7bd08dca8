//! What sidecars tell of requests, and whom: the mesh's choice, and what a pod wishes otherwise. One name leads through: `trace-slow`
//! is the sidecar's flag `--trace-slow` and its variable `MALLA_TRACE_SLOW`, the pod's annotation `malla.dev/trace-slow`, and the
//! control server's flag `--sidecar-trace-slow`.

use std::collections::BTreeMap;

use malla_xds::telling::{Collector, Format, Which, share};
use serde::Serialize;

use super::annotations;

/// What sidecars tell of requests, and whom: values by the names of the sidecar's flags, as the flags take them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Telling(BTreeMap<&'static str, String>);

/// One of the sidecar's flags.
#[derive(Debug)]
struct Word {
    name: &'static str,
    annotation: &'static str,
    variable: &'static str,
    /// What is written instead of a value by a pod that shall not have what all others have.
    none: Option<&'static str>,
    /// Without which it means nothing.
    needs: Option<&'static str>,
    check: fn(&str) -> Result<(), String>,
}

const WORDS: [Word; 6] = [
    Word {
        name: "otlp",
        annotation: "malla.dev/otlp",
        variable: "MALLA_OTLP",
        none: Some("off"),
        needs: None,
        check: |text| text.parse::<Collector>().map(drop),
    },
    Word {
        name: "trace-sampling",
        annotation: "malla.dev/trace-sampling",
        variable: "MALLA_TRACE_SAMPLING",
        none: None,
        needs: Some("otlp"),
        check: |text| share(text).map(drop),
    },
    Word {
        name: "trace-failures",
        annotation: "malla.dev/trace-failures",
        variable: "MALLA_TRACE_FAILURES",
        none: Some("false"),
        needs: Some("otlp"),
        check: |text| if text == "true" { Ok(()) } else { Err("write true or false".to_owned()) },
    },
    Word {
        name: "trace-slow",
        annotation: "malla.dev/trace-slow",
        variable: "MALLA_TRACE_SLOW",
        none: Some("off"),
        needs: Some("otlp"),
        check: |text| annotations::seconds(text).map(drop).ok_or_else(|| "write a time such as 500ms".to_owned()),
    },
    Word {
        name: "access-log",
        annotation: "malla.dev/access-log",
        variable: "MALLA_ACCESS_LOG",
        none: Some("off"),
        needs: None,
        check: |text| text.parse::<Which>().map(drop),
    },
    Word {
        name: "access-log-format",
        annotation: "malla.dev/access-log-format",
        variable: "MALLA_ACCESS_LOG_FORMAT",
        none: None,
        needs: Some("access-log"),
        check: |text| text.parse::<Format>().map(drop),
    },
];

/// The annotations with which a pod chooses for itself.
pub(super) fn annotations() -> impl Iterator<Item = &'static str> + Clone {
    WORDS.iter().map(|word| word.annotation)
}

impl Telling {
    /// Values by the names of the sidecar's flags; other names are ignored, and nothing is checked yet.
    pub fn new<'a>(given: impl IntoIterator<Item = (&'a str, Option<String>)>) -> Self {
        let known = |name: &str| WORDS.iter().find(|word| word.name == name);
        let given = given.into_iter().filter_map(|(name, value)| Some((known(name)?.name, value?)));
        Telling(given.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sidecar's flag that is wrong, its value, and what to write.
    pub(super) fn check(&self) -> Result<(), (&'static str, String, String)> {
        for word in self.words() {
            let value = self.0.get(word.name).cloned().unwrap_or_default();
            (word.check)(&value).map_err(|advice| (word.name, value.clone(), format!("cannot be: {advice}")))?;
            if let Some(needed) = word.needs.filter(|needed| !self.0.contains_key(needed)) {
                return Err((word.name, value, format!("has no meaning without {needed}")));
            }
        }
        Ok(())
    }

    /// What the sidecar of a pod tells, which chooses by its annotations.
    ///
    /// # Errors
    /// A sentence that names the annotation and what to write.
    pub(super) fn of_pod<'a>(&self, annotation: impl Fn(&str) -> Option<&'a str>) -> Result<Telling, String> {
        let mut telling = self.clone();
        for word in &WORDS {
            match annotation(word.annotation).map(str::trim) {
                None => {}
                Some(text) if Some(text) == word.none => {
                    telling.0.remove(word.name);
                }
                Some(text) => {
                    (word.check)(text).map_err(|advice| format!("{}: {text:?}: {advice}", word.annotation))?;
                    telling.0.insert(word.name, text.to_owned());
                }
            }
        }
        for word in &WORDS {
            let Some(needed) = word.needs.filter(|needed| !telling.0.contains_key(needed)) else { continue };
            if annotation(word.annotation).is_some_and(|text| Some(text.trim()) != word.none) {
                return Err(format!(
                    "{} has no meaning without malla.dev/{needed}, which neither the pod nor the mesh has",
                    word.annotation
                ));
            }
            // What the mesh says of a thing that this pod does not have.
            telling.0.remove(word.name);
        }
        Ok(telling)
    }

    /// The variables of the sidecar's environment, with their values.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.words().filter_map(|word| Some((word.variable, self.0.get(word.name)?.as_str())))
    }

    fn words(&self) -> impl Iterator<Item = &'static Word> {
        WORDS.iter().filter(|word| self.0.contains_key(word.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_leads_through() {
        for word in &WORDS {
            assert_eq!(word.annotation, format!("malla.dev/{}", word.name));
            assert_eq!(word.variable, format!("MALLA_{}", word.name.to_uppercase().replace('-', "_")));
            assert!(word.needs.is_none_or(|needed| WORDS.iter().any(|word| word.name == needed)));
        }
    }

    fn mesh() -> Telling {
        Telling::new([
            ("otlp", Some("http://jaeger:4317".to_owned())),
            ("trace-slow", Some("1s".to_owned())),
            ("trace-failures", Some("true".to_owned())),
            ("access-log", Some("errors".to_owned())),
            ("access-log-format", None),
        ])
    }

    fn of_pod(mesh: &Telling, annotations: &[(&str, &'static str)]) -> Result<String, String> {
        let annotation = |name: &str| annotations.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let telling = mesh.of_pod(annotation)?;
        let said: Vec<_> = telling.variables().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(said.join(" "))
    }

    #[test]
    fn a_pod_has_what_the_mesh_has_unless_it_says_otherwise() {
        let all = "MALLA_OTLP=http://jaeger:4317 MALLA_TRACE_FAILURES=true MALLA_TRACE_SLOW=1s MALLA_ACCESS_LOG=errors";
        assert_eq!(of_pod(&mesh(), &[]).as_deref(), Ok(all));
        for (annotations, expected) in [
            (&[("malla.dev/otlp", "off")][..], "MALLA_ACCESS_LOG=errors"),
            (
                &[
                    ("malla.dev/access-log", "off"),
                    ("malla.dev/trace-failures", "false"),
                    ("malla.dev/trace-slow", "off"),
                ],
                "MALLA_OTLP=http://jaeger:4317",
            ),
            (
                &[
                    ("malla.dev/otlp", "http://tempo:4318"),
                    ("malla.dev/trace-sampling", " 5% "),
                    ("malla.dev/access-log", "10%"),
                    ("malla.dev/access-log-format", "{status} {path}"),
                ],
                "MALLA_OTLP=http://tempo:4318 MALLA_TRACE_SAMPLING=5% MALLA_TRACE_FAILURES=true MALLA_TRACE_SLOW=1s \
                 MALLA_ACCESS_LOG=10% MALLA_ACCESS_LOG_FORMAT={status} {path}",
            ),
        ] {
            assert_eq!(of_pod(&mesh(), annotations).as_deref(), Ok(expected), "{annotations:?}");
        }
        assert_eq!(of_pod(&Telling::default(), &[]).as_deref(), Ok(""));
        assert_eq!(of_pod(&Telling::default(), &[("malla.dev/otlp", "off")]).as_deref(), Ok(""));
    }

    #[test]
    fn what_a_sidecar_would_not_start_with_is_refused_in_words() {
        for (annotations, words) in [
            (
                &[("malla.dev/otlp", "jaeger:4317")][..],
                "malla.dev/otlp: \"jaeger:4317\": \"jaeger:4317\" does not begin",
            ),
            (&[("malla.dev/otlp", "https://jaeger:4317")], "TLS towards the collector is not supported yet"),
            (&[("malla.dev/trace-sampling", "2")], "write a share from 0% to 100%"),
            (&[("malla.dev/trace-failures", "yes")], "write true or false"),
            (&[("malla.dev/trace-slow", "slow")], "write a time such as 500ms"),
            (&[("malla.dev/access-log", "some")], "write errors, all, or a share"),
            (&[("malla.dev/access-log-format", "{path} {stats}")], "there is no field {stats} (character 8)"),
            (
                &[("malla.dev/otlp", "off"), ("malla.dev/trace-slow", "1s")],
                "trace-slow has no meaning without malla.dev/otlp",
            ),
            (
                &[("malla.dev/access-log", "off"), ("malla.dev/access-log-format", "json")],
                "access-log-format has no meaning without malla.dev/access-log",
            ),
        ] {
            let sentence = of_pod(&mesh(), annotations).expect_err("is refused");
            assert!(sentence.contains(words), "{annotations:?}: {sentence}");
        }
    }
}
