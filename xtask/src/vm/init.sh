#!/bin/busybox sh
# The machine's first program, in the initramfs: puts the host's files in place and goes on there.
B=/bin/busybox
die() { echo "vm init: $*" > /dev/console; $B reboot -f; }
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
$B mount -t devtmpfs dev /dev
for m in $($B cat /mod/order); do
    $B insmod "/mod/$m" || die "insmod $m failed"
done
$B mkdir -p /m/lo /m/up /m/new
o=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o $o,ro,cache=loose root /m/lo || die "no share of the host's files"
$B mount -t tmpfs -o mode=755,size=50% tmpfs /m/up
$B mkdir -m 755 /m/up/u /m/up/w
$B mount -t overlay -o lowerdir=/m/lo,upperdir=/m/up/u,workdir=/m/up/w overlay /m/new || die "no overlay"
for d in proc sys dev; do $B mount --move /$d /m/new/$d; done
$B mount -t tmpfs -o mode=755 tmpfs /m/new/run
$B mkdir -p /m/new/run/vm/out /m/new/run/vm/job /m/new/run/lock
# /run is a tmpfs of its own, so that this stays whatever the host has.
$B cp $B /m/new/run/vm/busybox
$B mount -t 9p -o $o,cache=none job /m/new/run/vm/job || die "no share of the job"
$B mount -t 9p -o $o,cache=none out /m/new/run/vm/out || die "no share of the results"
exec $B switch_root /m/new /bin/sh /run/vm/job/stage2
