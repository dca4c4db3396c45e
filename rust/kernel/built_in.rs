// SPDX-License-Identifier: GPL-2.0

//! Code that is built into the kernel, as opposed to that of loadable modules.

/// Proof that code is built into the kernel: what is `'static` there lives as long as the kernel.
///
/// In a loadable module `'static` ends when the module is removed. An abstraction that gives C a
/// pointer to a `'static` object, and never takes it back, asks for this proof.
///
/// It is made by [`built_in!`](macro@crate::built_in), which a module cannot use.
#[derive(Copy, Clone)]
pub struct BuiltIn(());

impl BuiltIn {
    /// Makes the proof.
    ///
    /// # Safety
    ///
    /// The code that this is called from must not be part of a loadable module.
    #[doc(hidden)]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

/// Makes a [`BuiltIn`](crate::built_in::BuiltIn). Does not compile in a loadable module.
#[macro_export]
macro_rules! built_in {
    () => {{
        #[cfg(MODULE)]
        ::core::compile_error!("this is for code that is built into the kernel");
        // SAFETY: The code of a module does not compile.
        unsafe { $crate::built_in::BuiltIn::new() }
    }};
}
