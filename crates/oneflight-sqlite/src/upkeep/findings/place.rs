//! Where the file is: on what kind of file system, with how much room, and with how large a log beside it.

use std::path::Path;

use oneflight::store::{Finding, Soundness};

pub(super) const MIB: u64 = 1 << 20;
/// A log that is larger is not written back, most likely since somebody reads for long.
const MOST_LOG: u64 = 64 * MIB;
/// Too little room to go on for long.
const LEAST_FREE: u64 = 512 * MIB;

/// File systems that other machines share: there, SQLite's locks may lock nothing, and its log needs memory that is shared.
const SHARED: &[&str] = &[
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];
/// File systems that are gone with the machine, or with the container.
const PASSING: &[&str] = &["overlay", "ramfs", "tmpfs"];

/// A size, for people.
pub(super) fn bytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

pub(super) fn all(path: &str) -> Vec<Finding> {
    if path.is_empty() {
        let memory = Finding::new("file system", Soundness::Remarkable, "the database is in memory");
        return vec![memory.advise("Use a file if a mutation must not be done again after a restart.")];
    }
    vec![file_system(path), room(path), log(path)]
}

fn file_system(path: &str) -> Finding {
    let finding = |verdict, found: &str| Finding::new("file system", verdict, found);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo");
    let Some(kind) = mounts.ok().and_then(|mounts| kind_of(&mounts, Path::new(path))) else {
        return finding(Soundness::Unknown, "this system does not say of which kind it is")
            .advise("See to it that the file is on a disk of this machine.");
    };
    match &*kind {
        shared if SHARED.contains(&shared) => finding(Soundness::Broken, shared)
            .advise("Keep the file on a disk of this machine: on a share, two processes may hold the same lock."),
        passing if PASSING.contains(&passing) => finding(Soundness::Remarkable, passing)
            .advise("Keep the file on a disk: here it is gone with the machine, or with the container."),
        kind => finding(Soundness::Sound, kind),
    }
}

/// Returns the kind of the file system that a path is on: that of the longest mount point that it begins with, and the last
/// of these.
fn kind_of(mounts: &str, path: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        // See proc_pid_mountinfo(5).
        let (place, kind) = line.split_once(" - ")?;
        let point = unescaped(place.split(' ').nth(4)?);
        Some((point, kind.split(' ').next()?))
    });
    let on = mounts.filter(|(point, _)| path.starts_with(point));
    on.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind.to_owned())
}

/// Blanks, tabs, line feeds and backslashes stand there in octal digits.
fn unescaped(point: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(point.to_owned(), |point, (written, meant)| {
            point.replace(written, meant)
        })
}

#[cfg(unix)]
fn room(path: &str) -> Finding {
    match rustix::fs::statvfs(path) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let finding = |verdict| Finding::new("free space", verdict, bytes(free));
            match free < LEAST_FREE {
                false => finding(Soundness::Sound),
                true => finding(Soundness::Remarkable)
                    .advise("Make room: on a full disk, no mutation is claimed or recorded."),
            }
        }
        Err(error) => Finding::new(
            "free space",
            Soundness::Unknown,
            format!("it could not be asked for: {error}"),
        ),
    }
}

#[cfg(not(unix))]
fn room(_: &str) -> Finding {
    Finding::new("free space", Soundness::Unknown, "this system is not asked for it")
}

fn log(path: &str) -> Finding {
    match std::fs::metadata(format!("{path}-wal")) {
        Ok(log) if log.len() > MOST_LOG => Finding::new("write-ahead log", Soundness::Remarkable, bytes(log.len()))
            .advise("Look for a reader that stays open for long: the log grows until it ends."),
        Ok(log) => Finding::new("write-ahead log", Soundness::Sound, bytes(log.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::new("write-ahead log", Soundness::Sound, "there is none")
        }
        Err(error) => Finding::new(
            "write-ahead log",
            Soundness::Unknown,
            format!("it could not be asked for: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_file_system_that_was_mounted_last_on_its_longest_mount_point() {
        let mounts = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                      22 21 0:40 / /srv/two\\040words rw,relatime shared:2 - nfs4 server:/share rw\n\
                      23 21 0:41 / /tmp rw - ext4 /dev/sdb rw\n\
                      24 23 0:42 / /tmp rw - tmpfs tmpfs rw\n";
        for (path, kind) in [
            ("/srv/two words/orders.db", "nfs4"),
            ("/srv/two/orders.db", "ext4"),
            ("/tmp/orders.db", "tmpfs"),
            ("/tmporary/orders.db", "ext4"),
        ] {
            assert_eq!(kind_of(mounts, Path::new(path)).as_deref(), Some(kind), "{path}");
        }
        assert_eq!(kind_of("", Path::new("/orders.db")), None);
    }
}
