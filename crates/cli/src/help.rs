//! The texts of `--help`.

pub(crate) const TOP: &str = "\
Run commands in containers.

Usage: stockade COMMAND [OPTIONS] ...

Commands:
  run     run a command in a new container, and remove the container when it ends
  exec    run a command in a container that runs
  list    list containers
  stop    kill all processes of a container
  delete  remove a container, stopping it first

`stockade COMMAND --help` has the options. `stockade --version` prints the version.
";

pub(crate) const RUN: &str = "\
Run a command in a new container, and remove the container when the command ends.

Usage: stockade run (--rootfs DIR | --image FILE | --host) [OPTIONS] [--] COMMAND [ARG...]

Root file system:
  --rootfs DIR          this directory, which the command can change
  --image FILE          this tar archive, plain or compressed by gzip, zstd or xz: unpacked for this run into a
                        directory below $TMPDIR (default: /tmp), which is removed at the end, or, of a run that was
                        killed, by the next with --image once its container is gone; for an ordinary user all files
                        and processes are the user's own
  --host                the host's own files, unchanged and with secrets hidden: a quick try, not a sandbox
  --read-only           make the root read-only
  -v, --volume SRC:DST[:ro][:noidmap]
                        show the host's file or directory SRC at DST; its owners as they are on disk when root
                        runs this, unless `noidmap`

The command:
  -e, --env NAME=VALUE  set a variable; the environment of this process is not passed on
  -w, --workdir DIR     start it in this directory
  -u, --user UID[:GID]  run it as this user, by number (default 0:0, root of the container)

The container:
  --name NAME           its name and host name (default: made of the process number)
  --net none|host       its network (default: none but loopback)
  --memory SIZE         at most this much memory: bytes, or with K, M, G, T (powers of 1024)
  --pids N              at most this many processes and threads
  --resource-views      show its limits, and what it uses of them, in /proc/meminfo, cpuinfo, stat and the like
  --privileged          no user namespace: its root is root of the host
  --no-seccomp          allow every system call
  --rm                  does nothing: the container is always removed

Where:
  --run-dir DIR         directory for the record of the run (default: /run/stockade for root, else
                        $XDG_RUNTIME_DIR/stockade, /run/user/UID/stockade or /tmp/stockade-UID)
  --state-dir DIR       directory with the ids that are taken (default: /var/lib/stockade for root, else in the
                        run directory); nothing of this run is kept in it
  --cgroup DIR          cgroup to make the container's in (default: that of this process)

Streams are passed on. So are SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2; a second SIGINT or SIGTERM kills.
The command is process 1 of the container: signals that it does not handle have no effect on it.
If this process is killed the container goes on; `stockade list` and `stockade delete` see to it.

Exit status: that of the command; 128 + N when signal N ended it; 127 when it is not found and 126 when it cannot
be executed; 125 when stockade itself fails.
";

pub(crate) const EXEC: &str = "\
Run a command in a container that runs.

Usage: stockade exec [OPTIONS] NAME [--] COMMAND [ARG...]

  -e, --env NAME=VALUE  set a variable, on top of the container's own environment
  -w, --workdir DIR     start it in this directory
  -u, --user UID[:GID]  run it as this user, by number
  --run-dir DIR, --state-dir DIR
                        as for `stockade run`

Streams, signals and exit status are as for `stockade run`.
";

pub(crate) const LIST: &str = "\
List containers: project/name, state, and the process number of the first process.

Usage: stockade list [--run-dir DIR] [--state-dir DIR]
";

pub(crate) const STOP: &str = "\
Kill all processes of a container. An ephemeral one, such as those of `stockade run`, is removed.

Usage: stockade stop [--run-dir DIR] [--state-dir DIR] NAME
";

pub(crate) const DELETE: &str = "\
Remove a container, stopping it first.

Usage: stockade delete [--run-dir DIR] [--state-dir DIR] NAME
";
