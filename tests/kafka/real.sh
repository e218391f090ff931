#!/bin/sh
# The Kafka tests against a real Apache Kafka broker, and against a client that is not ours (check.py).
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/kafka"
KAFKA_DIR=$(cd "$target/kafka" && pwd)
export KAFKA_DIR
broker=$PWD/tests/kafka/broker.sh
code=0
"$broker" fetch || code=$?
if [ "$code" = 75 ]; then
  echo 'test-kafka: SKIPPED: Apache Kafka cannot be had here (see the line above)' >&2
  exit 0
fi
[ "$code" = 0 ] || exit "$code"
trap '"$broker" stop' EXIT
trap 'exit 1' INT TERM
addresses=$("$broker" new)
read -r OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER OCPS_TEST_TLS_BROKER <<EOF
$addresses
EOF
export OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER OCPS_TEST_TLS_BROKER
export OCPS_TEST_TLS_CERTIFICATES="$KAFKA_DIR/tls"
export OCPS_TEST_BROKER_CONTROL="$broker" OCPS_TEST_OUTAGE_S="${OCPS_TEST_OUTAGE_S:-60}"

cargo test --locked --test kafka --no-run
cargo build --locked
timeout 1800 cargo test --locked --test kafka -- --include-ignored --test-threads=1

venv=$KAFKA_DIR/venv
if [ -x "$venv/bin/python" ] || python3 -m venv "$venv"; then
  if "$venv/bin/python" -c 'import confluent_kafka, fastavro' 2>/dev/null ||
     "$venv/bin/pip" install --quiet --disable-pip-version-check confluent-kafka fastavro; then
    timeout 900 "$venv/bin/python" tests/kafka/check.py "$target/debug/ocps" "$OCPS_TEST_BROKER"
    # The observatory's own client, where PYTHONPATH leads to it; it says so where not.
    timeout 900 "$venv/bin/python" tests/kafka/remote.py "$target/debug/ocps" "$OCPS_TEST_BROKER"
    exit
  fi
fi
echo 'test-kafka: SKIPPED: check.py: confluent-kafka and fastavro cannot be installed' >&2
