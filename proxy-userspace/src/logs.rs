//! The agent's log: set up once, written to standard error, filtered by `SHUNT_LOG`.
//!
//! What concerns one service port carries the field `service`, always in the form
//! `namespace/name:port/protocol` (the label of the plan), so that one Service can be followed from the source to
//! the kernel by one search. Text from objects goes into fields, never into a format.

use std::io::{self, IsTerminal, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::LogFormat;

/// Variable that holds the filter, e.g. `info,shunt::source=debug`.
pub const FILTER_VARIABLE: &str = "SHUNT_LOG";

/// Why no log was set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("{FILTER_VARIABLE}: {0}")]
    Filter(#[from] ParseError),
    /// A log had been set up before.
    #[error("a log is set up already")]
    Twice,
}

/// Sends this process's log to standard error in the form `format`, as far as the filter `wanted` lets it through; an
/// empty one is `info`.
pub fn init(format: LogFormat, wanted: &str) -> Result<(), LogError> {
    let subscriber = subscriber(format, wanted, io::stderr().is_terminal(), io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

fn subscriber<W, M>(
    format: LogFormat,
    wanted: &str,
    colours: bool,
    writer: M,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: Write,
    M: for<'a> MakeWriter<'a, Writer = W> + Send + Sync + 'static,
{
    let filter =
        if wanted.trim().is_empty() { EnvFilter::try_new("info")? } else { EnvFilter::try_new(wanted)? };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_ansi(colours).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, events: fn()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn events() {
        tracing::info!(service = "default/web:http/tcp", "service refused");
        tracing::debug!("detail");
    }

    #[test]
    fn text_starts_at_info() {
        let text = logged(LogFormat::Text, "", events);
        assert!(
            text.contains("service refused") && text.contains("service=\"default/web:http/tcp\""),
            "{text}"
        );
        assert!(!text.contains("detail") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn the_filter_decides() {
        assert!(logged(LogFormat::Text, "debug", events).contains("detail"));
        assert_eq!(logged(LogFormat::Text, "error", events), "");
        let wrong = subscriber(LogFormat::Text, "shunt=loud", false, io::sink).err().unwrap();
        assert!(wrong.to_string().starts_with("SHUNT_LOG: "), "{wrong}");
    }

    #[test]
    fn json_has_the_service_at_the_top() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, "", events)).unwrap();
        assert_eq!(line["service"], "default/web:http/tcp");
        assert_eq!(line["level"], "INFO");
    }
}
