//! Waiting for what only shows when it is asked for.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// How long to leave the asked one alone between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until there is something to return, for at most `limit`; `what` is awaited, for the message.
///
/// An error does not end the wait, as what is asked may not be there yet; the last one is told in the end.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let seen = look();
        if let Ok(Some(found)) = seen {
            return Ok(found);
        }
        if Instant::now() > deadline {
            let waited = format!("waited {limit:?} for {what}");
            match seen {
                Err(error) => return Err(error).context(waited),
                _ => bail!("{waited}"),
            }
        }
        sleep(PAUSE);
    }
}

/// The same for a look that says why it is not satisfied.
pub fn until_ok<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> Result<T> {
    until(limit, what, || look().map(Some).map_err(|reason| anyhow!(reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_is_told() {
        let error = until_ok(Duration::ZERO, "rain", || Err::<(), _>("sunshine".to_owned())).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("rain") && text.contains("sunshine"), "{text}");
    }

    #[test]
    fn what_comes_later_is_seen() {
        let mut left = 3;
        let found = until(Duration::from_secs(5), "the count", || {
            left -= 1;
            Ok((left == 0).then_some("done"))
        });
        assert_eq!(found.unwrap(), "done");
    }
}
