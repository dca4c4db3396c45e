// SPDX-License-Identifier: GPL-2.0

//! The handshake, and the way to the other operations: `ioctl_userfaultfd(2)`.

use crate::{context::Context, features::negotiate, register, resolve};
use kernel::{
    cred::{capable, Capability},
    prelude::*,
    uaccess::UserPtr,
    uapi,
    userfaultfd::{
        limits,
        uapi::{
            Api, Continue, Copy, Move, Poison, Range, Register, Request, Writeprotect, Zeropage,
            UNREGISTER,
        },
    },
};

/// Performs an operation.
///
/// # Errors
///
/// `EINVAL` for an unknown operation, and for all but the handshake before that was made; or what
/// the operation answers.
pub(crate) fn dispatch(context: &Context, cmd: u32, arg: UserPtr) -> Result {
    if cmd != Api::CMD && !context.is_initialized() {
        return Err(EINVAL);
    }
    match cmd {
        Api::CMD => api(context, arg),
        Register::CMD => register::register(context, arg),
        UNREGISTER => register::unregister(context, arg),
        Range::CMD => resolve::wake(context, arg),
        Copy::CMD => resolve::fill::<Copy>(context, arg),
        Zeropage::CMD => resolve::fill::<Zeropage>(context, arg),
        Move::CMD => resolve::fill::<Move>(context, arg),
        Continue::CMD => resolve::fill::<Continue>(context, arg),
        Poison::CMD => resolve::fill::<Poison>(context, arg),
        Writeprotect::CMD => resolve::writeprotect(context, arg),
        _ => Err(EINVAL),
    }
}

/// `UFFDIO_API`: agree upon the version and the features.
///
/// # Errors
///
/// `EINVAL` for another version, features that are not to be had, or the second time; `EPERM`
/// where forks are asked for without `CAP_SYS_PTRACE`. The structure is zeroed then. `EFAULT` where
/// it cannot be accessed.
fn api(context: &Context, arg: UserPtr) -> Result {
    let request = Api::read(arg)?;

    agree(context, &request, arg).or_else(|err| {
        if err == EFAULT {
            return Err(err);
        }
        let nothing = Api {
            api: 0,
            features: 0,
            ioctls: 0,
        };
        nothing.write(arg)?;
        Err(err)
    })
}

/// Checks what is asked for, answers with what there is, and fixes the features of the context.
fn agree(context: &Context, request: &Api, arg: UserPtr) -> Result {
    if request.api != limits::API {
        return Err(EINVAL);
    }
    if request.features & u64::from(uapi::UFFD_FEATURE_EVENT_FORK) != 0
        && !capable(Capability::SYS_PTRACE)
    {
        return Err(EPERM);
    }
    let features = negotiate(request.features, limits::FEATURES)?;

    Api {
        api: limits::API,
        features: limits::FEATURES,
        ioctls: limits::API_IOCTLS,
    }
    .write(arg)?;

    // CAST: All features that are offered are in the lower half.
    context
        .header()
        .set_features(features as u32 | limits::FEATURE_INITIALIZED)
}
