#!/bin/sh
# Boots the same kernel, initramfs and command line with vm_boot and with QEMU's microvm, in turn; milliseconds of the whole
# process, from its start to its end, which the guest brings about as soon as its init runs.
#
#   cargo build --release --features vm --example vm_boot
#   cargo xtask vm --kvm --mem 3G --timeout 1200 -- sh benches/vm_peers.sh target/release/examples/vm_boot 5
#
# QEMU is the lane's own, in two forms, with a bzImage; ours has that and the ELF file.
set -eu
boot=$1
rounds=${2:-5}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/stockade/vm
kernel=$(ls -d "$cache"/linux-image-6.12* | tail -n 1)
bzimage=$(ls "$kernel"/boot/vmlinuz-* | tail -n 1)
tools=$(ls -d "$cache"/tools-* 2>/dev/null | tail -n 1 || true)
qemu=$(command -v qemu-system-x86_64 || echo "$tools/usr/bin/qemu-system-x86_64")
work=$(mktemp -d /run/vm-peers.XXXXXX)
trap 'rm -rf "$work"' EXIT
# A first root with one program that restarts the machine.
mkdir -p "$work/root/bin" "$work/root/dev"
cp /run/vm/busybox "$work/root/bin/busybox"
printf '#!/bin/busybox sh\necho INIT\n/bin/busybox reboot -f\n' > "$work/root/init"
chmod 755 "$work/root/init"
mknod "$work/root/dev/console" c 5 1
(cd "$work/root" && find . | /run/vm/busybox cpio -o -H newc) > "$work/initramfs" 2>/dev/null
line='console=ttyS0 quiet panic=-1 reboot=t pci=off mitigations=off cryptomgr.notests'

# Milliseconds of a command that must say INIT.
timed() {
    name=$1
    shift
    begin=$(date +%s%N)
    "$@" > "$work/out" 2>&1 < /dev/null || true
    end=$(date +%s%N)
    grep -q INIT "$work/out" || { echo "$name did not boot:"; tail -n 20 "$work/out"; exit 1; }
    echo "$name $(((end - begin) / 1000000))" | tee -a "$work/all"
}

# As QEMU is when it is not told more, and with its own processor instead of the host's.
peer() {
    machine=$1
    processor=$2
    LD_LIBRARY_PATH="$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu" "$qemu" \
        -L "$tools/usr/share/qemu" -L "$tools/usr/share/seabios" \
        -M "microvm$machine" -enable-kvm -cpu "$processor" -m 256 -smp 1 -nodefaults -no-user-config -nographic -no-reboot -serial stdio \
        -kernel "$bzimage" -initrd "$work/initramfs" -append "$line"
}

round=0
while [ "$round" -lt "$rounds" ]; do
    timed ours-vmlinux "$boot" "$kernel/kernel" "$work/initramfs" "$line"
    timed qemu-stock peer '' qemu64
    timed qemu-host peer ,pit=off,pic=off,rtc=off host
    timed ours-bzimage "$boot" "$bzimage" "$work/initramfs" "$line"
    round=$((round + 1))
done
for name in ours-vmlinux ours-bzimage qemu-stock qemu-host; do
    echo "$name median $(grep "^$name " "$work/all" | cut -d' ' -f2 | sort -n | sed -n "$(((rounds + 1) / 2))p") ms of $rounds"
done
grep -h 'ExitCounts' "$work/out" || true
