#!/bin/bash
# A container like the observatory's, without a container engine: PID and mount namespaces of its own, the host's root
# read-only, user 73006 without privileges, a terminal, no runtime directory, a tenth of a processor.
#   enter.sh check             says on standard error why there can be none here (exit code 69), or what it lacks
#   enter.sh run DIRECTORY     runs startup.sh in it to its end. From DIRECTORY come `ocps` and dm_config_ocps, which
#                              is all that $HOME has. Its `volume`, if it is there, is mounted at $HOME/volume, and
#                              /tmp is writable; otherwise nothing is. It gets `pid`, that of process 1, and `log`,
#                              what the terminal showed. $RUN_ARG and the LSST_* variables are handed on.
#   enter.sh exec PID CMD...   runs a command in the container whose process 1 is PID, as its user
set -u
self=$(readlink -f "$0")
home=/home/saluser
as_user=(setpriv --reuid 73006 --regid 73006 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all
  env -i "HOME=$home" USER=saluser TERM=xterm "PATH=$home/bin:/usr/local/bin:/usr/bin:/bin"
  "DM_CONFIG_OCPS_DIR=$home/dm_config_ocps")

no() { echo "container: $*" >&2; exit 69; }

# Makes a cgroup with a quota of a tenth of a processor, prints its directory; cgroups of version 2, else 1.
quota() {
  local cpu name=ocps-container-$$
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo +cpu > /sys/fs/cgroup/cgroup.subtree_control && mkdir "/sys/fs/cgroup/$name" &&
      echo '10000 100000' > "/sys/fs/cgroup/$name/cpu.max" && echo "/sys/fs/cgroup/$name"
  else
    cpu=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup [^ ]*\bcpu\b.*/\1/p' /proc/self/mounts | head -n 1)
    [ -n "$cpu" ] && mkdir "$cpu/$name" && echo 100000 > "$cpu/$name/cpu.cfs_period_us" &&
      echo 10000 > "$cpu/$name/cpu.cfs_quota_us" && echo "$cpu/$name"
  fi 2>/dev/null
}

check() {
  [ "$(id -u)" = 0 ] || no 'needs root'
  for tool in unshare setpriv script pivot_root; do
    command -v $tool >/dev/null || no "$tool is not installed"
  done
  unshare --mount --pid --fork mount --make-rprivate / 2>/dev/null || no 'cannot make namespaces'
  if group=$(quota); then rmdir "$group"; else echo 'container: no cgroup with a CPU quota can be made: tried without' >&2; fi
}

# Process 1, still as root: makes the container's root and becomes startup.sh.
begin() {
  set -e
  local dir=$1 group=$2 root=$1/root p
  mount --make-rprivate /
  mkdir -p "$root"
  mount --bind / "$root"
  mount -t tmpfs -o mode=755 image "$root/home"
  mkdir -p "$root$home/bin"
  cp -r "$dir/dm_config_ocps" "$root$home/"
  cp "$dir/ocps" "$root$home/bin/"
  ln -s ocps "$root$home/bin/run_ocps"
  cp "$(dirname "$self")/startup.sh" "$root$home/.startup.sh"
  chown -R 73006:73006 "$root$home"
  if [ -d "$dir/volume" ]; then
    mkdir "$root$home/volume"
    chown 73006:73006 "$dir/volume"
    mount --bind "$dir/volume" "$root$home/volume"
    mount -t tmpfs -o mode=777 tmp "$root/tmp"
  fi
  mount -t tmpfs -o mode=755 dev "$root/dev"
  for p in null zero full random urandom tty; do
    : > "$root/dev/$p"
    mount --bind "/dev/$p" "$root/dev/$p"
  done
  mount -t proc proc "$root/proc"
  mount -o remount,ro "$root/home"
  mount -o remount,ro "$root/dev"
  mount -o remount,bind,ro "$root"
  # As the host counts: /proc is still its.
  read -r p _ < /proc/self/stat
  echo "$p" > "$dir/pid.new"
  mv "$dir/pid.new" "$dir/pid"
  [ -z "$group" ] || echo 0 > "$group/cgroup.procs"
  mapfile -t variables < <(env | grep -E '^(LSST_|RUN_ARG=)')
  cd "$root"
  pivot_root . .
  umount -l .
  cd /
  exec "${as_user[@]}" "${variables[@]}" /bin/bash "$home/.startup.sh"
}

run() {
  local dir code=0
  dir=$(readlink -f "$1")
  rm -f "$dir/pid"
  group=$(quota) || group=
  trap '[ -z "$group" ] || rmdir "$group" 2>/dev/null' EXIT
  setpriv --pdeathsig KILL script -qefc "exec unshare --mount --pid --fork --kill-child -- /bin/bash '$self' begin '$dir' '$group'" \
    "$dir/log" </dev/null >/dev/null || code=$?
  exit $code
}

case ${1-} in
  check) check ;;
  run) run "$2" ;;
  begin) begin "$2" "$3" ;;
  exec) exec nsenter -t "$2" -m -p -- "${as_user[@]}" "${@:3}" ;;
  *) sed -n '2,/^set/{/^#/p}' "$self" >&2; exit 64 ;;
esac
