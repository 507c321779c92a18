#!/usr/bin/python3
# kqfs-test: timeout=900
"""Compaction through the mount: of each key the last value is always there, in order; no byte of
p0.log ever changes place; who reads while text is cleaned away sees whole lines and no line twice.

KQFS_KILL_ROUNDS sets the rounds of kill -9 (10)."""

import errno
import json
import os
import random
import threading
import time

import mounted
from mounted import *

OPTIONS = ["--log.cleaner.backoff.ms", "30", "--topic.key.separator", ":"]
broker = Broker("b", options=OPTIONS)
SETTINGS = {"segment_bytes": 4000, "min_cleanable_dirty_ratio": 0.01}


def topic_of(name, policy="compact", **settings):
    topic = broker.topic(name, **{**SETTINGS, **settings})
    if policy:
        setfattr(topic, "cleanup.policy", policy)
    return topic


def runs():
    text = read(broker.path(".kqfs/metrics")).decode()
    return int(re.search(r"^kqfs_cleaner_runs_total (\d+)$", text, re.M).group(1))


class Model:
    """What was appended to p0, by offset."""

    def __init__(self, topic, keys=20, seed=1):
        self.topic, self.keys, self.random = topic, keys, random.Random(seed)
        self.messages, self.places, self.text = [], [], 0

    def append(self, count, batch=5):
        while count > 0:
            n = min(count, self.random.randint(1, batch))
            lines = []
            for _ in range(n):
                key = f"k{self.random.randrange(self.keys)}"
                value = f"{len(self.messages)}." + "x" * self.random.randrange(60)
                self.messages.append((key, value))
                lines.append(f"{key}:{value}\n")
                self.places.append(self.text)
                self.text += len(lines[-1])
            append(f"{self.topic}/p0", "".join(lines))
            count -= n

    def line(self, offset):
        key, value = self.messages[offset]
        return f"{key}:{value}\n".encode()

    def last(self):
        return {key: offset for offset, (key, _) in enumerate(self.messages)}


def retained(topic):
    """The offsets that are there now, as p0.jsonl says, and the text, whose size agrees; as soon as
    nothing is cleaned meanwhile."""
    for _ in range(50):
        said = [json.loads(line) for line in read(f"{topic}/p0.jsonl").splitlines()]
        size, text = os.path.getsize(f"{topic}/p0"), read(f"{topic}/p0")
        wanted = "".join(f"{m['key']}:{m['value']}\n" for m in said).encode()
        if text == wanted and size == len(text):
            return [m["offset"] for m in said], text
        time.sleep(0.05)
    equal(size, len(text), "the size of p0")
    raise Failed("p0 and p0.jsonl do not agree: " + difference(text, wanted))


def cleaned(model, at_most):
    """Waits until no more than AT_MOST messages are left and none is cleaned any more."""
    until(lambda: len(read(f"{model.topic}/p0").splitlines()) <= at_most, "the log to be compacted")
    before = -1
    while before != runs():
        before = runs()
        time.sleep(0.2)


def check_all(model):
    offsets, text = retained(model.topic)
    equal(offsets, sorted(set(offsets)), "offsets in order, none twice")
    for key, offset in model.last().items():
        check(offset in offsets, "the last value of", key, "is gone")
    equal(text, b"".join(model.line(o) for o in offsets), "every message as it was")
    equal(os.path.getsize(f"{model.topic}/p0.log"), model.text, "the size of p0.log")
    return offsets, text


# --- Files ---

def test_what_is_left_is_a_plain_file():
    topic = topic_of("plain")
    model = Model(topic)
    model.append(1000)
    cleaned(model, 150)
    offsets, text = check_all(model)
    p0, out = f"{topic}/p0", scratch("plain")
    equal(sh(f"cat {p0}"), text)
    equal(sh(f"tac {p0} | tac"), text)
    equal(sh(f"tail -n 7 {p0}"), b"".join(text.splitlines(True)[-7:]))
    equal(sh(f"tail -c +500 {p0}"), text[499:])
    equal(sh(f"head -c 333 {p0}"), text[:333])
    equal(int(sh(f"wc -c < {p0}")), len(text))
    equal(int(sh(f"wc -l < {p0}")), len(offsets))
    equal(sh(f"cp {p0} {out}/copy && cat {out}/copy"), text)
    sh(f"cmp {p0} {out}/copy && tar cf {out}/tar -C {topic} p0 && tar xf {out}/tar -C {out}")
    equal(read(f"{out}/p0"), text)
    fd = os.open(p0, os.O_RDONLY)
    for _ in range(300):
        at, size = model.random.randrange(len(text)), model.random.randrange(1, 300)
        equal(os.pread(fd, size, at), text[at:at + size], "a read at", at)
    os.close(fd)


def test_offsets_lead_where_they_always_led():
    topic = topic_of("offsets")
    model = Model(topic)
    model.append(600)
    cleaned(model, 150)
    offsets, text = check_all(model)
    for offset in range(0, 600, 7):
        rest = [o for o in offsets if o >= offset]
        wanted = b"".join(model.line(o) for o in rest)
        path = f"{topic}/by-offset/p0/{offset}"
        equal(read(path), wanted, "from offset", offset)
        equal(os.path.getsize(path), len(wanted))
        if offset in offsets:
            equal(read(f"{path}.value"), model.messages[offset][1].encode())
        else:
            refused(errno.ENOENT, read, f"{path}.value")


def test_segments_hold_what_is_left_of_them():
    topic = topic_of("segments")
    model = Model(topic)
    model.append(600)
    cleaned(model, 150)
    model.append(200)
    cleaned(model, 150)
    offsets, text = check_all(model)
    names = sorted(os.listdir(f"{topic}/by-segment/p0"))
    parts = [read(f"{topic}/by-segment/p0/{name}") for name in names]
    for name, part in zip(names, parts):
        equal(os.path.getsize(f"{topic}/by-segment/p0/{name}"), len(part))
    check(text.startswith(b"".join(parts)), "the segments are the front of p0")


def test_no_byte_of_the_endless_log_changes_place():
    topic = topic_of("endless")
    model = Model(topic)
    for _ in range(4):
        model.append(300)
        cleaned(model, 150)
        offsets, text = check_all(model)
        there = set(offsets)
        fd = os.open(f"{topic}/p0.log", os.O_RDONLY)
        equal(os.read(fd, 1), text[:1])  # the first read may begin behind a hole; those below are seeks
        for offset in range(len(model.messages)):
            line = model.line(offset)
            at = model.places[offset] + 2  # not where the last one ended: a seek
            if offset in there:
                equal(os.pread(fd, len(line) - 2, at), line[2:], "offset", offset)
            else:
                equal(error_of(os.pread, fd, 10, at), errno.ESTALE, "offset", offset)
        os.close(fd)
        equal(read(f"{topic}/p0.log"), text, "a run passes over the holes")
        broker.restart()


def test_tombstones_remove_their_key():
    topic = topic_of("tombstones", delete_retention_ms=100)
    keyed = lambda key, value: json.dumps({"key": key, "value": value}) + "\n"
    append(f"{topic}/p0.jsonl", keyed("a", "1") + keyed("b", "2") + keyed("a", None))
    model = Model(topic, keys=3)
    filler = iter(range(100000))

    def gone():
        append(f"{topic}/p0", "".join(f"filler:{next(filler)}{'x' * 90}\n" for _ in range(50)))
        said = [json.loads(line) for line in read(f"{topic}/p0.jsonl").splitlines()]
        keys = {m["key"] for m in said}
        check("b" in keys, "a live key is gone")
        return "a" not in keys

    until(gone, "the tombstone to go", timeout=60)


def test_a_line_without_key_is_refused():
    topic = topic_of("keyless")
    refused(errno.EINVAL, append, f"{topic}/p0", "no key\n")
    refused(errno.EINVAL, append, f"{topic}/append", "no key\n")
    refused(errno.EINVAL, append, f"{topic}/p0", "a:1\nno key\nb:2\n")
    refused(errno.EINVAL, append, f"{topic}/p0.jsonl", '{"value":"v"}\n')
    equal(read(f"{topic}/p0"), b"", "nothing of a refused request is in the log")
    append(f"{topic}/p0", "a:1\n:2\n")
    append(f"{topic}/append", "c:3\n")
    append(f"{topic}/p0.jsonl", '{"key":"k","value":"v"}\n')
    equal(read(f"{topic}/p0"), b"a:1\n:2\nc:3\nk:v\n")
    setfattr(topic, "cleanup.policy", "delete")
    append(f"{topic}/p0", "no key\n")


# --- Readers while it happens ---

def test_a_reader_in_the_middle_goes_on():
    topic = topic_of("middle", policy="delete")
    model = Model(topic)
    model.append(800)
    fds = [os.open(f"{topic}/{name}", os.O_RDONLY) for name in ("p0", "by-offset/p0/3", "p0.log")]
    read_so_far = [bytearray(os.read(fd, 1000)) for fd in fds]
    sizes = [os.fstat(fd).st_size for fd in fds]
    setfattr(topic, "cleanup.policy", "compact")
    cleaned(model, 150)
    with Follower("tail", "-n", "+1", "-s", "0.05", "-f", f"{topic}/p0") as tail:
        for fd, size, text in zip(fds, sizes, read_so_far):
            check(os.fstat(fd).st_size >= size, "a file under its reader shrank")
            while part := os.read(fd, 777):
                text += part
        model.append(30)
        for fd, text in zip(fds, read_so_far):
            while part := os.read(fd, 777):
                text += part
            wanted = {model.line(o): o for o in range(len(model.messages))}
            lines = bytes(text).splitlines(True)
            numbers = [wanted[line] for line in lines]  # each line is one that was written, whole
            equal(numbers, sorted(set(numbers)), "in order, none twice")
            equal(numbers[-30:], list(range(800, 830)), "what was appended since")
            for offset in model.last().values():
                check(offset in numbers, "the last value of a key was not read")
        offsets, text = check_all(model)
        tail.until(text, "tail -f of a file that was opened behind it")
    equal(error_of(os.pread, fds[0], 10, 5), errno.ESTALE, "back to where text was cleaned")
    last = model.line(829)
    equal(os.pread(fds[0], 1000, os.fstat(fds[0]).st_size - len(last)), last,
          "what lies behind all holes keeps its place in an open file")
    for fd in fds:
        os.close(fd)


def check_run(model, data, begin=0):
    """DATA, read in one run, is whole lines in order, and the last value of each key is among them
    as of some moment since it began."""
    wanted = {model.line(o): o for o in range(len(model.messages))}
    lines = data.splitlines(True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for line in lines:
        check(line in wanted, "a line that nobody wrote:", short(line))
    numbers = [wanted[line] for line in lines]
    equal(numbers, sorted(set(numbers)), "in order, none twice")
    if numbers:
        for key, offset in {k: o for o, (k, _) in enumerate(model.messages[:numbers[-1] + 1])}.items():
            check(offset in numbers, "the last value of", key, "is missing up to", numbers[-1])


def test_readers_beside_writer_and_cleaner():
    topic = topic_of("busy", segment_bytes=2000)
    model = Model(topic, keys=30)
    model.append(200)
    over = threading.Event()
    failures = []

    def reader(name):
        random_ = random.Random(name)
        while not over.is_set() and not failures:
            try:
                data = bytearray()
                with open(f"{topic}/{name}", "rb", buffering=0) as file:
                    while part := file.read(random_.randrange(1, 5000)):
                        data += part
                check_run(model, bytes(data))
            except (Failed, OSError) as error:
                failures.append(f"{name}: {error}")

    def follow():
        out = Follower("cat", f"{topic}/p0.stream")
        over.wait()
        try:
            out.until(lambda o: model.line(len(model.messages) - 1) in o, "the stream's end")
            check_run(model, bytes(out.output))
        except Failed as error:
            failures.append(f"stream: {error}")
        out.stop()

    threads = [threading.Thread(target=reader, args=(n,))
               for n in ("p0", "p0.log", "by-offset/p0/17", "p0")]
    threads.append(threading.Thread(target=follow))
    for thread in threads:
        thread.start()
    before = runs()
    end = time.monotonic() + 12
    while time.monotonic() < end and not failures:
        model.append(20)
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    check(not failures, *failures[:3])
    check(runs() > before, "the cleaner ran meanwhile")
    cleaned(model, 200)
    check_all(model)


def test_killed_while_compacting():
    topic = topic_of("killed", segment_bytes=1500)
    model = Model(topic, keys=25)
    for round_ in range(int(os.environ.get("KQFS_KILL_ROUNDS", "10"))):
        before = runs()
        model.append(200)
        if round_ % 3:
            until(lambda: runs() > before, "a run")
        time.sleep(model.random.random() * 0.03)
        broker.kill()
        broker.start()
        offsets, text = check_all(model)
    cleaned(model, 120)
    check_all(model)


main(broker)
