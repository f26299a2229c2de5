# PID 1 of the machine, on the host's files. Before this text the job sets DIR, the directory to run in; VISIBLE, a
# list of directories, quoted; MODULES, those of kernel RELEASE; DISK, where the second disk goes, or nothing; KVM, 1 or 0.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
B=/run/vm/busybox
warn() { echo "vm: $*" > /dev/console; }

mkdir -p "/lib/modules/$RELEASE"
mount --bind "$MODULES" "/lib/modules/$RELEASE"
# kmod wants an index that busybox does not make; the kernel asks this one.
printf '#!%s sh\nexec %s modprobe "$@"\n' $B $B > /run/vm/modprobe
chmod 755 /run/vm/modprobe
echo /run/vm/modprobe > /proc/sys/kernel/modprobe
load() { $B modprobe "$1" || warn "no module $1"; }
for m in virtio_console virtio_blk ext4; do load $m; done
[ "$KVM" = 0 ] || load kvm-amd
# A container that makes such a link has the kernel load the module, which makes one here unless told otherwise.
$B modprobe dummy numdummies=0 || warn "no module dummy"

mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/net
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do
    [ -e "/dev/${n#*:}" ] || ln -s "/proc/self/fd/${n%%:*}" "/dev/${n#*:}"
done
# Nodes that load their module when they are opened: udev would make them.
for n in "net/tun 10 200" "loop-control 10 237" "vhost-net 10 238" "vhost-vsock 10 241" "fuse 10 229"; do
    set -- $n
    [ -e "/dev/$1" ] || mknod -m 666 "/dev/$1" c "$2" "$3"
done
mount -t securityfs securityfs /sys/kernel/security 2>/dev/null
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control
done
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
mount -t bpf bpf /sys/fs/bpf 2>/dev/null

# What is below /tmp is kept in sight while a disk takes its place: an overlay cannot be another's upper layer, and
# takes no id maps.
i=0
eval "set -- $VISIBLE"
for d; do
    i=$((i + 1))
    mkdir -p /run/vm/seen/$i
    mount --bind "$d" /run/vm/seen/$i
done
mount -t ext4 /dev/vda /tmp || warn "no disk for /tmp"
rmdir /tmp/lost+found
chmod 1777 /tmp
i=0
for d; do
    i=$((i + 1))
    case $d in /tmp/*) mkdir -p "$d"; mount --bind /run/vm/seen/$i "$d" ;; esac
    umount /run/vm/seen/$i
done
if [ -n "$DISK" ]; then
    mkdir -p "$DISK"
    mount -t ext4 /dev/vdb "$DISK" || warn "no disk for $DISK"
fi

ip link set lo up 2>/dev/null || $B ip link set lo up
$B hostname vm-lane
export VM_LANE=1 VM_LANE_OUT=/run/vm/out

# Fifos, because a virtio port can be opened only once; no udev, so the ports are known by the names QEMU gave them.
for p in /sys/class/virtio-ports/*; do
    case $(cat "$p/name" 2>/dev/null) in
        out) po=/dev/${p##*/} ;;
        err) pe=/dev/${p##*/} ;;
    esac
done
mkfifo /run/vm/o /run/vm/e
cat < /run/vm/o > "$po" & co=$!
cat < /run/vm/e > "$pe" & ce=$!
# As a service manager gives it; the kernel's own is 1,024.
ulimit -n 65536
sh /run/vm/job/cmd < /dev/null > /run/vm/o 2> /run/vm/e
rc=$?
( sleep 3; kill $co $ce 2>/dev/null ) &     # a daemon left behind may hold the fifos
wait $co $ce
echo $rc > /run/vm/job/rc.new
mv /run/vm/job/rc.new /run/vm/job/rc
echo b > /proc/sysrq-trigger
