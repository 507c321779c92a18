"""The clients that are run, and how each is found on this machine."""

import os
import shutil
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))

# Those that `clients/fetch DIR` brings lie in DIR.
FETCHED = os.environ.get("KQFS_CLIENTS", "")


def _python(module):
    """Debian's interpreter: another one first in PATH does not see Debian's packages."""
    def missing():
        if subprocess.run(["/usr/bin/python3", "-c", f"import {module}"],
                          capture_output=True).returncode:
            return f"no {module}: apt-get install python3-{module.replace('_', '-')}"
        return None
    return missing


def _program(name):
    return lambda: None if shutil.which(name) else f"no {name}: apt-get install {name}"


def _fetched(*parts):
    def missing():
        if not FETCHED:
            return "not in Debian: tests/integration/clients/fetch DIR, then KQFS_CLIENTS=DIR"
        path = os.path.join(FETCHED, *parts)
        return None if os.path.exists(path) else f"{path} is not there: run clients/fetch again"
    return missing


def _here(*command):
    return [command[0], *(os.path.join(HERE, c) if "." in c else c for c in command[1:])]


# name, command, what is missing (None: nothing)
ALL = [
    ("kcat", _here("/usr/bin/python3", "kcat.py"), _program("kcat")),
    ("python3-kafka", _here("/usr/bin/python3", "python3_kafka.py"), _python("kafka")),
    ("python3-confluent-kafka", _here("/usr/bin/python3", "python3_confluent_kafka.py"),
     _python("confluent_kafka")),
    ("kafkajs", ["node", os.path.join(FETCHED, "node/kafkajs.mjs")], _fetched("node/kafkajs.mjs")),
    ("@platformatic/kafka", ["node", os.path.join(FETCHED, "node/platformatic.mjs")],
     _fetched("node/platformatic.mjs")),
    ("@confluentinc/kafka-javascript", ["node", os.path.join(FETCHED, "node/confluent.mjs")],
     _fetched("node/confluent.mjs")),
    ("kafka-clients", ["java", "-cp", os.path.join(FETCHED, "java/classes") + ":" +
                       os.path.join(FETCHED, "java/lib/*"), "Driver"],
     _fetched("java/classes/Driver.class")),
    ("franz-go", [os.path.join(FETCHED, "go/franz-go")], _fetched("go/franz-go")),
]
