#!/usr/bin/python3
# kqfs-test: timeout=600
"""Retention without lies: nobody who reads sees a byte change place, a file shrink or a message
twice; what follows a partition or its endless log meets each line once, through rolls, retention
and restarts."""

import ctypes
import errno
import os
import re
import select
import signal
import time

import mounted
from mounted import *

OPTIONS = ["--log.retention.check.interval.ms", "50", "--topic.segment.bytes", "2000",
           "--topic.file.delete.delay.ms", "0"]
broker = Broker("b", options=OPTIONS)


def start_of(topic):
    return int(getfattr(f"{topic}/p0", "start"))


def end_of(topic):
    return int(getfattr(f"{topic}/p0", "end"))


def fill(topic, count, start=0, step=20, width=0):
    for i in range(start, start + count, step):
        append(f"{topic}/p0", lines(min(step, start + count - i), i, width))


def retained(topic):
    """The numbers of the lines of p0, which must be the retained ones without a gap."""
    for _ in range(20):
        before, data, after = start_of(topic), read(f"{topic}/p0"), start_of(topic)
        if before == after:
            break
    numbers = [int(l.split()[1]) for l in data.splitlines()]
    equal(numbers, list(range(before, end_of(topic))), "what is retained")
    return numbers


# --- What goes ---

def test_retention_by_size():
    topic = broker.topic("size")
    fill(topic, 1000)
    equal(start_of(topic), 0)
    setfattr(topic, "retention.bytes", 6000)
    until(lambda: start_of(topic) > 0, "retention by size")
    until(lambda: int(getfattr(f"{topic}/p0", "bytes")) <= 6000 + 2 * 2000 + 200, "few bytes to be left")
    check(int(getfattr(f"{topic}/p0", "bytes")) >= 6000 - 2000, "no more went than asked for")
    numbers = retained(topic)
    equal(numbers[-1], 999)
    equal(os.path.getsize(f"{topic}/p0"), len(lines(len(numbers), numbers[0])))
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0/{numbers[0] - 1}")
    equal(read(f"{topic}/by-offset/p0/{numbers[0]}"), lines(len(numbers), numbers[0]))
    equal(os.readlink(f"{topic}/by-offset/p0/earliest"), str(numbers[0]))
    equal(end_of(topic), 1000)


def test_retention_by_time():
    topic = broker.topic("time")
    fill(topic, 500)
    setfattr(topic, "retention.ms", 300)
    until(lambda: start_of(topic) > 400, "retention by time")
    retained(topic)
    append(f"{topic}/p0", "after\n")
    equal(sh("tail -n 1 p0", cwd=topic), b"after\n")


def test_retention_waits_where_nothing_is_too_old_or_too_much():
    topic = broker.topic("keeps", retention_ms=3600000, retention_bytes=10000000)
    fill(topic, 1000)
    time.sleep(0.3)  # six checks
    equal(start_of(topic), 0)
    equal(read(f"{topic}/p0"), lines(1000))


def test_segments_on_disk_go_with_retention():
    topic = broker.topic("disk")
    fill(topic, 2000)
    files = lambda: int(sh(f"find {broker.data} -path '*disk-0*' -name '*.log' | wc -l"))
    before = files()
    check(before > 5, before)
    setfattr(topic, "retention.bytes", 3000)
    until(lambda: files() <= 4, "segment files to go")


# --- Who reads meanwhile ---

def test_a_new_node_with_the_same_inode_number():
    topic = broker.topic("node")
    fill(topic, 500)
    inode = os.stat(f"{topic}/p0").st_ino
    fd = os.open(f"{topic}/p0", os.O_RDONLY)
    setfattr(topic, "retention.bytes", 3000)
    until(lambda: start_of(topic) > 200, "retention")
    equal(os.stat(f"{topic}/p0").st_ino, inode, "st_ino")
    check(os.path.getsize(f"{topic}/p0") < len(lines(500)) // 2, "later opens see what is retained")
    equal(os.fstat(fd).st_size, len(lines(500)), "an open handle's file does not shrink")
    at = len(lines(480))
    equal(os.pread(fd, 1 << 20, at), lines(20, 480), "positions of an open handle")
    append(f"{topic}/p0", lines(1, 500))
    equal(os.fstat(fd).st_size, len(lines(501)), "an open handle's file grows")
    equal(os.pread(fd, 1 << 20, at), lines(21, 480))
    refused(errno.ESTALE, os.pread, fd, 10, 0, what="what is gone")
    refused(errno.ESTALE, os.pread, fd, 10, len(lines(50)), what="what is gone")
    os.close(fd)
    fresh = os.open(f"{topic}/p0", os.O_RDONLY)
    check(os.pread(fresh, 5, 0) == b"line ", "a new handle begins at the first retained message")
    os.close(fresh)


def test_a_reader_on_its_way_gets_estale_once_overtaken():
    topic = broker.topic("overtaken")
    fill(topic, 500)
    names = ("p0", "by-offset/p0/10", "p0.log", "p0.stream")
    fds = [os.open(f"{topic}/{n}", os.O_RDONLY) for n in names]
    json_fd = os.open(f"{topic}/p0.jsonl", os.O_RDONLY)
    check(all([os.read(fd, 100) for fd in fds]))
    got = os.read(json_fd, 100)
    os.unlink(f"{topic}/p0")
    append(f"{topic}/p0", lines(3, 500))
    for fd, name in zip(fds, names):
        refused(errno.ESTALE, os.read, fd, 100, what=("overtaken", name))
        os.close(fd)
    # Of lines that were made before, the rest may still come; then the same, and nothing new.
    try:
        while part := os.read(json_fd, 100):
            got += part
        raise Failed("p0.jsonl went on as if nothing were missing")
    except OSError as error:
        equal(error.errno, errno.ESTALE, "overtaken p0.jsonl")
    check(b"line 500" not in got)
    os.close(json_fd)
    equal(read(f"{topic}/p0"), lines(3, 500))


def test_values_and_segments_of_what_is_gone():
    topic = broker.topic("gone")
    fill(topic, 500)
    names = sorted(os.listdir(f"{topic}/by-segment/p0"))
    kept = os.open(f"{topic}/by-segment/p0/{names[0]}", os.O_RDONLY)
    first = os.read(kept, 50)
    equal(first, lines(500)[:50])
    os.unlink(f"{topic}/p0")
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0/3.value")
    refused((errno.ENOENT, errno.ESTALE), os.stat, f"{topic}/by-segment/p0/{names[0]}")
    check(names[0] not in os.listdir(f"{topic}/by-segment/p0"), "listed although gone")
    os.close(kept)


# --- p0.log ---

def test_positions_of_the_log_view_never_change():
    topic = broker.topic("log")
    fill(topic, 1000)
    path = f"{topic}/p0.log"
    whole = lines(1000)
    equal(read(path), whole)
    inode = os.stat(path).st_ino
    setfattr(topic, "retention.bytes", 6000)
    until(lambda: start_of(topic) > 500, "retention")
    for generation in ("before", "after"):
        start = start_of(topic)
        hole = len(lines(start))
        st = os.stat(path)
        equal((st.st_size, st.st_ino), (len(whole), inode), "size and st_ino", generation, "a restart")
        check(st.st_blocks * 512 <= len(whole) - hole + 8192, "st_blocks tell what is retained")
        equal(read(path), whole[hole:], "a sequential read begins at the first retained message")
        fd = os.open(path, os.O_RDONLY)
        equal(os.pread(fd, 1 << 20, len(whole) - 50), whole[-50:], "an exact seek", generation)
        equal(os.pread(fd, 30, hole), whole[hole:hole + 30], "at the edge")
        os.close(fd)
        fd = os.open(path, os.O_RDONLY)
        os.lseek(fd, hole // 2, os.SEEK_SET)
        equal(os.read(fd, 30), whole[hole:hole + 30], "a handle's first read inside the hole")
        refused((errno.EINVAL, errno.ENXIO), lambda: check(
            os.lseek(fd, 0, os.SEEK_HOLE) >= len(whole)) or os.lseek(fd, len(whole) + 1, os.SEEK_DATA))
        os.close(fd)
        broker.restart()
    append(f"{topic}/p0", "one more\n")
    equal(os.path.getsize(path), len(whole) + 9)
    equal(sh(f"tail -c 9 {path}"), b"one more\n")
    sh(f"grep -c line {path}")
    sh(f"cp {path} {scratch('logcopy')}/c")
    broker.kill()
    broker.start()
    equal(os.path.getsize(path), len(whole) + 9, "after kill -9")
    equal(sh(f"tail -c 9 {path}"), b"one more\n")
    setfattr(topic, "retention.ms", 100)
    setfattr(topic, "segment.ms", 100)
    until(lambda: start_of(topic) == end_of(topic), "all to go")
    equal(os.path.getsize(path), len(whole) + 9, "all is gone, no byte of the count is")
    broker.restart()
    equal(os.path.getsize(path), len(whole) + 9)
    append(f"{topic}/p0", "tail\n")
    fd = os.open(path, os.O_RDONLY)
    equal(os.pread(fd, 100, len(whole) + 9), b"tail\n")
    os.close(fd)


def test_a_changed_rendering_moves_no_position():
    topic = broker.topic("render")
    append(f"{topic}/p0", "a\nb\n")
    setfattr(topic, "delimiter", "--")
    append(f"{topic}/p0", "c--d--")
    equal(read(f"{topic}/p0.log"), b"a\nb\nc--d--")
    broker.restart()
    equal(read(f"{topic}/p0.log"), b"a\nb\nc--d--")
    setfattr(topic, "delimiter", "\\n")
    append(f"{topic}/p0", "e\n")
    equal(read(f"{topic}/p0.log"), b"a\nb\nc--d--e\n")
    equal(os.path.getsize(f"{topic}/p0.log"), 12)


# --- tail -f, tail -F ---

def numbers_of(output):
    return [int(l.split()[1]) for l in output.splitlines()]


def test_tail_f_and_tail_F_through_rolls_and_retention():
    topic = broker.topic("tails", retention_bytes=20000)
    fill(topic, 200)
    start = len(lines(200))
    with Follower("tail", "-s", "0.02", "-n", "+1", "-f", f"{topic}/p0") as plain, \
            Follower("tail", "-s", "0.02", "-n", "+1", "-F", f"{topic}/p0") as by_name, \
            Follower("tail", "-s", "0.02", "-n", "+1", "-F", f"{topic}/p0.log") as log:
        followers = {"tail -f p0": plain, "tail -F p0": by_name, "tail -F p0.log": log}
        for follower in followers.values():
            follower.until(lambda out: out.count(b"\n") >= 200)
        for i in range(200, 4000, 100):
            fill(topic, 100, i, 10)
            for what, follower in followers.items():
                # In step: a follower that retention overtakes would rightly lose lines.
                follower.until(lambda out, n=i + 100: out.count(b"\n") >= n, f"{what}, line {i + 100}")
        until(lambda: start_of(topic) > 1000, "retention to go on")
        for what, follower in followers.items():
            equal(numbers_of(bytes(follower.output)), list(range(4000)), what, bytes(follower.errors))
            check(b"truncated" not in follower.errors, what, bytes(follower.errors))


def test_tail_F_goes_on_after_a_restart():
    own = Broker("restart", options=OPTIONS).start()
    topic = own.topic("t")
    fill(topic, 100)
    with Follower("tail", "-s", "0.05", "-n", "+1", "-F", f"{topic}/p0.log", "--max-unchanged-stats=1") as log:
        log.until(lines(100))
        for round_number in range(1, 4):
            own.stop()
            until(lambda: log.process.poll() is None, "tail to live")
            own.start()
            fill(topic, 100, 100 * round_number)
            log.until(lambda out: lines(100, 100 * round_number).splitlines()[-1] in out,
                      "tail -F to go on after a restart")
        seen = set(numbers_of(bytes(log.output)))
        equal(seen, set(range(400)), "nothing lost")
    own.stop()


def test_streams_through_rolls_and_retention():
    topic = broker.topic("stream", retention_bytes=10000)
    with Follower("cat", f"{topic}/p0.stream") as stream:
        for i in range(0, 4000, 50):
            fill(topic, 50, i, 10)
            stream.until(lambda out, n=i + 50: out.count(b"\n") >= n, f"line {i + 50}")
        equal(bytes(stream.output), lines(4000))
    until(lambda: start_of(topic) > 2000, "retention to catch up")


# --- Shippers on p0.log: nothing lost, nothing repeated, through restarts and retention ---

class Rsyslog:
    """rsyslog's imfile; its state file remembers the position."""

    def __init__(self, directory, path):
        need("rsyslogd")
        self.directory, self.path = directory, path
        self.output = f"{directory}/out"
        self.process = None
        with open(f"{directory}/rsyslog.conf", "w") as file:
            file.write(f'''
module(load="imfile" mode="polling" pollingInterval="1")
global(workDirectory="{directory}")
template(name="raw" type="string" string="%msg%\\n")
input(type="imfile" File="{path}" Tag="t:" ruleset="ship" freshStartTail="off" reopenOnTruncate="on")
ruleset(name="ship") {{ action(type="omfile" file="{self.output}" template="raw") }}
''')

    def ship_until(self, condition, what):
        self.process = subprocess.Popen(
            ["rsyslogd", "-n", "-f", f"{self.directory}/rsyslog.conf", "-i", f"{self.directory}/pid"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: condition(self.shipped()), what, 60)
        finally:
            self.process.terminate()
            self.process.wait(30)

    def shipped(self):
        return read(self.output).splitlines() if os.path.exists(self.output) else []


class OneShot:
    """A shipper that runs once for what is new, and keeps inode and position, as logtail does."""

    def __init__(self, directory, path):
        self.directory, self.path, self.got = directory, path, []

    def ship_until(self, condition, what):
        def once():
            self.got += sh(self.command()).splitlines()
            return condition(self.got)
        until(once, what, 60)

    def shipped(self):
        return self.got


class Logtail(OneShot):
    def command(self):
        need("logtail")
        return f"logtail -f {self.path} -o {self.directory}/offset"


def ship(kind):
    own = Broker("ship-" + kind.__name__, options=OPTIONS).start()
    topic = own.topic("t", retention_bytes=10000)
    path = f"{topic}/p0.log"
    fill(topic, 200)
    shipper = kind(scratch("shipper-" + kind.__name__), path)
    total = 200
    for round_number in range(5):
        shipper.ship_until(lambda got: len(got) >= total, f"{total} lines to be shipped")
        equal([l.decode() for l in shipper.shipped()], [f"line {i}" for i in range(total)],
              kind.__name__, "round", round_number)
        if round_number % 2:
            own.kill()
            own.start()
        else:
            own.restart()
        fill(topic, 250, total)
        total += 250
    until(lambda: start_of(topic) > 300, "retention to have gone on")
    shipper.ship_until(lambda got: len(got) >= total, f"{total} lines to be shipped")
    time.sleep(1.5)  # a poll of the shipper in which nothing more must come
    equal([l.decode() for l in shipper.shipped()], [f"line {i}" for i in range(total)], kind.__name__)
    own.stop()


def test_rsyslog_ships_each_line_once():
    ship(Rsyslog)


def test_logtail_ships_each_line_once():
    ship(Logtail)


def test_inotify_watchers_of_the_log_view_hear_of_appends():
    libc = ctypes.CDLL(None, use_errno=True)
    topic = broker.topic("notify")
    append(f"{topic}/p0", "x\n")
    fd = libc.inotify_init1(os.O_NONBLOCK)
    modify = 2
    check(libc.inotify_add_watch(fd, f"{topic}/p0.log".encode(), modify) >= 0, "inotify_add_watch")
    for i in range(5):
        append(f"{topic}/p0", "y\n")
        until(lambda: select.select([fd], [], [], 0)[0], "IN_MODIFY")
        os.read(fd, 4096)
    equal(os.path.getsize(f"{topic}/p0.log"), 12, "the event changed nothing")
    os.close(fd)


if __name__ == "__main__":
    mounted.main(broker)
