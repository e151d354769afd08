//! The way from manifests to model objects, timed apart from the maps.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use shunt::model::Event;
use shunt::source::manifests::Directory;

use super::objects::World;

/// Milliseconds to read all of `world` from one file's bytes, and the file's megabytes.
///
/// The objects read must be those that the fill is given: this is what ties the bench to real manifests.
pub(super) fn read(world: &World) -> Result<(f64, f64)> {
    let text = world.manifests().into_bytes();
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let megabytes = text.len() as f64 / 1e6;
    let mut directory = Directory::new("bench");
    let start = Instant::now();
    let batch = directory.list([(PathBuf::from("all.yaml"), Some(text))]);
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    ensure!(batch.warnings.is_empty(), "manifests: {:?}", batch.warnings.first());
    ensure!(
        objects(batch.events) == objects(world.events()),
        "the manifests say something else than the model"
    );
    Ok((milliseconds, megabytes))
}

/// The objects among `events`, in the order of their names.
fn objects(events: Vec<Event>) -> Vec<Event> {
    let mut objects: Vec<Event> = events
        .into_iter()
        .filter(|event| !matches!(event, Event::ListStarted(_) | Event::ListEnded(_)))
        .collect();
    objects.sort_by(|a, b| name(a).cmp(name(b)));
    objects
}

fn name(event: &Event) -> &str {
    match event {
        Event::ServiceApplied(service) => service.name.as_str(),
        Event::SliceApplied(slice) => slice.name.as_str(),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_and_model_say_the_same() {
        read(&World::new(20, 3)).unwrap();
    }
}
