#!/usr/bin/env python3
# kqfs-test: timeout=1200
"""Every Kafka client through every scenario of clients/scenarios.py, each client on a fresh broker.

Those that Debian has are run wherever they are installed; the others once clients/fetch DIR has
brought them and KQFS_CLIENTS=DIR says so. With KQFS_CLIENTS_RESULTS=FILE the outcome of each is
added to FILE as a line of JSON, from which clients/table makes the table of docs/protocol.md.
"""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients"))

import known
import results
import scenarios
from mounted import Broker, Failed, Skip, free_port, main

sys.dont_write_bytecode = True


class Server(Broker):
    """A broker that listens, on the same port again after it was killed."""

    def __init__(self, name):
        port = free_port()
        self.bootstrap = f"127.0.0.1:{port}"
        super().__init__(name, ["--listen", f"plaintext://{self.bootstrap}",
                                "--group.initial.rebalance.delay.ms", "100"])


brokers = {}


def skipped(reason):
    def run():
        raise Skip(reason)
    return run


def case(client, command, scenario):
    def run():
        if client not in brokers or brokers[client].process.poll() is not None:
            brokers[client] = Server(re.sub(r"\W+", "-", client)).start()
        bench = scenarios.Bench(brokers[client], command,
                                scenario.__name__.replace("_", "-"))
        try:
            scenario(bench)
        except Skip as reason:
            results.record(client, scenario.__name__, "not possible", str(reason))
            raise
        except (Failed, OSError, subprocess.SubprocessError) as error:
            results.record(client, scenario.__name__, "failed", str(error)[:300])
            raise
        else:
            results.record(client, scenario.__name__, "passed")
        finally:
            bench.end()
    return run


def add(name, function):
    name = "test_" + re.sub(r"\W+", "_", name).strip("_")
    globals()[name] = function
    function.__module__ = "__main__"  # where main() looks for tests


for client, command, missing in known.ALL:
    if reason := missing():
        add(client, skipped(reason))
        continue
    for scenario in scenarios.ALL:
        add(f"{client}_{scenario.__name__}", case(client, command, scenario))

main()
