#!/bin/bash
# In containers, the observatory's and those of etc/kubernetes, with a real Apache Kafka that wants SASL.
set -eu
cd "$(dirname "$0")/../.."
enter=$PWD/tests/container/enter.sh
"$enter" check
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/kafka"
KAFKA_DIR=${KAFKA_DIR:-$(cd "$target/kafka" && pwd)}
export KAFKA_DIR
broker=$PWD/tests/kafka/broker.sh
"$broker" fetch
cargo test --locked --test kafka --no-run
trap '"$broker" stop' EXIT
trap 'exit 1' INT TERM
addresses=$("$broker" new)
read -r OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER _ <<< "$addresses"
export OCPS_TEST_BROKER OCPS_TEST_SASL_BROKER OCPS_TEST_CONTAINER="$enter"
# They wait more than they compute: each container has a tenth of a processor.
timeout 600 cargo test --locked --test kafka container -- --test-threads=4 --nocapture
