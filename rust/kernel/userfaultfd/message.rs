// SPDX-License-Identifier: GPL-2.0

//! The messages that are read from a descriptor: `struct uffd_msg`.

use crate::{prelude::*, uapi};

/// The size of a message, in bytes.
pub const SIZE: usize = core::mem::size_of::<uapi::uffd_msg>();

static_assert!(SIZE == 32);

/// A page fault, as it is reported.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// `UFFD_PAGEFAULT_FLAG_*`
    pub flags: u64,
    /// The address of the page, or the one that was accessed, in bytes.
    pub address: u64,
    /// The thread that faulted, or zero without `UFFD_FEATURE_THREAD_ID`.
    pub ptid: u32,
}

/// A message. Addresses and lengths are in bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A thread sleeps in a fault.
    PageFault(PageFault),
    /// The process was duplicated.
    Fork {
        /// The descriptor for the new process.
        ufd: u32,
    },
    /// Memory was moved.
    Remap {
        /// The old address.
        from: u64,
        /// The new address.
        to: u64,
        /// The length.
        len: u64,
    },
    /// Pages are removed, and the mapping stays.
    Remove {
        /// The first address.
        start: u64,
        /// The address after the last.
        end: u64,
    },
    /// A mapping was removed.
    Unmap {
        /// The first address.
        start: u64,
        /// The address after the last.
        end: u64,
    },
}

impl Message {
    /// Returns the message as user space reads it, in the byte order of the machine. Fields that a
    /// kind of message does not use are zero.
    #[inline(always)]
    pub fn encode(&self) -> [u8; SIZE] {
        let (event, args) = match *self {
            Self::PageFault(fault) => {
                // The thread is in the first half of the last word, whatever the byte order.
                let mut last = [0; 8];
                last[..4].copy_from_slice(&fault.ptid.to_ne_bytes());
                let last = u64::from_ne_bytes(last);
                (
                    uapi::UFFD_EVENT_PAGEFAULT,
                    [fault.flags, fault.address, last],
                )
            }
            Self::Fork { ufd } => {
                let mut first = [0; 8];
                first[..4].copy_from_slice(&ufd.to_ne_bytes());
                (uapi::UFFD_EVENT_FORK, [u64::from_ne_bytes(first), 0, 0])
            }
            Self::Remap { from, to, len } => (uapi::UFFD_EVENT_REMAP, [from, to, len]),
            Self::Remove { start, end } => (uapi::UFFD_EVENT_REMOVE, [start, end, 0]),
            Self::Unmap { start, end } => (uapi::UFFD_EVENT_UNMAP, [start, end, 0]),
        };

        let mut message = [0; SIZE];
        // CAST: The field for the event is a byte.
        message[0] = event as u8;
        for (slot, arg) in message[8..].chunks_exact_mut(8).zip(args) {
            slot.copy_from_slice(&arg.to_ne_bytes());
        }
        message
    }
}

#[kunit_tests(userfaultfd_message)]
mod tests {
    use super::*;

    /// Returns the word at a multiple of eight bytes.
    fn word(message: &[u8; SIZE], index: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&message[index * 8..index * 8 + 8]);
        u64::from_ne_bytes(bytes)
    }

    #[test]
    fn page_fault() {
        let fault = PageFault {
            flags: 3,
            address: 0x7fff_1234_5000,
            ptid: 42,
        };
        let message = Message::PageFault(fault).encode();
        assert_eq!(message[0], 0x12);
        assert!(message[1..8].iter().all(|byte| *byte == 0));
        assert_eq!(word(&message, 1), 3);
        assert_eq!(word(&message, 2), 0x7fff_1234_5000);
        assert_eq!(message[24..28], 42u32.to_ne_bytes());
        assert_eq!(message[28..32], [0; 4]);
    }

    #[test]
    fn fork() {
        let message = Message::Fork { ufd: 7 }.encode();
        assert_eq!(message[0], 0x13);
        assert_eq!(message[8..12], 7u32.to_ne_bytes());
        assert!(message[12..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn ranges() {
        let message = Message::Remap {
            from: 1,
            to: 2,
            len: 3,
        }
        .encode();
        assert_eq!(message[0], 0x14);
        assert_eq!([1, 2, 3].map(|index| word(&message, index)), [1, 2, 3]);

        let message = Message::Remove { start: 1, end: 2 }.encode();
        assert_eq!(message[0], 0x15);
        assert_eq!([1, 2, 3].map(|index| word(&message, index)), [1, 2, 0]);

        let message = Message::Unmap { start: 1, end: 2 }.encode();
        assert_eq!(message[0], 0x16);
        assert_eq!([1, 2, 3].map(|index| word(&message, index)), [1, 2, 0]);
    }
}
