#!/bin/bash
# What a process can do that is confined as ocps.service is; run by suite.sh. Lines: TRIED …, FAILED …, DONE.
ocps=$1
tried=0
# denied WHAT COMMAND
denied() { local what=$1; shift; tried=$((tried + 1)); if "$@" >/dev/null 2>&1; then echo "FAILED $what is possible"; fi; }
allowed() { local what=$1 said; shift; tried=$((tried + 1)); said=$("$@" 2>&1) || echo "FAILED $what is not possible: $said"; }
socket() { perl -MSocket -e "socket(my \$s, $1, $2, $3) or exit 1"; }

for place in /etc/ocps /usr/lib /var/lib /var/tmp/../lib /root /home /boot /opt /srv /sys /proc/sys/kernel; do
  denied "writing to $place" touch $place/x
done
allowed 'writing to its state' touch /var/lib/ocps/x
allowed 'a private /tmp' touch /tmp/x
denied 'reading /etc/shadow' cat /etc/shadow
denied 'reading the passwords of others' cat /etc/credstore/ocps.kafka-password
denied 'seeing other processes' test -e /proc/1/status
denied 'netlink' socket 16 3 0
denied 'raw packets' socket 17 3 0
denied 'raw IP' socket 2 3 1
denied 'vsock' socket 40 1 0
allowed 'TCP' socket 2 1 0
allowed 'TCP over IPv6' socket 10 1 0
allowed 'Unix sockets' socket 1 1 0
denied 'gaining privileges with setuid' bash -c 'cp /usr/bin/id /tmp/id && chmod u+s /tmp/id'
denied 'becoming root' setpriv --reuid 0 --clear-groups true
denied 'a user namespace' unshare --user true
denied 'a mount' mount -t tmpfs none /tmp
denied 'another host name' hostname x
denied 'another time' date -s @0
denied 'a real-time priority' chrt -f 1 true
denied 'tracing' strace -o /dev/null true
denied 'a device' mknod /tmp/null c 1 3
denied 'more priority' nice -n -5 sh -c 'test "$(nice)" -lt 0'
[ "$(cat "$CREDENTIALS_DIRECTORY/kafka-password")" = 'secret of Kafka' ] || echo 'FAILED the credential cannot be read'
[ ! -e "$CREDENTIALS_DIRECTORY/redis-password" ] || echo 'FAILED a credential that nobody gave'
grep -q '^CapEff:	0*$' /proc/self/status || echo "FAILED capabilities: $(grep Cap /proc/self/status)"
allowed 'looking up a name' getent hosts localhost
allowed 'git' git -c safe.directory='*' -C /etc/ocps/OCPS/v4 cat-file -p v1:_init.yaml
allowed 'the check of the configuration' "$ocps" check /etc/ocps/OCPS/v4 --index 1
allowed 'the certificates' test -r /etc/ssl/certs
echo "TRIED $tried things in confinement"
echo DONE
