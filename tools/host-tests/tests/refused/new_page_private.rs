// SPDX-License-Identifier: GPL-2.0

//! A page is added to the file of shared memory. The pages of private memory are not in the file.

use kernel::{
    mm::{
        locked::{Private, ShmemVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn add_zeroes(
    vma: ShmemVma<'_, Private>,
    address: usize,
    sleep: &mut Sleepable,
) -> Result<(), NoVacancy> {
    let (page, folio) = ShmemVma::new_page(vma, address, sleep)?;
    drop(page.add(folio.zero(address), sleep));
    Ok(())
}

fn main() {}
