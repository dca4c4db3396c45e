// SPDX-License-Identifier: GPL-2.0

//! Filling pages: with zeroes, and with what makes accesses fail.
//!
//! Entries in a row are set together, with their table locked once.

use core::ops::Range;
use kernel::{
    error::Error,
    mm::{
        locked::{HugetlbVma, Memory},
        pgtable::NoVacancy,
    },
    page::PAGE_SIZE,
    prelude::*,
    task::Sleepable,
    userfaultfd::{pages::Pages, range::PageRange},
};

/// Fills pages with zeroes. Returns the number of bytes that were done.
///
/// # Errors
///
/// Those of [`Pages::lock_target`]; `EINVAL` for memory that cannot be filled, such as that of
/// hugetlb; `EEXIST` if there is something where the first page would go; `EFAULT` if the file ends
/// before; `EAGAIN` if the page table is freed meanwhile; `ENOMEM`.
#[doc(alias = "mfill_atomic_zeropage")]
#[inline(always)]
pub(crate) fn zeropage(pages: &mut Pages<'_>, range: PageRange) -> Result<u64> {
    let mut target = pages.lock_target(range)?;
    match target.parts() {
        (Memory::Private(vma), sleep) => fill(range, sleep, |rest, sleep| {
            vma.with_vacant(rest, sleep, |run| run.map_zero_page())
                .map_err(errno)
        }),
        (Memory::Shared(vma), sleep) => fill(range, sleep, |rest, sleep| {
            vma.alloc_pte_table(rest, sleep)
                .map_err(errno)?
                .add_zeroes(sleep)?;
            Ok(1)
        }),
        (Memory::Hugetlb(_) | Memory::Other, _) => Err(EINVAL),
    }
}

/// Makes accesses to pages fail. Returns the number of bytes that were done.
///
/// # Errors
///
/// As for [`zeropage`], but in hugetlb `EINVAL` if the range is not one of huge pages.
#[doc(alias = "mfill_atomic_poison")]
#[inline(always)]
pub(crate) fn poison(pages: &mut Pages<'_>, range: PageRange) -> Result<u64> {
    let mut target = pages.lock_target(range)?;
    let (memory, sleep) = target.parts();
    let vma = match memory {
        Memory::Private(vma) => vma.into_any(),
        Memory::Shared(vma) => vma.into_any(),
        Memory::Hugetlb(vma) => return poison_hugetlb(vma, range, sleep),
        Memory::Other => return Err(EINVAL),
    };
    fill(range, sleep, |rest, sleep| {
        vma.with_vacant(rest, sleep, |run| run.poison())
            .map_err(errno)
    })
}

/// Makes accesses to huge pages fail.
fn poison_hugetlb(vma: HugetlbVma<'_>, range: PageRange, sleep: &mut Sleepable) -> Result<u64> {
    let size = vma.page_size();
    if (range.start() | range.bytes()) & (size - 1) != 0 {
        return Err(EINVAL);
    }
    fill(range, sleep, |rest, sleep| {
        vma.poison(rest.start, sleep)?;
        Ok(size / PAGE_SIZE)
    })
}

/// Fills a range from its beginning, as far as it can be done. Returns the number of bytes.
///
/// `step` fills the beginning of what is left, and returns the number of pages.
///
/// # Errors
///
/// That of the first step. If another fails, what was done before counts.
#[inline(always)]
fn fill(
    range: PageRange,
    sleep: &mut Sleepable,
    mut step: impl FnMut(Range<usize>, &mut Sleepable) -> Result<usize>,
) -> Result<u64> {
    let mut rest = range.start()..range.end();
    loop {
        match step(rest.clone(), sleep) {
            // By the invariants of the range it does not overflow.
            Ok(pages) => rest.start = rest.start.wrapping_add(pages * PAGE_SIZE),
            Err(err) if rest.start == range.start() => return Err(err),
            Err(_) => break,
        }
        if rest.is_empty() {
            break;
        }
        sleep.cond_resched();
        if current!().fatal_signal_pending() {
            break;
        }
    }
    Ok(rest.start.wrapping_sub(range.start()) as u64)
}

/// Returns the error for what is found where a page would go.
#[inline(always)]
fn errno(why: NoVacancy) -> Error {
    match why {
        NoVacancy::Outside => EINVAL,
        NoVacancy::Taken => EEXIST,
        NoVacancy::BeyondFile | NoVacancy::Bad => EFAULT,
        NoVacancy::NoTable => EAGAIN,
        NoVacancy::NoMemory => ENOMEM,
    }
}
