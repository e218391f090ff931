"""A foreign client that shares no code with us: starts the daemon, commands it, decodes all that it wrote.

    check.py OCPS BROKER
"""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import fastavro
import io
from confluent_kafka import Consumer, Producer, TopicPartition

PATIENCE = 60
PRIVATE = [
    ("salIndex", "int"),
    ("private_sndStamp", "double"),
    ("private_rcvStamp", "double"),
    ("private_efdStamp", "double"),
    ("private_kafkaStamp", "double"),
    ("private_seqNum", "int"),
    ("private_revCode", "string"),
    ("private_identity", "string"),
    ("private_origin", "int"),
]
COMMANDS = {
    "abort_job": [("job_id", "string")],
    "disable": [],
    "enable": [],
    "execute": [
        (name, "string")
        for name in ("pipeline", "version", "config", "data_query", "prereq_jobs", "output_dataset_types")
    ],
    "exitControl": [],
    "setLogLevel": [("level", "int"), ("subsystem", "string")],
    "standby": [],
    "start": [("configurationOverride", "string")],
}
EVENTS = (
    "configurationApplied configurationsAvailable errorCode heartbeat job_id job_result "
    "logLevel logMessage simulationMode softwareVersions summaryState"
).split()


class Registry(http.server.ThreadingHTTPServer):
    """The schema registry."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas = []
        self.subjects = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def register(self, subject, text):
        if text not in self.schemas:
            self.schemas.append(text)
        number = self.schemas.index(text) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        match self.path.strip("/").split("/"):
            case ["schemas", "ids", number] if number.isdigit() and 0 < int(number) <= len(self.server.schemas):
                self.reply(200, {"schema": self.server.schemas[int(number) - 1]})
            case ["subjects", subject, "versions", "latest"] if subject in self.server.subjects:
                versions = self.server.subjects[subject]
                text = self.server.schemas[versions[-1] - 1]
                self.reply(200, {"subject": subject, "version": len(versions), "id": versions[-1], "schema": text})
            case _:
                self.reply(404, {"error_code": 40401, "message": "not found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        subject = self.path.strip("/").split("/")[1]
        self.reply(200, {"id": self.server.register(subject, body["schema"])})


class Foreign:
    """Commands, and hears all that is written."""

    def __init__(self, broker, subname, registry):
        self.prefix = f"lsst.{subname}.OCPS."
        self.registry = registry
        self.producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
        self.consumer = Consumer(
            {"bootstrap.servers": broker, "group.id": subname, "auto.offset.reset": "earliest"}
        )
        self.number = 1_000_000
        self.received = []

    def listen(self):
        names = ["ackcmd"] + [f"logevent_{name}" for name in EVENTS]
        self.consumer.assign([TopicPartition(self.prefix + name, 0, 0) for name in names])

    def send(self, command, **params):
        fields = PRIVATE + COMMANDS[command]
        schema = {
            "type": "record",
            "name": f"command_{command}",
            "namespace": "lsst.sal.OCPS",
            "fields": [
                {"name": name, "type": kind, "default": {"string": "", "int": 0, "double": 0.0}[kind],
                 "description": "as salobj has it", "units": "unitless"}
                for name, kind in fields
            ],
        }
        number = self.registry.register(f"{self.prefix}command_{command}-value", json.dumps(schema))
        self.number += 1
        now = time.time() + 37
        data = {
            "salIndex": 1, "private_sndStamp": now, "private_efdStamp": now - 37, "private_kafkaStamp": now,
            "private_seqNum": self.number, "private_identity": "check@py", "private_origin": os.getpid(), **params,
        }
        out = io.BytesIO()
        out.write(b"\0" + number.to_bytes(4, "big"))
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), data)
        key = f'{{ "name": "OCPS", "index": 1, "topic": "command_{command}" }}'
        self.producer.produce(f"{self.prefix}command_{command}", key=key, value=out.getvalue())
        self.producer.flush()
        return self.number

    def take(self, wait):
        message = self.consumer.poll(wait)
        if message is None:
            return
        assert message.error() is None, message.error()
        value = message.value()
        assert value[0] == 0
        schema = json.loads(self.registry.schemas[int.from_bytes(value[1:5], "big") - 1])
        datum = io.BytesIO(value[5:])
        data = fastavro.schemaless_reader(datum, fastavro.parse_schema(schema))
        assert not datum.read(), "something is left after the datum"
        name = message.topic().removeprefix(self.prefix)
        assert schema["name"] == name and schema["namespace"] == "lsst.sal.OCPS"
        assert [field["name"] for field in schema["fields"]][:9] == [name for name, _ in PRIVATE]
        assert message.key() == f'{{ "name": "OCPS", "index": 1, "topic": "{name}" }}'.encode(), message.key()
        self.received.append((name, data))

    def find(self, what, so):
        end = time.monotonic() + PATIENCE
        position = 0
        while True:
            while position < len(self.received):
                if so(*self.received[position]):
                    return self.received[position][1]
                position += 1
            assert time.monotonic() < end, f"not received: {what}; but {self.received}"
            self.take(0.1)

    def run(self, command, code=303, **params):
        number = self.send(command, **params)
        ack = self.find(
            f"the final ack of {command}",
            lambda name, data: name == "ackcmd" and data["private_seqNum"] == number and data["ack"] != 301,
        )
        assert ack["ack"] == code, ack
        assert ack["identity"] == "check@py" and ack["origin"] == os.getpid()
        assert ack["cmdtype"] == sorted(COMMANDS).index(command) + 1
        return number

    def state(self, number):
        self.find(f"state {number}", lambda n, d: n == "logevent_summaryState" and d["summaryState"] == number)


def main(ocps, broker):
    registry = Registry()
    subname = f"check{os.getpid()}"
    with tempfile.TemporaryDirectory() as home:
        with open(f"{home}/ocps.toml", "w") as toml:
            toml.write("[simulation]\nmean_duration_s = 0.5\nsigma_s = 0\n")
        environment = os.environ | {
            "LSST_TOPIC_SUBNAME": subname,
            "LSST_KAFKA_BROKER_ADDR": broker,
            "LSST_SCHEMA_REGISTRY_URL": f"http://127.0.0.1:{registry.server_port}",
        }
        log = open(f"{home}/log", "w+")
        daemon = subprocess.Popen(
            [ocps, "run", "1", "--simulate", "--config", f"{home}/ocps.toml", "--socket", f"{home}/s"],
            env=environment, stderr=log,
        )
        try:
            check(Foreign(broker, subname, registry), daemon)
        except BaseException:
            log.seek(0)
            print("--- the daemon said:", log.read(), sep="\n", file=sys.stderr)
            raise
        finally:
            daemon.kill()
            daemon.wait()


def check(foreign, daemon):
    end = time.monotonic() + PATIENCE
    wanted = {foreign.prefix + "ackcmd"} | {f"{foreign.prefix}logevent_{name}" for name in EVENTS}
    while not wanted <= set(foreign.consumer.list_topics(timeout=10).topics):
        assert time.monotonic() < end, "the topics are not made"
        time.sleep(0.2)
    foreign.listen()
    foreign.find("the last event of the start", lambda name, _: name == "logevent_errorCode")
    foreign.run("enable", code=-302)
    foreign.run("start")
    foreign.run("enable")
    number = foreign.run("execute", pipeline="true.yaml")
    first = foreign.find("its first ack", lambda n, d: n == "ackcmd" and d["private_seqNum"] == number)
    job_id = json.loads(first["result"])["job_id"]
    assert first["ack"] == 301 and first["timeout"] == 600
    result = foreign.find("its result", lambda n, d: n == "logevent_job_result" and d["job_id"] == job_id)
    assert result["exit_code"] == 0 and json.loads(result["result"])["jobId"] == job_id
    number = foreign.send("execute", pipeline="fault.yaml")
    foreign.state(3)
    foreign.run("standby")
    foreign.run("setLogLevel", level=10)
    foreign.run("exitControl")
    foreign.state(4)
    assert daemon.wait(timeout=PATIENCE) == 0
    last = {}
    for name, data in foreign.received:
        assert data["private_identity"] == "OCPS:1" and data["private_origin"] == daemon.pid, data
        assert data["private_sndStamp"] == data["private_kafkaStamp"] and data["private_rcvStamp"] == 0
        assert abs(data["private_sndStamp"] - data["private_efdStamp"] - 37) < 1e-6
        if name != "ackcmd":
            stamp, count = last.get(name, (0, 0))
            assert data["private_sndStamp"] >= stamp and data["private_seqNum"] == count + 1, (name, data)
            last[name] = data["private_sndStamp"], data["private_seqNum"]
    print(f"check.py: {len(foreign.received)} messages of {len(last) + 1} topics are as they must be")


if __name__ == "__main__":
    main(*sys.argv[1:])
