"""Kafka's own command line tools, one after the other in one JVM (clients/java/Tools.java)."""

import atexit
import json
import os
import re
import select
import subprocess

import kafkanode
import mounted
from mounted import Failed, check, short

TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients", "java", "Tools.java")


class Toolbox:
    """The JVM; started by its first tool."""

    def __init__(self):
        self.process = None

    def start(self):
        self.log = open(os.path.join(mounted.test_directory(), "tools.log"), "wb")
        self.process = subprocess.Popen(kafkanode.java(TOOLS, more=["-Xmx128m"]), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log)
        atexit.register(self.end)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ask(self, timeout, **wanted):
        if not self.process:
            self.start()
        self.process.stdin.write(json.dumps(wanted).encode() + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], timeout)[0]:
            self.end()
            raise Failed(f"{wanted['main']} {wanted['args']} did not end within {timeout} s")
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"the tools have ended: {open(self.log.name).read()[-1000:]}")
        return json.loads(answer)

    def run(self, main, *arguments, status=0, stdin="", complaint=None, timeout=60):
        """What the tool prints. It must end with STATUS and, unless COMPLAINT (a pattern) is given,
        say nothing of errors."""
        if not main.startswith("kafka."):
            main = "org.apache.kafka.tools." + main
        done = self.ask(timeout, main=main, args=[str(a) for a in arguments], stdin=stdin)
        what = f"{main} {' '.join(map(str, arguments))}"
        said = done["out"] + done["err"]
        check(done["status"] == status, what, "ended with", done["status"], short(said, 1500))
        if complaint:
            check(re.search(complaint, said), what, "says", short(said, 1500))
        else:
            check(not re.search(r"ERROR|WARN|Exception|[Ee]rror:", said), what, "says",
                  short(said, 1500))
        return done["out"]


def has(text, *wanted):
    for one in wanted:
        check(one in text, repr(one), "is not in", short(text, 2000))
