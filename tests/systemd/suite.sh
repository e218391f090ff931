#!/bin/bash
# The tests of the service: runs inside the sandbox, as root, on a machine of its own that is lost at the end.
# suite.sh DIRECTORY [NAME ...]: only the named tests.
set -u
built=$1; shift
only=("$@")
failed=0

# ------------------------------------------------------------------------------------------------ tools

begun=${EPOCHREALTIME/./}
ms() { echo $(( (${EPOCHREALTIME/./} - begun) / 1000 )); }
complain() { echo "  FAILED: $*" >&2; failed_here=1; }
show() { printf '  %s\n' "$*"; }
property() { systemctl show --value -p "$1" "$2"; }
pid() { property MainPID "${1:-ocps}"; }

# expect TEXT EXPRESSION: what the command says must match the extended regular expression.
expect() {
  local what=$1 wanted=$2 said; shift 2
  said=$("$@" 2>&1)
  grep -Eq -- "$wanted" <<<"$said" || complain "$what: wanted '$wanted', got: $said"
}
succeed() { local said; said=$("$@" 2>&1) || complain "$*: exit $?: $said"; }
# refuse TEXT COMMAND: it must fail.
refuse() { local what=$1 said; shift; said=$("$@" 2>&1) && complain "$what was not refused: $said"; }

# await SECONDS COMMAND: until it succeeds; many times as long on a busy machine.
await() {
  local end=$(( $(ms) + $1 * 10000 )); shift
  until "$@" >/dev/null 2>&1; do
    [ "$(ms)" -lt $end ] || { complain "waited in vain: $*"; return 1; }
    sleep 0.05
  done
}
is() { [ "$(property "$1" "${3:-ocps}")" = "$2" ]; }
another_pid() { local now; now=$(pid "${2:-ocps}"); [ "$now" != 0 ] && [ "$now" != "$1" ] && is ActiveState active "${2:-ocps}"; }
logged() { journalctl -q --sync >/dev/null 2>&1; journalctl -q -u "${2:-ocps}" -o cat --no-pager | grep -Eq -- "$1"; }
# as USER COMMAND: with nothing in its environment.
as() { local user=$1; shift; timeout 20 runuser -u "$user" -- env -i PATH=/usr/bin "$@"; }
# How the service is confined, for another program.
confined() { grep -vE '^(Exec|Type|Restart|Watchdog|RuntimeDirectory|StateDirectory|LogsDirectory|EnvironmentFile|Documentation)' /lib/systemd/system/ocps.service; }

# The service from the beginning: its settings, and a drop-in with the flags of `ocps run`.
fresh() {
  local unit
  for unit in ocps ocps@2 ocps@3 uws; do systemctl stop $unit; systemctl reset-failed $unit; done >/dev/null 2>&1
  rm -rf /etc/systemd/system/ocps{,@,@2}.service.d /etc/ocps-{2,3} /etc/ocps/ocps.env /etc/credstore /var/lib/ocps{,-2,-3}/*
  printf 'index = 1\n[simulation]\nmean_duration_s = %s\nsigma_s = 0\n' "${SECONDS_OF_JOB:-600}" > /etc/ocps/ocps.toml
  printf 'url: http://localhost:8910/api/v1\npoll_interval: 0.5\n' > /etc/ocps/OCPS/v4/_init.yaml
  flags ocps "$@"
}
# flags UNIT FLAG...: what `ocps run` gets besides.
flags() {
  local unit=$1 index=''; shift
  [[ $unit != *@* ]] || index=' %i'
  mkdir -p "/etc/systemd/system/$unit.service.d"
  printf '[Service]\nExecStart=\nExecStart=/usr/bin/ocps run%s %s\n' "$index" "$*" > "/etc/systemd/system/$unit.service.d/flags.conf"
  systemctl daemon-reload
}
service() { # the stand-in for the execution service
  systemd-run -q --unit=uws "$built/examples/uws-service" --duration 600
  await 10 curl -sf http://127.0.0.1:8910/control
}
# jobs_run COUNT: so many jobs run at the service.
jobs_run() { [ "$(curl -s http://127.0.0.1:8910/api/v1/job 2>/dev/null | grep -o '"phase": *"executing"' | wc -l)" = "$1" ]; }

# Nothing here may wait for ever.
ocps() { timeout 20 /usr/bin/ocps "$@"; }

# ------------------------------------------------------------------------------------------------ tests

test_start() {
  fresh --simulate --state enabled
  local from; from=$(ms)
  succeed systemctl start ocps
  show "from start to ready: $(( $(ms) - from )) ms (simulated, with systemctl)"
  expect 'status' '"?ENABLED' ocps state
  expect 'status text' '^ENABLED: no jobs' property StatusText ocps
  expect 'owner of the socket' '^660 ocps:ocps /run/ocps/ocps.sock' stat -c '%a %U:%G %n' /run/ocps/ocps.sock
  expect 'its directory' '^750 ocps:ocps' stat -c '%a %U:%G' /run/ocps
  expect 'user' '^ocps$' ps -o user= -p "$(pid)"
  expect 'as root without a flag' 'socket +/run/ocps/ocps.sock' ocps status
  ocps send execute --no-wait pipeline=true.yaml >/dev/null
  await 5 eval 'property StatusText ocps | grep -q "^ENABLED: unfinished jobs: 1, running: 1"'
}

# Readiness is not notified before the requested state is reached: git hangs meanwhile.
test_readiness_order() {
  fresh --state enabled
  git -C /etc/ocps init -q
  printf '#!/bin/sh\nsleep 2\nexec /usr/bin/git "$@"\n' > /usr/local/bin/git; chmod 755 /usr/local/bin/git
  systemctl start --no-block ocps
  await 10 test -S /run/ocps/ocps.sock
  is ActiveState activating || complain "ready before it takes commands"
  await 30 is ActiveState active
  expect 'state at ready' ENABLED ocps state
  rm -r /usr/local/bin/git /etc/ocps/.git
}

test_reload() {
  fresh --simulate
  printf 'index = 1\n[log]\nfile = "/var/log/ocps/ocps.log"\n' > /etc/ocps/ocps.toml
  succeed systemctl start ocps
  local before; before=$(pid)
  mv /var/log/ocps/ocps.log /var/log/ocps/ocps.log.1
  printf 'index = 1\n[log]\nlevel = "debug"\nfile = "/var/log/ocps/ocps.log"\n' > /etc/ocps/ocps.toml
  succeed systemctl reload ocps
  await 5 grep -q reloaded /var/log/ocps/ocps.log
  await 5 is ActiveState active
  expect 'log level' '"log_level": *10' ocps status --json
  [ "$(pid)" = "$before" ] || complain 'a reload is no restart'
  echo 'x' > /etc/ocps/ocps.toml
  succeed systemctl reload ocps
  await 5 grep -q 'not reloaded: .*ocps.toml:1:' /var/log/ocps/ocps.log
  await 5 is ActiveState active
}

test_stop_leaves_jobs() {
  fresh --state enabled
  service
  succeed systemctl start ocps
  local i from
  for i in 1 2 3 4 5; do ocps send execute --no-wait pipeline=a.yaml >/dev/null & done
  await 20 jobs_run 5
  ocps watch summaryState > /tmp/last-events & local watcher=$!
  await 5 grep -q ENABLED /tmp/last-events
  from=$(ms)
  succeed systemctl stop ocps
  show "stop with 5 running jobs: $(( $(ms) - from )) ms"
  [ $(( $(ms) - from )) -lt 15000 ] || complain 'a stop takes too long'
  is Result success || complain "a stop is no success: $(property Result ocps)"
  wait $watcher
  grep -q OFFLINE /tmp/last-events || complain "the last state was not published: $(cat /tmp/last-events)"
  jobs_run 5 || complain 'the jobs did not go on'
}

test_restart_under_jobs() {
  fresh --state enabled
  service
  succeed systemctl start ocps
  local i from last
  for i in $(seq 50); do ocps send execute --no-wait pipeline=a.yaml >/dev/null & done
  await 40 jobs_run 50
  ( while sleep 0.02; do ocps watch heartbeat; done > /tmp/heartbeats 2>/dev/null ) & local watcher=$!
  await 5 test -s /tmp/heartbeats
  from=$(ms)
  succeed systemctl restart ocps
  show "restart with 50 running jobs: $(( $(ms) - from )) ms from systemctl to ready"
  jobs_run 50 || complain 'the jobs did not go on'
  expect 'what was resumed' 'resumed  *50 running jobs' ocps status
  last=$(wc -l < /tmp/heartbeats)
  await 10 eval "[ \$(wc -l < /tmp/heartbeats) -gt $(( last + 2 )) ]"
  kill $watcher
  # The time of day is the first word of each line.
  awk -F '[: ]' '{t = $1 * 3600 + $2 * 60 + $3; if (NR > 1 && t - before > gap) gap = t - before; before = t}
                 END {printf "  longest time without heartbeat over that restart: %.2f s\n", gap; exit gap > 5}' /tmp/heartbeats ||
    complain 'the heartbeat was away for long'
  # Nothing is lost: the new process publishes the end of each.
  succeed curl -sf -X PUT http://127.0.0.1:8910/control
  await 60 eval 'ocps status --json | grep -q "\"results\":50[,}]"'
  expect 'what ended' '^50$' eval "ocps jobs --all --json | grep -o '\"exit_code\": *0' | wc -l"
}

test_killed_is_restarted() {
  fresh --simulate --state enabled
  succeed systemctl start ocps
  local before from; before=$(pid); from=$(ms)
  kill -9 "$before"
  await 10 another_pid "$before"
  show "kill -9 to ready again: $(( $(ms) - from )) ms"
  expect 'state' ENABLED ocps state
}

test_hung_loop_is_restarted() {
  fresh --simulate --state enabled
  succeed systemctl start ocps
  local before from; before=$(pid); from=$(ms)
  kill -STOP "$before"
  await 30 another_pid "$before"
  show "a hung loop to ready again: $(( $(ms) - from )) ms"
  [ $(( $(ms) - from )) -lt 15000 ] || complain 'the watchdog comes after the alarm of the heartbeat'
  logged 'Watchdog timeout' || complain 'it was not the watchdog'
}

test_exit_control_stays_down() {
  fresh --simulate
  succeed systemctl start ocps
  succeed ocps state offline
  await 5 is ActiveState inactive
  sleep 1.5
  is ActiveState inactive || complain 'it came back'
  expect 'restarts' '^0$' property NRestarts ocps
}

test_bad_configuration() {
  fresh --simulate
  printf 'index = 1\n[log]\nlevel = "loud"\n' > /etc/ocps/ocps.toml
  refuse 'a bad configuration' systemctl start ocps
  is ActiveState failed || complain "not failed: $(property ActiveState ocps)"
  expect 'exit code' '^78$' property ExecMainStatus ocps
  expect 'restarts' '^0$' property NRestarts ocps
  await 5 logged 'ocps.toml:3:9: log.level must be'
  expect 'reason' 'ocps.toml:3:9: log.level must be' systemctl status --no-pager ocps
  expect 'status text' 'ocps.toml:3:9: log.level must be' property StatusText ocps
  expect 'priority' 'log.level must be' journalctl -q -u ocps -p err -o cat --no-pager
  # No index at all is a wrong command line.
  : > /etc/ocps/ocps.toml
  refuse 'no index' systemctl start ocps
  expect 'exit code' '^2$' property ExecMainStatus ocps
}

# What dies at once is given up, what is given up says why.
test_crash_loop_ends() {
  fresh --simulate --socket /proc/nowhere/ocps.sock
  systemctl start ocps >/dev/null 2>&1
  await 20 is ActiveState failed
  expect 'restarts' '^[45]$' property NRestarts ocps
  expect 'reason' '/proc/nowhere' property StatusText ocps
  systemctl reset-failed ocps
}

test_instances() {
  fresh --simulate --state enabled
  flags ocps@ --simulate --state enabled
  succeed systemctl start ocps ocps@2
  # Its own configuration goes before the common one.
  mkdir -p /etc/ocps-3
  printf 'index = 2\nlog.level = "debug"\n' > /etc/ocps-3/ocps.toml
  echo 'LSST_SITE=three' > /etc/ocps-3/ocps.env
  succeed systemctl start ocps@3
  for i in 2 3; do
    test -S /run/ocps-$i/ocps.sock || complain "no socket of ocps@$i"
    expect "state directory of $i" '^750 ocps:ocps' stat -c '%a %U:%G' /var/lib/ocps-$i
    expect "index of ocps@$i" "\"index\": *$i" ocps status --json --index $i
  done
  expect 'index of ocps' '"index": *1' ocps status --json
  grep -qz '^LSST_SITE=three$' "/proc/$(pid ocps@3)/environ" || complain 'no environment of ocps@3'
  await 5 logged 'for index 3' ocps@3
  succeed ocps send setLogLevel level=10 --index 2
  succeed systemctl stop ocps@2
  expect 'the others' 'ENABLED' ocps state
  expect 'the others' 'ENABLED' ocps state --index 3
}

test_group_may_use_the_socket() {
  fresh --simulate
  succeed systemctl start ocps
  id oppy >/dev/null 2>&1 || useradd -N -G ocps oppy
  id stranger >/dev/null 2>&1 || useradd -N stranger
  expect 'a member of the group' STANDBY as oppy ocps state
  refuse 'a stranger' as stranger ocps state
  expect 'why' 'no permission for /run/ocps/ocps.sock: .*group ocps' as stranger ocps state
  # Who it was is in the log, not the overflow user.
  as oppy ocps send setLogLevel level=20 >/dev/null
  await 5 logged "setLogLevel 1 from uid-$(id -u oppy)@localhost"
}

test_log() {
  SECONDS_OF_JOB=1 fresh --simulate --state enabled
  succeed systemctl start ocps
  ocps send execute pipeline=fault.yaml >/dev/null 2>&1
  # The daemon's log is written a little after what it publishes.
  await 5 logged 'FAULT: errorCode=2'
  expect 'information' '^6$' eval "journalctl -q -u ocps -o json --no-pager | grep 'ocps .* for index' | tail -1 | grep -o '\"PRIORITY\":\"[0-9]\"' | tr -dc 0-9"
  expect 'a FAULT' . journalctl -q -u ocps -p crit -o cat --no-pager
  logged '^(<[0-9]>|[0-9]{4}-[0-9]{2}-[0-9]{2}T)' && complain "doubled times or priorities: $(journalctl -q -u ocps -o cat --no-pager | tail -3)"
}

# What `ocps check` says is what the unit would meet: its settings, its variables, its flags.
test_check() {
  fresh --state enabled
  expect 'all is well' '^systemctl start ocps: ok$' ocps check
  printf 'LSST_TOPIC_SUBNAME=sal\nLSST_KAFKA_REPLICATION_FACTOR="many"\n' > /etc/ocps/ocps.env
  expect 'a wrong variable' '^systemctl start ocps: LSST_KAFKA_REPLICATION_FACTOR must be .*"many"' ocps check
  rm /etc/ocps/ocps.env
  sed -i /^index/d /etc/ocps/ocps.toml
  expect 'no index' '^systemctl start ocps: no index' ocps check
  expect 'that of an instance' '^systemctl start ocps@2: ok$' ocps check --index 2
  flags ocps --stat enabled
  expect 'a wrong flag' '^systemctl start ocps: ExecStart of ocps: unknown flag --stat' ocps check
  refuse 'a start with a wrong flag' systemctl start ocps
}

# A program with the same confinement tries what the daemon must not be able to do, and what it must.
test_hardening() {
  local line
  fresh
  mkdir -p /run/systemd/system /etc/credstore
  # The checkout may be where the confined see nothing: in a home, or in /tmp.
  install -D -m 644 tests/systemd/confined.sh /usr/local/lib/confined.sh
  echo 'secret of Kafka' > /etc/credstore/ocps.kafka-password; chmod 600 /etc/credstore/ocps.kafka-password
  { confined | sed '/^\[Install\]/,$d'; echo 'Type=oneshot'; echo 'StateDirectory=ocps'
    echo 'ExecStart=/bin/bash /usr/local/lib/confined.sh /usr/bin/ocps'; } > /run/systemd/system/confined.service
  systemctl daemon-reload
  # Outside of the confinement these are possible, so that their refusal means something.
  for line in 'use Socket; socket(my $s, 16, 3, 0) or exit 1' 'use Socket; socket(my $s, 2, 3, 1) or exit 1'; do
    succeed perl -e "$line"
  done
  as daemon unshare --user true || complain 'no user namespaces here at all'
  # A repository of another user, with an override on another commit, and a certificate store.
  rm -rf /etc/ocps/OCPS/v4/.git
  git -C /etc/ocps/OCPS/v4 init -q
  git -C /etc/ocps/OCPS/v4 add . && git -C /etc/ocps/OCPS/v4 -c user.name=a -c user.email=a@b commit -qm 1
  git -C /etc/ocps/OCPS/v4 tag v1
  service
  systemctl start confined || complain 'the confined program failed'
  journalctl -q --sync >/dev/null 2>&1
  while read -r line; do case $line in FAILED*) complain "${line#FAILED }";; TRIED*) show "${line#TRIED }";; esac; done \
    < <(journalctl -q -u confined -o cat --no-pager)
  logged '^DONE' confined || complain "it did not end: $(journalctl -q -u confined -o cat --no-pager | tail -3)"
  # The daemon itself reads the override from git, and reaches the service by name.
  rm -f /etc/credstore/*
  flags ocps --state enabled --override :v1
  succeed systemctl start ocps
  expect 'the commit' 'v1' ocps status --json
  ocps send execute --no-wait pipeline=a.yaml >/dev/null || complain 'no TCP'
  for refusal in EPERM 'Operation not permitted'; do logged "$refusal" && complain "refused to the daemon: $refusal"; done
  rm -rf /etc/ocps/OCPS/v4/.git
}

test_limits() {
  fresh --simulate
  succeed systemctl start ocps
  expect 'tasks' '^512$' property TasksMax ocps
  expect 'memory' '^2147483648$' property MemoryMax ocps
}

# ------------------------------------------------------------------------------------------------ all

test_uninstall() {
  fresh --simulate
  systemctl stop ocps
  succeed make --no-print-directory uninstall PREFIX=/usr
  local left
  left=$(find /usr/bin /usr/lib /usr/share/man /usr/share/bash-completion /usr/share/zsh /usr/share/fish /lib/systemd \
    \( -name '*ocps*' -o -name '*OCPS*' \) -not -name '*procps*' 2>/dev/null)
  [ -z "$left" ] || complain "left behind: $left"
  test -e /etc/ocps/ocps.toml || complain 'the configuration is gone'
}

test_debian_package() {
  local package=target/debian/ocps.deb
  rm -rf /etc/ocps /etc/systemd/system/ocps*
  userdel ocps 2>/dev/null; groupdel ocps 2>/dev/null
  succeed dpkg -i $package
  expect 'user' '^ocps:' getent passwd ocps
  expect 'group' '^ocps:' getent group ocps
  expect 'conffiles' '/etc/ocps/ocps.toml.*/etc/ocps/OCPS/v4/_init.yaml|_init.yaml.*ocps.toml' \
    eval "dpkg-query -W -f '\${Conffiles}' ocps | tr '\\n' ' '"
  [ "$(readlink /usr/bin/run_ocps)" = ocps ] || complain 'no link run_ocps'
  is ActiveState inactive || complain 'an installation starts nothing'
  # As the README says.
  sed -i 's/^#index = 1/index = 1/' /etc/ocps/ocps.toml
  succeed systemctl enable --now ocps
  flags ocps@2 --simulate
  succeed systemctl start ocps@2
  local before other; before=$(pid) other=$(pid ocps@2)
  # Upgrade: the operator's change stays, what ran is restarted.
  succeed dpkg -i $package
  await 10 another_pid "$before"
  await 10 another_pid "$other" ocps@2
  grep -q '^index = 1' /etc/ocps/ocps.toml || complain 'the upgrade lost the configuration'
  succeed dpkg --remove ocps
  is ActiveState inactive || complain 'removed, but it runs'
  is ActiveState inactive ocps@2 || complain 'removed, but ocps@2 runs'
  [ ! -e /usr/bin/ocps ] || complain 'the program is left'
  test -e /etc/ocps/ocps.toml || complain 'remove took the configuration, which is for purge'
  succeed dpkg --purge ocps
  [ ! -e /etc/ocps/ocps.toml ] && [ ! -e /var/lib/ocps ] && [ ! -e /var/lib/ocps-2 ] || complain 'purge leaves things behind'
  [ ! -e /etc/systemd/system/multi-user.target.wants/ocps.service ] || complain 'purge leaves it enabled'
}

make --no-print-directory install PREFIX=/usr BIN="$built/ocps" >/tmp/install.log 2>&1 || { cat /tmp/install.log >&2; exit 1; }
systemd-sysusers /lib/sysusers.d/ocps.conf >/dev/null 2>&1 || { echo 'cannot make the user ocps' >&2; exit 1; }
[ ${#only[@]} -gt 0 ] || mapfile -t only < <(sed -n 's/^test_\([a-z_]*\)().*/\1/p' "$0")
for name in "${only[@]}"; do
  failed_here=0 from=$(ms)
  echo "$name"
  "test_$name"
  if [ $failed_here = 0 ]; then
    show "ok ($(( $(ms) - from )) ms)"
  else
    failed=1
    { systemctl status --no-pager ocps | head -20; journalctl -q -n 20 --no-pager; } 2>&1 | sed 's/^/    /' >&2
  fi
done
[ $failed = 0 ] && echo "test-systemd: all ok in $(( $(ms) / 1000 )) s"
exit $failed
