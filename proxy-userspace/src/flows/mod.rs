//! The records of flows, as the agent looks after them: what is over is swept away, what lives is counted. Programs make and
//! read them without the agent; while it is away, records stay longer than they need to, and after a flood
//! flows begin apart ([`proxy_common::flow::Flow::APART`]).

mod places;
mod sweep;

pub use places::Places;
pub use sweep::{Sweeper, Swept, Tables};

use std::time::{Duration, Instant};

use tracing::warn;

/// Between two rounds. A record that is over is absent to every program, so that this is about memory, and about
/// how long after a flood flows begin apart.
const PAUSE: Duration = Duration::from_secs(30);

/// Sweeps for ever, on a thread of its own, and says what each round has found.
pub fn start(
    mut sweeper: Sweeper,
    mut tell: impl FnMut(Swept, Duration) + Send + 'static,
) -> std::io::Result<()> {
    let forever = move || {
        loop {
            let begun = Instant::now();
            match sweeper.round() {
                Ok(swept) => tell(swept, begun.elapsed()),
                Err(error) => {
                    warn!(%error, "a round of the sweep of flows ended early; the next begins anew");
                }
            }
            std::thread::sleep(PAUSE);
        }
    };
    std::thread::Builder::new().name("shunt-sweep".to_owned()).spawn(forever).map(drop)
}
