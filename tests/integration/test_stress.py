#!/usr/bin/python3
# kqfs-test: alone timeout=600
"""Writers and readers of one file at full speed: no NUL, no gap, no line twice.

KQFS_STRESS_SECONDS sets how long each case lasts (4)."""

import os
import re
import subprocess
import threading
import time

import mounted
from mounted import *

SECONDS = int(os.environ.get("KQFS_STRESS_SECONDS", "4"))
LINE = re.compile(rb"w(\d+) (\d+) x*\Z")


def write_numbers(path, name, end, pieces, sync):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    number = turn = 0
    while time.monotonic() < end:
        count = pieces[turn % len(pieces)]
        turn += 1
        data = b"".join(b"w%d %d %s\n" % (name, number + i, b"x" * ((number + i) % 190))
                        for i in range(count))
        write_all(fd, data)
        if sync:
            os.fsync(fd)
        number += count
    os.close(fd)


def follow(path, writers, done):
    """Reads to the end, and again while the writers write; returns how many lines of each."""
    fd = os.open(path, os.O_RDONLY)
    expected, rest, total = [0] * writers, b"", 0
    while True:
        last = os.path.exists(done)
        part = os.read(fd, 1 << 17)
        if not part:
            if last:
                break
            time.sleep(0.0005)
            continue
        check(b"\0" not in part, "NUL bytes at", total + part.find(b"\0"))
        total += len(part)
        whole, newline, tail = (rest + part).rpartition(b"\n")
        rest = tail
        for line in whole.split(b"\n") if newline else ():
            match = LINE.match(line)
            check(match, "a broken line before byte", total, short(line))
            name, number = int(match[1]), int(match[2])
            equal(number, expected[name], "next number of writer", name, "in", path)
            expected[name] += 1
    equal(rest, b"", "half a line at the end")
    os.close(fd)
    return expected


def storm(name, settings, writer_views, reader_views, sync=False):
    with Broker(name, options=settings) as broker:
        topic = broker.topic("storm")
        done = os.path.join(broker.directory, "done")
        end = time.monotonic() + SECONDS
        counts = os.path.join(broker.directory, "counts")

        def reader(number, view):
            expected = follow(f"{topic}/{view}", len(writer_views), done)
            with open(f"{counts}{number}", "w") as file:
                file.write(repr(expected))

        writers = [in_child(write_numbers, f"{topic}/{view}", i, end, ((1,), (1, 7, 300), (1000, 1))[i % 3],
                            sync) for i, view in enumerate(writer_views)]
        readers = [in_child(reader, i, view) for i, view in enumerate(reader_views)]
        try:
            finish(*writers)
        finally:
            open(done, "w").close()
            finish(*readers)
        results = {open(f"{counts}{i}").read() for i in range(len(reader_views))}
        equal(len(results), 1, "all readers saw the same:", results)
        total = sum(eval(results.pop()))
        equal(int(getfattr(f"{topic}/p0", "end")), total, "messages")
        print(f"        {total} lines by {len(writers)} writers, {len(readers)} readers")


READERS = ["p0", "p0", "p0.log", "by-offset/p0/0"]


def test_writers_and_readers_of_one_file():
    storm("plain", [], ["p0", "p0", "p0"], READERS)


def test_writers_of_append_with_readers():
    storm("append", [], ["append", "append", "p0"], READERS)


def test_through_rolls():
    storm("rolls", ["--topic.segment.bytes", "100000"], ["p0", "append", "p0"], READERS)


def test_with_fsync():
    storm("sync", [], ["append", "append", "append", "p0"], ["p0", "p0.log"], sync=True)


def test_with_appends_that_do_not_come_through_the_mount():
    program = tool("stress_direct")
    directory = scratch("direct")
    os.mkdir(f"{directory}/mnt")
    process = subprocess.Popen([program, f"{directory}/data", f"{directory}/mnt", str(SECONDS)],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # A process that waits for an answer of its own cannot be killed: its mount must be cut off.
    cut_off = threading.Timer(SECONDS * 10 + 60, subprocess.run,
                              (["umount", "-f", f"{directory}/mnt"],), {"capture_output": True})
    cut_off.start()
    try:
        text = process.communicate()[0].decode()
    finally:
        cut_off.cancel()
        process.kill()
    if is_mounted(f"{directory}/mnt"):
        subprocess.run(["fusermount3", "-u", "-z", f"{directory}/mnt"])
        raise Failed("left mounted: " + text[-2000:])
    equal(process.returncode, 0, text[-2000:])
    check(not SUSPICIOUS.search(text), text)
    print("        " + text.strip())


if __name__ == "__main__":
    mounted.main()
