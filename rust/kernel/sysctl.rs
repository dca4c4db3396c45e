// SPDX-License-Identifier: GPL-2.0

//! Kernel parameters in `/proc/sys`.
//!
//! C header: [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h).

use crate::{
    built_in::BuiltIn,
    ffi::c_int,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// A sysctl that is 0 or 1, mode 0644.
///
/// Writing any other value fails with `EINVAL`. The sysctl stays visible as long as the kernel
/// runs, so it is not for loadable modules.
pub struct BoolSysctl {
    #[cfg_attr(not(CONFIG_SYSCTL), expect(dead_code))]
    name: &'static CStr,
    value: Atomic<c_int>,
}

impl BoolSysctl {
    /// Declares a sysctl that is 0 and not visible yet.
    pub const fn new(name: &'static CStr, _: BuiltIn) -> Self {
        Self {
            name,
            value: Atomic::new(0),
        }
    }

    /// Returns true if the value is 1.
    pub fn get(&self) -> bool {
        self.value.load(Relaxed) != 0
    }

    /// Makes the sysctl visible in the directory `path` below `/proc/sys`, forever. Without
    /// `CONFIG_SYSCTL` there is no such directory, and the value stays 0.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. May sleep.
    #[cfg(CONFIG_SYSCTL)]
    pub fn register(&'static self, path: &'static CStr) -> Result {
        use crate::{alloc::KBox, bindings};

        /// The bounds that `proc_dointvec_minmax` checks the value against.
        static BOUNDS: [c_int; 2] = [0, 1];

        let table = KBox::leak(KBox::new(
            bindings::ctl_table {
                procname: self.name.as_char_ptr(),
                data: core::ptr::from_ref(&self.value).cast_mut().cast(),
                maxlen: core::mem::size_of::<c_int>() as c_int,
                mode: 0o644,
                proc_handler: Some(bindings::proc_dointvec_minmax),
                extra1: core::ptr::from_ref(&BOUNDS[0]).cast_mut().cast(),
                extra2: core::ptr::from_ref(&BOUNDS[1]).cast_mut().cast(),
                ..Default::default()
            },
            GFP_KERNEL,
        )?);
        // SAFETY: The sysctl belongs to code that is built into the kernel, because it was made
        // with a `BuiltIn`. So it lives forever, as its name, the bounds, and the leaked table do.
        // The handler only reads the bounds, and accesses the value with `READ_ONCE()` and
        // `WRITE_ONCE()`. The path is not kept.
        let header = unsafe { bindings::register_sysctl_sz(path.as_char_ptr(), table, 1) };
        if header.is_null() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Does nothing, because there is no `/proc/sys`.
    #[cfg(not(CONFIG_SYSCTL))]
    pub fn register(&'static self, _path: &'static CStr) -> Result {
        Ok(())
    }
}
