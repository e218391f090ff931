#!/usr/bin/env bash
# Real Apache Kafka for tests: clusters of one node or, with KAFKA_NODES=3, three; KRaft, no topics by itself.
#   broker.sh fetch        what all clusters need: get the jars of pom.xml, with Maven, make certificates, choose ports
#   broker.sh new          forget all topics of a cluster, start it; prints the addresses of the listeners
#                          PLAINTEXT, SASL_PLAINTEXT and SASL_SSL (whose authority is in $KAFKA_DIR/tls/ca.pem)
#   broker.sh start|stop [NODE]
#                          as an outage: stop kills the node, else all; without KAFKA_CLUSTER those of all clusters
#   broker.sh allow USER TOPIC OPERATION...   from the first one on, nobody else may do anything with the topic
# KAFKA_CLUSTER is the number of the cluster (1). Each has a loopback address of its own and the same ports.
# Without SASL all is allowed; over SASL everybody may use the topics of which nothing was said.
# All is kept in $KAFKA_DIR (target/kafka).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=${KAFKA_DIR:-$here/../../target/kafka}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cluster=$dir/${KAFKA_CLUSTER:-1}
host=127.0.0.${KAFKA_CLUSTER:-1}
nodes=$(seq "${KAFKA_NODES:-1}")
# Without the second compiler a start takes half the processor time.
java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$dir/lib/*")

fetch() {
  get
  certify
  # Below those that clients get for themselves, one of which could have it while the broker is away.
  echo $((20000 + $$ % 1000 * 12)) > "$dir/base"
}

get() {
  for program in java mvn; do
    command -v $program >/dev/null || { echo "$program is not installed: apt-get install maven default-jre-headless" >&2; exit 1; }
  done
  complete && return
  rm -rf "$dir/lib"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir/lib" >&2 ||
    { echo "Maven cannot get the jars of $here/pom.xml" >&2; exit 1; }
  complete || { echo "the jars in $dir/lib are not those of $here/jars.txt" >&2; exit 1; }
}

# Whether there are just the jars whose checksums we know.
complete() {
  (export LC_ALL=C; cd "$dir/lib" 2>/dev/null && sha256sum ./*.jar 2>/dev/null | sed 's|\./||' | cmp -s - "$here/jars.txt")
}

# A certificate authority, a certificate of it for the broker, and another authority that has signed nothing.
certify() {
  [ -e "$dir/tls/broker.p12" ] && return
  rm -rf "$dir/tls.new"
  mkdir "$dir/tls.new"
  for name in ca other; do
    store "$name" -genkeypair -alias "$name" -keyalg EC -dname "CN=ocps test $name" -validity 3650 -ext bc:c
    store "$name" -exportcert -alias "$name" -rfc > "$dir/tls.new/$name.pem"
  done
  store broker -genkeypair -alias broker -keyalg EC -dname CN=localhost
  store broker -certreq -alias broker |
    store ca -gencert -alias ca -rfc -validity 3650 -ext san=ip:127.0.0.1,dns:localhost > "$dir/tls.new/broker.pem"
  store broker -importcert -alias ca -noprompt -file "$dir/tls.new/ca.pem"
  store broker -importcert -alias broker -noprompt -file "$dir/tls.new/broker.pem"
  rm -rf "$dir/tls"
  mv "$dir/tls.new" "$dir/tls"
}

store() {
  keystore=$dir/tls.new/$1.p12
  shift
  keytool -keystore "$keystore" -storepass geheim "$@" 2>>"$dir/keytool.log" ||
    { cat "$dir/keytool.log" >&2; exit 1; }
}

allow() {
  user=$1 topic=$2
  shift 2
  "${java[@]}" org.apache.kafka.tools.AclCommand --bootstrap-server "$(addresses 0)" --add \
    --topic "$topic" --allow-principal "User:$user" $(printf -- '--operation %s ' "$@") \
    >"$dir/acl.log" 2>&1 || { cat "$dir/acl.log" >&2; exit 1; }
}

# Port of a listener of a node: of PLAINTEXT 0, SASL_PLAINTEXT 1, the controller 2, SASL_SSL 3.
port() { echo $(($(cat "$dir/base") + 4 * ($1 - 1) + $2)); }

# Of all nodes, joined with commas.
addresses() { for node in $nodes; do echo "$host:$(port "$node" "$1")"; done | paste -s -d,; }

start() {
  for node in ${1:-$nodes}; do
    setsid "${java[@]}" kafka.Kafka "$cluster/$node/server.properties" \
      >>"$cluster/$node/broker.log" 2>&1 </dev/null &
    echo $! > "$cluster/$node/pid"
  done
  for node in ${1:-$nodes}; do
    await "$node"
  done
}

await() {
  for _ in $(seq 1200); do
    if (exec 3<>"/dev/tcp/$host/$(port "$1" 0)") 2>/dev/null; then return; fi
    kill -0 "$(cat "$cluster/$1/pid")" 2>/dev/null || { cat "$cluster/$1/broker.log" >&2; exit 1; }
    sleep 0.1
  done
  echo 'the broker does not start' >&2
  exit 1
}

stop() {
  for pid in "$dir"/${KAFKA_CLUSTER:-*}/${1:-*}/pid; do
    [ -e "$pid" ] || continue
    kill -9 "$(cat "$pid")" 2>/dev/null || true
    while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done
    rm -f "$pid"
  done
}

new() {
  stop
  rm -rf "$cluster"
  for node in $nodes; do
    format "$node"
  done
  start
  echo "$(addresses 0) $(addresses 1) $(addresses 3)"
}

format() {
  own=$cluster/$1 replicas=${KAFKA_NODES:-1}
  plain=$host:$(port "$1" 0) sasl=$host:$(port "$1" 1) controller=$host:$(port "$1" 2) tls=$host:$(port "$1" 3)
  # Of three nodes two must have what is acknowledged.
  least=$(((replicas + 1) / 2))
  mkdir -p "$own"
  cat > "$own/server.properties" <<EOF
process.roles=broker,controller
node.id=$1
controller.quorum.voters=$(for node in $nodes; do echo "$node@$host:$(port "$node" 2)"; done | paste -s -d,)
listeners=PLAINTEXT://$plain,SASL_PLAINTEXT://$sasl,SASL_SSL://$tls,CONTROLLER://$controller
advertised.listeners=PLAINTEXT://$plain,SASL_PLAINTEXT://$sasl,SASL_SSL://$tls
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.location=$dir/tls/broker.p12
ssl.keystore.password=geheim
ssl.key.password=geheim
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
log.dirs=$own/data
auto.create.topics.enable=false
min.insync.replicas=$least
offsets.topic.replication.factor=$replicas
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$least
EOF
  "${java[@]}" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$own/server.properties" \
    --add-scram 'SCRAM-SHA-512=[name=ocps,password=geheim]' >"$own/format.log" 2>&1 || { cat "$own/format.log" >&2; exit 1; }
}

"$@"
