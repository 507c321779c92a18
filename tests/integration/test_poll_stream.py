#!/usr/bin/python3
"""Streams park their readers: a thousand of them cost no threads, each can be interrupted, polled
and killed, and the end of the broker ends them."""

import errno
import os
import select
import signal
import threading
import time

import mounted
from mounted import *

broker = Broker("b")
PARKED = 1000


def threads_of(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


class Parked:
    """COUNT processes, each blocked in read(2) on PATH; they write one byte down a pipe for each
    line they get and end at the end of the file with status 0."""

    def __init__(self, path, count):
        self.reader, writer = os.pipe()
        self.pids = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    fd = os.open(path, os.O_RDONLY)
                    os.write(writer, b"o")
                    while part := os.read(fd, 65536):
                        os.write(writer, b"l" * part.count(b"\n"))
                    os._exit(0)
                except OSError as error:
                    os._exit(error.errno)
                finally:
                    os._exit(255)
            self.pids.append(pid)
        os.close(writer)

    def count(self, wanted, what, timeout=60):
        seen, end = 0, time.monotonic() + timeout
        while seen < wanted:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.reader], [], [], left)[0]:
                raise Failed(f"{what}: only {seen} of {wanted}")
            part = os.read(self.reader, wanted - seen)
            if not part:
                raise Failed(f"{what}: only {seen} of {wanted}; the readers ended")
            seen += len(part)

    def in_read(self):
        """Until all sleep in their read: the kernel says where."""
        def asleep():
            for pid in self.pids:
                with open(f"/proc/{pid}/stat") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] not in "SD":
                        return False
            return True
        until(asleep, "all readers to be parked")

    def end(self, number=None):
        for pid in self.pids:
            if number:
                os.kill(pid, number)
        statuses = [os.waitpid(pid, 0)[1] for pid in self.pids]
        os.close(self.reader)
        return statuses


def test_a_thousand_parked_readers_cost_no_threads_and_no_cpu():
    topic = broker.topic("thousand")
    idle = threads_of(broker.process.pid)
    parked = Parked(f"{topic}/p0.stream", PARKED)
    try:
        parked.count(PARKED, "open")
        parked.in_read()
        check(threads_of(broker.process.pid) <= max(idle, 8) + 40, "threads:",
              threads_of(broker.process.pid), "before:", idle)
        before = cpu_of(broker.process.pid)
        time.sleep(1)  # the measure itself
        check(cpu_of(broker.process.pid) - before <= 5, "CPU of parked readers, ticks in a second:",
              cpu_of(broker.process.pid) - before)
        for _ in range(3):
            sh(f"ls -l {topic} {broker.mount}")
        append(f"{topic}/p0", "one\n")
        parked.count(PARKED, "woken by the first line")
        append(f"{topic}/p0", "two\nthree\n")
        parked.count(2 * PARKED, "woken by two more")
        check(threads_of(broker.process.pid) <= max(idle, 8) + 40, "threads after waking all:",
              threads_of(broker.process.pid))
    finally:
        statuses = parked.end(signal.SIGKILL)
    equal(set(statuses), {signal.SIGKILL})
    append(f"{topic}/p0", "four\n")
    equal(read(f"{topic}/p0"), b"one\ntwo\nthree\nfour\n", "after all readers were killed")


def test_killed_and_interrupted_readers_lose_nothing_for_others():
    topic = broker.topic("killed")
    with Follower("cat", f"{topic}/p0.stream") as survivor:
        for i in range(30):
            with Follower("cat", f"{topic}/p0.stream") as victim:
                victim.until(lines(i))
                victim.stop(rng_signal(i))
            append(f"{topic}/p0", lines(1, i))
            survivor.until(lines(i + 1))


def rng_signal(i):
    return (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[i % 3]


def test_a_signal_with_a_handler_interrupts_a_read():
    topic = broker.topic("signal")

    class Interrupted(Exception):
        pass

    def handler(*_):
        raise Interrupted

    def child():
        signal.signal(signal.SIGALRM, handler)
        fd = os.open(f"{topic}/p0.stream", os.O_RDONLY)
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            try:
                os.read(fd, 100)
                os._exit(7)
            except Interrupted:
                pass
        append(f"{topic}/p0", "x\n")
        equal(os.read(fd, 100), b"x\n")

    finish(in_child(child))


def test_o_nonblock_is_eagain_at_the_end():
    topic = broker.topic("nonblock")
    append(f"{topic}/p0", "a\n")
    fd = os.open(f"{topic}/p0.stream", os.O_RDONLY | os.O_NONBLOCK)
    equal(os.read(fd, 100), b"a\n")
    for _ in range(3):
        refused(errno.EAGAIN, os.read, fd, 100)
    append(f"{topic}/p0", "b\n")
    equal(os.read(fd, 100), b"b\n")
    os.close(fd)
    fd = os.open(f"{topic}/by-offset/p0/latest.stream", os.O_RDONLY)
    os.set_blocking(fd, False)
    refused(errno.EAGAIN, os.read, fd, 100)
    os.close(fd)


def test_poll_select_and_epoll_wake_when_something_lands():
    topic = broker.topic("poll")
    fd = os.open(f"{topic}/p0.stream", os.O_RDONLY | os.O_NONBLOCK)
    poll, epoll = select.poll(), select.epoll()
    poll.register(fd, select.POLLIN)
    epoll.register(fd, select.EPOLLIN)
    equal(poll.poll(100), [], "poll on an empty stream")
    for i in range(20):
        later = threading.Timer(0.03, append, (f"{topic}/p0", b"%d\n" % i))
        later.start()
        kind = i % 3
        if kind == 0:
            ready = poll.poll(10000)
        elif kind == 1:
            ready = epoll.poll(10)
        else:
            ready = select.select([fd], [], [], 10)[0]
        check(ready, "woken by an append,", ("poll", "epoll", "select")[kind])
        equal(os.read(fd, 100), b"%d\n" % i)
        later.join()
        equal(poll.poll(0), [], "nothing left")
    epoll.close()
    os.close(fd)
    plain = os.open(f"{topic}/p0", os.O_RDONLY)
    check(select.select([plain], [], [], 5)[0], "a regular file is always readable")
    os.close(plain)


def test_many_poll_at_once():
    topic = broker.topic("polls")
    fds = [os.open(f"{topic}/p0.stream", os.O_RDONLY | os.O_NONBLOCK) for _ in range(200)]
    epoll = select.epoll()
    for fd in fds:
        epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
    equal(epoll.poll(0.1), [])
    append(f"{topic}/p0", "x\n")
    woken = set()
    until(lambda: woken.update(fd for fd, _ in epoll.poll(0.2)) or len(woken) == len(fds),
          "all polls to wake")
    epoll.close()
    for fd in fds:
        equal(os.read(fd, 10), b"x\n")
        os.close(fd)


def test_closing_a_polled_descriptor_is_clean():
    topic = broker.topic("poll-close")
    for _ in range(50):
        fd = os.open(f"{topic}/p0.stream", os.O_RDONLY | os.O_NONBLOCK)
        select.select([fd], [], [], 0)
        os.close(fd)
    append(f"{topic}/p0", "x\n")
    equal(read(f"{topic}/p0"), b"x\n")


def test_a_reader_that_is_slow_gets_everything_in_order():
    topic = broker.topic("slow")
    pieces = [lines(300, 300 * i) for i in range(60)]
    fd = os.open(f"{topic}/p0.stream", os.O_RDONLY)
    writer = in_child(lambda: [append(f"{topic}/p0", piece) for piece in pieces])
    got, wanted = bytearray(), b"".join(pieces)
    while len(got) < len(wanted):
        got += os.read(fd, 777)
    finish(writer)
    os.close(fd)
    equal(bytes(got), wanted)


def test_sigterm_answers_parked_reads_with_the_end():
    own = Broker("own").start()
    topic = own.topic("t")
    append(f"{topic}/p0", "x\n")
    parked = Parked(f"{topic}/p0.stream", 50)
    try:
        parked.count(100, "open and the first line")
        parked.in_read()
        own.process.terminate()
    finally:
        statuses = parked.end() if own.process.wait(30) is not None else None
    equal(set(statuses), {0}, "each read ended with 0 bytes")
    own.stop()
    own.start()
    equal(read(own.path("t/p0")), b"x\n")
    own.stop()


def test_unmounting_from_outside_stops_the_broker():
    own = Broker("outside").start()
    topic = own.topic("t")
    append(f"{topic}/p0", "x\n")
    sh(f"fusermount3 -u {own.mount}")
    until(lambda: own.process.poll() is not None, "the broker to stop")
    own.stop()


if __name__ == "__main__":
    mounted.main(broker)
