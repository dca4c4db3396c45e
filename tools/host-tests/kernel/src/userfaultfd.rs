// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/userfaultfd.rs`.

#[path = "../../../../rust/kernel/userfaultfd/pages.rs"]
pub mod pages;
#[path = "../../../../rust/kernel/userfaultfd/range.rs"]
pub mod range;
#[path = "../../../../rust/kernel/userfaultfd/target.rs"]
pub mod target;

pub mod context {
    use crate::{bindings, mm::Mm, types::Opaque};

    #[repr(transparent)]
    pub struct Context {
        raw: Opaque<bindings::userfaultfd_ctx>,
    }

    // SAFETY: As in the kernel.
    unsafe impl Send for Context {}
    // SAFETY: As in the kernel.
    unsafe impl Sync for Context {}

    impl Context {
        #[allow(clippy::missing_safety_doc)]
        pub unsafe fn from_raw<'a>(ctx: *const bindings::userfaultfd_ctx) -> Option<&'a Self> {
            // SAFETY: The caller passes a valid context or null, and the type has it as its only field.
            unsafe { ctx.cast::<Self>().as_ref() }
        }

        pub fn as_raw(&self) -> *mut bindings::userfaultfd_ctx {
            self.raw.get()
        }

        pub fn mm(&self) -> &Mm {
            // SAFETY: The context is valid.
            unsafe { Mm::from_raw((*self.as_raw()).mm) }
        }

        pub fn mmap_changing(&self) -> bool {
            // SAFETY: The context is valid.
            unsafe { (*self.as_raw()).mmap_changing }
        }

        pub fn task_size(&self) -> u64 {
            1 << 32
        }
    }
}

pub mod supported {
    use crate::{bindings, mm::virt::vm_flags_t};

    pub const VM_UFFD_WP: vm_flags_t = bindings::VM_UFFD_WP as vm_flags_t;
    pub const VM_UFFD_FLAGS: vm_flags_t = bindings::VM_UFFD_MISSING as vm_flags_t | VM_UFFD_WP;
}

pub mod vma {
    use super::context::Context;
    use crate::{
        bindings,
        mm::virt::{flags, VmaRef},
        page::PAGE_SIZE,
    };
    use core::ops::Deref;

    #[derive(Copy, Clone)]
    pub struct Vma<'a>(&'a VmaRef);

    impl Deref for Vma<'_> {
        type Target = VmaRef;

        fn deref(&self) -> &VmaRef {
            self.0
        }
    }

    impl<'a> Vma<'a> {
        pub fn from_ref(vma: &'a VmaRef) -> Self {
            Self(vma)
        }

        pub fn context(&self) -> Option<&'a Context> {
            // SAFETY: The VMA is valid.
            let ctx = unsafe { (*self.0.as_ptr()).vm_userfaultfd_ctx.ctx };
            // SAFETY: The context is valid or null.
            unsafe { Context::from_raw(ctx) }
        }

        pub fn is_hugetlb(&self) -> bool {
            self.flags() & flags::HUGETLB != 0
        }

        pub fn page_index(&self, address: usize) -> usize {
            // SAFETY: The VMA is valid.
            let first = unsafe { (*self.0.as_ptr()).vm_pgoff };
            first + (address - self.0.start()) / PAGE_SIZE
        }

        pub fn pagesize(&self) -> usize {
            // SAFETY: The VMA is valid.
            unsafe { bindings::uffd_shim_vma_pagesize(self.0.as_ptr()) }
        }
    }
}

pub mod abi {
    #[derive(Copy, Clone)]
    pub struct UffdioRange {
        pub start: u64,
        pub len: u64,
    }
}
