// SPDX-License-Identifier: GPL-2.0

//! Filling huge pages of hugetlb.
//!
//! Each is filled on its own, with the locks that faults take: no other thread adds or maps the
//! page meanwhile.

use crate::fill::{done, each, errno, goes_on, Copy, Stop, Unfilled};
use core::ops::Range;
use kernel::{
    error::Error,
    mm::{
        folio::FilledFolio,
        hugetlb::{FilledHugeFolio, HugePte, HugetlbPage},
        locked::{Huge, HugetlbVma},
    },
    page::PAGE_SIZE,
    prelude::*,
    task::Sleepable,
    userfaultfd::range::PageRange,
};

/// Makes accesses to pages fail, as [`fill::poison`](crate::fill::poison) does.
#[inline(always)]
pub(crate) fn poison(vma: HugetlbVma<'_>, range: PageRange, sleep: &mut Sleepable) -> Result<u64> {
    each_huge(vma, range, sleep, |pte| {
        pte.lock_none().ok_or(EEXIST)?.poison();
        Ok(())
    })
}

/// Maps pages that the file has, as [`fill::map_existing`](crate::fill::map_existing) does.
#[inline(never)]
pub(crate) fn map_existing(
    vma: HugetlbVma<'_>,
    range: PageRange,
    wp: bool,
    sleep: &mut Sleepable,
) -> Result<u64> {
    each_huge(vma, range, sleep, |pte| {
        let folio = pte.lock_folio().ok_or(EFAULT)?;
        folio.lock_vacant().map_err(errno)?.map(wp);
        Ok(())
    })
}

/// Copies pages. `filled` is the first page of `rest`, if it was read already.
#[inline(never)]
pub(crate) fn copy(
    copy: &Copy,
    vma: HugetlbVma<'_>,
    rest: &mut Range<usize>,
    mut filled: Option<FilledFolio<Huge>>,
    sleep: &mut Sleepable,
) -> Result<(), Stop> {
    check(vma, copy.range)?;
    loop {
        let (page, src) = (vma.page(rest.start)?, copy.source(rest.start));
        let filled = filled.take();
        with_pte(page, sleep, |pte| copy_page(pte, src, filled, copy.wp))?;
        rest.start += vma.page_size();
        if !goes_on(rest, sleep)? {
            return Ok(());
        }
    }
}

/// Copies a page. It is `filled` if it was read already.
fn copy_page(
    pte: &mut HugePte<'_>,
    src: usize,
    filled: Option<FilledFolio<Huge>>,
    wp: bool,
) -> Result<(), Stop> {
    let page = pte.page();
    if !pte.is_vacant() || (page.vma().is_shared() && page.is_cached()) {
        return Err(EEXIST.into());
    }
    let folio = match filled {
        Some(filled) => {
            let folio = pte.alloc_folio().ok_or(ENOMEM)?;
            folio.copy_from(&filled)?
        }
        None => {
            let Some(folio) = pte.alloc_folio() else {
                // For pages of most sizes C reports a lack of them so.
                return Err(if pte.has_pmd_table() { EEXIST } else { ENOMEM }.into());
            };
            match folio.copy_from_user_nofault(src) {
                Ok(folio) => folio,
                Err(folio) => {
                    let buffer = folio.into_buffer().ok_or(ENOMEM)?;
                    return Err(Stop::Source(Unfilled::Huge(buffer)));
                }
            }
        }
    };
    let folio = match folio {
        FilledHugeFolio::Private(folio) => folio,
        // It stays in the file if it cannot be mapped.
        FilledHugeFolio::Shared(folio) => folio.add()?,
    };
    folio.lock_vacant().map_err(errno)?.map(wp);
    Ok(())
}

/// Fills pages, one by one. Returns the number of bytes that were done.
#[inline(always)]
fn each_huge(
    vma: HugetlbVma<'_>,
    range: PageRange,
    sleep: &mut Sleepable,
    mut fill: impl FnMut(&mut HugePte<'_>) -> Result,
) -> Result<u64> {
    check(vma, range)?;
    let mut rest = range.start()..range.end();
    let result = each(&mut rest, sleep, |rest, sleep| {
        with_pte(vma.page(rest.start)?, sleep, &mut fill)?;
        Ok(vma.page_size() / PAGE_SIZE)
    });
    done(range, rest, result)
}

/// Checks that a range is one of huge pages.
#[inline(always)]
fn check(vma: HugetlbVma<'_>, range: PageRange) -> Result {
    if (range.start() | range.bytes()) & (vma.page_size() - 1) != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// Calls `fill` with the entry of a page, and the locks held.
///
/// # Errors
///
/// That of `fill`; `ENOMEM`.
#[inline(always)]
fn with_pte<E: From<Error>>(
    page: HugetlbPage<'_>,
    sleep: &mut Sleepable,
    fill: impl FnOnce(&mut HugePte<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut faults = page.lock_faults(sleep);
    let mut pte = faults.lock_pte().ok_or(ENOMEM)?;
    fill(&mut pte)
}
