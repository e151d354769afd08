//! What `/metrics` tells, as data: families of series, and how they are written in both text formats.

use std::fmt::Write;

use crate::status::Histogram;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Text,
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, but for a restart; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size.
    Histogram,
    /// Facts as labels, with the value 1; the name ends in `_info`.
    Info,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count.
    Whole(u64),
    /// Any number.
    Real(f64),
    /// Observations.
    Observed(Histogram),
}

/// Labels of a series: names and values.
pub type Labels = Vec<(&'static str, String)>;

/// Series of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    series: Vec<(Labels, Value)>,
}

impl Form {
    /// The format that an `Accept` header asks for: OpenMetrics where it is wanted at least as much as plain text.
    pub fn accepted(accept: &str) -> Self {
        let weight = |media_type: &str| {
            accept
                .split(',')
                .map(str::trim)
                .filter(|item| item.split(';').next().is_some_and(|name| name.trim() == media_type))
                .map(quality)
                .fold(0.0, f64::max)
        };
        let open = weight("application/openmetrics-text");
        if open > 0.0 && open >= weight("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// The media type of the answer.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The `q` of one item of an `Accept` header.
fn quality(item: &str) -> f64 {
    let given = item.split(';').find_map(|part| part.trim().strip_prefix("q="));
    given.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

impl Family {
    /// A family without series.
    pub const fn new(kind: Kind, name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind, series: Vec::new() }
    }

    /// A family of one series without labels.
    pub fn single(kind: Kind, (name, help): (&'static str, &'static str), value: Value) -> Self {
        let mut family = Self::new(kind, name, help);
        family.push(Vec::new(), value);
        family
    }

    /// Adds a series.
    pub fn push(&mut self, labels: Labels, value: Value) {
        self.series.push((labels, value));
    }

    fn write(&self, form: Form, out: &mut String) {
        let Self { name, help, .. } = self;
        let (family, kind) = match (self.kind, form) {
            // OpenMetrics names the family without what its samples add.
            (Kind::Counter, Form::OpenMetrics) => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            (Kind::Info, Form::OpenMetrics) => (name.strip_suffix("_info").unwrap_or(name), "info"),
            (Kind::Counter, Form::Text) => (*name, "counter"),
            (Kind::Gauge, _) | (Kind::Info, Form::Text) => (*name, "gauge"),
            (Kind::Histogram, _) => (*name, "histogram"),
        };
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} {kind}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| family.ends_with(&format!("_{unit}")));
        if let (Form::OpenMetrics, Some(unit)) = (form, unit) {
            let _ = writeln!(out, "# UNIT {family} {unit}");
        }
        for (labels, value) in &self.series {
            match value {
                Value::Whole(value) => line(out, (name, ""), labels, &value.to_string()),
                Value::Real(value) => line(out, (name, ""), labels, &real(*value)),
                Value::Observed(histogram) => observed(out, name, labels, histogram),
            }
        }
    }
}

/// All of `families` in one text.
pub fn encode(families: &[Family], form: Form) -> String {
    let mut out = String::new();
    for family in families {
        family.write(form, &mut out);
    }
    if form == Form::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn observed(out: &mut String, name: &str, labels: &Labels, histogram: &Histogram) {
    let buckets = histogram.cumulative();
    let all = buckets.last().map_or(0, |(_, count)| *count);
    for (bound, count) in buckets {
        let mut labels = labels.clone();
        labels.push(("le", real(bound)));
        line(out, (name, "_bucket"), &labels, &count.to_string());
    }
    line(out, (name, "_sum"), labels, &real(histogram.sum()));
    line(out, (name, "_count"), labels, &all.to_string());
}

fn line(out: &mut String, (name, suffix): (&str, &str), labels: &Labels, value: &str) {
    let _ = write!(out, "{name}{suffix}");
    for (index, (label, text)) in labels.iter().enumerate() {
        let _ = write!(out, "{}{label}=\"{}\"", if index == 0 { '{' } else { ',' }, escaped(text));
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The canonical form of OpenMetrics, which the older format takes as well: `1.0`, `0.25`, `+Inf`.
fn real(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let mut drops = Family::new(Kind::Counter, "x_drops_total", "Drops.");
        drops.push(vec![("reason", "a\"b\\c\nd".to_owned())], Value::Whole(u64::MAX));
        let mut histogram = Histogram::new(vec![0.5, 1.0]);
        histogram.observe(0.75);
        let mut took = Family::new(Kind::Histogram, "x_seconds", "Took.");
        took.push(vec![("ip_family", "IPv4".to_owned())], Value::Observed(histogram));
        let mut build = Family::new(Kind::Info, "x_build_info", "Build.");
        build.push(vec![("version", "1".to_owned())], Value::Whole(1));
        vec![drops, took, build]
    }

    #[test]
    fn both_formats_are_as_their_specifications_show() {
        let samples = "x_seconds_bucket{ip_family=\"IPv4\",le=\"0.5\"} 0\n\
                       x_seconds_bucket{ip_family=\"IPv4\",le=\"1.0\"} 1\n\
                       x_seconds_bucket{ip_family=\"IPv4\",le=\"+Inf\"} 1\n\
                       x_seconds_sum{ip_family=\"IPv4\"} 0.75\nx_seconds_count{ip_family=\"IPv4\"} 1\n";
        let drop = "x_drops_total{reason=\"a\\\"b\\\\c\\nd\"} 18446744073709551615\n";
        let build = "x_build_info{version=\"1\"} 1\n";
        assert_eq!(
            encode(&families(), Form::OpenMetrics),
            format!(
                "# HELP x_drops Drops.\n# TYPE x_drops counter\n{drop}\
                 # HELP x_seconds Took.\n# TYPE x_seconds histogram\n# UNIT x_seconds seconds\n{samples}\
                 # HELP x_build Build.\n# TYPE x_build info\n{build}# EOF\n"
            )
        );
        assert_eq!(
            encode(&families(), Form::Text),
            format!(
                "# HELP x_drops_total Drops.\n# TYPE x_drops_total counter\n{drop}\
                 # HELP x_seconds Took.\n# TYPE x_seconds histogram\n{samples}\
                 # HELP x_build_info Build.\n# TYPE x_build_info gauge\n{build}"
            )
        );
    }

    #[test]
    fn the_scraper_chooses_the_format() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, form) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/plain", Form::Text),
            ("application/openmetrics-text", Form::OpenMetrics),
            (prometheus, Form::OpenMetrics),
            ("text/plain;q=0.9, application/openmetrics-text;q=0.2", Form::Text),
            ("application/openmetrics-text;q=0", Form::Text),
        ] {
            assert_eq!(Form::accepted(accept), form, "{accept}");
        }
    }
}
