// SPDX-License-Identifier: GPL-2.0

//! Kernel parameters in `/proc/sys`.
//!
//! C header: [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h).

use crate::{
    alloc::{flags::GFP_KERNEL, KBox},
    bindings,
    error::Result,
    ffi::c_int,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// A switch in `/proc/sys` that is 0 or 1, mode 0644.
///
/// Writing anything else fails with `EINVAL`.
pub struct BoolSysctl {
    name: &'static CStr,
    value: Atomic<i32>,
}

/// The bounds that `proc_dointvec_minmax` checks a [`BoolSysctl`] against.
static BOUNDS: [c_int; 2] = [0, 1];

impl BoolSysctl {
    /// Declares a switch that is off and not visible yet.
    pub const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            value: Atomic::new(0),
        }
    }

    /// Whether the switch is on.
    pub fn get(&self) -> bool {
        self.value.load(Relaxed) != 0
    }

    /// Makes the switch visible in the directory `path` below `/proc/sys`, for ever.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory. May sleep.
    pub fn register(&'static self, path: &'static CStr) -> Result {
        #[cfg(CONFIG_SYSCTL)]
        {
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
            // SAFETY: The path, the table and all that the table points to live for ever. The
            // handler reads the bounds and never writes them; it accesses the value with
            // `READ_ONCE` and `WRITE_ONCE`.
            let header = unsafe { bindings::register_sysctl_sz(path.as_char_ptr(), table, 1) };
            if header.is_null() {
                return Err(ENOMEM);
            }
        }
        #[cfg(not(CONFIG_SYSCTL))]
        let _ = (path, self.name);
        Ok(())
    }
}
