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

/// A switch in `/proc/sys` that is 0 or 1, mode 0644.
///
/// Writing anything else fails with `EINVAL`. It stays visible as long as the kernel runs, so it is
/// not for loadable modules.
pub struct BoolSysctl {
    #[cfg_attr(not(CONFIG_SYSCTL), expect(dead_code))]
    name: &'static CStr,
    value: Atomic<c_int>,
}

impl BoolSysctl {
    /// Declares a switch that is off and not visible yet.
    pub const fn new(name: &'static CStr, _: BuiltIn) -> Self {
        Self {
            name,
            value: Atomic::new(0),
        }
    }

    /// Whether the switch is on.
    pub fn get(&self) -> bool {
        self.value.load(Relaxed) != 0
    }

    /// Makes the switch visible in the directory `path` below `/proc/sys`, for ever. Without
    /// `CONFIG_SYSCTL` there is no such directory, and the switch stays off.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory. May sleep.
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
        // SAFETY: The switch is one of code that is built into the kernel, as the proof that it was
        // made with says: it lives for ever, and so do its name, the bounds, and the table, which
        // is leaked. This handler reads the bounds and never writes them, and accesses the value
        // with `READ_ONCE()` and `WRITE_ONCE()`. The path is not kept.
        let header = unsafe { bindings::register_sysctl_sz(path.as_char_ptr(), table, 1) };
        if header.is_null() {
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Does nothing: there is no `/proc/sys`.
    #[cfg(not(CONFIG_SYSCTL))]
    pub fn register(&'static self, _path: &'static CStr) -> Result {
        Ok(())
    }
}
