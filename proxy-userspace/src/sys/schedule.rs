//! How soon a thread runs.
#![expect(unsafe_code, reason = "sched_setscheduler(2) takes a pointer to its parameters")]

use std::io;

/// Lets the calling thread run before all threads of ordinary priority. It takes CAP_SYS_NICE, and is for threads that
/// do little and then wait.
pub fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: zero is the calling thread; the kernel reads the parameters.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
