"""The observatory's own client, a salobj Remote, commands the daemon and hears what it says.

    remote.py OCPS BROKER

It needs lsst.ts.salobj (8), lsst.ts.xml and lsst.ts.utils where Python finds them: the `python` folders of
github.com/lsst-ts/{ts_salobj,ts_xml,ts_utils} in PYTHONPATH (OCPS_TEST_SALOBJ of `make test-kafka`), and what they import
(confluent-kafka[schema-registry], fastavro, astropy, jsonschema, pyyaml, boto3, setproctitle).
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from lsst.ts import salobj

from check import Handler, Registry

PATIENCE = 60
EXECUTES = 100


class SalobjHandler(Handler):
    """Also looks schemas up by their text, as confluent-kafka does."""

    def do_GET(self):
        self.path = self.path.split("?")[0]
        super().do_GET()

    def do_POST(self):
        words = self.path.split("?")[0].strip("/").split("/")
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
        known = self.server.subjects.get(words[1], [])
        if words[2:] == ["versions"]:
            number = self.server.register(words[1], text)
            self.reply(200, {"id": number})
        elif text in self.server.schemas and self.server.schemas.index(text) + 1 in known:
            number = self.server.schemas.index(text) + 1
            found = {"subject": words[1], "version": known.index(number) + 1, "id": number, "schema": text}
            self.reply(200, found)
        else:
            self.reply(404, {"error_code": 40403, "message": "Schema not found"})


class Daemon:
    """Ours, simulating."""

    def __init__(self, ocps, home):
        self.log = open(f"{home}/log", "a+")
        self.process = subprocess.Popen(
            [ocps, "run", "1", "--simulate", "--config", f"{home}/ocps.toml", "--socket", f"{home}/s",
             "--state-dir", f"{home}/state"],
            stderr=self.log,
        )

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.seek(0)
        return self.log.read()


async def fails(command, code, text):
    try:
        await command
    except salobj.AckError as failure:
        ack = failure.ackcmd
        assert (ack.ack, ack.error, ack.result) == (code, 1, text), ack
    else:
        raise AssertionError(f"it succeeds, but is to fail: {text}")


async def state(remote, expected):
    while (await remote.evt_summaryState.next(flush=False, timeout=PATIENCE)).summaryState != expected:
        pass


async def check(remote, process):
    """Every command; the daemon has just begun or is about to."""
    await state(remote, salobj.State.STANDBY)
    versions = await remote.evt_softwareVersions.aget(timeout=PATIENCE)
    assert (await remote.evt_simulationMode.aget(timeout=PATIENCE)).mode == 1
    assert (await remote.evt_errorCode.aget(timeout=PATIENCE)).errorCode == 0
    await remote.evt_configurationsAvailable.aget(timeout=PATIENCE)
    await remote.evt_heartbeat.next(flush=True, timeout=PATIENCE)
    await fails(remote.cmd_enable.start(), -302, "Failed: enable not allowed in state STANDBY")
    ack = await remote.cmd_start.start(timeout=PATIENCE)
    assert (ack.ack, ack.result) == (303, "Done"), ack
    await state(remote, salobj.State.DISABLED)
    await remote.evt_configurationApplied.aget(timeout=PATIENCE)
    await fails(
        remote.cmd_execute.set_start(pipeline="true.yaml"), -302, "Failed: execute not allowed in state DISABLED"
    )
    await remote.cmd_enable.start(timeout=PATIENCE)
    await state(remote, salobj.State.ENABLED)

    # As the observing scripts do: the first ack has the job, the event its result, and only then it is complete.
    first = await remote.cmd_execute.set_start(
        pipeline="true.yaml", data_query="visit=1", wait_done=False, timeout=PATIENCE
    )
    assert (first.ack, first.timeout) == (301, 600), first
    # It forgets a command whose last ack has come while nobody waits for it.
    completion = asyncio.create_task(remote.cmd_execute.next_ackcmd(first, timeout=PATIENCE))
    job_id = json.loads(first.result)["job_id"]
    published = await remote.evt_job_id.next(flush=False, timeout=PATIENCE)
    assert (published.event_name, published.job_id, published.seq_num) == ("cmd_execute", job_id, first.private_seqNum), published
    result = await remote.evt_job_result.next(flush=False, timeout=PATIENCE)
    assert (result.job_id, result.exit_code) == (job_id, 0), result
    assert json.loads(result.result)["jobId"] == job_id
    last = await completion
    assert (last.ack, last.result) == (303, "Done"), last

    ack = await remote.cmd_execute.set_start(pipeline="false.yaml", timeout=PATIENCE)
    assert ack.ack == 303, ack
    assert (await remote.evt_job_result.next(flush=False, timeout=PATIENCE)).exit_code == 1

    first = await remote.cmd_execute.set_start(pipeline="true.yaml", wait_done=False, timeout=PATIENCE)
    completion = asyncio.create_task(remote.cmd_execute.next_ackcmd(first, timeout=PATIENCE))
    await remote.cmd_abort_job.set_start(job_id=json.loads(first.result)["job_id"], timeout=PATIENCE)
    await fails(completion, -303, "Aborted")
    assert (await remote.evt_job_result.next(flush=False, timeout=PATIENCE)).exit_code == 255

    # Many at a time; the first ack of each is timed.
    times = []

    async def execute(number):
        begun = time.monotonic()
        first = await remote.cmd_execute.set_start(
            pipeline="true.yaml", data_query=f"visit={number}", wait_done=False, timeout=PATIENCE
        )
        times.append(time.monotonic() - begun)
        assert first.ack == 301, first
        last = await remote.cmd_execute.next_ackcmd(first, timeout=PATIENCE)
        assert last.ack == 303, last
        return json.loads(first.result)["job_id"]

    jobs = []
    for number in range(0, EXECUTES, 10):
        jobs += await asyncio.gather(*(execute(one) for one in range(number, number + 10)))
    results = [(await remote.evt_job_result.next(flush=False, timeout=PATIENCE)).job_id for _ in jobs]
    assert sorted(results) == sorted(jobs) and len(set(jobs)) == EXECUTES

    await remote.cmd_setLogLevel.set_start(level=10, subsystem="", timeout=PATIENCE)
    # Kafka keeps the order within a topic, so an ack may be here before the event that was published before it.
    while (await remote.evt_logLevel.next(flush=False, timeout=PATIENCE)).level != 10:
        pass
    await fails(
        remote.cmd_execute.set_start(pipeline="fault.yaml"),
        -302,
        "Failed: cannot contact the execution service (simulated)",
    )
    await state(remote, salobj.State.FAULT)
    error = await remote.evt_errorCode.next(flush=False, timeout=PATIENCE)
    while error.errorCode == 0:
        error = await remote.evt_errorCode.next(flush=False, timeout=PATIENCE)
    await remote.cmd_standby.start(timeout=PATIENCE)
    await state(remote, salobj.State.STANDBY)
    await remote.cmd_exitControl.start(timeout=PATIENCE)
    await state(remote, salobj.State.OFFLINE)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, process.wait, PATIENCE) == 0
    times.sort()
    return (
        f"ours {versions.cscVersion}, XML {versions.xmlVersion}; {len(jobs) + 4} executes; error code {error.errorCode}; "
        f"first ack p50 {statistics.median(times) * 1e3:.1f} ms, slowest {times[-1] * 1e3:.1f} ms"
    )


async def serve(ocps, home, ours_first):
    async with salobj.Domain() as domain:
        daemon = Daemon(ocps, home) if ours_first else None
        if ours_first:
            # Its topics and schemas are there; the client comes late.
            await asyncio.sleep(6)
        try:
            async with salobj.Remote(domain, "OCPS", 1) as remote:
                daemon = daemon or Daemon(ocps, home)
                said = await check(remote, daemon.process)
        except BaseException:
            print("--- the daemon said:", daemon.end(), sep="\n", file=sys.stderr)
            raise
        daemon.end()
    return said


def main(ocps, broker):
    for ours_first in (True, False):
        registry = Registry()
        registry.RequestHandlerClass = SalobjHandler
        os.environ["LSST_TOPIC_SUBNAME"] = f"remote{os.getpid()}{int(ours_first)}"
        os.environ["LSST_KAFKA_BROKER_ADDR"] = broker
        os.environ["LSST_SCHEMA_REGISTRY_URL"] = f"http://127.0.0.1:{registry.server_port}"
        os.environ["LSST_SITE"] = "test"
        with tempfile.TemporaryDirectory() as home:
            with open(f"{home}/ocps.toml", "w") as toml:
                toml.write("[simulation]\nmean_duration_s = 0.5\nsigma_s = 0\n")
            said = asyncio.run(serve(os.path.abspath(ocps), home, ours_first))
        subject = f"lsst.{os.environ['LSST_TOPIC_SUBNAME']}.OCPS.logevent_summaryState-value"
        whose = "our schemas first" if ours_first else "its schemas adopted"
        print(f"remote.py: {whose} {registry.subjects[subject]}: {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
