#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots a kernel with an initramfs that has a shell, under plain QEMU.
# This tool sets build, out and accel, which has arguments of QEMU.
# shellcheck disable=SC2154
set -e
dir=$(mktemp -d)
mkdir -p "$dir"/bin "$dir"/proc "$dir"/sys "$dir"/dev
cp "$(command -v busybox)" "$dir"/bin/busybox
ln -s busybox "$dir"/bin/sh
cat > "$dir"/init <<'END'
#!/bin/sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo userfaultfd: $(dmesg | grep -q 'userfaultfd: implemented in Rust' && echo rust || echo c)
setsid cttyhack sh
poweroff -f
END
chmod +x "$dir"/init
(cd "$dir"; find . | cpio -o -H newc --quiet | gzip) > "$out"/initramfs.gz
# shellcheck disable=SC2086 # There are several arguments in it.
exec qemu-system-x86_64 $accel -smp 2 -m 2G -nographic -no-reboot \
	-kernel "$build"/bzImage -initrd "$out"/initramfs.gz -append console=ttyS0
