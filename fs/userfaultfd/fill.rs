// SPDX-License-Identifier: GPL-2.0

//! Filling pages: with contents, with zeroes, and with what makes accesses fail.
//!
//! Entries in a row are set together, with their table locked once.

use crate::fill_huge;
use core::ops::Range;
use kernel::{
    error::Error,
    mm::{
        folio::{ChargedFolios, FilledFolio, NewFolio},
        locked::{Huge, Memory, Private, PteVma, Shared},
        pgtable::NoVacancy,
        thp::Orders,
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::barrier::smp_wmb,
    task::Sleepable,
    userfaultfd::{
        pages::Pages,
        range::{CopySource, PageRange},
        target::{copies_into_large_folios, Target},
    },
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
    let mut rest = range.start()..range.end();
    let result = match target.parts() {
        (Memory::Private(vma), sleep) => each(&mut rest, sleep, |rest, sleep| {
            vma.with_vacant(rest, sleep, |run| run.map_zero_page())
                .map_err(errno)
        }),
        (Memory::Shared(vma), sleep) => each(&mut rest, sleep, |rest, sleep| {
            let address = rest.start;
            let (page, folio) = vma.shmem().new_page(address, sleep).map_err(errno)?;
            let added = page.add(folio.zero(address), sleep).map_err(errno)?;
            added.map(false).map_err(errno)?;
            Ok(1)
        }),
        (Memory::Hugetlb(_) | Memory::Other, _) => Err(EINVAL),
    };
    done(range, rest, result)
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
    let mut rest = range.start()..range.end();
    let (memory, sleep) = target.parts();
    let vma = match memory {
        Memory::Private(vma) => vma.into_any(),
        Memory::Shared(vma) => vma.into_any(),
        Memory::Hugetlb(vma) => return fill_huge::poison(vma, range, sleep),
        Memory::Other => return Err(EINVAL),
    };
    let result = each(&mut rest, sleep, |rest, sleep| {
        vma.with_vacant(rest, sleep, |run| run.poison())
            .map_err(errno)
    });
    done(range, rest, result)
}

/// Maps pages that the file has, write-protected if `wp`. Returns the number of bytes that were
/// done.
///
/// # Errors
///
/// As for [`poison`], but `EINVAL` if the file ends before; `EINVAL` for memory of no file, or with
/// `wp` if the VMA is not registered for that; `EFAULT` if the file does not have the first page;
/// `EIO` if that has a hardware error.
#[doc(alias = "mfill_atomic_continue")]
#[inline(always)]
pub(crate) fn map_existing(pages: &mut Pages<'_>, range: PageRange, wp: bool) -> Result<u64> {
    // What the caller has written to the pages is visible before the entries are.
    smp_wmb();
    let mut target = pages.lock_target(range)?;
    if wp && !target.tracks_writes() {
        return Err(EINVAL);
    }
    let mut rest = range.start()..range.end();
    let (memory, sleep) = target.parts();
    let vma = match memory {
        Memory::Private(vma) => vma.shmem().ok_or(EINVAL)?.into_any(),
        Memory::Shared(vma) => vma.shmem().into_any(),
        Memory::Hugetlb(vma) => return fill_huge::map_existing(vma, range, wp, sleep),
        Memory::Other => return Err(EINVAL),
    };
    let result = each(&mut rest, sleep, |rest, sleep| {
        match vma.map_cached(rest.clone(), wp, sleep).map_err(errno)? {
            0 => {
                let folio = vma.lock_folio(rest.start, sleep)?;
                folio.map(rest.end, wp).map_err(errno)
            }
            pages => Ok(pages),
        }
    });
    done(range, rest, result)
}

/// Fills pages with the contents of `src`, write-protected if `wp`. Returns the number of bytes
/// that were done.
///
/// The source is read without page faults while the VMA is locked. If that fails, it is read into
/// the page with the VMA unlocked, and then all is checked once more.
///
/// Large folios are used if the administrator allows it, the policy of the VMA does, the range has
/// all their pages, and the source is present. The pages of one are mapped at once. If that cannot
/// be, they are copied to single pages, so that the answer does not depend on it.
///
/// # Errors
///
/// As for [`poison`]; `EINVAL` if `src` is not as long as the range, or with `wp` if the VMA is not
/// registered for that; `EFAULT` if the source cannot be read; `EIO` or `EHWPOISON` for a folio
/// with a hardware error; in hugetlb `EEXIST` or `ENOMEM` if there is no huge page left.
#[doc(alias = "mfill_atomic_copy")]
#[inline(always)]
pub(crate) fn copy(
    pages: &mut Pages<'_>,
    range: PageRange,
    src: CopySource,
    wp: bool,
) -> Result<u64> {
    if src.bytes() != range.bytes() {
        return Err(EINVAL);
    }
    let copy = Copy {
        range,
        offset: src.start().wrapping_sub(range.start()),
        wp,
    };
    let mut target = pages.lock_target(range)?;
    if wp && !target.tracks_writes() {
        return Err(EINVAL);
    }
    let mut rest = range.start()..range.end();
    // A copy of one page needs no time and no stack for what only others do.
    let first = match target.parts() {
        (Memory::Private(vma), sleep) if range.bytes() == PAGE_SIZE => {
            copy.private(vma, &mut rest, &mut None, 1, sleep)
        }
        (Memory::Shared(vma), sleep) => copy.shared(vma, &mut rest, None, sleep),
        _ => Err(Stop::NotBegun),
    };
    let result = match first {
        Ok(()) => Ok(()),
        Err(Stop::Failed(err)) => Err(err),
        Err(stop) => copy.resume(target, &mut rest, stop),
    };
    done(range, rest, result)
}

/// The size of a folio that pages are copied to, at most, in bytes: nothing else happens while it
/// is filled, and threads that wait for one of its pages wait for all.
const MAX_BLOCK: usize = 2 << 20;

/// Why a copy stops.
pub(crate) enum Stop {
    /// The source of the next page has to be read with the VMA unlocked.
    Source(Unfilled),
    /// It has not begun: [`Copy::resume`] does what it takes.
    NotBegun,
    Failed(Error),
}

impl From<Error> for Stop {
    #[inline(always)]
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl From<NoVacancy> for Stop {
    #[inline(always)]
    fn from(why: NoVacancy) -> Self {
        Self::Failed(errno(why))
    }
}

/// A folio that is to be filled.
pub(crate) enum Unfilled {
    Private(NewFolio<Private>),
    Shared(NewFolio<Shared>),
    Huge(NewFolio<Huge>),
}

/// A folio that was filled with the VMA unlocked.
enum Filled {
    Private(FilledFolio<Private>),
    Shared(FilledFolio<Shared>),
    Huge(FilledFolio<Huge>),
}

impl Unfilled {
    fn fill(self, src: usize, sleep: &mut Sleepable) -> Result<Filled> {
        Ok(match self {
            Self::Private(folio) => Filled::Private(folio.copy_from_user(src, sleep)?),
            Self::Shared(folio) => Filled::Shared(folio.copy_from_user(src, sleep)?),
            Self::Huge(folio) => Filled::Huge(folio.copy_from_user(src, sleep)?),
        })
    }
}

/// A copy.
pub(crate) struct Copy {
    pub(crate) range: PageRange,
    /// From a page to its source, in bytes.
    offset: usize,
    pub(crate) wp: bool,
}

impl Copy {
    /// Returns the source of the page at an address.
    #[inline(always)]
    pub(crate) fn source(&self, address: usize) -> usize {
        address.wrapping_add(self.offset)
    }

    /// Goes on where a copy has stopped, which may be the beginning.
    #[inline(never)]
    fn resume(&self, mut target: Target<'_>, rest: &mut Range<usize>, mut stop: Stop) -> Result {
        loop {
            let filled = match stop {
                Stop::Failed(err) => return Err(err),
                Stop::NotBegun => None,
                Stop::Source(folio) => {
                    let src = self.source(rest.start);
                    let filled;
                    (target, filled) =
                        target.unlocked(self.range, |sleep| folio.fill(src, sleep))?;
                    if self.wp && !target.tracks_writes() {
                        return Err(EINVAL);
                    }
                    Some(filled)
                }
            };
            let result = match target.parts() {
                (Memory::Private(vma), sleep) => self.batches(vma, rest, filled, sleep),
                (Memory::Shared(vma), sleep) => self.shared(vma, rest, filled, sleep),
                (Memory::Hugetlb(vma), sleep) => {
                    let filled = match filled {
                        Some(Filled::Huge(folio)) => Some(folio),
                        _ => None,
                    };
                    fill_huge::copy(self, vma, rest, filled, sleep)
                }
                (Memory::Other, _) => return Err(EINVAL),
            };
            stop = match result {
                Ok(()) => return Ok(()),
                Err(stop) => stop,
            };
        }
    }

    /// Returns the orders of folios that pages of private memory may be copied to.
    fn orders(&self, vma: PteVma<'_, Private>) -> Orders {
        let (start, end) = (self.range.start(), self.range.end());
        let (src_start, src_end) = (self.source(start), self.source(end));
        // Some pages may have to be mapped before others can be read.
        let overlap = src_start < end && start < src_end;
        let is_one = self.range.bytes() == PAGE_SIZE;
        match is_one || overlap || !copies_into_large_folios() {
            true => Orders::NONE,
            false => vma.allowable_orders().up_to(MAX_BLOCK),
        }
    }

    /// Copies pages to private memory: to large folios where it can, and otherwise to single ones.
    #[inline(always)]
    fn batches(
        &self,
        vma: PteVma<'_, Private>,
        rest: &mut Range<usize>,
        filled: Option<Filled>,
        sleep: &mut Sleepable,
    ) -> Result<(), Stop> {
        let mut filled = match filled {
            Some(Filled::Private(folio)) => Some(folio),
            _ => None,
        };
        let mut orders = self.orders(vma);
        // It is doubled each time, so that few copies are in vain if something is in the way.
        let mut batch = 1;
        loop {
            let pages = match filled {
                None if !orders.is_empty() => self.block(vma, &mut orders, rest, sleep),
                _ => None,
            };
            if let Some(pages) = pages {
                rest.start += pages * PAGE_SIZE;
            } else {
                // Not beyond where there may be a large folio again.
                let max = batch.min(orders.pages_to_next(rest.start));
                self.private(vma, rest, &mut filled, max, sleep)?;
                batch = ChargedFolios::MAX.min(batch * 2);
            }
            if !goes_on(rest, sleep)? {
                return Ok(());
            }
        }
    }

    /// Copies pages to one large folio. Returns their number, or `None` if that cannot be: a copy
    /// of one page says which page is in the way, and how. An order of which there is no folio is
    /// removed.
    #[inline(never)]
    fn block(
        &self,
        vma: PteVma<'_, Private>,
        orders: &mut Orders,
        rest: &Range<usize>,
        sleep: &mut Sleepable,
    ) -> Option<usize> {
        let address = rest.start;
        let mut vacant = orders
            .fitting(rest)
            .filter(|order| vma.is_vacant(address, *order));
        let folio = vacant.find_map(|order| {
            let folio = vma.alloc_large_folio(address, order, sleep);
            if folio.is_none() {
                orders.remove(order);
            }
            folio
        })?;
        // Not with page faults: what resolves them may need pages that come before in the range.
        let folio = folio.copy_from_user_nofault(self.source(address), sleep)?;
        folio.map(self.wp, sleep).ok()
    }

    /// Copies pages to private memory: as many as `batch` and a page table allow.
    #[inline(never)]
    fn private(
        &self,
        vma: PteVma<'_, Private>,
        rest: &mut Range<usize>,
        filled: &mut Option<FilledFolio<Private>>,
        batch: usize,
        sleep: &mut Sleepable,
    ) -> Result<(), Stop> {
        let mut folios = ChargedFolios::new(vma);
        let max = match batch {
            // The range has a page.
            1 => 1,
            _ => vma.pages_in_table(&*rest).min(batch),
        };
        let mut address = rest.start;
        let mut stop = Ok(());
        while folios.len() < max {
            match self.charged(vma, address, filled, &mut folios, sleep) {
                Ok(()) => address += PAGE_SIZE,
                // The source may be a page that is mapped just now: then it can be read afterwards.
                Err(Stop::Source(_)) if address != rest.start => break,
                Err(err) => {
                    stop = Err(err);
                    break;
                }
            }
        }
        if folios.is_empty() {
            // What is in the way comes first.
            vma.alloc_pte_table(rest.start, sleep)?;
            return stop;
        }
        let count = vma.map_folios(rest.start, &mut folios, self.wp, sleep)?;
        rest.start += count * PAGE_SIZE;
        stop
    }

    /// Adds a copy of a page to `folios`.
    #[inline(always)]
    fn charged(
        &self,
        vma: PteVma<'_, Private>,
        address: usize,
        filled: &mut Option<FilledFolio<Private>>,
        folios: &mut ChargedFolios<'_>,
        sleep: &mut Sleepable,
    ) -> Result<(), Stop> {
        let folio = match filled.take() {
            Some(folio) => folio,
            None => vma
                .alloc_folio(address, sleep)
                .ok_or(ENOMEM)?
                .copy_from_user_nofault(self.source(address))
                .map_err(|folio| Stop::Source(Unfilled::Private(folio)))?,
        };
        Ok(folios.charge(folio, sleep)?)
    }

    /// Copies pages to shared memory.
    #[inline(never)]
    fn shared(
        &self,
        vma: PteVma<'_, Shared>,
        rest: &mut Range<usize>,
        filled: Option<Filled>,
        sleep: &mut Sleepable,
    ) -> Result<(), Stop> {
        let mut filled = match filled {
            Some(Filled::Shared(folio)) => Some(folio),
            _ => None,
        };
        let file = vma.shmem();
        loop {
            let address = rest.start;
            let (page, folio) = match filled.take() {
                Some(folio) => {
                    let page = file.new_page_for_filled(address, sleep);
                    (page?, folio)
                }
                None => {
                    let (page, folio) = file.new_page(address, sleep)?;
                    let filled = folio
                        .copy_from_user_nofault(self.source(address))
                        .map_err(|folio| Stop::Source(Unfilled::Shared(folio)))?;
                    (page, filled)
                }
            };
            let added = page.add(folio, sleep)?;
            added.map(self.wp)?;
            rest.start += PAGE_SIZE;
            if !goes_on(rest, sleep)? {
                return Ok(());
            }
        }
    }
}

/// Returns the number of bytes of a range that were done: all but the rest.
///
/// # Errors
///
/// That of `result`, if nothing was done.
#[inline(always)]
pub(crate) fn done(range: PageRange, rest: Range<usize>, result: Result) -> Result<u64> {
    match (rest.start.wrapping_sub(range.start()), result) {
        (0, Err(err)) => Err(err),
        (bytes, _) => Ok(bytes as u64),
    }
}

/// Does what is left, step by step. A step does the beginning of it, and returns the number of
/// pages.
///
/// # Errors
///
/// That of a step, and `EINTR` if a fatal signal is pending.
#[inline(always)]
pub(crate) fn each(
    rest: &mut Range<usize>,
    sleep: &mut Sleepable,
    mut step: impl FnMut(Range<usize>, &mut Sleepable) -> Result<usize>,
) -> Result {
    loop {
        // By the invariants of the range it does not overflow.
        let pages = step(rest.clone(), sleep)?;
        rest.start = rest.start.wrapping_add(pages * PAGE_SIZE);
        if !goes_on(rest, sleep)? {
            return Ok(());
        }
    }
}

/// Returns true if there is a rest to be done, and lets other tasks run before.
///
/// # Errors
///
/// `EINTR` if a fatal signal is pending.
#[inline(always)]
pub(crate) fn goes_on(rest: &Range<usize>, sleep: &mut Sleepable) -> Result<bool> {
    if rest.is_empty() {
        return Ok(false);
    }
    sleep.cond_resched_killable()?;
    Ok(true)
}

/// Returns the error for what is found where a page would go.
#[inline(always)]
pub(crate) fn errno(why: NoVacancy) -> Error {
    match why {
        NoVacancy::Outside => EINVAL,
        NoVacancy::Taken => EEXIST,
        NoVacancy::BeyondFile | NoVacancy::Bad => EFAULT,
        NoVacancy::NoTable => EAGAIN,
        NoVacancy::NoMemory => ENOMEM,
        NoVacancy::HwPoison => EIO,
    }
}
