// SPDX-License-Identifier: GPL-2.0

//! `ioctl_userfaultfd(2)`: the handshake, and the dispatch to the other operations.

use crate::{features::negotiate, register, resolve};
use kernel::{
    cred::{capable, Capability},
    prelude::*,
    task::Sleepable,
    uaccess::UserPtr,
    uapi,
    userfaultfd::{
        abi::{
            Request, UffdioApi, UffdioContinue, UffdioCopy, UffdioMove, UffdioPoison, UffdioRange,
            UffdioRegister, UffdioWriteprotect, UffdioZeropage, UNREGISTER,
        },
        context::FEATURE_INITIALIZED,
        supported, Context, OpenContext,
    },
};

/// Performs an operation.
///
/// # Errors
///
/// `EINVAL` for an unknown operation, and for all operations but the handshake before the handshake
/// was made; or the error of the operation.
#[doc(alias = "userfaultfd_ioctl")]
#[inline(always)]
pub(crate) fn dispatch(
    context: OpenContext<'_>,
    cmd: u32,
    arg: UserPtr,
    sleep: &mut Sleepable,
) -> Result {
    if cmd != UffdioApi::CMD && !context.is_initialized() {
        return Err(EINVAL);
    }
    match cmd {
        UffdioApi::CMD => api(&context, arg),
        UffdioRegister::CMD => register::register(context, arg),
        UNREGISTER => register::unregister(&context, arg),
        UffdioRange::CMD => resolve::wake(&context, arg),
        UffdioCopy::CMD => resolve::run::<UffdioCopy>(&context, arg, sleep),
        UffdioZeropage::CMD => resolve::run::<UffdioZeropage>(&context, arg, sleep),
        UffdioMove::CMD => resolve::run::<UffdioMove>(&context, arg, sleep),
        UffdioContinue::CMD => resolve::run::<UffdioContinue>(&context, arg, sleep),
        UffdioPoison::CMD => resolve::run::<UffdioPoison>(&context, arg, sleep),
        UffdioWriteprotect::CMD => resolve::writeprotect(&context, arg, sleep),
        _ => Err(EINVAL),
    }
}

/// `UFFDIO_API`: negotiates the version and the features.
///
/// # Errors
///
/// `EINVAL` for another version, features that the kernel does not offer, or the second time;
/// `EPERM` if the process asks for forks without `CAP_SYS_PTRACE`. The structure is zeroed then.
/// `EFAULT` if it cannot be accessed.
#[doc(alias = "userfaultfd_api")]
fn api(context: &Context, arg: UserPtr) -> Result {
    let request = UffdioApi::read(arg)?;

    negotiate_api(context, &request, arg).or_else(|err| {
        if err == EFAULT {
            return Err(err);
        }
        let nothing = UffdioApi {
            api: 0,
            features: 0,
            ioctls: 0,
        };
        nothing.write(arg)?;
        Err(err)
    })
}

/// Checks the request, writes what the kernel offers, and sets the features of the context.
fn negotiate_api(context: &Context, request: &UffdioApi, arg: UserPtr) -> Result {
    if request.api != supported::API {
        return Err(EINVAL);
    }
    if request.features & u64::from(uapi::UFFD_FEATURE_EVENT_FORK) != 0
        && !capable(Capability::SYS_PTRACE)
    {
        return Err(EPERM);
    }
    let features = negotiate(request.features, supported::FEATURES)?;

    UffdioApi {
        api: supported::API,
        features: supported::FEATURES,
        ioctls: supported::API_IOCTLS,
    }
    .write(arg)?;

    // CAST: All features that are offered are in the lower half.
    context.set_features(features as u32 | FEATURE_INITIALIZED)
}
