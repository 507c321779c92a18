#!/usr/bin/python3
"""kill -9 in a loop under load: what a write returned for is there, once, whole and in order.

KQFS_KILL_ROUNDS sets the rounds (10)."""

import os
import random
import re
import signal
import time

import mounted
from mounted import *

ROUNDS = int(os.environ.get("KQFS_KILL_ROUNDS", "10"))
ROUNDS_OF_A_TOPIC = 10  # each round reads the whole topic again
LINES_AT_ONCE = 2000    # then a writer takes a breath between two writes: all lines are read again
rng = random.Random()


class Writer:
    """A child that writes numbered lines until its write fails; the last number that was
    acknowledged comes back through shared memory that outlives it."""

    def __init__(self, path, name, first, sync, tell, padding):
        self.name, self.path, self.first, self.tell = name, path, first, tell
        self.sync, self.padding = sync, padding
        self.pid = in_child(self.run)

    def run(self):
        own = random.Random(self.name * 1000003 + self.first)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        number = self.first
        try:
            while True:
                count = own.choice((1, 1, 1, 3, 50))
                data = b"".join(b"w%d %d %s.\n" % (self.name, number + i,
                                                  b"x" * own.randrange(self.padding))
                                for i in range(count))
                if os.write(fd, data) != len(data):
                    raise Failed("a short write of", len(data))
                if self.sync:
                    os.fsync(fd)
                number += count
                os.pwrite(self.tell, b"%20d" % number, 0)
                if number - self.first > LINES_AT_ONCE:
                    time.sleep(0.001)
        except OSError:
            os._exit(0)


def scan(paths, found, order):
    """Counts each line of each writer; ORDER: lines of one writer in one file must ascend."""
    for path in paths:
        last = {}
        for line in read(path).splitlines():
            match = re.fullmatch(rb"w(\d+) (\d+) (x*)\.", line)
            check(match, "a broken line in", path, short(line))
            name, number = int(match[1]), int(match[2])
            check(number > last.get(name, -1), "out of order or twice:", path, short(line), last.get(name))
            last[name] = number
            check((name, number) not in found, "twice:", short(line))
            found.add((name, number))


def hammer(name, rounds, writers, partitions, sync, view="p{}", settings=(), padding=200):
    broker = Broker(name, options=["--num.partitions", str(partitions), *settings])
    tells = [os.open(os.path.join(broker.directory, f"told{i}"), os.O_RDWR | os.O_CREAT)
             for i in range(writers)]
    lines = 0
    for round_number in range(rounds):
        broker.start()
        if round_number % ROUNDS_OF_A_TOPIC == 0:
            topic = broker.path(f"load{round_number}")
            os.mkdir(topic)
            next_number = [0] * writers
            maybe = set()  # written, not known to be acknowledged
            for tell in tells:
                os.pwrite(tell, b"%20d" % 0, 0)
        running = [Writer(os.path.join(topic, view.format(i % partitions)), i, next_number[i], sync,
                          tells[i], padding) for i in range(writers)]
        try:
            started = next_number[:]
            told = lambda i: int(os.pread(tells[i], 20, 0) or b"0")
            wanted = rng.randrange(1, 400)
            until(lambda: all(told(i) > started[i] for i in range(writers)) and
                  sum(told(i) - started[i] for i in range(writers)) >= wanted, "the writers to write")
            broker.process.send_signal(signal.SIGKILL)
            finish(*[w.pid for w in running])
        finally:
            broker.kill()
        check(not is_mounted(broker.mount), "the dead mount is still there")
        for i in range(writers):
            # Up to 50 lines were under way: they may be there or not. Numbers are never used again.
            acknowledged = max(told(i), next_number[i])
            maybe.update((i, n) for n in range(acknowledged, acknowledged + 50))
            next_number[i] = acknowledged + 50
            os.pwrite(tells[i], b"%20d" % next_number[i], 0)
        broker.start()
        found = set()
        scan([f"{topic}/p{n}" for n in range(partitions)], found, True)
        wanted = {(i, n) for i in range(writers) for n in range(next_number[i])} - maybe
        lost = wanted - found
        check(not lost, f"round {round_number}: {len(lost)} acknowledged lines are lost:",
              sorted(lost)[:5])
        check(found <= wanted | maybe, "lines that nobody wrote")
        ends = sum(int(getfattr(f"{topic}/p{n}", "end")) for n in range(partitions))
        equal(ends, len(found), "messages by offsets and by lines")
        if round_number % ROUNDS_OF_A_TOPIC == ROUNDS_OF_A_TOPIC - 1 or round_number == rounds - 1:
            lines += len(found)
        if round_number % 3 == 2:
            broker.kill()
        else:
            broker.stop()
    broker.start()
    print(f"        {rounds} rounds, {lines} lines")
    broker.stop()


def test_acknowledged_lines_survive():
    hammer("plain", ROUNDS, 4, 1, False)


def test_acknowledged_lines_survive_rolls_and_retention_of_nothing():
    hammer("rolls", max(2, ROUNDS // 3), 4, 1, False, settings=["--topic.segment.bytes", "20000"])


def test_synced_lines_survive():
    hammer("synced", max(2, ROUNDS // 3), 4, 2, True)


def test_lines_through_append_survive_on_several_partitions():
    hammer("append", max(2, ROUNDS // 2), 6, 3, False, view="append")


def test_synced_lines_through_append_survive():
    hammer("append-synced", max(2, ROUNDS // 3), 6, 3, True, view="append")


def test_large_lines_survive():
    hammer("large", max(2, ROUNDS // 5), 3, 1, False, padding=20000)


if __name__ == "__main__":
    mounted.main()
