#!/usr/bin/env bash
# A real Apache Kafka for tests: one node, KRaft, no topics by itself. Its jars come from Maven Central.
#   broker.sh fetch        get the jars that are missing; exit 75 when they cannot be had
#   broker.sh new          forget all topics, choose ports, start; prints PLAINTEXT and SASL_PLAINTEXT addresses
#   broker.sh start|stop   as an outage: stop kills it
# All is kept in $KAFKA_DIR (target/kafka).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${KAFKA_DIR:-$here/../../target/kafka}
mkdir -p "$dir/lib"
dir=$(cd "$dir" && pwd)

fetch() {
  command -v java >/dev/null || { echo 'no Java: no real broker' >&2; exit 75; }
  while read -r sum path; do
    jar=$dir/lib/$(basename "$path")
    [ -e "$jar" ] && continue
    curl -fsS --retry 3 --max-time 120 -o "$jar.part" "https://repo1.maven.org/maven2/$path" ||
      { echo "cannot download $path" >&2; exit 75; }
    echo "$sum  $jar.part" | sha256sum -c --quiet - || { rm "$jar.part"; exit 1; }
    mv "$jar.part" "$jar"
  done < "$here/jars.txt"
}

start() {
  . "$dir/ports"
  setsid java -Xmx512m -XX:+UseSerialGC -cp "$dir/lib/*" kafka.Kafka "$dir/server.properties" \
    >>"$dir/broker.log" 2>&1 </dev/null &
  echo $! > "$dir/pid"
  for _ in $(seq 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$plain") 2>/dev/null; then return; fi
    kill -0 "$(cat "$dir/pid")" 2>/dev/null || { cat "$dir/broker.log" >&2; exit 1; }
    sleep 0.1
  done
  echo 'the broker does not start' >&2
  exit 1
}

stop() {
  [ -e "$dir/pid" ] || return 0
  kill -9 "$(cat "$dir/pid")" 2>/dev/null || true
  while kill -0 "$(cat "$dir/pid")" 2>/dev/null; do sleep 0.1; done
  rm -f "$dir/pid"
}

new() {
  stop
  rm -rf "$dir/data" "$dir/broker.log"
  plain=$((20000 + $$ % 10000)) sasl=$((plain + 10001)) controller=$((plain + 20002))
  printf 'plain=%s\nsasl=%s\n' "$plain" "$sasl" > "$dir/ports"
  cat > "$dir/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$plain,SASL_PLAINTEXT://127.0.0.1:$sasl,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$plain,SASL_PLAINTEXT://127.0.0.1:$sasl
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
EOF
  java -cp "$dir/lib/*" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$dir/server.properties" \
    --add-scram 'SCRAM-SHA-512=[name=ocps,password=geheim]' >"$dir/format.log" 2>&1 || { cat "$dir/format.log" >&2; exit 1; }
  start
  echo "127.0.0.1:$plain 127.0.0.1:$sasl"
}

"$1"
