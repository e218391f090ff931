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
for goal in $(grep -oE 'make [a-z]+' README.md | cut -d' ' -f2 | sort -u); do
  grep -q "^$goal:" Makefile || complain "the README says make $goal"
done

# The example configuration is sound.
"$ocps" check etc/ocps.toml etc/OCPS/v4 >/dev/null || complain "the example configuration is not sound"

# The unit file is sound where systemd is there to say; it exits 0 even on unknown keys, so its output counts.
if command -v systemd-analyze >/dev/null 2>&1; then
  unit=$(mktemp -d)/ocps.service
  sed "s|/usr/bin/ocps|$(readlink -f "$ocps")|" ocps.service > "$unit"
  said=$(systemd-analyze verify --man=no "$unit" 2>&1 || true)
  rm -r "$(dirname "$unit")"
  [ -z "$said" ] || complain "systemd-analyze verify ocps.service: $said"
else
  echo 'drift: systemd-analyze is not installed: ocps.service is not verified'
fi
exit "$failed"
