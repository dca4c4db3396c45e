// SPDX-License-Identifier: GPL-2.0

//! `rust/pin-init/`, for values that may be moved until they are used.

use core::array;

/// A value to be.
pub trait PinInit<T> {
    /// Makes the value.
    fn make(self) -> T;
}

/// The value itself.
pub(crate) struct Made<T>(pub(crate) T);

impl<T> PinInit<T> for Made<T> {
    fn make(self) -> T {
        self.0
    }
}

pub(crate) fn pin_init_array_from_fn<I: PinInit<T>, const N: usize, T>(
    mut make: impl FnMut(usize) -> I,
) -> impl PinInit<[T; N]> {
    Made(array::from_fn(|index| make(index).make()))
}

macro_rules! pin_init {
    (Self { $($fields:tt)* }) => {
        $crate::prelude::pin_init!(@ {} $($fields)*)
    };
    (@ {$($done:tt)*}) => {
        $crate::stand_ins::pin_init::Made(Self { $($done)* })
    };
    // The atomics of loom cannot be made in a constant.
    (@ {$($done:tt)*} $name:ident: [const { $value:expr }; $len:expr], $($rest:tt)*) => {
        $crate::prelude::pin_init!(
            @ {$($done)* $name: core::array::from_fn::<_, { $len }, _>(|_| $value),} $($rest)*
        )
    };
    (@ {$($done:tt)*} $name:ident: $value:expr, $($rest:tt)*) => {
        $crate::prelude::pin_init!(@ {$($done)* $name: $value,} $($rest)*)
    };
    (@ {$($done:tt)*} $name:ident <- $value:expr, $($rest:tt)*) => {
        $crate::prelude::pin_init!(
            @ {$($done)* $name: $crate::prelude::PinInit::make($value),} $($rest)*
        )
    };
}
pub(crate) use pin_init;
