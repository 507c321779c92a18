#!/usr/bin/env python3
# kqfs-test: long alone timeout=2400
"""Everybody at once, for minutes: see soak.c. What the broker holds must stay flat meanwhile.

KQFS_SOAK_SECONDS says how long (180).
"""

import os
import subprocess
import sys
import time

import mounted
from mounted import Broker, check, free_port, main, tool

SECONDS = int(os.environ.get("KQFS_SOAK_SECONDS", "180"))
mounted.TIMEOUT_S = max(mounted.TIMEOUT_S, SECONDS + 320)
PARTITIONS = 16


def memory_kib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def test_everybody_at_once():
    program = tool("soak")
    port = free_port()
    broker = Broker("soak", ["--listen", f"plaintext://127.0.0.1:{port}",
                             "--topic.segment.bytes", str(16 << 20),
                             "--topic.retention.bytes", str(64 << 20),
                             "--log.retention.check.interval.ms", "1000"]).start()
    topic = os.path.join(broker.mount, "soak")
    os.mkdir(topic)
    for n in range(1, PARTITIONS):
        open(os.path.join(topic, f"p{n}"), "ab").close()
    soak = subprocess.Popen([program, f"127.0.0.1:{port}", topic, str(SECONDS),
                             str(PARTITIONS)], stdout=subprocess.PIPE, text=True)
    memory, descriptors, began = [], [], time.monotonic()
    while soak.poll() is None and time.monotonic() - began < SECONDS + 300:
        time.sleep(1)
        if time.monotonic() - began < SECONDS:
            memory.append(memory_kib(broker.process.pid))
            descriptors.append(len(os.listdir(f"/proc/{broker.process.pid}/fd")))
    said = soak.communicate(timeout=10)[0]
    check(soak.returncode == 0, f"soak ended with {soak.returncode}")
    # The first third is for buffers to find their size.
    early, late = memory[len(memory) // 3:len(memory) * 2 // 3], memory[len(memory) * 2 // 3:]
    files_early = descriptors[len(descriptors) // 3:len(descriptors) * 2 // 3]
    files_late = descriptors[len(descriptors) * 2 // 3:]
    print(f"        {said.strip()}; memory {max(early)} then {max(late)} KiB, "
          f"descriptors {max(files_early)} then {max(files_late)}")
    check(max(late) <= max(early) * 1.1 + 4096, "memory grew:", max(early), max(late))
    check(max(files_late) <= max(files_early) * 1.1 + 16, "descriptors grew:", max(files_early),
          max(files_late))
    broker.stop()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
