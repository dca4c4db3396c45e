#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What happens when a security module refuses the anonymous inode.

The policy that is loaded allows everything but that. Creating a descriptor has
to fail with the errno of the module, for a descriptor of a fork as well, and
nothing may be left behind: no descriptor, no context, no message.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import sys

NR_USERFAULTFD = 323
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
USERFAULTFD_IOC_NEW = 0xAA00
FEATURE_EVENT_FORK = 1 << 1
EVENT_FORK = 0x13
O_NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC

libc = ctypes.CDLL(None, use_errno=True)
registered = []
failed = 0
number = 0


def check(what, good):
    global failed, number
    number += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {number} {what}", flush=True)


def userfaultfd():
    """Returns a descriptor, or a negative errno."""
    fd = libc.syscall(NR_USERFAULTFD, O_NONBLOCK)
    return fd if fd >= 0 else -ctypes.get_errno()


def by_device():
    device = os.open("/dev/userfaultfd", os.O_RDWR)
    try:
        return fcntl.ioctl(device, USERFAULTFD_IOC_NEW, O_NONBLOCK)
    except OSError as err:
        return -err.errno
    finally:
        os.close(device)


def watch():
    """Returns a descriptor that reports forks, with a page registered."""
    uffd = userfaultfd()
    fcntl.ioctl(uffd, UFFDIO_API, struct.pack("QQQ", 0xAA, FEATURE_EVENT_FORK, 0))
    area = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    registered.append(area)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    fcntl.ioctl(uffd, UFFDIO_REGISTER, struct.pack("QQQQ", address, 4096, 1, 0))
    return uffd


def enforce(on):
    with open("/sys/fs/selinux/enforce", "w") as file:
        file.write("1" if on else "0")


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def contexts():
    slab = "/sys/kernel/slab/userfaultfd_ctx_cache/"
    with open(slab + "shrink", "w") as file:
        file.write("1")
    with open(slab + "objects") as file:
        return int(file.read().split()[0])


def load_policy(path):
    with open(path, "rb") as file:
        policy = file.read()
    fd = os.open("/sys/fs/selinux/load", os.O_WRONLY)
    os.write(fd, policy)
    os.close(fd)


load_policy(sys.argv[1])
enforce(False)
uffd = userfaultfd()
check("allowed while the policy is not enforced", uffd >= 0)

before = descriptors(), contexts()
enforce(True)
check("system call refused with EACCES", userfaultfd() == -errno.EACCES)
check("device refused with EACCES", by_device() == -errno.EACCES)
enforce(False)
check("nothing left behind", (descriptors(), contexts()) == before)

# A process that is monitored forks, and the event cannot be read while the
# policy is enforced.
os.close(uffd)
ours, theirs = socket.socketpair()
monitored = os.fork()
if monitored == 0:
    socket.send_fds(theirs, [b"x"], [watch()])
    theirs.recv(1)
    grandchild = os.fork()
    if grandchild != 0:
        os.waitpid(grandchild, 0)
    os._exit(0)
_, (uffd,), _, _ = socket.recv_fds(ours, 1, 1)
before = descriptors()
enforce(True)
ours.send(b"x")
refused = None
while refused is None:
    try:
        os.read(uffd, 32)
        refused = 0
    except OSError as err:
        if err.errno != errno.EAGAIN:
            refused = err.errno
check("the event of a fork refused with EACCES", refused == errno.EACCES)
check("no descriptor left behind", descriptors() == before)
enforce(False)
message = os.read(uffd, 32)
check("the event is still there", message[0] == EVENT_FORK)
os.close(struct.unpack_from("I", message, 8)[0])
os.waitpid(monitored, 0)
os.close(uffd)
print(f"# Totals: pass:{number - failed} fail:{failed} xfail:0 xpass:0 skip:0 error:0")
sys.exit(1 if failed else 0)
