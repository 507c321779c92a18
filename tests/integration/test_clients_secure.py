#!/usr/bin/env python3
# kqfs-test: timeout=900
"""Every Kafka client through every way of clients/secure.py to say who it is, all on one broker.

KQFS_CLIENTS and KQFS_CLIENTS_RESULTS are those of test_clients.py.
"""

import contextlib
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "clients"))

import known
import results
import scenarios
import secure
from mounted import Failed, Skip, check, main, need, need_root

sys.dont_write_bytecode = True


class Bench(scenarios.Bench):
    """One process of each client for all ways: some take seconds to start."""

    processes = {}

    def __init__(self, client, broker, command, name):
        super().__init__(broker, command, re.sub(r"\W+", "-", f"{client}-{name}").strip("-"))
        self.client = client

    def driver(self):
        if self.client not in self.processes or self.processes[self.client].process.poll() is not None:
            self.processes[self.client] = scenarios.Driver(self.command, "none:1", self.broker.directory)
        return self.processes[self.client]


def case(client, command, way):
    def run():
        try:
            way(Bench(client, site, command, way.__name__))
        except Skip as reason:
            results.record(client, way.__name__, "not possible", str(reason))
            raise
        except (Failed, OSError, subprocess.SubprocessError) as error:
            results.record(client, way.__name__, "failed", str(error)[:300])
            raise
        results.record(client, way.__name__, "passed")
    return run


def add(name, function):
    function.__module__ = "__main__"  # where main() looks for tests
    globals()["test_" + re.sub(r"\W+", "_", name).strip("_")] = function


def skipped(reason):
    def run():
        raise Skip(reason)
    return run


for client, command, missing in known.ALL:
    if client in secure.LEFT_OUT:
        continue
    if client != "kcat" and not known.FETCHED:
        add(client, skipped("runs where KQFS_CLIENTS is set, for time's sake"))
    elif reason := missing():
        add(client, skipped(reason))
    else:
        for way in secure.ALL:
            add(f"{client}_{way.__name__}", case(client, command, way))

# --- openssl s_client ---

API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000007 ffff")


def s_client(listener, *arguments):
    """What it says, having sent a request, until that was answered or it has ended."""
    command = ["openssl", "s_client", "-connect", f"localhost:{site.ports[listener]}", "-CAfile",
               site.keys.path("ca.pem"), "-verify_hostname", "localhost", "-verify_return_error",
               "-nocommands", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, bufsize=0) as process:
        process.stdin.write(API_VERSIONS)
        said = b""
        while API_VERSIONS[8:12] not in said and (some := process.stdout.read(1 << 16)):
            said += some
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    return said


def certificate(authority):
    return ["-cert", authority.path("alice.pem"), "-key", authority.path("alice.key")]


def test_openssl_s_client_is_answered():
    for version in "1_2", "1_3":
        for listener, more in ("tls", []), ("mutual", certificate(site.keys)):
            said = s_client(listener, f"-tls{version}", *more)
            for wanted in b"Verify return code: 0 (ok)", b"TLSv" + version.replace("_", ".").encode(), \
                    API_VERSIONS[8:12]:
                check(wanted in said, wanted, "is not in", said)


def test_openssl_s_client_is_told_why_it_is_refused():
    for wanted, *arguments in (
            (b"alert certificate required", "mutual", "-tls1_3"),
            (b"alert handshake failure", "mutual", "-tls1_2"),
            (b"alert unknown ca", "mutual", "-tls1_3", *certificate(site.strange)),
            (b"alert protocol version", "tls", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
            (b"alert handshake failure", "tls", "-tls1_2", "-cipher", "AES128-SHA")):
        said = s_client(*arguments)
        check(wanted in said and API_VERSIONS[8:12] not in said, wanted, arguments, said)


try:
    need_root()
    need("openssl")
    site = secure.Site()
except Skip as reason:
    print(reason)
    raise SystemExit(77)
if site.realm:
    os.environ |= {**site.realm.env, "KRB5CCNAME": "FILE:" + site.realm.path("cache")}
try:
    main(site)
finally:
    for driver in Bench.processes.values():
        driver.kill()
    site.end()
