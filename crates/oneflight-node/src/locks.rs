//! Locks on SQLite's files, beside another SQLite in this process: that of the user's driver.
//!
//! SQLite takes record locks of POSIX. They belong to the process, so two copies of SQLite in it exclude each other from nothing: both
//! write at once, and either gives up the locks of the other one when it closes a descriptor of the file. So this copy takes locks
//! that belong to an open file, which exclude those of POSIX, also in one process. And it closes a file only while nobody can have
//! a lock on it.
//!
//! * **By one descriptor** all locks of a file are taken here, since within one copy SQLite takes and gives up locks by any of them.
//! * **What SQLite closes** is kept for the next time that it opens the file, as long as it has another descriptor of it.
//! * **With the last one** the locks go, which SQLite relies on: it gives up some of them by nothing but that. Then the whole file is locked
//!   exclusively. Where that is granted nobody has a lock, and nobody gets one before all descriptors are closed. Where it
//!   is not, they are kept, and it is tried again with the next file that SQLite opens or closes. A process that is forked
//!   has that lock until it executes another program, or ends.
//!
//! What can be read only is not locked exclusively. So its descriptors stay, for each file no more of them than were open at once.

#![expect(unsafe_code, reason = "SQLite is told its system calls by function pointers")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_short, c_void};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use libsqlite3_sys::{SQLITE_OK, sqlite3_syscall_ptr, sqlite3_vfs, sqlite3_vfs_find};
use parking_lot::Mutex;

// SQLite passes that of 64 bits.
const _: () = assert!(size_of::<libc::flock>() == 32);

/// What tells a file from all others: its device and its number, which no other file gets while it is open.
type Identity = (libc::dev_t, libc::ino_t);

/// A file that SQLite has open, or had.
#[derive(Default)]
struct File {
    /// What SQLite has open.
    used: Vec<c_int>,
    /// What SQLite has closed.
    kept: Vec<c_int>,
    /// By this its locks are taken. It is one of those above.
    by: Option<c_int>,
    /// Whether its file system has no such locks.
    is_unlockable: bool,
}

struct Files {
    files: BTreeMap<Identity, File>,
    /// The file of each descriptor that SQLite has open.
    of: BTreeMap<c_int, Identity>,
}

/// Held for no call of the system that waits for others. On a file system across a network, to lock is a round trip.
static FILES: Mutex<Files> = Mutex::new(Files {
    files: BTreeMap::new(),
    of: BTreeMap::new(),
});

/// Has SQLite take such locks, from the next file that it opens. Returns whether it does: the system may not have them.
pub(crate) fn share() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| are_there() && are_set())
}

/// Whether the system has locks of open files. If that cannot be asked now, it is found out by the first file that is locked.
fn are_there() -> bool {
    // SAFETY: the path is there for ever.
    let descriptor = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if descriptor < 0 {
        return true;
    }
    let mut lock = whole(libc::F_WRLCK);
    // SAFETY: it is what the command takes, and the descriptor is open.
    let are_there = unsafe { libc::fcntl(descriptor, libc::F_OFD_GETLK, &raw mut lock) } == 0;
    really_close(descriptor);
    are_there
}

fn are_set() -> bool {
    // SAFETY: SQLite's own one on Unix is there for as long as the process.
    let vfs = unsafe { sqlite3_vfs_find(c"unix".as_ptr()) };
    // SAFETY: these do what the calls of the system do, and take what SQLite passes to them: on Linux of 64 bits, a variable argument that is
    // an integer or a pointer is passed as any other one is.
    unsafe {
        set(
            vfs,
            c"open",
            std::mem::transmute::<*const (), sqlite3_syscall_ptr>(open as *const ()),
        ) && set(
            vfs,
            c"close",
            std::mem::transmute::<*const (), sqlite3_syscall_ptr>(close as *const ()),
        ) && set(
            vfs,
            c"fcntl",
            std::mem::transmute::<*const (), sqlite3_syscall_ptr>(fcntl as *const ()),
        )
    }
}

/// Has SQLite call this.
///
/// # Safety
///
/// `vfs` is null or SQLite's, and `call` does what the call of this name does.
unsafe fn set(vfs: *mut sqlite3_vfs, name: &CStr, call: sqlite3_syscall_ptr) -> bool {
    if vfs.is_null() {
        return false;
    }
    // SAFETY: SQLite has given it out, and never takes it back. Of what it points to, SQLite goes on to write another field alone.
    let set = unsafe { (*vfs).xSetSystemCall };
    // SAFETY: SQLite copies neither; both are there for ever.
    set.is_some_and(|set| unsafe { set(vfs, name.as_ptr(), call) } == SQLITE_OK)
}

/// Closes what can be closed by now of what SQLite has closed.
pub(crate) fn tidy() {
    // A statement of its own: nothing is closed while they are locked.
    let over = FILES.lock().over();
    over.into_iter().for_each(File::close);
}

impl Files {
    /// Takes out the files of which SQLite has no descriptor and nobody else has a lock. They are locked exclusively.
    ///
    /// Who opens one of them before it is closed gets a descriptor of its own, whose locks are not touched.
    fn over(&mut self) -> Vec<File> {
        let over = self
            .files
            .extract_if(.., |_, file| file.used.is_empty() && file.lock_exclusively());
        over.map(|(_, file)| file).collect()
    }
}

impl File {
    /// Gives up all locks, and takes the exclusive one if nobody else has any.
    fn lock_exclusively(&mut self) -> bool {
        if let Some(by) = self.by.take() {
            lock_whole(by, libc::F_UNLCK);
        }
        let is_locked = self.locker(None).is_some_and(|by| lock_whole(by, libc::F_WRLCK));
        if !is_locked {
            self.by = None;
        }
        is_locked
    }

    /// Closes it, which is locked exclusively.
    fn close(self) {
        for descriptor in self.kept {
            if self.by != Some(descriptor) {
                really_close(descriptor);
            }
        }
        // With this the exclusive lock goes, after those of POSIX, which nobody has.
        if let Some(by) = self.by {
            really_close(by);
        }
    }

    /// Returns the descriptor by which locks are taken. One that can be written by can lock in every way.
    fn locker(&mut self, asking: Option<c_int>) -> Option<c_int> {
        if self.by.is_none() {
            let mut all = asking.iter().chain(&self.kept).chain(&self.used).copied();
            self.by = all
                .find(|it| access(*it) == libc::O_RDWR)
                .or(asking)
                .or_else(|| self.kept.first().copied());
        }
        self.by
    }
}

/// Returns the identity of a regular file. SQLite locks no others.
fn look(look: impl FnOnce(*mut libc::stat) -> c_int) -> Option<Identity> {
    let mut stat = MaybeUninit::uninit();
    if look(stat.as_mut_ptr()) != 0 {
        return None;
    }
    // SAFETY: it has been filled in.
    let stat = unsafe { stat.assume_init() };
    (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some((stat.st_dev, stat.st_ino))
}

/// Returns how it was opened: to be read, to be written, or both.
fn access(descriptor: c_int) -> c_int {
    // SAFETY: it asks, and changes nothing.
    unsafe { libc::fcntl(descriptor, libc::F_GETFL) & libc::O_ACCMODE }
}

/// Returns a lock of this kind on a whole file.
fn whole(kind: c_int) -> libc::flock {
    libc::flock {
        l_type: kind as c_short,
        l_whence: libc::SEEK_SET as c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn lock_whole(by: c_int, kind: c_int) -> bool {
    let lock = whole(kind);
    // SAFETY: it is what the command takes. The descriptor is open: it is that of a file which nobody else closes now.
    unsafe { libc::fcntl(by, libc::F_OFD_SETLK, &raw const lock) == 0 }
}

fn really_close(descriptor: c_int) -> c_int {
    // SAFETY: SQLite has closed it or never had it, so nobody uses it.
    unsafe { libc::close(descriptor) }
}

/// Returns a descriptor of this file that SQLite has closed, if it was opened in the same way.
fn reuse(identity: Identity, flags: c_int) -> Option<c_int> {
    let mut all = FILES.lock();
    let file = all.files.get_mut(&identity)?;
    let fits = |descriptor: &c_int| access(*descriptor) == flags & libc::O_ACCMODE;
    let at = file.kept.iter().position(fits)?;
    let descriptor = file.kept.swap_remove(at);
    file.used.push(descriptor);
    all.of.insert(descriptor, identity);
    Some(descriptor)
}

/// Opens what of the first three descriptors is closed. SQLite takes none of them for a file: it would close it again at once, and
/// with it give up the driver's locks.
fn fill_the_first_three() {
    // SAFETY: it asks, and changes nothing.
    while (0..3).any(|descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFD) } < 0) {
        // SAFETY: the path is there for ever.
        let filled = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        if !(0..3).contains(&filled) {
            if filled >= 0 {
                really_close(filled);
            }
            return;
        }
    }
}

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    tidy();
    fill_the_first_three();
    if flags & (libc::O_EXCL | libc::O_TRUNC) == 0
        // SAFETY: SQLite has passed a path, and there is room for what is known of it.
        && let Some(identity) = look(|stat| unsafe { libc::lstat(path, stat) })
        && let Some(descriptor) = reuse(identity, flags)
    {
        return descriptor;
    }
    // SAFETY: it is what SQLite asks for.
    let descriptor = unsafe { libc::open(path, flags, mode) };
    // SQLite opens its temporary files exclusively, and locks none of them.
    if descriptor > 2
        && flags & libc::O_EXCL == 0
        // SAFETY: there is room for it.
        && let Some(identity) = look(|stat| unsafe { libc::fstat(descriptor, stat) })
    {
        let mut all = FILES.lock();
        all.files.entry(identity).or_default().used.push(descriptor);
        all.of.insert(descriptor, identity);
    }
    // Where it has failed, nothing came after it that changes `errno`.
    descriptor
}

unsafe extern "C" fn close(descriptor: c_int) -> c_int {
    let over = {
        let mut all = FILES.lock();
        let Some(identity) = all.of.remove(&descriptor) else {
            drop(all);
            return really_close(descriptor);
        };
        let file = all.files.entry(identity).or_default();
        file.used.retain(|used| *used != descriptor);
        file.kept.push(descriptor);
        // At once: if this was the last one, the locks are gone when SQLite has closed it.
        all.over()
    };
    over.into_iter().for_each(File::close);
    0
}

unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let command = match command {
        libc::F_GETLK => libc::F_OFD_GETLK,
        libc::F_SETLK => libc::F_OFD_SETLK,
        libc::F_SETLKW => libc::F_OFD_SETLKW,
        // SAFETY: it is what SQLite asks for.
        _ => return unsafe { libc::fcntl(descriptor, command, argument) },
    };
    let by = {
        let mut all = FILES.lock();
        let identity = all.of.get(&descriptor).copied();
        let file = identity.and_then(|identity| all.files.get_mut(&identity));
        file.and_then(|file| file.locker(Some(descriptor)))
            .unwrap_or(descriptor)
    };
    let lock = argument.cast::<libc::flock>();
    // SAFETY: it is what these three commands take. The kernel wants zero here for locks of an open file.
    unsafe { (*lock).l_pid = 0 };
    // SAFETY: the lock is SQLite's, for this call. SQLite has `descriptor` open for as long, so `by`, which is of the same file, is not
    // closed.
    let done = unsafe { libc::fcntl(by, command, lock) };
    if done < 0 {
        note(descriptor, std::io::Error::last_os_error().raw_os_error());
    }
    done
}

/// Notes why a lock was not taken. SQLite finds the same `errno` after it.
fn note(descriptor: c_int, error: Option<c_int>) {
    // SQLite asks for no wrong ranges.
    if let Some(error @ (libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)) = error {
        {
            let mut all = FILES.lock();
            let identity = all.of.get(&descriptor).copied();
            if let Some(file) = identity.and_then(|identity| all.files.get_mut(&identity)) {
                file.is_unlockable = true;
            }
        }
        // SAFETY: it is this thread's.
        unsafe { *libc::__errno_location() = error };
    }
}

/// Whether a file was opened, and could not be locked since its file system has no such locks.
pub(crate) fn are_missing_for(path: &str) -> bool {
    let identity = std::fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let all = FILES.lock();
    identity
        .and_then(|identity| all.files.get(&identity))
        .is_some_and(|file| file.is_unlockable)
}
