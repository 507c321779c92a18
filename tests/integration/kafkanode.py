"""A real Apache Kafka for the tests: one KRaft node on loopback, and its own tools.

It needs a Java, and the jars that clients/fetch brings: KQFS_CLIENTS names their folder. One Kafka
at a time runs, with a small heap; it is killed by its number when the test ends, whatever happens.
"""

import atexit
import glob
import os
import re
import shutil
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients"))

import scenarios
from mounted import Failed, Skip, free_port, short, test_directory, until

HEAP = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]

SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 5,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 2,
    "group.initial.rebalance.delay.ms": 0,
    "log.cleaner.dedupe.buffer.size": 16777216,
    "log.cleaner.backoff.ms": 200,
    "log.initial.task.delay.ms": 200,
    # A start waits until the session of the one before has ended.
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 200,
}


def folder():
    where = os.environ.get("KQFS_CLIENTS")
    lib = os.path.join(where or "", "java", "lib")
    if not where or not glob.glob(os.path.join(lib, "kafka_2.13-*.jar")):
        raise Skip("Apache Kafka is not here: fetch it with tests/integration/clients/fetch DIR java, "
                   "and set KQFS_CLIENTS=DIR")
    if not shutil.which("java"):
        raise Skip("not installed: java")
    return os.path.join(where, "java")


def java(main, *arguments, more=()):
    """The command line of one of Kafka's classes."""
    java_folder = folder()
    path = ":".join(os.path.join(java_folder, part) for part in ("classes", "lib/*", "log/*"))
    # What it says is read with its errors; without a logger it says nothing at all.
    return ["java", *HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *more, "-cp", path, main,
            *arguments]


def tool(main, *arguments, stdin=None, timeout=120):
    """Runs one of Kafka's tools; returns what it printed."""
    done = subprocess.run(java(main, *arguments), capture_output=True, timeout=timeout, input=stdin)
    if done.returncode != 0:
        raise Failed(f"{main} {' '.join(arguments)} exited {done.returncode}: "
                     f"{short((done.stdout + done.stderr)[-2000:].decode(), 2000)}")
    return done.stdout.decode()


class Kafka:
    """A node with a log directory of its own, formatted; started and stopped at will."""

    running = []

    def __init__(self, name, node=7, **settings):
        folder()
        self.directory = os.path.join(test_directory(), name)
        self.logs = os.path.join(self.directory, "logs")
        os.makedirs(self.directory)
        self.output = os.path.join(self.directory, "kafka.log")
        self.bootstrap = f"127.0.0.1:{free_port()}"
        controller = f"127.0.0.1:{free_port()}"
        values = {**SETTINGS, "node.id": node, "log.dirs": self.logs,
                  "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
                  "controller.quorum.voters": f"{node}@{controller}",
                  **{k.replace("_", "."): v for k, v in settings.items()}}
        self.properties = os.path.join(self.directory, "server.properties")
        with open(self.properties, "w") as file:
            file.writelines(f"{key}={value}\n" for key, value in values.items())
        self.process = self.driver_ = None
        tool("kafka.tools.StorageTool", "format", "-t", "a3Fmc0V4Y2hhbmdlVGVzdA", "-c",
             self.properties)

    def start(self):
        _end_all()  # that of a test which failed
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(
                java("kafka.Kafka", self.properties), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.directory)
        Kafka.running.append(self)
        until(lambda: self.process.poll() is not None or self.serves(), "Kafka to start", 120, 0.2)
        if self.process.poll() is not None:
            raise Failed(f"Kafka did not start: {short(self.said()[-3000:], 3000)}")
        return self

    def serves(self):
        try:
            self.driver().ask("topics")
            return True
        except Failed:
            return False

    def driver(self):
        """A Java client's driver (clients/java/Driver.java)."""
        if not self.driver_:
            self.driver_ = scenarios.Driver(java("Driver"), self.bootstrap, self.directory)
        return self.driver_

    def ask(self, do, **arguments):
        return self.driver().ask(do, **arguments)

    def said(self):
        with open(self.output, errors="replace") as log:
            return log.read()

    def complaints(self):
        """What those of its parts say that read logs and what is committed."""
        parts = r"\] (WARN|ERROR) ([\w.]*\.(storage|coordinator)\.|kafka\.(log|cluster|coordinator)\.|" \
                r"kafka\.server\.(ReplicaManager|BrokerServer))"
        return [line for line in self.said().splitlines() if re.search(parts, line)]

    def stop(self):
        """As its own stop script does: SIGTERM, which is a clean stop."""
        self._end(signal.SIGTERM)
        if not os.path.exists(os.path.join(self.logs, ".kafka_cleanshutdown")):
            raise Failed(f"Kafka did not stop cleanly: {short(self.said()[-2000:], 2000)}")

    def kill(self):
        self._end(signal.SIGKILL)

    def _end(self, number):
        if self.driver_:
            self.driver_.kill()
            self.driver_ = None
        if self in Kafka.running:
            Kafka.running.remove(self)
            self.process.send_signal(number)
            try:
                self.process.wait(90)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise Failed("Kafka did not stop")


def _end_all():
    for kafka in list(Kafka.running):
        kafka._end(signal.SIGKILL)


atexit.register(_end_all)
