//! How willingly the kernel kills this process when memory runs out.

use std::fs;
use std::io;
use std::path::Path;

/// Sets `oom_score_adj` of this process, from -1000 (never) to 1000 (first). Less than what the process was started with
/// takes CAP_SYS_RESOURCE; a value that is there already takes nothing.
pub fn set_score_adj(score: i32) -> io::Result<()> {
    set(Path::new("/proc/self/oom_score_adj"), score)
}

fn set(file: &Path, score: i32) -> io::Result<()> {
    if fs::read_to_string(file)?.trim() == score.to_string() {
        return Ok(());
    }
    fs::write(file, score.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_that_is_there_is_not_written() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("oom_score_adj");
        fs::write(&file, "-999\n").unwrap();
        set(&file, -999).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "-999\n");
        set(&file, 7).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "7");
    }

    #[test]
    fn the_kernel_takes_a_score() {
        // Raising needs no right. Tests of one binary share the process: only ever the same value is set.
        let now: i32 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        set_score_adj(now.max(1)).unwrap();
        assert_eq!(fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim(), now.max(1).to_string());
        assert!(set_score_adj(1001).is_err());
    }
}
