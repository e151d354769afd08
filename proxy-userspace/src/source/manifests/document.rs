//! From the bytes of a file to API objects, one document after the other.

use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::source::api::{self, Kind};

/// An object that decoded.
#[derive(Debug)]
pub(super) enum Object {
    Service(Box<api::Service>),
    Slice(api::EndpointSlice),
    Node(api::Node),
    ServiceCidr(api::ServiceCidr),
}

/// Something in a file that is not an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The document, counted from 1, and the item of a List in it.
    pub(super) place: String,
    /// Line in the file, counted from 1; none for items of a List.
    pub(super) line: Option<u64>,
    /// What is wrong.
    pub(super) problem: String,
    /// True if an object may be lost by it; false for objects of kinds that are not read at all.
    pub(super) is_bad: bool,
}

/// One thing that a file holds.
pub(super) type Found = Result<Object, Fault>;
type Sink<'a> = &'a mut dyn FnMut(Found);

/// Reads a file, one object at a time and in order. The name says whether it is JSON.
pub(super) fn read_file(path: &Path, bytes: &[u8], sink: Sink<'_>) {
    match std::str::from_utf8(bytes) {
        Err(error) => {
            let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
            sink(Err(Fault {
                place: "the file".into(),
                line: Some(line),
                problem: "not UTF-8; the file is skipped".into(),
                is_bad: true,
            }));
        }
        Ok(text) if path.extension().is_some_and(|extension| extension == "json") => {
            read_json(text, sink);
        }
        Ok(text) => read_yaml(text, sink),
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Splits at the document markers before parsing, so that one bad document does not hide the next.
fn read_yaml(text: &str, sink: Sink<'_>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut start, mut start_line) = (0, 1);
    let (mut offset, mut number) = (0, 0);
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        if is_marker(content) && offset > start {
            read_yaml_document(&text[start..offset], start_line, &mut number, sink);
            (start, start_line) = (offset, line);
        }
        offset += content.len();
    }
    read_yaml_document(&text[start..], start_line, &mut number, sink);
}

/// `---` at the start of a line always starts a document: YAML allows it in no scalar.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Documents without content are not counted: a comment above the first marker is not a document to its author.
fn read_yaml_document(text: &str, line: u64, number: &mut usize, sink: Sink<'_>) {
    let is_empty = text.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    });
    if !is_empty {
        *number += 1;
        read_document(&Yaml(text), &Document { number: *number, line }, sink);
    }
}

/// One value after the other. After a syntax error there is no telling where the next one starts.
fn read_json(text: &str, sink: Sink<'_>) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let (mut start, mut number) = (0, 0);
    while let Some(value) = values.next() {
        number += 1;
        let document = Document { number, line: 1 + count_lines(&text.as_bytes()[..start]) };
        if let Err(error) = value {
            sink(Err(document.fault(Problem::of_json(&error))));
            return;
        }
        let end = values.byte_offset();
        read_document(&Json(&text[start..end]), &document, sink);
        start = end;
    }
}

/// Where a document is in its file.
struct Document {
    number: usize,
    /// Line on which its text starts, counted from 1.
    line: u64,
}

impl Document {
    fn fault(&self, problem: Problem) -> Fault {
        Fault {
            place: format!("document {}", self.number),
            line: problem.line.map(|line| self.line + line.saturating_sub(1)),
            problem: problem.text,
            is_bad: true,
        }
    }
}

fn read_document(source: &impl Source, document: &Document, sink: Sink<'_>) {
    let meta = match source.type_meta() {
        Ok(meta) => meta,
        Err(problem) => return sink(Err(document.fault(problem))),
    };
    if meta.known() == Some(Kind::List) {
        match source.decode::<List>() {
            Ok(list) => read_items(list, document, sink),
            Err(problem) => sink(Err(document.fault(problem))),
        }
        return;
    }
    sink(read_object(source, &meta).map_err(|error| match error {
        Refused::Undecodable(problem) => document.fault(problem),
        Refused::Unread(problem) => Fault { is_bad: false, ..document.fault(problem) },
    }));
}

fn read_items(list: List, document: &Document, sink: Sink<'_>) {
    for (index, item) in list.items.unwrap_or_default().into_iter().enumerate() {
        let item = Item(item);
        let object =
            item.type_meta().map_err(Refused::Undecodable).and_then(|meta| read_object(&item, &meta));
        sink(object.map_err(|error| {
            let (problem, is_bad) = match error {
                Refused::Undecodable(problem) => (problem.text, true),
                Refused::Unread(problem) => (problem.text, false),
            };
            let place = format!("document {}, items[{index}]", document.number);
            Fault { place, line: Some(document.line), problem, is_bad }
        }));
    }
}

/// Why there is no object.
enum Refused {
    /// It does not decode.
    Undecodable(Problem),
    /// It is of a kind that is not read.
    Unread(Problem),
}

fn read_object(source: &impl Source, meta: &api::TypeMeta) -> Result<Object, Refused> {
    let object = match meta.known() {
        Some(Kind::Service) => source.decode().map(|service| Object::Service(Box::new(service))),
        Some(Kind::EndpointSlice) => source.decode().map(Object::Slice),
        Some(Kind::Node) => source.decode().map(Object::Node),
        Some(Kind::ServiceCidr) => source.decode().map(Object::ServiceCidr),
        Some(Kind::List) => return Err(Refused::Undecodable(Problem::new("a List inside a List"))),
        None if meta.kind.is_empty() => return Err(Refused::Undecodable(Problem::new("it has no kind"))),
        None => {
            let text = format!("{:?} of {:?} is not read; it is ignored", meta.kind, meta.api_version);
            return Err(Refused::Unread(Problem::new(text)));
        }
    };
    object.map_err(Refused::Undecodable)
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<serde_json::Value>>,
}

/// Why a document could not be decoded.
struct Problem {
    /// Line within the document, counted from 1.
    line: Option<u64>,
    text: String,
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self { line: Some(1), text: text.into() }
    }

    fn of_json(error: &serde_json::Error) -> Self {
        Self { line: Some(error.line() as u64), text: first_line(error) }
    }

    fn of_yaml(error: &serde_saphyr::Error) -> Self {
        let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
        Self { line: line.or(Some(1)), text: first_line(error.without_snippet()) }
    }
}

/// Messages become one log line; some parsers draw the source below theirs.
fn first_line(message: &impl ToString) -> String {
    message.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Text or value that decodes.
trait Source {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, Problem>;

    fn type_meta(&self) -> Result<api::TypeMeta, Problem> {
        self.decode()
    }
}

struct Yaml<'a>(&'a str);
struct Json<'a>(&'a str);
struct Item(serde_json::Value);

impl Source for Yaml<'_> {
    /// The parser's limits on size are lifted: a List of 100 000 objects is a large file, not an attack. Its limits on
    /// aliases and depth stay. Only `true` and `false` are booleans: a List is decoded before its types are known, and
    /// an object may be called `n` or `on`.
    fn decode<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_events: usize::MAX,
                max_nodes: usize::MAX,
                max_total_scalar_bytes: usize::MAX,
                max_total_comment_bytes: usize::MAX,
            },
            strict_booleans: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(self.0, options).map_err(|error| Problem::of_yaml(&error))
    }

    /// Saves a whole parse for documents as everyone writes them.
    fn type_meta(&self) -> Result<api::TypeMeta, Problem> {
        plain_type_meta(self.0).map_or_else(|| self.decode(), Ok)
    }
}

/// Kind and version of a block mapping whose root keys say so in plain words. In such a document every line that
/// starts with a letter is a root key, so nothing else can look like one; anything less plain is left to the parser.
fn plain_type_meta(text: &str) -> Option<api::TypeMeta> {
    let mut lines = text.lines().skip_while(|line| line.trim_end() == "---" || line.starts_with('#'));
    let is_root_key = |line: &&str| line.starts_with(|first: char| first.is_ascii_alphabetic());
    let first = lines.next().filter(is_root_key)?;
    let mut meta = api::TypeMeta::default();
    for line in std::iter::once(first).chain(lines).filter(is_root_key) {
        let field = match line.split_once(':')?.0 {
            "kind" => &mut meta.kind,
            "apiVersion" => &mut meta.api_version,
            _ => continue,
        };
        let value = line.split_once(": ")?.1.trim();
        let is_plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte));
        if !is_plain || value.is_empty() || !field.is_empty() {
            return None;
        }
        field.push_str(value);
    }
    (!meta.kind.is_empty() && !meta.api_version.is_empty()).then_some(meta)
}

impl Source for Json<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_json::from_str(self.0).map_err(|error| Problem::of_json(&error))
    }
}

impl Source for Item {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(&self.0).map_err(|error| Problem::new(first_line(&error)))
    }
}
