// SPDX-License-Identifier: GPL-2.0

//! Files on anonymous inodes.
//!
//! C headers: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)

use super::{File, Kiocb, LocalFile};
use crate::{
    bindings,
    built_in::BuiltIn,
    error::{from_err_ptr, Result},
    ffi::{c_int, c_long, c_uint, c_ulong},
    iov::IovIterDest,
    prelude::*,
    seq_file::SeqFile,
    sync::{aref::ARef, poll_queue::PollQueue, rcu, ReadOnceCell},
    task::Sleepable,
    types::ForeignOwnable,
};
use core::{marker::PhantomData, mem::MaybeUninit, ptr::NonNull};

/// The operations of a file on an anonymous inode, which owns [`AnonInodeFile::Data`].
///
/// Seeking succeeds and does nothing, and 32-bit programs reach [`AnonInodeFile::ioctl`] with their
/// pointer widened.
///
/// Open files do not keep a module loaded, so this is for code that is built into the kernel.
pub trait AnonInodeFile: Sized + 'static {
    /// The proof that the operations exist as long as files do.
    const BUILT_IN: BuiltIn;

    /// The name of the inode, as in `/proc/PID/fd`.
    const NAME: &'static CStr;

    /// The private data of the file. It is dropped when the last reference to the file goes.
    type Data: ForeignOwnable + HasBoundFile + Send + Sync;

    /// Called when a descriptor of the file is closed, before its reference goes.
    fn flush(_data: Borrowed<'_, Self>) {}

    /// Implements `read(2)` and its relatives.
    fn read_iter(kiocb: Kiocb<'_, Self::Data>, iov: &mut IovIterDest<'_>) -> Result<usize>;

    /// Returns the queue that pollers are put on before [`AnonInodeFile::poll`] is called. It must
    /// be the same one for each call.
    fn poll_queue(data: Borrowed<'_, Self>) -> &PollQueue;

    /// Returns the events that are ready, see [`crate::sync::poll_queue::events`]. `requested` are
    /// those that the caller asks for.
    fn poll(data: Borrowed<'_, Self>, file: &File, requested: u32) -> u32;

    /// Implements `ioctl(2)`. The caller holds no lock.
    fn ioctl(
        data: Borrowed<'_, Self>,
        cmd: u32,
        arg: usize,
        sleep: &mut Sleepable,
    ) -> Result<isize>;

    /// Adds lines to `/proc/PID/fdinfo/FD`.
    fn show_fdinfo(data: Borrowed<'_, Self>, m: &SeqFile);
}

/// The private data of a file, borrowed for as long as the file is not released.
pub type Borrowed<'a, T> = <<T as AnonInodeFile>::Data as ForeignOwnable>::Borrowed<'a>;

/// The open file that owns some private data. It is not a reference to the file.
///
/// # Invariants
///
/// The value is zero, or the address of a file. After it was set to zero, the memory of the file
/// stays that of a file for an RCU grace period.
pub struct BoundFile(ReadOnceCell<usize>);

impl BoundFile {
    /// Creates one for data that no file owns.
    pub const fn new() -> Self {
        // INVARIANT: The value is zero.
        Self(ReadOnceCell::new(0))
    }

    /// Returns the address of the file, or null. The file must not be accessed through it.
    pub(crate) fn as_ptr(&self) -> *mut bindings::file {
        self.0.read_once() as *mut bindings::file
    }

    /// Returns true if there is an open file and just `count` references to it: those of
    /// descriptors, of messages that pass descriptors on, and of system calls that are under way.
    pub fn has_references(&self, count: u32) -> bool {
        let _guard = rcu::read_lock();
        let file = self.as_ptr();
        // SAFETY: By the type invariants the memory of the file stays while the RCU lock is held.
        !file.is_null() && unsafe { bindings::file_count(file) } == count as usize
    }
}

/// Private data with a [`BoundFile`].
///
/// # Safety
///
/// [`HasBoundFile::bound_file`] must return the same value each time.
pub unsafe trait HasBoundFile {
    /// Returns the place in which the file is noted while it is open.
    fn bound_file(&self) -> &BoundFile;
}

impl Default for BoundFile {
    fn default() -> Self {
        Self::new()
    }
}

/// A file on an anonymous inode of its own that has no private data yet.
///
/// Dropping it undoes the creation.
///
/// # Invariants
///
/// `file` has the operations of `T` and null as its private data, and no other thread knows it.
pub struct UnboundFile<T: AnonInodeFile> {
    file: ARef<File>,
    _ops: PhantomData<T>,
}

impl<T: AnonInodeFile> UnboundFile<T> {
    /// Creates the file, with an inode of its own so that the LSM can refuse it.
    ///
    /// `flags` is the access mode and `O_NONBLOCK` (see [`super::file::flags`]), other flags are
    /// ignored. `context` is the file that the new one is made on behalf of, for the LSM.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENFILE`, or the error of the LSM hook. May sleep.
    #[doc(alias = "anon_inode_create_getfile")]
    pub fn create(flags: u32, context: Option<&LocalFile>) -> Result<Self> {
        let inode = match context {
            // SAFETY: The inode of an open file does not change and lives as long as the file.
            Some(file) => unsafe { (*file.as_ptr()).f_inode },
            None => core::ptr::null_mut(),
        };
        let _: BuiltIn = T::BUILT_IN;
        // SAFETY: The name and the operations live forever, because they are built into the
        // kernel; the inode is null or valid.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_create_getfile(
                T::NAME.as_char_ptr(),
                &FileVTable::<T>::VTABLE,
                core::ptr::null_mut(),
                flags as c_int,
                inode,
            )
        })?;
        // SAFETY: It is a valid pointer, and the one reference to the new file is ours. `File` is
        // layout compatible with `struct file`, and there was no `fdget_pos` call on it.
        let file = unsafe { ARef::from_raw(NonNull::new_unchecked(file).cast()) };
        // INVARIANT: The file was just created with these operations and no private data.
        Ok(Self {
            file,
            _ops: PhantomData,
        })
    }

    /// Declares that the file honours `IOCB_NOWAIT`.
    pub fn set_nowait(&mut self) {
        // SAFETY: By the type invariants no other thread knows the file.
        unsafe { (*self.file.as_ptr()).f_mode |= bindings::FMODE_NOWAIT };
    }

    /// Gives the file its private data. It is ready to be installed then.
    pub fn bind(self, data: T::Data) -> ARef<File> {
        // INVARIANT: `release` writes zero before the file is freed. The memory of files is freed
        // after a grace period.
        data.bound_file().0.write_once(self.file.as_ptr() as usize);
        // SAFETY: By the type invariants no other thread knows the file.
        unsafe { (*self.file.as_ptr()).private_data = data.into_foreign() };
        self.file
    }
}

/// The `file_operations` of `T`.
struct FileVTable<T>(PhantomData<T>);

impl<T: AnonInodeFile> FileVTable<T> {
    /// Borrows the private data of `file`.
    ///
    /// # Safety
    ///
    /// `file` must be a file of `T` that was bound to its data and is not released during `'a`.
    #[inline(always)]
    unsafe fn data<'a>(file: *mut bindings::file) -> Borrowed<'a, T> {
        // SAFETY: By the safety requirements the private data comes from `into_foreign` in `bind`,
        // and `from_foreign` in `release` comes after `'a`.
        unsafe { T::Data::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// `file` must be an open file of `T`.
    unsafe extern "C" fn flush(file: *mut bindings::file, _: bindings::fl_owner_t) -> c_int {
        // SAFETY: An open file is not released during the call.
        T::flush(unsafe { Self::data(file) });
        0
    }

    /// # Safety
    ///
    /// `file` must be a file of `T` that is being released.
    unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The private data of a file is null until `bind` stores there what `into_foreign`
        // returned, and the release call owns it.
        if let Some(data) = unsafe { T::Data::try_from_foreign((*file).private_data) } {
            // INVARIANT: The value is zero.
            data.bound_file().0.write_once(0);
        }
        0
    }

    /// # Safety
    ///
    /// `kiocb` must belong to an open file of `T`, `iter` must be a valid `struct iov_iter` for
    /// writing.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: By the safety requirements the file has the private data of `T`.
        let kiocb = unsafe { Kiocb::from_raw(kiocb) };
        // SAFETY: By the safety requirements this is a valid iterator for writing.
        let iov = unsafe { IovIterDest::from_raw(iter) };

        match T::read_iter(kiocb, iov) {
            Ok(read) => read as isize,
            Err(err) => err.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file of `T` and `table` the poll table of this call.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table,
    ) -> bindings::__poll_t {
        // SAFETY: An open file is not released during the call.
        let queue = T::poll_queue(unsafe { Self::data(file) });
        // SAFETY: These are the arguments of a `poll` operation. The queue is borrowed from the
        // private data, which stays until the file is released.
        unsafe { queue.register(file, table) };
        // SAFETY: The table is null or valid; as in `poll_requested_events()`.
        let requested = unsafe { table.as_ref() }.map_or(u32::MAX, |table| table._key);
        // SAFETY: An open file is not released during the call.
        let data = unsafe { Self::data(file) };
        // SAFETY: As for the data; and no `fdget_pos` of this thread bypasses the position lock.
        let file = unsafe { File::from_raw_file(file) };
        T::poll(data, file, requested)
    }

    /// # Safety
    ///
    /// `file` must be an open file of `T`.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: A system call begins with no lock held, and this is the only token in it.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: An open file is not released during the call.
        match T::ioctl(unsafe { Self::data(file) }, cmd, arg, &mut sleep) {
            Ok(ret) => ret as c_long,
            Err(err) => err.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// `file` must be an open file of `T`, `m` a valid `struct seq_file` that we can write to.
    unsafe extern "C" fn show_fdinfo(m: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: An open file is not released during the call, and the `seq_file` is valid.
        unsafe { T::show_fdinfo(Self::data(file), SeqFile::from_raw(m)) };
    }

    const VTABLE: bindings::file_operations = bindings::file_operations {
        flush: Some(Self::flush),
        release: Some(Self::release),
        read_iter: Some(Self::read_iter),
        poll: Some(Self::poll),
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(bindings::compat_ptr_ioctl),
        show_fdinfo: Some(Self::show_fdinfo),
        llseek: Some(bindings::noop_llseek),
        // SAFETY: All zeros is a valid value for `bindings::file_operations`.
        ..unsafe { MaybeUninit::zeroed().assume_init() }
    };
}
