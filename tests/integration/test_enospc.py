#!/usr/bin/python3
"""A full disk: ENOSPC, nothing partial, readers go on, and writing works again once there is room."""

import contextlib
import errno
import os
import random

import mounted
from mounted import *

rng = random.Random(5)
SIZE = 8 << 20


@contextlib.contextmanager
def small_disk(kind):
    """An empty file system of 8 MiB, mounted; its path."""
    need_root()
    directory = scratch("disk-" + kind + str(rng.randrange(10 ** 9)))
    path = os.path.join(directory, "fs")
    os.mkdir(path)
    if kind == "tmpfs":
        command = f"mount -t tmpfs -o size={SIZE} kqfs-test {path}"
    else:
        need("mkfs.ext4")
        command = (f"truncate -s {SIZE + (4 << 20)} {directory}/image && "
                   f"mkfs.ext4 -q -m 0 -O ^has_journal {directory}/image && "
                   f"mount -o loop {directory}/image {path}")
    if subprocess.run(command, shell=True, capture_output=True).returncode:
        raise Skip(f"cannot mount a {kind} here")
    try:
        yield path
    finally:
        sh(f"umount {path}")


class Disk:
    """A broker whose data lives on the small disk, beside a file that can be taken away."""

    def __init__(self, path, name, options=()):
        self.filler = f"{path}/filler"
        with open(self.filler, "wb") as file:
            file.write(bytes(3 << 20))
            os.fsync(file.fileno())
        self.broker = Broker(name, data=f"{path}/data", options=["--topic.segment.bytes", "1000000", *options])


KINDS = ("tmpfs", "ext4")


def each_disk(function):
    """Runs it on each kind of disk that can be made here."""
    skipped = []
    for kind in KINDS:
        try:
            with small_disk(kind) as path:
                function(kind, path)
        except Skip as skip:
            skipped.append(str(skip))
            print(f"        skipped: {skip}")
    if len(skipped) == len(KINDS):
        raise Skip("; ".join(skipped))


def fill(fd, written, make):
    """Writes what MAKE gives until there is no room; returns all that was acknowledged."""
    for _ in range(100000):
        data = make()
        try:
            n = os.write(fd, data)
        except OSError as error:
            check(error.errno == errno.ENOSPC, "wanted ENOSPC, not", name_of(error.errno))
            return written
        written += data[:n]
    raise Failed("the disk never got full")


def test_a_full_disk_is_enospc_and_nothing_is_partial():
    def on(kind, path):
        disk = Disk(path, "full-" + kind)
        with disk.broker as broker:
            topic = broker.topic("t")
            fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            number = 0

            def request():
                nonlocal number
                number += 1
                return b"".join(b"request %d line %d\n" % (number, i) for i in range(rng.choice((1, 50, 5000))))

            acknowledged = fill(fd, b"", request)
            equal(read(f"{topic}/p0"), acknowledged, "what was acknowledged, and no more")
            equal(int(getfattr(f"{topic}/p0", "end")), acknowledged.count(b"\n"))
            for _ in range(5):
                number_before = error_of(os.write, fd, b"".join(b"again %d\n" % i for i in range(40000)))
                equal(number_before, errno.ENOSPC)
            equal(read(f"{topic}/p0"), acknowledged, "behind more refusals")
            sh(f"tail -n 3 {topic}/p0 && cat {topic}/by-offset/p0/5 && head -n 1 {topic}/p0.jsonl")
            os.unlink(disk.filler)
            os.write(fd, b"there is room\n")
            os.fsync(fd)
            acknowledged += b"there is room\n"
            acknowledged = fill(fd, acknowledged, request)
            equal(read(f"{topic}/p0"), acknowledged, "after the second time")
            os.close(fd)
            broker.restart()
            equal(read(f"{topic}/p0"), acknowledged, "after a restart on a full disk")
            broker.kill()
            broker.start()
            equal(read(f"{topic}/p0"), acknowledged, "after kill -9 on a full disk")
            os.unlink(f"{topic}/p0")
            append(f"{topic}/p0", "new\n")
            equal(read(f"{topic}/p0"), b"new\n", "rm makes room")
    each_disk(on)


def test_small_lines_until_the_disk_is_full():
    def on(kind, path):
        disk = Disk(path, "small-" + kind)
        with open(f"{path}/more", "wb") as file:
            file.write(bytes(3 << 20))
        with disk.broker as broker:
            topic = broker.topic("t")
            fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            acknowledged = fill(fd, b"", lambda: b"x" * rng.randrange(1, 2000) + b"\n")
            equal(read(f"{topic}/p0"), acknowledged)
            os.close(fd)
    each_disk(on)


def test_half_lines_that_were_taken_are_never_lost():
    def on(kind, path):
        disk = Disk(path, "half-" + kind)
        with disk.broker as broker:
            topic = broker.topic("t")
            halves = {}
            for size in (1, 100, 5000, 100000, 400000):
                fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
                halves[fd] = b"h%d " % size + b"x" * size
                equal(os.write(fd, halves[fd]), len(halves[fd]))
            filler = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            fill(filler, b"", lambda: b"y" * 50000 + b"\n")
            fill(filler, b"", lambda: b"y" * 50 + b"\n")
            late = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            equal(name_of(error_of(os.write, late, b"z" * 300000)), "ENOSPC",
                  "a half line that there is no room for")
            os.close(late)
            before = int(getfattr(f"{topic}/p0", "end"))
            for fd in halves:
                os.close(fd)
            whole = read(f"{topic}/p0").splitlines()
            equal(int(getfattr(f"{topic}/p0", "end")), before + len(halves))
            equal(sorted(whole[-len(halves):]), sorted(halves.values()), "half lines after their close")
            check(not any(b"z" in line for line in whole), "a refused half line is in the log")
            os.close(filler)
    each_disk(on)


def test_an_error_between_two_halves_drops_the_whole_line():
    def on(kind, path):
        disk = Disk(path, "cut-" + kind)
        with disk.broker as broker:
            topic = broker.topic("t")
            fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"begin ")
            other = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            acknowledged = fill(other, b"", lambda: b"y" * 20000 + b"\n")
            number = error_of(os.write, fd, b"middle " * 60000)
            equal(name_of(number), "ENOSPC")
            os.unlink(disk.filler)
            os.write(fd, b"end of what was refused\nwhole\n")
            os.close(fd)
            os.close(other)
            equal(read(f"{topic}/p0"), acknowledged + b"whole\n")
    each_disk(on)


def test_readers_and_streams_go_on_while_the_disk_is_full():
    def on(kind, path):
        disk = Disk(path, "read-" + kind)
        with disk.broker as broker:
            topic = broker.topic("t")
            append(f"{topic}/p0", lines(1000))
            with Follower("cat", f"{topic}/p0.stream") as stream:
                fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
                acknowledged = fill(fd, lines(1000), lambda: b"y" * 40000 + b"\n")
                stream.until(acknowledged, "a stream on a full disk")
                equal(sh("wc -c < p0", cwd=topic).strip(), b"%d" % len(acknowledged))
                os.unlink(disk.filler)
                os.write(fd, b"more\n")
                stream.until(acknowledged + b"more\n")
                os.close(fd)
    each_disk(on)


def test_changes_on_a_full_disk_fail_whole():
    def on(kind, path):
        disk = Disk(path, "change-" + kind)
        with disk.broker as broker:
            topic = broker.topic("t", retention_ms=1000000)
            fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
            fill(fd, b"", lambda: b"y" * 50000 + b"\n")
            with open(f"{path}/plug", "wb", buffering=0) as plug, contextlib.suppress(OSError):
                while plug.write(bytes(4096)):
                    pass
            before = os.stat(f"{topic}/p0").st_mode, getfattr(topic, "retention.ms")
            for act, arguments in ((os.mkdir, (broker.path("new"),)), (os.chmod, (f"{topic}/p0", 0o600)),
                                   (setfattr, (topic, "retention.ms", "5"))):
                number = error_of(act, *arguments)
                check(number in (0, errno.ENOSPC), act.__name__, name_of(number))
                if number and act is os.mkdir:
                    check("new" not in os.listdir(broker.mount), "a topic that was refused is there")
                if number and act is os.chmod:
                    equal(os.stat(f"{topic}/p0").st_mode, before[0])
                if number and act is setfattr:
                    equal(getfattr(topic, "retention.ms"), before[1])
            os.unlink(f"{path}/plug")
            os.unlink(disk.filler)
            os.mkdir(broker.path("room"))
            os.close(fd)
            broker.restart()
            check("room" in os.listdir(broker.mount))
    each_disk(on)


if __name__ == "__main__":
    mounted.main()
