#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Installs the package in a copy of a Debian root, boots that from a disk, and removes the package.
# This tool sets src (the root), build and out (with the package and what runs in the guest).
# shellcheck disable=SC2154
set -e
release=$(cat "$out"/release)
package=linux-image-$release
root=$build/root
refuse() {
	echo "@@ $1"
	exit 1
}
enter() {
	mount -t proc proc "$root"/proc
	mount --rbind /dev "$root"/dev
}
leave() {
	umount -l "$root"/dev "$root"/proc
}

rm -rf "$root"
cp -a "$src" "$root"
before=$(ls "$root"/boot)
cp "$out/${package}"_*.deb "$root"/tmp/image.deb
enter
chroot "$root" dpkg -i /tmp/image.deb
echo "@@ installed: $(chroot "$root" dpkg-query -W "$package")"
leave
echo "@@ in /boot: $(cd "$root"/boot && echo *)"
# The hooks of Debian make it.
test -e "$root/boot/initrd.img-$release" || refuse "the installation has made no initramfs"
cp "$root/boot/vmlinuz-$release" "$root/boot/initrd.img-$release" "$build"
cp "$out"/uffd-programs "$root"/usr/local/bin
install -m 755 "$out"/uffd-check "$root"/usr/local/sbin
cat > "$root"/etc/systemd/system/uffd-check.service <<END
[Unit]
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/uffd-check
END
rm -f "$build"/disk
truncate -s 3G "$build"/disk
mke2fs -q -t ext4 -d "$root" "$build"/disk

timeout 1200 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 2G \
	-nodefaults -no-user-config -no-reboot -display none -serial stdio \
	-drive file="$build"/disk,format=raw,if=virtio \
	-kernel "$build/vmlinuz-$release" -initrd "$build/initrd.img-$release" \
	-append "root=/dev/vda rw console=ttyS0 panic=-1 systemd.unit=uffd-check.service" \
	</dev/null 2>&1 | tee "$build"/console
test "${PIPESTATUS[0]}" = 0 || refuse "the guest did not power off"
debugfs -R "dump /report $build/report" "$build"/disk
sed 's/^/@@ /' "$build"/report
has() {
	grep -q "$1" "$build"/report || refuse "$2"
}
has '^finished' "the guest did not finish"
has "^booted: Linux $release " "it was not this kernel"
has '^dmesg: .*userfaultfd: implemented in Rust' "it has no userfaultfd in Rust"
has '^uffd-programs snapshot: exit 0' "the snapshot was not restored"
! grep -E 'BUG:|WARNING:|Oops|Kernel panic|rcu:.*stall' "$build"/console ||
	refuse "the kernel complained"

enter
chroot "$root" dpkg --purge "$package"
! chroot "$root" dpkg-query -W "$package" || refuse "the package is still there"
leave
test "$(ls "$root"/boot)" = "$before" || refuse "left in /boot: $(ls "$root"/boot)"
# depmod made some files there, which are of no package.
left=$(find "$root/lib/modules/$release" -type f ! -name 'modules.*' 2>/dev/null || true)
test -z "$left" || refuse "left in /lib/modules: $left"
echo "@@ removed: /boot is as before, and no module is left"
rm -rf "$root" "$build"/disk
