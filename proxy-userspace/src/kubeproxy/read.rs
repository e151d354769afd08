//! From the bytes of a file to a [`Document`]: strictly first, and where only unknown or repeated fields are in the way
//! leniently, with a warning that names them, as kube-proxy does.

use serde_json::{Map, Value};
use serde_saphyr::DuplicateKeyPolicy;

use super::Notice;
use super::document::{API_VERSION, Document, KIND};

/// Why there is no document.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// Not one at all.
    Document(String),
    /// A field of the wrong type.
    Field(Notice),
}

/// Reads a whole file, YAML or JSON.
pub(super) fn document(bytes: &[u8]) -> Result<(Document, Vec<Notice>), Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Document(format!("not UTF-8: {error}")))?;
    let mut warnings = Vec::new();
    let value = parse(text.strip_prefix('\u{feff}').unwrap_or(text), &mut warnings)?;
    let Value::Object(mut fields) = value else {
        return Err(Fault::Document(format!("not a {KIND}, which is a mapping of fields")));
    };
    check_type(&fields)?;
    warn_of_unknown(&fields, &tree(&Document::default()), "", &mut warnings);
    drop_nulls(&mut fields);
    Ok((decode(Value::Object(fields))?, warnings))
}

/// From a tree of values, in which nothing is null.
pub(super) fn decode(value: Value) -> Result<Document, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        Fault::Field(Notice { field: error.path().to_string(), problem: error.inner().to_string() })
    })
}

fn parse(text: &str, warnings: &mut Vec<Notice>) -> Result<Value, Fault> {
    // YAML in flow style starts like JSON does.
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let strict = parse_yaml(text, DuplicateKeyPolicy::Error);
    if let Err(strict) = &strict
        && let Ok(value) = parse_yaml(text, DuplicateKeyPolicy::LastWins)
    {
        warnings.push(Notice::new("content", format!("{}; the last one counts", first_line(strict))));
        return Ok(value);
    }
    strict.map_err(|error| Fault::Document(first_line(&error)))
}

fn parse_yaml(text: &str, duplicate_keys: DuplicateKeyPolicy) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! { duplicate_keys: duplicate_keys, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options)
}

/// The first line, which also says where; the parser may draw the source below it.
fn first_line(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned()
}

fn check_type(fields: &Map<String, Value>) -> Result<(), Fault> {
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        match fields.get(field) {
            Some(Value::String(given)) if given == wanted => {}
            Some(Value::String(given)) => {
                return Err(Fault::Field(Notice::new(field, format!("`{given}` is not `{wanted}`"))));
            }
            _ => return Err(Fault::Field(Notice::new(field, format!("must be `{wanted}`")))),
        }
    }
    Ok(())
}

/// Names every field of `fields` that `shape` does not have.
fn warn_of_unknown(fields: &Map<String, Value>, shape: &Value, path: &str, warnings: &mut Vec<Notice>) {
    let Value::Object(known) = shape else { return };
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (known.get(name), value) {
            // Its keys are names of gates.
            (Some(_), _) if path == "featureGates" => {}
            (Some(shape), Value::Object(fields)) => warn_of_unknown(fields, shape, &path, warnings),
            (Some(_), Value::Array(items)) if path == "logging.vmodule" => {
                let shape = serde_json::to_value(super::document::VModule::default()).unwrap_or_default();
                for (index, item) in items.iter().enumerate() {
                    if let Value::Object(fields) = item {
                        warn_of_unknown(fields, &shape, &format!("{path}[{index}]"), warnings);
                    }
                }
            }
            (Some(_), _) => {}
            (None, _) => {
                let meant = known.keys().find(|known| known.eq_ignore_ascii_case(name));
                let hint = meant.map(|meant| format!("; `{meant}` is one")).unwrap_or_default();
                warnings.push(Notice::new(path, format!("no such field{hint}; it is ignored")));
            }
        }
    }
}

/// A field that is null is one that is not there.
fn drop_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(fields) = value {
            drop_nulls(fields);
        }
    }
}

/// The value at a path such as `iptables.syncPeriod`.
pub(super) fn field<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').try_fold(value, |value, name| value.get(name)).unwrap_or(&Value::Null)
}

/// The document as a tree of values, with every field that there is.
pub(super) fn tree(document: &Document) -> Value {
    // Every key is text and every number finite: it cannot fail.
    serde_json::to_value(document).unwrap_or_default()
}

/// Reads a document that a test wrote.
#[cfg(test)]
pub(super) fn of_text(text: &str) -> Document {
    let head = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n");
    match document(format!("{head}{text}").as_bytes()) {
        Ok((document, _)) => document,
        Err(fault) => panic!("{fault:?}: {text}"),
    }
}
