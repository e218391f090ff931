#!/bin/bash
# Tests the service with a real systemd: run.sh DIRECTORY, which has the built `ocps` and `examples/uws-service`.
# Exit code 69, with one line that says why: there can be no sandbox here, and nothing is tested.
set -u
cd "$(dirname "$0")/../.." || exit 1
built=$(readlink -f "$1") || exit 1
exec timeout 900 tests/systemd/sandbox.sh -b "$PWD::ro" -b "$built::ro" -- /bin/bash tests/systemd/suite.sh "$built" "${@:2}"
