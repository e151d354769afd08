//! Child processes with a guard, a log and a place to run in.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::sweep;

/// How often a log is looked at while a line is awaited.
const POLL: Duration = Duration::from_millis(2);

/// A running child: killed, by its id, on drop.
///
/// Standard output and standard error go to one log, in the order in which they were written.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    dir: PathBuf,
    log: File,
    /// Length of the log that was looked at.
    seen: u64,
    /// What was looked at and not yet returned as lines.
    unread: Vec<u8>,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        let dir = sweep::scratch_dir("log")?;
        let log = File::options().create_new(true).append(true).read(true).open(dir.join("log"))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, dir, log, seen: 0, unread: Vec::new() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has said so far.
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log"))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes `line` to its standard input.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("write to {}", self.name))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for a line that satisfies `wanted`, which it may have said already, and returns it.
    ///
    /// Lines up to and including this one count as read.
    pub fn wait_line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.next_line(deadline.saturating_duration_since(Instant::now()))?;
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    /// Waits for the next line that is not read yet.
    pub fn next_line(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            // Asked before the log is read, so that the last words of a process are never missed.
            let ended = self.child.try_wait()?;
            self.read_log()?;
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended early: {status}; it said:\n{}", self.name, self.log());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not say what was awaited within {limit:?}; it said:\n{}",
                    self.name,
                    self.log()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    fn read_log(&mut self) -> Result<()> {
        let mut chunk = [0; 8192];
        loop {
            let length = self.log.read_at(&mut chunk, self.seen)?;
            if length == 0 {
                return Ok(());
            }
            self.unread.extend_from_slice(&chunk[..length]);
            self.seen += length as u64;
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, for at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {limit:?}; it said:\n{}", self.name, self.log());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills it at once and collects it.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// Asks it to end (SIGTERM), and waits for at most `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("process id")?;
        if self.is_running() {
            kill_process(pid, Signal::TERM).with_context(|| format!("ask {} to end", self.name))?;
        }
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A command that runs `program` inside a network namespace and a cgroup, which both outlive the call.
///
/// The process enters both by itself before it becomes `program`, so no call of it is ever seen elsewhere, and
/// its id is that of the child.
pub fn placed(program: &Path, netns: &Netns, cgroup: &Cgroup) -> Command {
    let script = r#"echo $$ > "$1/cgroup.procs" && shift && exec nsenter "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(cgroup.path());
    command.arg(format!("--net={}", netns.path().display())).arg(program);
    command
}

/// Path of a binary of this workspace, which lies beside the running one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("path of the running program")?;
    // Test programs lie one level below the binaries, in `deps`.
    own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file()).ok_or_else(|| {
        anyhow!("no `{name}` near {}: run `cargo build -p shunt -p tests --bins`", own.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("shell", command).unwrap()
    }

    #[test]
    fn a_line_is_awaited_and_answered() {
        let mut child = shell("echo ready; read word; echo \"got $word\"; exit 3");
        child.wait_line(LIMIT, |line| line == "ready").unwrap();
        child.send("this").unwrap();
        assert_eq!(child.wait_line(LIMIT, |line| line.starts_with("got")).unwrap(), "got this");
        assert_eq!(child.wait(LIMIT).unwrap().code(), Some(3));
    }

    #[test]
    fn an_early_end_is_told_with_what_was_said() {
        let error = shell("echo broken >&2; exit 1").wait_line(LIMIT, |line| line == "ready").unwrap_err();
        assert!(error.to_string().contains("broken"), "{error:#}");
    }

    #[test]
    fn a_dropped_child_is_dead() {
        let child = shell("sleep 60");
        let pid = child.pid();
        drop(child);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
