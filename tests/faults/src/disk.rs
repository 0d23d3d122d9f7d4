//! A small disk that can be filled: a file system in memory, mounted over a temporary directory.
//!
//! It takes the right to mount. It is unmounted when this is dropped and when this process ends, in whichever way: a shell
//! holds the other end of a pipe that only we write to.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub struct Disk {
    folder: PathBuf,
    keeper: Child,
}

impl Disk {
    /// Fails with the reason, if nothing can be mounted here.
    pub fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a temporary directory").keep();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=0777", "none"])
            .arg(&folder)
            .stdin(Stdio::null())
            .output();
        let failed = match mount {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                Some(said.lines().next().unwrap_or("mount failed").trim().to_owned())
            }
            Err(error) => Some(format!("mount: {error}")),
        };
        if let Some(why) = failed {
            let _ = fs::remove_dir(&folder);
            return Err(why);
        }
        let keeper = Command::new("sh")
            .arg("-c")
            .arg(r#"cat >/dev/null; umount -l "$0" && rmdir "$0""#)
            .arg(&folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What interrupts the tests does not interrupt this.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        Ok(Self { folder, keeper })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Leaves no byte.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a file needs no room");
        for size in [64 * 1024, 1] {
            let chunk = vec![0; size];
            while ballast.write(&chunk).is_ok_and(|written| written > 0) {}
        }
    }

    /// Gives the room back.
    pub fn clear(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}
