#!/bin/bash
# Containers without a container engine: PID and mount namespaces of their own, a read-only root, a user without
# privileges, a terminal, no runtime directory, a tenth of a processor, 64 MiB.
#   enter.sh check             says on standard error why there can be none here (exit code 69), or what it lacks
#                              One like the observatory's:
#   enter.sh run DIRECTORY     runs startup.sh in it to its end. From DIRECTORY come `ocps` and dm_config_ocps, which
#                              is all that $HOME has. Its `volume`, if it is there, is mounted at $HOME/volume, and
#                              /tmp is writable; otherwise nothing is. It gets `pid`, that of process 1, and `log`,
#                              what the terminal showed. $RUN_ARG and the LSST_* variables are handed on.
#                              One like that of etc/container/Containerfile, in a pod of etc/kubernetes:
#   enter.sh pod DIRECTORY UID ARG...
#                              runs `run_ocps ARG...` as process 1 and as this user, which /etc/passwd does not know. The
#                              root is made of Debian packages. Each PATH in DIRECTORY/mounts.txt is DIRECTORY/mounts/PATH.
#                              There are no variables but PATH and the LSST_* ones.
#   enter.sh exec PID CMD...   runs a command in the container whose process 1 is PID, as its user, with its environment
set -u
self=$(readlink -f "$0")
home=/home/saluser

no() { echo "container: $*" >&2; exit 69; }

# Becomes a command without privileges, with no variables but those before it.
enter=()
as() {
  exec "${enter[@]}" setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all env -i "${@:2}"
}

# Makes cgroups with a quota of a tenth of a processor and of 64 MiB, prints their directories; of version 2, else 1.
quota() {
  local cpu memory name=ocps-container-$$
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    cpu=/sys/fs/cgroup/$name
    echo '+cpu +memory' > /sys/fs/cgroup/cgroup.subtree_control && mkdir "$cpu" &&
      echo '10000 100000' > "$cpu/cpu.max" && echo 64M > "$cpu/memory.max" && echo "$cpu"
  else
    cpu=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup [^ ]*\bcpu\b.*/\1/p' /proc/self/mounts | head -n 1)/$name
    memory=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup [^ ]*\bmemory\b.*/\1/p' /proc/self/mounts | head -n 1)/$name
    mkdir "$cpu" "$memory" && echo 100000 > "$cpu/cpu.cfs_period_us" && echo 10000 > "$cpu/cpu.cfs_quota_us" &&
      echo 64M > "$memory/memory.limit_in_bytes" && echo "$cpu $memory"
  fi 2>/dev/null
}

check() {
  [ "$(id -u)" = 0 ] || no 'needs root'
  for tool in unshare setpriv script pivot_root; do
    command -v $tool >/dev/null || no "$tool is not installed"
  done
  unshare --mount --pid --fork mount --make-rprivate / 2>/dev/null || no 'cannot make namespaces'
  # shellcheck disable=SC2086 # several directories
  if groups=$(quota); then rmdir $groups; else echo 'container: no cgroups with quotas can be made: tried without' >&2; fi
}

# The root of the observatory's container is the host's, read-only.
like_the_observatory() {
  local dir=$1 root=$1/root
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
  mount -o remount,ro "$root/home"
}

# The root of the image: some packages that Debian always has, those of the Containerfile, and ocps.
like_the_image() {
  local dir=$1 root=$1/root uid=$2 path
  mount -t tmpfs -o mode=755 image "$root"
  mkdir -p "$root"/{dev,proc,tmp,usr/{bin,sbin,lib,lib64}}
  ln -s usr/{bin,sbin,lib,lib64} "$root/"
  apt-cache depends --installed --recurse --no-{recommends,suggests,conflicts,breaks,replaces,enhances} \
    base-files bash coreutils mount util-linux ca-certificates libssl3 | grep '^[[:alnum:]]' | xargs dpkg-query -L 2>/dev/null |
    grep '^/[^.]' | grep -v '^/usr/share/\(doc\|man\|locale\|info\)/' | sort -u |
    tar -c -C / --no-recursion -T - 2>/dev/null | tar -x -C "$root" --keep-directory-symlink || true
  cp "$dir/ocps" "$root/usr/bin/"
  ln -s ocps "$root/usr/bin/run_ocps"
  while read -r path; do
    # A volume that is to be written to is empty at first.
    [ -n "$(ls -A "$dir/mounts$path")" ] || chown "$uid:$uid" "$dir/mounts$path"
    mkdir -p "$root$path"
    mount --bind "$dir/mounts$path" "$root$path"
  done < "$dir/mounts.txt"
}

# Process 1, still as root: makes the container's root and becomes what the container is for.
begin() {
  set -e
  local dir=$1 groups=$2 root=$1/root p uid=${3-}
  shift $(($# < 3 ? $# : 3))
  mount --make-rprivate /
  mkdir -p "$root"
  if [ -n "$uid" ]; then like_the_image "$dir" "$uid"; else like_the_observatory "$dir"; fi
  mount -t tmpfs -o mode=755 dev "$root/dev"
  for p in null zero full random urandom tty; do
    : > "$root/dev/$p"
    mount --bind "/dev/$p" "$root/dev/$p"
  done
  mount -t proc proc "$root/proc"
  mount -o remount,ro "$root/dev"
  mount -o remount,bind,ro "$root"
  # As the host counts: /proc is still its.
  read -r p _ < /proc/self/stat
  echo "$p" > "$dir/pid.new"
  mv "$dir/pid.new" "$dir/pid"
  for p in $groups; do echo 0 > "$p/cgroup.procs"; done
  mapfile -t variables < <(env | grep -E '^(LSST_|RUN_ARG=)')
  cd "$root"
  pivot_root . .
  umount -l .
  cd /
  [ -z "$uid" ] || as "$uid" PATH=/usr/local/bin:/usr/bin:/bin "${variables[@]}" run_ocps "$@"
  as 73006 "HOME=$home" USER=saluser TERM=xterm "PATH=$home/bin:/usr/local/bin:/usr/bin:/bin" \
    "DM_CONFIG_OCPS_DIR=$home/dm_config_ocps" "${variables[@]}" /bin/bash "$home/.startup.sh"
}

run() {
  local dir code=0
  dir=$(readlink -f "$1")
  shift
  rm -f "$dir/pid"
  groups=$(quota) || groups=
  # shellcheck disable=SC2064,SC2086 # several directories
  trap "[ -z '$groups' ] || rmdir $groups 2>/dev/null" EXIT
  setpriv --pdeathsig KILL \
    script -qefc "exec unshare --mount --pid --fork --kill-child -- /bin/bash '$self' begin '$dir' '$groups' $(printf ' %q' "$@")" \
    "$dir/log" </dev/null >/dev/null || code=$?
  exit $code
}

run_in() {
  mapfile -d '' -t variables < "/proc/$1/environ"
  enter=(nsenter -t "$1" -m -p --)
  as "$(stat -c %u "/proc/$1")" "${variables[@]}" "${@:2}"
}

case ${1-} in
  check) check ;;
  run) run "$2" ;;
  pod) run "${@:2}" ;;
  begin) begin "${@:2}" ;;
  exec) run_in "${@:2}" ;;
  *) sed -n '2,/^set/{/^#/p}' "$self" >&2; exit 64 ;;
esac
