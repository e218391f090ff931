#!/bin/sh
# What is written twice must say the same: the README's commands, the unit file, the example configuration.
set -eu
cd "$(dirname "$0")/.."
ocps=${CARGO_TARGET_DIR:-target}/debug/ocps
cargo build --locked --quiet
failed=0
complain() { echo "drift: $*" >&2; failed=1; }

# Every flag and command of ocps in the README must be one that the program knows.
sed -n 's/^ *[$#] \(cargo run -- \|ocps \)/ocps /p' README.md | sed 's/ *#.*//' | while read -r _ verb rest; do
  case $verb in -*) continue ;; esac
  "$ocps" "$verb" --help >/dev/null 2>&1 || { echo "ocps $verb $rest"; }
  for flag in $(printf '%s\n' "$rest" | grep -oE -- '--[a-z-]+' || true); do
    "$ocps" "$verb" --help | grep -q -- "$flag" || echo "ocps $verb $flag"
  done
done > "${CARGO_TARGET_DIR:-target}/drift.txt"
[ ! -s "${CARGO_TARGET_DIR:-target}/drift.txt" ] || complain "the README says: $(cat "${CARGO_TARGET_DIR:-target}/drift.txt")"

# Every make target of the README exists.
for goal in $(grep -oE '(`|[$#] )make [a-z-]+' README.md | sed 's/.*make //' | sort -u); do
  grep -q "^$goal:" Makefile || complain "the README says make $goal"
done

# The example configuration lacks nothing but the address of the service.
said=$("$ocps" check etc/ocps.toml etc/OCPS/v4 | grep -v -e 'ocps.toml: ok$' -e 'url is that of the example') &&
  complain "the example configuration is not sound: $said"

# The units are sound and shut in, where systemd is there to say; it exits 0 even on unknown keys, so its output
# counts. Its threshold is the score times ten.
if command -v systemd-analyze >/dev/null 2>&1; then
  units=$(mktemp -d)
  sed "s|/usr/bin/ocps|$(readlink -f "$ocps")|" ocps.service > "$units/ocps.service"
  sed -f etc/instance.sed "$units/ocps.service" > "$units/ocps@.service"
  said=$(systemd-analyze verify --man=no "$units/ocps.service" "$units/ocps@.service" 2>&1 || true)
  [ -z "$said" ] || complain "systemd-analyze verify: $said"
  said=$(systemd-analyze security --offline=true --threshold=12 --no-pager "$units/ocps.service" 2>&1) ||
    complain "systemd-analyze security: $said"
  rm -r "$units"
  [ "$(sed -f etc/instance.sed ocps.service | grep -c '%i')" = 7 ] || complain "etc/instance.sed misses its lines of ocps.service"
else
  echo 'drift: systemd-analyze is not installed: the units are not verified and their exposure is not measured'
fi

exit "$failed"
