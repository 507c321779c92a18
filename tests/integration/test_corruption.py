#!/usr/bin/python3
# kqfs-test: timeout=600
"""Torn, truncated, bit-flipped and missing files of each kind: the broker starts, says what it did,
and serves all that is intact."""

import os
import re
import shutil
import struct

import mounted
from mounted import *

OPTIONS = ["--topic.segment.bytes", "4000", "--topic.index.interval.bytes", "500"]
MESSAGES = 1000
PER_APPEND = 10


def message(i):
    return b"message %d of the log, with some bytes behind it\n" % i


class Victim:
    """A data directory with a few segments, kept as it was for one damage after the other."""

    def __init__(self, name, clean):
        self.broker = Broker(name, options=OPTIONS).start()
        self.broker.allow(r"corrupt|unexpected|damaged")
        topic = self.broker.topic("t", retention_ms=-1)
        sh(f"touch {topic}/p1")
        for i in range(0, MESSAGES, PER_APPEND):
            append(f"{topic}/p0", b"".join(message(n) for n in range(i, i + PER_APPEND)))
        append(f"{topic}/p1", "the other partition\n")
        os.chmod(f"{topic}/p1", 0o640)
        self.bases = sorted(int(n) for n in os.listdir(f"{topic}/by-segment/p0"))
        check(len(self.bases) > 5, "segments:", self.bases)
        # What was read has its text index too.
        equal(read(f"{topic}/p0.log").count(b"\n"), MESSAGES)
        self.broker.stop() if clean else self.broker.kill()
        self.whole = self.broker.data + ".whole"
        shutil.copytree(self.broker.data, self.whole)

    def restore(self):
        shutil.rmtree(self.broker.data)
        shutil.copytree(self.whole, self.broker.data)

    def files(self):
        out = []
        for directory, _, names in os.walk(self.whole):
            out += [os.path.relpath(os.path.join(directory, n), self.whole) for n in names]
        return sorted(out)

    def log_files(self):
        return [f for f in self.files() if re.search(r"t-0/\d{20}\.log$", f)]

    def path(self, file):
        return os.path.join(self.broker.data, file)


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0x10]))


def cut(path, size):
    os.truncate(path, size)


DAMAGES = {
    "missing": os.unlink,
    "empty": lambda p: cut(p, 0),
    "half": lambda p: cut(p, os.path.getsize(p) // 2),
    "one byte short": lambda p: cut(p, max(0, os.path.getsize(p) - 1)),
    "flipped in the middle": lambda p: os.path.getsize(p) and flip(p, os.path.getsize(p) // 2),
    "flipped at the front": lambda p: os.path.getsize(p) and flip(p, min(3, os.path.getsize(p) - 1)),
    "flipped at the end": lambda p: os.path.getsize(p) and flip(p, os.path.getsize(p) - 1),
    "garbage behind": lambda p: open(p, "ab").write(os.urandom(300)),
    "zeros behind": lambda p: open(p, "ab").write(bytes(5000)),
}


def served(topic, first, last):
    """Messages FIRST to LAST, read from FIRST on; a message at a time where the whole fails."""
    wanted = b"".join(message(i) for i in range(first, last))
    fd = os.open(f"{topic}/by-offset/p0/{first}", os.O_RDONLY)
    try:
        got = b""
        while len(got) < len(wanted) and (part := os.read(fd, len(wanted) - len(got))):
            got += part
    except OSError as error:
        raise Failed(f"reading from {first} on: {name_of(error.errno)} behind {len(got)} bytes")
    finally:
        os.close(fd)
    equal(got, wanted, "messages", first, "to", last)


def nothing_false(topic):
    """Whatever the partition shows are messages that were written, in order, none twice."""
    data = bytearray()
    fd = os.open(f"{topic}/p0", os.O_RDONLY)
    try:
        while part := os.read(fd, 1 << 16):
            data += part
    except OSError as error:
        check(error.errno == errno.EIO, "p0:", name_of(error.errno))
        data = data[:data.rfind(b"\n") + 1]
    finally:
        os.close(fd)
    last = -1
    for line in bytes(data).splitlines(keepends=True):
        match = re.match(rb"message (\d+) ", line)
        check(match and line == message(int(match[1])), "a false line:", short(line))
        check(int(match[1]) > last, "out of order:", short(line), last)
        last = int(match[1])
    return last + 1


def start_reporting(victim, what, must_say):
    before = len(victim.broker.log())
    victim.broker.start()
    said = [l for l in victim.broker.log()[before:].splitlines() if "is mounted on" not in l]
    if must_say:
        check(said, what, "was not reported")
    return said


def test_every_file_that_is_no_log_can_be_damaged_without_loss():
    for clean in (True, False):
        victim = Victim(f"others-{'clean' if clean else 'killed'}", clean)
        files = [f for f in victim.files() if not f.endswith(".log") and os.path.basename(f) != ".lock"]
        # One of each kind of each directory suffices.
        kinds = {}
        for file in files:
            kinds.setdefault((os.path.dirname(file), re.sub(r"\d{20}", "N", os.path.basename(file))),
                             []).append(file)
        chosen = [names[i] for names in kinds.values() for i in sorted({0, len(names) // 2, len(names) - 1})]
        wrong = []
        for file in chosen:
            for name, damage in DAMAGES.items():
                if not clean and name not in ("missing", "half", "flipped in the middle", "garbage behind"):
                    continue
                victim.restore()
                damage(victim.path(file))
                topic = victim.broker.path("t")
                what = f"{file}, {name}, after {'a clean stop' if clean else 'kill -9'}"
                try:
                    victim.broker.start()
                except Failed as failure:
                    # A number of the format that this version does not know must be refused.
                    if os.path.basename(file) == "meta.properties" and "meta.properties" in str(failure):
                        continue
                    wrong.append(f"{what}: {failure}")
                    continue
                try:
                    equal(nothing_false(topic), MESSAGES, "messages of p0")
                    served(topic, 0, MESSAGES)
                    served(topic, 555, MESSAGES)
                    equal(read(f"{topic}/p0.log"), b"".join(map(message, range(MESSAGES))), "p0.log")
                    equal(read(f"{topic}/p1"), b"the other partition\n")
                    equal(len(os.readlink(f"{topic}/by-time/p0/0")) > 0, True)
                    append(f"{topic}/p0", "more\n")
                    equal(sh(f"tail -n 1 {topic}/p0"), b"more\n")
                    victim.broker.stop()
                except (Failed, OSError) as failure:
                    wrong.append(f"{what}: {failure}")
                    victim.broker.kill()
        check(not wrong, f"{len(wrong)} of {len(chosen) * len(DAMAGES)}:\n  " + "\n  ".join(wrong[:20]))


def segment_of(file):
    return int(os.path.basename(file)[:20])


def log_damage(clean):
    """Every kind of damage to the first, a middle and the last segment: the others are served."""
    victim = Victim(f"logs-{'clean' if clean else 'killed'}", clean)
    logs = victim.log_files()
    bases = [segment_of(f) for f in logs] + [MESSAGES]
    wrong = []
    for index in (0, len(logs) // 2, len(logs) - 2, len(logs) - 1):
        for name, damage in DAMAGES.items():
            victim.restore()
            damage(victim.path(logs[index]))
            topic = victim.broker.path("t")
            what = f"{logs[index]}, {name}"
            last = index == len(logs) - 1
            try:
                # What is cut between two batches looks like a log that ends there.
                start_reporting(victim, what, must_say=last and not clean and
                                name.startswith(("flipped", "one byte", "garbage")))
                intact = nothing_false(topic)
                check(intact >= bases[index], "only", intact, "messages from the front, wanted", bases[index])
                for i in range(len(logs)):
                    if i < index or (i > index and (clean or not name.startswith("missing"))):
                        served(topic, bases[i], bases[i + 1])
                equal(read(f"{topic}/p1"), b"the other partition\n")
                end = int(getfattr(f"{topic}/p0", "end"))
                append(f"{topic}/p0", "more\n")
                equal(int(getfattr(f"{topic}/p0", "end")), end + 1)
                equal(read(f"{topic}/by-offset/p0/{end}"), b"more\n")
                victim.broker.stop()
            except (Failed, OSError) as failure:
                wrong.append(f"{what}, {'clean' if clean else 'killed'}: {failure}")
                victim.broker.kill()
    check(not wrong, f"{len(wrong)} wrong:\n  " + "\n  ".join(wrong[:20]))


def test_damaged_segments_after_a_clean_stop():
    log_damage(True)


def test_damaged_segments_after_kill_9():
    log_damage(False)


def test_a_torn_tail_is_cut_off_and_reported():
    victim = Victim("torn", clean=False)
    tail = victim.log_files()[-1]
    size = os.path.getsize(os.path.join(victim.whole, tail))
    base = segment_of(tail)
    for left in range(size - 1, max(0, size - 900), -37):
        victim.restore()
        cut(victim.path(tail), left)
        said = start_reporting(victim, f"a tail of {left} bytes", must_say=True)
        check(any(tail.split("/")[0] in line for line in said), "the report names the log:", said)
        topic = victim.broker.path("t")
        count = nothing_false(topic)
        check(count >= base and count % PER_APPEND == 0, "whole batches only:", count)
        equal(int(getfattr(f"{topic}/p0", "end")), count)
        append(f"{topic}/p0", "more\n")
        equal(read(f"{topic}/by-offset/p0/{count}"), b"more\n")
        victim.broker.stop()


def test_damage_in_front_of_valid_batches_is_kept_aside():
    victim = Victim("aside", clean=False)
    tail = victim.log_files()[-1]
    victim.restore()
    flip(victim.path(tail), 100)
    said = start_reporting(victim, "a flipped bit", must_say=True)
    kept = [n for n in os.listdir(os.path.dirname(victim.path(tail))) if n.endswith(".damaged")]
    topic = victim.broker.path("t")
    end = int(getfattr(f"{topic}/p0", "end"))
    check(kept or end == MESSAGES, "nothing was kept aside of what was cut off:", said)
    equal(nothing_false(topic), end)
    victim.broker.stop()


def read_from(path, position=0, size=1 << 16):
    """What can be read from POSITION on, and the name of the error that ended it, if one did."""
    data = b""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(position)
            while part := file.read(size):
                data += part
    except OSError as error:
        return data, name_of(error.errno)
    return data, None


def batch_of(topic, i):
    """The messages that were appended with message I."""
    first = i - i % PER_APPEND
    return first, first + PER_APPEND


def flip_in_value(victim, i):
    """One bit inside the value of message I, in whatever segment it is."""
    wanted = b"message %d of" % i
    for file in victim.log_files():
        with open(victim.path(file), "rb") as log:
            at = log.read().find(wanted)
        if at >= 0:
            return flip(victim.path(file), at + len(wanted) + 5)
    raise Failed("no message", i)


def counter(victim, name):
    text = read(victim.broker.path(".kqfs/metrics")).decode()
    return int(re.search(rf"^{name} (\d+)$", text, re.M)[1])


def test_a_bit_that_flipped_in_a_value_is_never_served():
    """Between a clean stop and the next start, in the first, a middle and the last segment."""
    victim = Victim("value", clean=True)
    text = b"".join(map(message, range(MESSAGES)))
    starts = [text.index(message(i)) for i in range(MESSAGES)] + [len(text)]
    for i in (3, 10, 555, MESSAGES - 200, MESSAGES - 15):
        victim.restore()
        flip_in_value(victim, i)
        victim.broker.start()
        topic = victim.broker.path("t")
        first, behind = batch_of(topic, i)
        equal(read_from(f"{topic}/p0"), (text[:starts[first]], "EIO"), "p0, message", i)
        equal(read_from(f"{topic}/p0.log", size=777), (text[:starts[first]], "EIO"), "p0.log")
        equal(read_from(f"{topic}/p0", starts[behind]), (text[starts[behind]:], None), "behind")
        equal(nothing_false(topic), first, "messages from the front")
        served(topic, 0, first)
        served(topic, behind, MESSAGES)
        for at in (first, i, behind - 1):
            equal(read_from(f"{topic}/by-offset/p0/{at}"), (b"", "EIO"), "by-offset", at)
            refused(errno.EIO, read, f"{topic}/by-offset/p0/{at}.value")
        equal(read(f"{topic}/by-offset/p0/{behind}.value") + b"\n", message(behind))
        lines, error = read_from(f"{topic}/p0.jsonl")
        equal((lines.count(b"\n"), error), (first, "EIO"), "p0.jsonl")
        check(counter(victim, "kqfs_damaged_batches_total") > 0, "nothing was counted")
        victim.broker.stop()


def batch_at(victim, first):
    """The file that has the batch of message FIRST, and where in it."""
    for file in victim.log_files():
        with open(victim.path(file), "rb") as log:
            data = log.read()
        at = 0
        while at < len(data):
            base, length = struct.unpack(">qi", data[at:at + 12])
            if base == first:
                return victim.path(file), at
            at += 12 + length
    raise Failed("no batch of", first)


def test_a_stream_reports_a_flipped_bit_once_and_goes_on():
    """Wherever it is: in the base offset, length, magic, checksum, attributes, last offset, a value."""
    victim = Victim("value-stream", clean=True)
    for at in (6, 10, 16, 18, 22, 25, 200):
        victim.restore()
        path, position = batch_at(victim, 550)
        flip(path, position + at)
        victim.broker.start()
        topic = victim.broker.path("t")
        fd = os.open(f"{topic}/by-offset/p0/500.stream", os.O_RDONLY | os.O_NONBLOCK)
        data, errors = b"", []
        while len(errors) < 10:
            try:
                data += os.read(fd, 4096)
            except BlockingIOError:
                break
            except OSError as error:
                errors.append(name_of(error.errno))
                equal(data, b"".join(map(message, range(500, 550))), "before the damage")
        os.close(fd)
        equal(errors, ["EIO"], "byte", at)
        equal(data, b"".join(message(i) for i in range(500, MESSAGES) if not 550 <= i < 560), at)
        victim.broker.stop()


def test_a_checksum_is_computed_once_and_never_for_what_was_just_written():
    victim = Victim("once", clean=True)
    victim.broker.start()
    topic = victim.broker.path("t")
    read(f"{topic}/p0")
    computed = counter(victim, "kqfs_verified_batches_total")
    check(MESSAGES // PER_APPEND - 20 < computed <= MESSAGES // PER_APPEND, "computed", computed)
    append(f"{topic}/p0", "more\n" * 100)
    fd = os.open(f"{topic}/p0", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    sh(f"cat {topic}/p0 {topic}/p0.log {topic}/p0.jsonl {topic}/by-segment/p0/*")
    equal(counter(victim, "kqfs_verified_batches_total"), computed)
    victim.broker.stop()


def test_by_time_does_not_believe_a_damaged_batch():
    victim = Victim("value-time", clean=True)
    flip_in_value(victim, 3)
    victim.broker.start()
    topic = victim.broker.path("t")
    refused(errno.EIO, os.readlink, f"{topic}/by-time/p0/0")
    victim.broker.stop()


def lines_at(topic, view, position, count):
    """COUNT lines at byte POSITION, as a seek and a few reads give them."""
    fd = os.open(f"{topic}/{view}", os.O_RDONLY)
    try:
        os.lseek(fd, position, os.SEEK_SET)
        got = b""
        while got.count(b"\n") < count and (part := os.read(fd, 300)):
            got += part
    finally:
        os.close(fd)
    return b"".join(got.splitlines(keepends=True)[:count])


def test_what_lies_behind_damage_keeps_its_place_and_size():
    victim = Victim("places", clean=True)
    file = victim.log_files()[3]
    base = segment_of(file)
    starts = [0]
    for i in range(MESSAGES):
        starts.append(starts[-1] + len(message(i)))
    # The third batch of the segment: its length, its magic byte, a value.
    with open(os.path.join(victim.whole, file), "rb") as log:
        bytes_of_batches = log.read()
    at = 0
    for _ in range(2):
        at += 12 + int.from_bytes(bytes_of_batches[at + 8:at + 12], "big")
    lost = range(base + 2 * PER_APPEND, base + 3 * PER_APPEND)
    for into in (11, 16, 90):
        victim.restore()
        flip(victim.path(file), at + into)
        victim.broker.start()
        topic = victim.broker.path("t")
        equal(os.stat(f"{topic}/p0").st_size, starts[-1], "size of p0")
        for i in (*range(base, lost[0]), *range(lost[-1] + 1, min(base + 90, MESSAGES - 3))):
            last = lost[0] if i < lost[0] else MESSAGES
            count = min(3, last - i)
            wanted = b"".join(map(message, range(i, i + count)))
            for view in ("p0", "p0.log"):
                equal(lines_at(topic, view, starts[i], count), wanted, view, "at message", i)
            try:
                size = os.stat(f"{topic}/by-offset/p0/{i}").st_size
            except OSError as error:  # an offset that no index entry leads to, near the damage
                check(error.errno == errno.EIO and i > lost[-1] and i < lost[-1] + 30, i, error)
                continue
            equal(size, starts[-1] - starts[i], "size of by-offset of", i)
            equal(lines_at(topic, f"by-offset/p0/{i}", 0, count), wanted, "by-offset of", i)
        for i in lost:
            refused(errno.EIO, lines_at, topic, "p0", starts[i], 1)
        first = sh(f"tail -c +{starts[lost[-1] + 1] + 1} {topic}/p0 | sed -n 1p")
        equal(first, message(lost[-1] + 1), "tail -c behind the damage")
        dd = f"dd if={topic}/p0 bs=1 skip={starts[lost[-1] + 2]} count={len(message(lost[-1] + 2))} status=none"
        equal(sh(dd), message(lost[-1] + 2), "dd behind the damage")
        victim.broker.stop()


def test_an_empty_data_directory_file_by_file():
    """Whatever one file of a new data directory becomes, the broker starts or says why not."""
    empty = Broker("empty", options=OPTIONS)
    empty.allow(r"corrupt|unexpected|damaged")
    empty.start().stop()
    whole = empty.data + ".whole"
    shutil.copytree(empty.data, whole)
    for name in sorted(os.listdir(whole)):
        for what, damage in DAMAGES.items():
            shutil.rmtree(empty.data)
            shutil.copytree(whole, empty.data)
            damage(os.path.join(empty.data, name))
            try:
                empty.start()
            except Failed as failure:
                check(name in str(failure), f"{name}, {what}: {failure}")
                continue
            os.mkdir(empty.path("t"))
            append(empty.path("t/p0"), "x\n")
            empty.restart()
            equal(read(empty.path("t/p0")), b"x\n")
            empty.stop()


if __name__ == "__main__":
    mounted.main()
