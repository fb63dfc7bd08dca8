//! Documents → objects: one kind, one name, and a content that has the shape of its kind's schema.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value as Json;

use crate::cursor::Cursor;
use crate::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::kinds::Kind;
use crate::mesh::{Service, Workload};
use crate::metadata::{self, Metadata};
use crate::schema_walk::Walk;
use crate::source::{Place, Source, Span};
use crate::suggest;
use crate::yaml::{Node, Value};

/// What messages call an object: `HTTPRoute shop/cart`, `Mesh default`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Resource {
    kind: Arc<str>,
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
}

impl Resource {
    /// As far as the document says.
    fn of(root: &Node) -> Option<Resource> {
        let kind = root.get("kind")?.as_str()?;
        let metadata = |field: &str| root.get("metadata")?.get(field)?.as_str();
        let namespace = metadata("namespace").unwrap_or("default");
        Some(Resource {
            kind: kind.into(),
            namespace: (kind != Kind::Mesh.name()).then(|| namespace.into()),
            name: metadata("name").map(Arc::from),
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, " {namespace}/{name}"),
            (None, Some(name)) => write!(f, " {name}"),
            (_, None) => Ok(()),
        }
    }
}

/// One resource.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) source: Arc<Source>,
    pub(crate) kind: Kind,
    pub(crate) resource: Resource,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether `name` is a name; if not, nothing can refer to this.
    pub(crate) named: bool,
    /// Whether `namespace` is one; if not, what this refers to may be anywhere.
    pub(crate) placed: bool,
    /// The whole document, as written.
    pub(crate) root: Node,
    /// `spec`, or the document of a flat kind; what has not the shape of the schema is left out of it.
    pub(crate) content: Option<Json>,
    /// Places about which something was said already: what is missing there must not be reported again.
    pub(crate) reported: HashSet<Span>,
    /// What was made of it before.
    pub(crate) made: Made,
}

/// What follows from an object alone, kept where nothing had to be said about it: whoever reads a configuration again and again has it at
/// once for what has not changed.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) service: OnceLock<Service>,
    pub(crate) workload: OnceLock<Workload>,
    pub(crate) slice: OnceLock<EndpointSlice>,
}

/// What is made of an object, from memory if it was made before and nothing was said.
pub(crate) fn made<T: Clone>(
    memory: &OnceLock<T>,
    diagnostics: &mut Diagnostics,
    make: impl FnOnce(&mut Diagnostics) -> Option<T>,
) -> Option<T> {
    if let Some(known) = memory.get() {
        return Some(known.clone());
    }
    let said = diagnostics.said();
    let made = make(diagnostics)?;
    if diagnostics.said() == said {
        // Two readers would have made the same.
        let _ = memory.set(made.clone());
    }
    Some(made)
}

impl Object {
    pub(crate) fn place(&self, span: Span) -> Place {
        Place { source: self.source.clone(), span }
    }

    /// The document.
    pub(crate) fn root_cursor(&self) -> Cursor<'_> {
        Cursor::root(self)
    }

    /// The content: `spec`, or the document of a flat kind.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        if self.kind.flat() { self.root_cursor() } else { self.root_cursor().field("spec") }
    }

    /// Whether something is wrong with its shape, so that what it lacks means nothing.
    pub(crate) fn is_damaged(&self) -> bool {
        self.content.is_none() || !self.reported.is_empty() || !self.named || !self.placed
    }

    /// The content as its type.
    pub(crate) fn typed<T: serde::de::DeserializeOwned>(&self, diagnostics: &mut Diagnostics) -> Option<T> {
        match T::deserialize(self.content.as_ref()?) {
            Ok(typed) => Some(typed),
            // The schema says less than the type in a few corners; what is left is told by serde.
            Err(error) => {
                let place = self.cursor().place();
                diagnostics.push(Diagnostic::new(Code::InvalidValue, place, error.to_string()).of(&self.resource));
                None
            }
        }
    }
}

/// What a set of documents contains.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    pub(crate) objects: Vec<Arc<Object>>,
    /// Names of documents that could not be read, or not be told apart: a reference to them is not said to dangle.
    pub(crate) unreadable: HashSet<Arc<str>>,
}

impl Objects {
    /// Takes a document: one object, or a `v1` `List` of them.
    pub(crate) fn add(&mut self, source: &Arc<Source>, root: &Node, diagnostics: &mut Diagnostics) {
        let resource = Resource::of(root);
        let mut reader = ObjectReader { source, root, resource, diagnostics };
        let object = match reader.dispatch() {
            Some(Dispatch::List(items)) => {
                for item in items {
                    self.add(source, item, diagnostics);
                }
                return;
            }
            Some(Dispatch::Object(kind)) => reader.object(kind),
            None => None,
        };
        match object {
            Some(object) => {
                if !object.named || !object.placed {
                    self.unreadable.insert(object.name.clone());
                }
                self.objects.push(Arc::new(object));
            }
            None => self.unreadable.extend(Resource::of(root).and_then(|resource| resource.name)),
        }
    }
}

enum Dispatch<'a> {
    Object(Kind),
    List(&'a [Node]),
}

struct ObjectReader<'a, 'd> {
    source: &'a Arc<Source>,
    root: &'a Node,
    resource: Option<Resource>,
    diagnostics: &'d mut Diagnostics,
}

impl<'a> ObjectReader<'a, '_> {
    fn report(&mut self, code: Code, span: Span, message: impl Into<String>, help: impl Into<String>) {
        let mut diagnostic = Diagnostic::new(code, Place { source: self.source.clone(), span }, message).help(help);
        if let Some(resource) = &self.resource {
            diagnostic = diagnostic.of(resource);
        }
        self.diagnostics.push(diagnostic);
    }

    fn dispatch(&mut self) -> Option<Dispatch<'a>> {
        if matches!(self.root.value, Value::Broken) {
            return None;
        }
        if self.root.entries().is_empty() {
            let help = "write `apiVersion`, `kind`, `metadata` and `spec`";
            self.report(Code::WrongType, self.root.span, "a document must be a resource", help);
            return None;
        }
        let kind = self.text("kind", "write `kind:` and one of the kinds, as in `kind: Service`")?;
        if kind == "List" {
            return self.list();
        }
        let Some(known) = Kind::ALL.into_iter().find(|known| known.name() == kind) else {
            let names = Kind::ALL.map(Kind::name);
            let help = match suggest::nearest(&kind, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("Malla reads {} and List; keep other resources elsewhere", names.join(", ")),
            };
            self.report(Code::UnknownKind, self.field_span("kind"), format!("unknown kind `{kind}`"), help);
            return None;
        };
        let wanted = known.api_versions().first().copied().unwrap_or_default();
        let version = self.text("apiVersion", &format!("write `apiVersion: {wanted}`"))?;
        if known.api_versions().contains(&version.as_str()) {
            return Some(Dispatch::Object(known));
        }
        let message = format!("`{known}` is not a kind of `{version}`");
        self.report(Code::UnknownKind, self.field_span("apiVersion"), message, format!("write `apiVersion: {wanted}`"));
        None
    }

    fn list(&mut self) -> Option<Dispatch<'a>> {
        for entry in self.root.entries() {
            if !matches!(&*entry.key, "apiVersion" | "kind" | "metadata" | "items") {
                let message = format!("unknown field `{}`", entry.key);
                let help = "a List has `apiVersion`, `kind`, `metadata` and `items`";
                self.report(Code::UnknownField, entry.key_span, message, help);
            }
        }
        match self.root.get("items").map(|items| &items.value) {
            Some(Value::Sequence(items)) => Some(Dispatch::List(items)),
            Some(Value::Broken) => None,
            _ => {
                let help = "write `items:` and the resources as a list below it";
                self.report(Code::MissingField, self.root.span, "a List needs a list of `items`", help);
                None
            }
        }
    }

    /// A field of the document that must be a string.
    fn text(&mut self, field: &str, help: &str) -> Option<String> {
        let Some(node) = self.root.get(field) else {
            let near = suggest::nearest(field, self.root.entries().iter().map(|entry| &*entry.key));
            let help = near.map_or_else(|| help.to_owned(), |near| format!("write `{field}` instead of `{near}`"));
            self.report(Code::MissingField, self.first_span(), format!("a resource needs `{field}`"), help);
            return None;
        };
        if node.as_str().is_none() && !matches!(node.value, Value::Broken) {
            self.report(Code::WrongType, node.span, format!("`{field}` must be a string"), help);
        }
        node.as_str().map(str::to_owned)
    }

    fn field_span(&self, field: &str) -> Span {
        self.root.get(field).unwrap_or(self.root).span
    }

    fn first_span(&self) -> Span {
        self.root.entries().first().map_or(self.root.span, |entry| entry.key_span)
    }

    fn object(&mut self, kind: Kind) -> Option<Object> {
        let resource = self.resource.clone()?;
        let mut walk = Walk::new(self.source, &resource, self.diagnostics);
        let metadata = metadata::read(&mut walk, self.root, kind);
        let content = if kind.flat() {
            walk.fields_beside(self.root, kind.schema(), &["apiVersion", "kind", "metadata"])
        } else {
            walk.known_fields(self.root, &["apiVersion", "kind", "metadata", "spec", "status"]);
            match self.root.get("spec") {
                Some(spec) => walk.spec(spec, kind.schema()),
                None => {
                    walk.missing(self.root, "spec");
                    None
                }
            }
        };
        let reported = walk.into_reported();
        let Metadata { namespace, name, labels, named, placed } = metadata;
        Some(Object {
            source: self.source.clone(),
            kind,
            resource,
            namespace,
            name,
            labels,
            named,
            placed,
            root: self.root.clone(),
            content,
            reported,
            made: Made::default(),
        })
    }
}
