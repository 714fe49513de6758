#!/bin/busybox sh
# The guest's init. Its arguments are those of overcoat-guest; results go to the second serial port.
/bin/busybox --install -s /bin
export PATH=/bin OVERCOAT_BIN=/bin/overcoat OVERCOAT_TEST_DIR=/disk/scratch OVERCOAT_TEST_REQUIRED=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
ln -s /proc/self/fd /dev/fd
for module in /modules/*.ko; do
    insmod "$module" || echo "insmod $module: failed"
done
stty -F /dev/ttyS1 raw -echo
mount /dev/vda /disk || echo "no disk"
overcoat-guest "$@" </dev/null >/dev/ttyS1
sync
poweroff -f
