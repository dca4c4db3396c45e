#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes an initramfs with busybox: the root of a guest that cannot run the programs of the lab.
# This tool sets out, which has the first script of the guest.
# shellcheck disable=SC2154
set -e
root=$(mktemp -d)
# Some tests run as another user.
chmod 755 "$root"
mkdir -p "$root"/bin "$root"/dev "$root"/proc "$root"/run "$root"/sys "$root"/tmp "$root/$out"
cp "$(command -v busybox)" "$root"/bin/busybox
ln -s busybox "$root"/bin/sh
cp "$out"/init.sh "$root"
cat > "$root"/init <<'END'
#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
umount /proc
exec /bin/sh /init.sh "$@"
END
chmod +x "$root"/init
(cd "$root" && find . | cpio -o -H newc --quiet) > "$out"/initramfs
rm -r "$root"
