//! Log records of the programs: read from their ring buffer and handed to tracing. Off by default, and then there is
//! neither a reader nor an instruction that writes.

use std::io;
use std::time::Duration;

use aya_log::{EbpfLogger, Error};

use super::DatapathError;
use super::load::Loaded;

/// The ring buffer is looked at this often. Records that overrun it meanwhile are lost, as they would be with a reader
/// that sleeps until it is woken: logging every connection is for a node that is being looked at, not for one in service.
const LOOK: Duration = Duration::from_millis(50);

/// Forwards records for as long as the runtime lives; `level` zero does nothing. Must be called inside a runtime.
pub fn forward(loaded: &mut Loaded, level: u8) -> Result<(), DatapathError> {
    if level == 0 {
        return Ok(());
    }
    let mut logger = match EbpfLogger::init(loaded.ebpf_mut()) {
        Ok(logger) => logger,
        // An object without a single log statement has no ring buffer.
        Err(Error::MapNotFound) => return Ok(()),
        Err(error) => {
            let source = io::Error::other(error);
            return Err(DatapathError::System { step: "read the programs' log", source });
        }
    };
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            logger.flush();
        }
    });
    Ok(())
}
