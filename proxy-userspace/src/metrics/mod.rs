//! `/metrics`: what the agent and the programs count, gathered at the moment of a scrape.
//!
//! Names that begin with `kubeproxy_` mean what they mean there; the rest is `shunt_*` and `process_*`. kube-proxy
//! writes each IP family by itself, Shunt both at once: where kube-proxy has a label `ip_family` and the thing measured
//! is the batch, there is none here.

mod agent;
pub mod family;
mod kube_proxy;
mod process;
mod reading;
pub mod services;

use std::sync::{Mutex, PoisonError};

use tracing::warn;

use self::family::{Family, Form, encode};
use self::services::ServiceTotals;
use crate::maps::StoreError;
use crate::maps::fill::HashCounts;
use crate::maps::reading::{MapsReader, Reading};
use crate::status::Reporter;

/// Gathers and writes metrics.
#[derive(Debug)]
pub struct Scraper {
    reporter: Reporter,
    /// None where there are no maps to read, in tests.
    maps: Option<MapsReader>,
    /// Whether service ports are counted one by one.
    has_services: bool,
    /// Held for a whole scrape: they come one after the other.
    services: Mutex<ServiceTotals>,
}

impl Scraper {
    /// Scrapes what `reporter` knows and what is in `maps`; `service_limit` service ports get series of their own, and
    /// with zero none are counted.
    pub fn new(reporter: Reporter, maps: Option<MapsReader>, service_limit: usize) -> Self {
        let services = Mutex::new(ServiceTotals::new(service_limit));
        Self { reporter, maps, has_services: service_limit > 0, services }
    }

    /// The whole text. It blocks, for some milliseconds for each hundred thousand service ports.
    pub fn scrape(&self, form: Form) -> String {
        encode(&self.families(), form)
    }

    fn families(&self) -> Vec<Family> {
        let mut totals = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, measures) = (self.reporter.snapshot(), self.reporter.measures());
        // Before that the maps may hold service ports that nobody has named yet.
        let with_services = self.has_services && status.ready_at.is_some();
        let reading = self.read(measures.counted, with_services).unwrap_or_else(|error| {
            warn!(%error, "the maps cannot be read for /metrics");
            None
        });
        let mut families = kube_proxy::families(&measures, reading.as_ref());
        families.extend(agent::families(&status, &measures));
        families.push(reading::readable(reading.is_some()));
        if let Some(reading) = &reading {
            families.extend(reading::families(reading));
            if with_services {
                families.extend(reading::services(&totals.look(&reading.cells), &self.reporter));
            }
        }
        families.extend(process::families());
        families
    }

    fn read(&self, counts: HashCounts, with_services: bool) -> Result<Option<Reading>, StoreError> {
        self.maps.as_ref().map_or(Ok(None), |maps| maps.read(counts, with_services))
    }
}

/// Seconds since 1970, or 0 for what has not happened yet, as kube-proxy has it.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^52")]
fn seconds(at: Option<jiff::Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_millisecond() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proxy_common::reason::DropReason;

    use super::services::Shown;
    use super::*;
    use crate::model::Listing;
    use crate::status::Identity;

    /// What is between backticks and begins as our metrics do.
    fn named(text: &str) -> BTreeSet<&str> {
        let is_ours =
            |name: &&str| ["shunt_", "kubeproxy_", "process_"].iter().any(|ours| name.starts_with(ours));
        text.split('`').skip(1).step_by(2).filter(is_ours).collect()
    }

    #[test]
    fn every_name_and_no_other_is_in_the_table_of_deploy() {
        let reporter = Reporter::new(Identity::default(), &Listing::ALL);
        let mut families = Scraper::new(reporter.clone(), None, 0).families();
        let reading = Reading::default();
        families.extend(kube_proxy::families(&reporter.measures(), Some(&reading)));
        families.extend(reading::families(&reading));
        families.extend(reading::services(&Shown::default(), &reporter));
        let text = encode(&families, Form::Text);
        let told: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let (_, section) = readme.split_once("\n## Metrics\n").unwrap();
        let section = section.split("\n## ").next().unwrap();
        assert_eq!(named(section), told);
        assert!(told.len() > 40, "{told:?}");
        for reason in DropReason::ALL {
            assert!(section.contains(&format!("`{}`", reason.name())), "{}", reason.name());
        }
    }
}
