//! Locks on SQLite's files, beside another SQLite in this process: that of the user's driver.
//!
//! SQLite takes record locks of POSIX. They belong to the process, so two copies of SQLite in it exclude each other from nothing: both
//! write at once, and whichever closes a file gives up the locks of the other one as well. So this copy takes locks that belong to
//! an open file, which exclude those of POSIX, also in one process. And it closes no file that it has locked, but keeps it
//! for the next time that it is opened.
//!
//! A file has one descriptor by which all of its locks are taken here, since within one copy SQLite takes and gives up locks by
//! whichever is at hand.

#![expect(unsafe_code, reason = "SQLite is told its system calls by function pointers")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use libsqlite3_sys::{SQLITE_OK, sqlite3_syscall_ptr, sqlite3_vfs, sqlite3_vfs_find};
use parking_lot::Mutex;

/// What tells a file from all others: its device and its number.
type Identity = (libc::dev_t, libc::ino_t);

/// A file that has been locked.
struct Locked {
    /// By this its locks are taken. It stays open for as long as the file has a name.
    by: c_int,
    /// What SQLite has closed.
    kept: Vec<c_int>,
}

static FILES: Mutex<BTreeMap<Identity, Locked>> = Mutex::new(BTreeMap::new());

/// Has SQLite take such locks, from the next file that it opens. Returns whether it does.
pub(crate) fn share() -> bool {
    static DONE: OnceLock<bool> = OnceLock::new();
    *DONE.get_or_init(|| {
        // SAFETY: it takes the default one, which is there for as long as the process.
        let vfs = unsafe { sqlite3_vfs_find(std::ptr::null()) };
        // SAFETY: these do what the calls of the system do, and take what SQLite passes to them: on Linux, a variable argument is passed as
        // any other one is.
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
    })
}

/// Has SQLite call this.
///
/// # Safety
///
/// It does what the call of this name does.
unsafe fn set(vfs: *mut sqlite3_vfs, name: &CStr, call: sqlite3_syscall_ptr) -> bool {
    // SAFETY: SQLite has given it out, and never takes it back.
    let set = unsafe { vfs.as_ref() }.and_then(|it| it.xSetSystemCall);
    // SAFETY: SQLite copies neither; both are there for ever.
    set.is_some_and(|set| unsafe { set(vfs, name.as_ptr(), call) } == SQLITE_OK)
}

/// What is known of a file: its identity, and whether it still has a name.
fn look(look: impl FnOnce(*mut libc::stat) -> c_int) -> Option<(Identity, bool)> {
    let mut stat = MaybeUninit::uninit();
    (look(stat.as_mut_ptr()) == 0).then(|| {
        // SAFETY: it has been filled in.
        let stat = unsafe { stat.assume_init() };
        ((stat.st_dev, stat.st_ino), stat.st_nlink > 0)
    })
}

fn look_at(descriptor: c_int) -> Option<(Identity, bool)> {
    // SAFETY: there is room for it.
    look(|stat| unsafe { libc::fstat(descriptor, stat) })
}

fn really_close(descriptor: c_int) -> c_int {
    // SAFETY: SQLite has closed it, so nobody uses it.
    unsafe { libc::close(descriptor) }
}

/// Closes what is kept of files that have been deleted: nobody opens these again.
fn forget(files: &mut BTreeMap<Identity, Locked>) {
    files.retain(|_, file| match file.kept.first() {
        Some(first) if look_at(*first).is_none_or(|(_, has_name)| !has_name) => {
            let mut is_used = true;
            for descriptor in file.kept.drain(..) {
                is_used &= descriptor != file.by;
                really_close(descriptor);
            }
            is_used
        }
        _ => true,
    });
}

unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let mut files = FILES.lock();
    forget(&mut files);
    if flags & (libc::O_EXCL | libc::O_TRUNC) == 0
        // SAFETY: SQLite has passed a path, and there is room for what is known of it.
        && let Some((identity, _)) = look(|stat| unsafe { libc::lstat(path, stat) })
        && let Some(file) = files.get_mut(&identity)
    {
        // SAFETY: it asks how this was opened.
        let access = |descriptor| unsafe { libc::fcntl(descriptor, libc::F_GETFL) } & libc::O_ACCMODE;
        let fits = |descriptor: &c_int| access(*descriptor) == flags & libc::O_ACCMODE;
        if let Some(at) = file.kept.iter().position(fits) {
            return file.kept.swap_remove(at);
        }
    }
    // SAFETY: it is what SQLite asks for.
    unsafe { libc::open(path, flags, mode) }
}

unsafe extern "C" fn close(descriptor: c_int) -> c_int {
    let mut files = FILES.lock();
    if let Some((identity, has_name)) = look_at(descriptor)
        && let Some(file) = files.get_mut(&identity)
    {
        file.kept.push(descriptor);
        if !has_name {
            forget(&mut files);
        }
        return 0;
    }
    really_close(descriptor)
}

unsafe extern "C" fn fcntl(descriptor: c_int, command: c_int, argument: *mut c_void) -> c_int {
    let command = match command {
        libc::F_GETLK => libc::F_OFD_GETLK,
        libc::F_SETLK => libc::F_OFD_SETLK,
        libc::F_SETLKW => libc::F_OFD_SETLKW,
        // SAFETY: it is what SQLite asks for.
        _ => return unsafe { libc::fcntl(descriptor, command, argument) },
    };
    let Some((identity, _)) = look_at(descriptor) else {
        return -1;
    };
    let by = {
        let mut files = FILES.lock();
        let first = Locked {
            by: descriptor,
            kept: Vec::new(),
        };
        files.entry(identity).or_insert(first).by
    };
    let lock = argument.cast::<libc::flock>();
    // SAFETY: it is what these three commands take. The kernel wants zero here for locks of an open file.
    unsafe { (*lock).l_pid = 0 };
    // SAFETY: the lock is SQLite's, for this call. A descriptor by which a file is locked is open until SQLite has closed all of the file.
    unsafe { libc::fcntl(by, command, lock) }
}
