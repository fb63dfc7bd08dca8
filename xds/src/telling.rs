//! What a sidecar tells of requests, and whom, as its flags and its environment write it: which requests have a line in the access log
//! and what it says, which share of traces is followed, the collector. Whoever makes sidecars checks these words by the same rules.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Which requests have a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Which {
    /// Those that failed: a reason, a status of 500 or above, or a gRPC status that is the server's fault.
    Errors,
    /// Those, and of the others this share: 1 is all.
    Share(f64),
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Every field that the request has, as one JSON object.
    Json,
    /// Text with fields in braces: `{time} {method} {path} {status}`.
    Text(Template),
}

/// A text with places for fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Said as it is.
    Literal(String),
    /// What the field is for the request.
    Field(Field),
}

impl Template {
    /// The pieces, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}

macro_rules! fields {
    ($($field:ident = $name:literal, $help:literal;)+) => {
        /// What can be said of a request or a connection.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field {
            $(#[doc = $help] $field,)+
        }

        impl Field {
            /// All, in the order of a JSON line.
            pub const ALL: &'static [Field] = &[$(Field::$field,)+];

            /// The word for it in templates and in JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Field::$field => $name,)+ }
            }
        }

        /// Name and meaning of each field, in the order of a JSON line.
        pub const FIELDS: &[(&str, &str)] = &[$(($name, $help),)+];
    };
}

fields! {
    Time = "time", "when the request or the connection was over (RFC 3339, UTC)";
    DirectionWord = "direction", "`inbound` or `outbound`";
    Service = "service", "the service that it was for: `name.namespace:port`; `outside` of the mesh, or `unknown`";
    Route = "route", "the route that it took";
    Protocol = "protocol", "what the client speaks; `tcp` for a raw connection, of which there is no method, path or status";
    Method = "method", "the method";
    Path = "path", "the path, without the query";
    Status = "status", "the status that the client got, or would have got";
    GrpcStatus = "grpc_status", "the gRPC status, where there is one";
    ReasonWord = "reason", "the word for what failed";
    Sentence = "sentence", "the same in words, with what it was about";
    Client = "client", "inbound: the identity of the caller, from its certificate";
    Endpoint = "endpoint", "outbound: the address of the last endpoint that was tried";
    Workload = "workload", "outbound: the workload there";
    Peer = "peer", "outbound: the identity of the endpoint";
    Tries = "tries", "how often the request was sent to an endpoint, or the connection was begun";
    HedgeWord = "hedge", "`won` or `lost`: whether a second try, beside a first that took long, was the one to be answered";
    Sent = "sent_bytes", "of a connection: bytes from the client";
    Received = "received_bytes", "of a connection: bytes to the client";
    Duration = "duration_ms", "from the complete head of the request to the end of the response; of a connection, from its arrival (inbound: from when it is known what it carries) to its end";
    Waiting = "waiting_ms", "of that, until the last try began: looking up, limits, faults, earlier tries";
    Connecting = "connecting_ms", "then, until there was a connection, mTLS included: 0 on one that was there already";
    FirstByte = "first_byte_ms", "then, until the response began: the work of the upstream";
    Body = "body_ms", "then, until the response had ended; of a connection, as long as it carried bytes";
    Trace = "trace", "the id of its trace, if spans are told of it";
}

impl FromStr for Which {
    type Err = String;

    /// `errors`, `all`, or a share.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "errors" => Ok(Which::Errors),
            "all" => Ok(Which::Share(1.0)),
            part => share(part).map(Which::Share).map_err(|_| "write errors, all, or a share such as 1%".to_owned()),
        }
    }
}

/// A share of requests: `1%` or `0.01`.
///
/// # Errors
/// What to write instead.
pub fn share(text: &str) -> Result<f64, String> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share = number.trim().parse::<f64>().ok().map(|number| number / whole);
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "write a share from 0% to 100%, for example 1%".to_owned())
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "json" { Ok(Format::Json) } else { text.parse().map(Format::Text) }
    }
}

impl FromStr for Template {
    type Err = String;

    /// `{{` and `}}` are braces.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.char_indices().peekable();
        while let Some((at, character)) = rest.next() {
            match character {
                '{' | '}' if rest.next_if(|(_, next)| *next == character).is_some() => literal.push(character),
                '{' => {
                    let after = text.split_at_checked(at.saturating_add(1)).unwrap_or_default().1;
                    let (name, _) = after
                        .split_once('}')
                        .ok_or_else(|| format!("the brace at character {} is not closed", at.saturating_add(1)))?;
                    let field = Field::ALL.iter().find(|field| field.name() == name);
                    let field = field.ok_or_else(|| unknown(name, at))?;
                    while rest.next().is_some_and(|(_, next)| next != '}') {}
                    parts.extend([Part::Literal(std::mem::take(&mut literal)), Part::Field(*field)]);
                }
                '}' => {
                    return Err(format!(
                        "a brace is closed at character {}: write }}}} for the character",
                        at.saturating_add(1)
                    ));
                }
                other => literal.push(other),
            }
        }
        parts.push(Part::Literal(literal));
        parts.retain(|part| *part != Part::Literal(String::new()));
        if parts.iter().any(|part| matches!(part, Part::Field(_))) {
            Ok(Template(parts))
        } else {
            Err("write json, or a text with fields in braces: {time} {method} {path} {status}".to_owned())
        }
    }
}

fn unknown(name: &str, at: usize) -> String {
    let known: Vec<&str> = Field::ALL.iter().map(|field| field.name()).collect();
    format!("there is no field {{{name}}} (character {}): the fields are {}", at.saturating_add(1), known.join(", "))
}

/// A receiver of OTLP, without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Collector {
    /// OTLP over gRPC: `http://collector:4317`.
    Grpc(Uri),
    /// OTLP over HTTP, binary: `http://collector:4318/v1/traces`.
    Http(Uri),
}

impl FromStr for Collector {
    type Err = String;

    /// The port of OTLP over HTTP, or a path, is HTTP; everything else gRPC.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let example = "write http://HOST:4317 (gRPC) or http://HOST:4318/v1/traces (HTTP)";
        let url: Uri = text.parse().map_err(|_| format!("{text:?} is not a URL; {example}"))?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(format!("TLS towards the collector is not supported yet; {example}")),
            _ => return Err(format!("{text:?} does not begin with http://; {example}")),
        }
        match (url.path(), url.port_u16()) {
            ("/" | "", Some(4318)) => {
                let whole = format!("{}/v1/traces", text.trim_end_matches('/'));
                whole.parse().map(Collector::Http).map_err(|_| example.to_owned())
            }
            ("/" | "", _) => Ok(Collector::Grpc(url)),
            _ => Ok(Collector::Http(url)),
        }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Collector::Grpc(url) | Collector::Http(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_is_none_is_refused_with_its_place() {
        for (text, expected) in [
            ("{time} {pth}", "there is no field {pth} (character 8)"),
            ("{time} {path", "the brace at character 8 is not closed"),
            ("{time} }", "closed at character 8"),
            ("jsn", "write json, or a text"),
            ("", "write json, or a text"),
        ] {
            let error = text.parse::<Format>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn shares_and_choices_are_read_and_others_refused_in_words() {
        for (text, expected) in [("1%", 0.01), ("0.01", 0.01), ("100%", 1.0), ("0", 0.0), ("2.5 %", 0.025)] {
            assert_eq!(share(text), Ok(expected), "{text}");
            assert_eq!(text.parse(), Ok(Which::Share(expected)), "{text}");
        }
        assert_eq!("errors".parse(), Ok(Which::Errors));
        assert_eq!("all".parse(), Ok(Which::Share(1.0)));
        for text in ["101%", "-1%", "1.5", "NaN", "inf", "%", "", "1%%", "some"] {
            assert!(share(text).is_err_and(|error| error.contains("from 0% to 100%")), "{text}");
            assert!(text.parse::<Which>().is_err_and(|error| error.contains("errors, all, or a share")), "{text}");
        }
    }

    #[test]
    fn the_port_or_a_path_tells_how_otlp_is_spoken() {
        let http = |url: &str| Ok(Collector::Http(url.parse().expect("a URL")));
        let grpc = |url: &str| Ok(Collector::Grpc(url.parse().expect("a URL")));
        for (text, expected) in [
            ("http://jaeger:4317", grpc("http://jaeger:4317")),
            ("http://jaeger", grpc("http://jaeger")),
            ("http://jaeger:4318", http("http://jaeger:4318/v1/traces")),
            ("http://jaeger:4318/", http("http://jaeger:4318/v1/traces")),
            ("http://jaeger:4317/v1/traces", http("http://jaeger:4317/v1/traces")),
            ("http://[::1]:9411/otlp/v1/traces", http("http://[::1]:9411/otlp/v1/traces")),
        ] {
            assert_eq!(text.parse::<Collector>(), expected, "{text}");
        }
        for (text, words) in [
            ("https://jaeger:4317", "TLS towards the collector is not supported yet"),
            ("jaeger:4317", "does not begin with http://"),
            ("/v1/traces", "does not begin with http://"),
            ("http://", "is not a URL"),
            ("http://a b", "is not a URL"),
        ] {
            let error = text.parse::<Collector>().expect_err(text);
            assert!(error.contains(words) && error.contains("http://HOST:4318/v1/traces"), "{text}: {error}");
        }
    }
}
