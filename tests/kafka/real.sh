#!/bin/sh
# The Kafka tests against a real Apache Kafka broker, and against a client that is not ours (check.py).
#   real.sh brokers   instead: only the kills of the daemon, KILLS of them (10), while three brokers are killed in turn
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/kafka"
KAFKA_DIR=$(cd "$target/kafka" && pwd)
export KAFKA_DIR
broker=$PWD/tests/kafka/broker.sh
"$broker" fetch
cargo test --locked --test kafka --no-run
trap '"$broker" stop' EXIT
trap 'exit 1' INT TERM
export OCPS_TEST_BROKER_CONTROL="$broker"
if [ "${1-}" = brokers ]; then
  export KAFKA_NODES=3 OCPS_TEST_KILLS="${KILLS:-10}"
  timeout $((600 + 60 * OCPS_TEST_KILLS)) \
    cargo test --locked --test kafka -- --include-ignored --nocapture kills_of_daemon_and_brokers
  exit
fi
addresses=$("$broker" new)
read -r OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER OCPS_TEST_TLS_BROKER <<EOT
$addresses
EOT
export OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER OCPS_TEST_TLS_BROKER
export OCPS_TEST_TLS_CERTIFICATES="$KAFKA_DIR/tls" OCPS_TEST_OUTAGE_S="${OCPS_TEST_OUTAGE_S:-60}"
# Most tests wait more than they compute.
timeout 1800 cargo test --locked --test kafka -- --include-ignored \
  --test-threads="${RUST_TEST_THREADS:-$((2 * $(getconf _NPROCESSORS_ONLN)))}"

venv=$KAFKA_DIR/venv
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -c 'import confluent_kafka, fastavro' 2>/dev/null ||
  "$venv/bin/pip" install --quiet --disable-pip-version-check confluent-kafka fastavro
timeout 900 "$venv/bin/python" tests/kafka/check.py "$target/debug/ocps" "$OCPS_TEST_BROKER"
# The observatory's own client, where OCPS_TEST_SALOBJ says where it is (see remote.py).
if [ -n "${OCPS_TEST_SALOBJ:-}" ]; then
  PYTHONPATH=$OCPS_TEST_SALOBJ timeout 900 "$venv/bin/python" tests/kafka/remote.py "$target/debug/ocps" "$OCPS_TEST_BROKER"
fi
