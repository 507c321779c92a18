#!/usr/bin/python3
"""Appending produces and reading consumes: every way to do so, with the tools that people use."""

import base64
import errno
import json
import os
import random
import re
import struct
import threading
import time

import mounted
from mounted import *

broker = Broker("b", options=["--num.partitions", "1"])
rng = random.Random(7)


def sample():
    """Text with long, short and empty lines and some that are no UTF-8."""
    out = bytearray()
    for i in range(3000):
        kind = i % 7
        if kind == 0:
            out += b"\n"
        elif kind == 1:
            out += b"caf\xe9 \xff\xfe %d\n" % i
        elif kind == 2:
            out += bytes(rng.choices(b"abcdefghij -.", k=rng.randrange(400))) + b"\n"
        else:
            out += b"line %d of the sample\n" % i
    return bytes(out)


def twins(name, data):
    """A partition and an ext4 file with the same bytes, appended in the same odd pieces."""
    topic = broker.topic(name)
    plain = os.path.join(scratch("plain-" + name), "p0")
    open(plain, "wb").close()
    at = 0
    with open(f"{topic}/p0", "ab", buffering=0) as ours, open(plain, "ab", buffering=0) as theirs:
        while at < len(data):
            size = rng.choice((1, 7, 100, 4000, 4096, 70000))
            write_all(ours.fileno(), data[at:at + size])
            theirs.write(data[at:at + size])
            at += size
    return f"{topic}/p0", plain


TOOLS = """
    cat FILE
    cat < FILE
    head -n 5 FILE
    head -n -5 FILE
    head -c 1000 FILE
    head -c -1000 FILE
    tail -n 1 FILE
    tail -n 100 FILE
    tail -n +17 FILE
    tail -n +2000 FILE
    tail -c 1 FILE
    tail -c 100 FILE
    tail -c +5001 FILE
    tail -c +1 FILE
    wc < FILE
    wc -l < FILE
    wc -c < FILE
    grep -a -c line FILE
    grep -a -n 'of the sample' FILE
    grep -c line FILE
    grep -b -a 9 FILE
    less FILE
    tac FILE
    sort FILE
    sed -n '5,9p' FILE
    sed -n '$p' FILE
    awk 'END {print NR}' FILE
    nl FILE
    rev < FILE
    od -c FILE
    md5sum < FILE
    strings FILE
    cut -c1-5 FILE
    uniq -c FILE
    shuf --random-source=/etc/passwd FILE
    dd if=FILE bs=333 status=none
    dd if=FILE bs=1M status=none
    dd if=FILE bs=1000 skip=3 count=5 status=none
    base64 FILE
    gzip -nc FILE
    zstd -qc FILE
    zstd -qc FILE | zstd -dc
    tar -C $(dirname FILE) --mtime=@0 --owner=0 --group=0 --mode=600 -c p0
    stat -c %s FILE
    stat -c '%F %h' FILE
    du --apparent-size -b FILE
    find FILE -size +1k -printf '%s %f'
    test -f FILE && test -s FILE && test -r FILE
    python3 -c 'import sys; sys.stdout.write(str(sum(1 for _ in open("FILE", "rb"))))'
    perl -ne 'print if /9$/' FILE
    git hash-object --no-filters FILE
    xargs -0 -a FILE printf %s
"""


def same_with_every_tool(ours, theirs):
    wrong = []
    for command in filter(None, map(str.strip, TOOLS.splitlines())):
        program = command.split()[0]
        if not shutil.which(program) and program != "test":
            print(f"        not installed, left out: {program}")
            continue
        results = []
        for path in (ours, theirs):
            done = subprocess.run(["bash", "-c", command.replace("FILE", path)], timeout=60,
                                  stdin=subprocess.DEVNULL, capture_output=True,
                                  env={**os.environ, "LC_ALL": "C"})
            results.append((done.returncode, done.stdout.replace(path.encode(), b"FILE")))
        if results[0] != results[1]:
            wrong.append(f"{command}: exit {results[0][0]}, wanted {results[1][0]}; "
                         f"{difference(results[0][1], results[1][1])}")
    check(not wrong, "; ".join(wrong))


def test_tools_read_as_on_a_plain_file():
    same_with_every_tool(*twins("tools", sample()))


def test_tools_read_an_empty_partition_as_an_empty_file():
    ours, theirs = twins("empty", b"")
    check(os.stat(ours).st_size == 0)
    for command in ("cat", "wc", "tail -n 5", "tac", "md5sum", "sort", "zstd -qc", "tail -c +1"):
        equal(sh(f"{command} < {ours}"), sh(f"{command} < {theirs}"), command)
    equal(sh(f"test -s {ours}", status=1), b"", "test -s")


def test_tools_that_copy_make_equal_copies():
    ours, theirs = twins("copies", sample())
    out = scratch("copies")
    for command in (f"cp {ours} c1", f"cp -a {ours} c2", f"rsync -a {ours} c3", f"dd if={ours} of=c4",
                    f"install -m 600 {ours} c5", f"tar -C {os.path.dirname(ours)} -c p0 | tar -xO > c6",
                    f"rsync -c {ours} c7", f"cp --sparse=always {ours} c8", f"tee c9 < {ours}"):
        sh(command, cwd=out)
    for i in range(1, 10):
        sh(f"cmp c{i} {theirs} && cmp c{i} {ours}", cwd=out)
    sh(f"rsync -a {ours} c3", cwd=out)
    sh(f"split -l 100 {ours} a. && split -l 100 {theirs} b. && split -b 10000 {ours} d. && "
       f"split -b 10000 {theirs} e.", cwd=out)
    for prefix, other in (("a", "b"), ("d", "e")):
        for name in sorted(os.listdir(out)):
            if name.startswith(prefix + "."):
                equal(read(f"{out}/{name}"), read(f"{out}/{other}{name[1:]}"), "split", name)
    sh(f"diff {ours} {theirs}")
    sh(f"cmp <(tac {ours}) <(tac {theirs})")
    append(ours, "different\n")
    sh(f"cmp {ours} {theirs}", status=1)


def test_any_position_reads_as_on_a_plain_file():
    ours, theirs = twins("positions", sample())
    size = os.path.getsize(theirs)
    a, b = os.open(ours, os.O_RDONLY), os.open(theirs, os.O_RDONLY)
    try:
        for _ in range(1500):
            at = rng.randrange(size + 50)
            length = rng.choice((1, 2, 13, 100, 4096, 131072, 1 << 20))
            equal(os.pread(a, length, at), os.pread(b, length, at), "pread", length, "at", at)
        for whence, at in ((os.SEEK_END, -10), (os.SEEK_SET, 5), (os.SEEK_CUR, 100), (os.SEEK_END, 0)):
            equal(os.lseek(a, at, whence), os.lseek(b, at, whence), "lseek")
            equal(os.read(a, 1000), os.read(b, 1000), "read behind lseek")
    finally:
        os.close(a)
        os.close(b)


def test_a_million_numbers():
    topic = broker.topic("million")
    sh("seq 1000000 >> p0", cwd=topic)
    equal(sh("tail -n 1 p0", cwd=topic), b"1000000\n")
    equal(sh("cat by-offset/p0/999999", cwd=topic), b"1000000\n")
    equal(sh("head -n 1 p0", cwd=topic), b"1\n")
    equal(sh("wc -l < p0", cwd=topic).strip(), b"1000000")
    sh("cmp p0 <(seq 1000000)", cwd=topic)
    sh("cmp by-offset/p0/500000 <(seq 500001 1000000)", cwd=topic)
    equal(sh("head -n 2 by-offset/p0/123456", cwd=topic), b"123457\n123458\n")
    equal(getfattr(f"{topic}/p0", "end"), "1000000")


def test_a_line_is_one_message():
    topic = broker.topic("message")
    append(f"{topic}/p0", b"one\n\nthree\n")
    equal(getfattr(f"{topic}/p0", "start"), "0")
    equal(getfattr(f"{topic}/p0", "end"), "3")
    equal([read(f"{topic}/by-offset/p0/{i}.value") for i in range(3)], [b"one", b"", b"three"])
    equal(read(f"{topic}/p0"), b"one\n\nthree\n")


def test_tail_f_prints_what_is_appended_after_it_started():
    topic = broker.topic("follow")
    append(f"{topic}/p0", lines(200))
    with Follower("tail", "-s", "0.05", "-n", "3", "-f", f"{topic}/p0") as plain, \
            Follower("tail", "-s", "0.05", "-F", f"{topic}/p0") as by_name, \
            Follower("tail", "-s", "0.05", "-n", "100", "-f", f"{topic}/p0") as hundred, \
            Follower("tail", "-s", "0.05", "-n", "+1", "-f", f"{topic}/p0") as whole, \
            Follower("tail", "-s", "0.05", "-c", "+9", "-f", f"{topic}/p0") as by_byte:
        plain.until(lines(3, 197))
        by_name.until(lines(10, 190))
        hundred.until(lines(100, 100))
        for i in range(20):
            append(f"{topic}/p0", lines(10, 200 + 10 * i))
        plain.until(lines(203, 197), "tail -f")
        by_name.until(lines(210, 190), "tail -F")
        hundred.until(lines(300, 100), "tail -n 100 -f")
        whole.until(lines(400), "tail -n +1 -f")
        by_byte.until(lines(400)[8:], "tail -c +9 -f")


def test_tail_f_on_an_empty_partition():
    topic = broker.topic("follow-empty")
    with Follower("tail", "-s", "0.05", "-f", f"{topic}/p0") as follower:
        until(lambda: sh(f"ls -l /proc/{follower.process.pid}/fd").count(b"p0"), "tail to open it")
        append(f"{topic}/p0", "first\n")
        follower.until(b"first\n")


def test_an_open_reader_goes_on_behind_the_end():
    topic = broker.topic("grow")
    append(f"{topic}/p0", "a\n")
    fd = os.open(f"{topic}/p0", os.O_RDONLY)
    try:
        equal(os.read(fd, 100), b"a\n")
        equal(os.read(fd, 100), b"")
        append(f"{topic}/p0", "b\n")
        equal(os.fstat(fd).st_size, 4, "size")
        equal(os.read(fd, 100), b"b\n")
    finally:
        os.close(fd)


def test_sizes_are_right_at_once():
    topic = broker.topic("sizes")
    total = 0
    for i in range(300):
        data = b"x" * rng.randrange(200) + b"\n"
        append(f"{topic}/p0", data)
        total += len(data)
        st = os.stat(f"{topic}/p0")
        equal(st.st_size, total, "st_size after append", i)
        equal(os.path.getsize(f"{topic}/by-offset/p0/{i}"), len(data), "size from offset", i)
    check(st.st_blocks * 512 >= total, "st_blocks", st.st_blocks)
    equal(os.stat(f"{topic}/append").st_size, 0, "append")
    equal(os.stat(f"{topic}/p0.jsonl").st_size, 0, ".jsonl")


def test_half_lines_wait_and_become_messages_at_close():
    topic = broker.topic("half")
    for i in range(200):
        equal(sh(f"printf foo{i} >> p0; tail -n 1 p0", cwd=topic), b"foo%d\n" % i)
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"be")
    equal(getfattr(f"{topic}/p0", "end"), "200", "a half line is no message")
    append(f"{topic}/p0", "between\n")
    os.write(fd, b"gin\nend")
    equal(sh("tail -n 2 p0", cwd=topic), b"between\nbegin\n")
    os.close(fd)
    equal(sh("tail -n 1 p0", cwd=topic), b"end\n")


def test_a_shells_half_lines_are_not_cut_between_two_commands():
    topic = broker.topic("shell")
    sh("{ printf one; /bin/echo -n two; printf 'three\\n'; printf four; } >> p0", cwd=topic)
    equal(read(f"{topic}/p0"), b"onetwothree\nfour\n")
    sh("exec 3>>p0; printf half >&3; (printf ' of it' >&3); /bin/printf ' and rest\\n' >&3",
       cwd=topic)
    equal(sh("tail -n 1 p0", cwd=topic), b"half of it and rest\n")


def test_a_close_that_nobody_waits_for_is_seen_by_who_looks_next():
    topic = broker.topic("release")
    for i in range(100):
        fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"half %d" % i)
        os.close(fd)
        equal(os.stat(f"{topic}/p0").st_size, sum(len("half %d\n" % n) for n in range(i + 1)))
        equal(read(f"{topic}/by-offset/p0/{i}"), b"half %d\n" % i)


def test_the_offset_of_a_write_is_ignored():
    topic = broker.topic("pwrite")
    append(f"{topic}/p0", "first\n")
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    os.pwrite(fd, b"second\n", 0)
    os.lseek(fd, 0, os.SEEK_SET)
    os.write(fd, b"third\n")
    os.close(fd)
    equal(read(f"{topic}/p0"), b"first\nsecond\nthird\n")


def test_read_and_append_through_one_handle():
    topic = broker.topic("both")
    fd = os.open(f"{topic}/p0", os.O_RDWR | os.O_APPEND)
    os.write(fd, b"a\nb\n")
    equal(os.pread(fd, 100, 0), b"a\nb\n")
    os.close(fd)


def test_large_writes_and_vectors():
    topic = broker.topic("large")
    data = lines(60000, width=80)
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    write_all(fd, data)
    pieces = [b"v%d\n" % i for i in range(700)]
    vectored = b"".join(pieces)
    done = 0
    while done < len(vectored):
        rest, skip = [], done
        for piece in pieces:
            if skip < len(piece):
                rest.append(piece[skip:])
            skip = max(0, skip - len(piece))
        done += os.writev(fd, rest[:1000])
    os.close(fd)
    equal(read(f"{topic}/p0"), data + vectored)


def test_lines_of_concurrent_writers_never_mix():
    topic = broker.topic("mix")
    count, writers = 400, 8

    def write(name):
        own = random.Random(name)
        data = b"".join(b"w%d %d %s.\n" % (name, i, bytes([97 + name]) * own.randrange(3000))
                        for i in range(count))
        fd = os.open(f"{topic}/{'append' if name % 2 else 'p0'}", os.O_WRONLY | os.O_APPEND)
        at = 0
        while at < len(data):
            at += os.write(fd, data[at:at + own.choice((1, 10, 500, 5000, 200000))])
        os.close(fd)

    finish(*[in_child(write, n) for n in range(writers)])
    seen = {n: 0 for n in range(writers)}
    for line in read(f"{topic}/p0").splitlines():
        match = re.fullmatch(rb"w(\d) (\d+) ([a-z]*)\.", line)
        check(match, "a mixed line:", short(line))
        name, number = int(match[1]), int(match[2])
        check(set(match[3]) <= {97 + name}, "a mixed line:", short(line))
        equal(number, seen[name], "order of writer", name)
        seen[name] += 1
    equal(set(seen.values()), {count}, "lines of each writer")


def test_sync_flags_and_calls_are_served():
    topic = broker.topic("sync")
    for flags in (os.O_SYNC, os.O_DSYNC):
        append(f"{topic}/p0", "synced\n", flags)
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    for call in (os.fsync, os.fdatasync):
        os.write(fd, b"synced\n")
        call(fd)
    os.close(fd)
    sh("echo synced | dd oflag=append,sync conv=notrunc of=append status=none && sync append p0",
       cwd=topic)
    equal(read(f"{topic}/p0"), b"synced\n" * 5)


# --- by-offset, by-time ---

def test_by_offset_begins_at_the_message():
    topic = broker.topic("offsets")
    data = lines(1000)
    append(f"{topic}/p0", data)
    parts = data.splitlines(keepends=True)
    for offset in (0, 1, 17, 500, 998, 999):
        equal(read(f"{topic}/by-offset/p0/{offset}"), b"".join(parts[offset:]), "from", offset)
        equal(read(f"{topic}/by-offset/p0/{offset}.value"), parts[offset][:-1], "value", offset)
        equal(os.path.getsize(f"{topic}/by-offset/p0/{offset}.value"), len(parts[offset]) - 1)
    equal(sh("tail -n 1 by-offset/p0/3", cwd=topic), parts[-1])
    equal(sh("tail -c +10 by-offset/p0/990", cwd=topic), b"".join(parts[990:])[9:])


def test_by_offset_at_the_end_is_empty_and_grows():
    topic = broker.topic("offset-end")
    append(f"{topic}/p0", lines(5))
    equal(sorted(os.listdir(f"{topic}/by-offset/p0")), ["earliest", "latest"])
    equal(os.readlink(f"{topic}/by-offset/p0/earliest"), "0")
    equal(os.readlink(f"{topic}/by-offset/p0/latest"), "5")
    fds = [os.open(f"{topic}/by-offset/p0/{n}", os.O_RDONLY) for n in ("5", "latest", "earliest")]
    equal([os.read(fd, 100) for fd in fds], [b"", b"", lines(5)])
    with Follower("tail", "-s", "0.05", "-f", f"{topic}/by-offset/p0/5") as follower:
        append(f"{topic}/p0", lines(2, 5))
        equal([os.read(fd, 100) for fd in fds], [lines(2, 5)] * 3)
        follower.until(lines(2, 5))
    equal(os.readlink(f"{topic}/by-offset/p0/latest"), "7")
    for fd in fds:
        os.close(fd)


def test_offsets_that_are_not_there_are_enoent():
    topic = broker.topic("offset-bad")
    append(f"{topic}/p0", lines(5))
    for name in ("6", "1000000", "-1", "+1", "1x", "x", "01", "00", " 1", "1 ", "1.", "0x1", "1e0",
                 "9223372036854775807", "9223372036854775808", "18446744073709551616",
                 "99999999999999999999999", "274877906944", "5.value", "1.valuex", "1.jsonl.x", "1.stream.jsonl",
                 "1.value.stream", "1.value.jsonl", "latest.", "1.log"):
        refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0/{name}", what=("by-offset", name))
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p1")
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0x")


def json_topic(name):
    """Messages of 1000, 2000, … ms."""
    topic = broker.topic(name)
    append(f"{topic}/p0.jsonl", "".join(
        json.dumps({"timestamp": 1000 * (i + 1), "value": f"at {i + 1}"}) + "\n" for i in range(10)))
    return topic


def test_by_time_links_to_the_first_message_at_or_after():
    topic = json_topic("times")
    equal(os.listdir(f"{topic}/by-time/p0"), [])
    link = lambda time: os.readlink(f"{topic}/by-time/p0/{time}")
    for time_, offset in (("0", 0), ("1000", 0), ("1001", 1), ("1999", 1), ("2000", 1), ("10000", 9),
                          ("10001", 10), ("99999999999999", 10), ("1970-01-01T00:00:00Z", 0),
                          ("1970-01-01T00:00:03Z", 2), ("1970-01-01T00:00:03.001Z", 3),
                          ("1970-01-01T00:00:02.5Z", 2), ("1970-01-01T01:00:05+01:00", 4),
                          ("1969-12-31T19:30:05-04:30", 4), ("1970-01-01T00:00:11Z", 10),
                          ("2026-11-22T10:00:00Z", 10), ("2024-02-29T23:59:59Z", 10)):
        equal(link(time_), f"../../by-offset/p0/{offset}", time_)
    equal(sh("cat by-time/p0/1970-01-01T00:00:09Z", cwd=topic), b"at 9\nat 10\n")
    equal(read(f"{topic}/by-time/p0/2026-11-22T10:00:00Z"), b"")
    check(stat.S_ISLNK(os.lstat(f"{topic}/by-time/p0/5").st_mode))


def test_by_time_on_now():
    topic = broker.topic("now")
    append(f"{topic}/p0", "before\n")
    until(lambda: int(time.time() * 1000) > json.loads(
        sh("tail -n 1 p0.jsonl", cwd=topic))["timestamp"], "the clock to move on")
    moment = int(time.time() * 1000)
    append(f"{topic}/p0", "after\n")
    equal(read(f"{topic}/by-time/p0/{moment}"), b"after\n")
    iso = sh("date -u -d @0 +%Y-%m-%dT%H:%M:%SZ").decode().strip()
    equal(read(f"{topic}/by-time/p0/{iso}"), b"before\nafter\n")


def test_malformed_times_are_enoent():
    topic = json_topic("times-bad")
    for name in ("x", "2026", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2025-02-29T00:00:00Z",
                 "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:00",
                 "2026-01-01", "2026-01-01T00:00:00+1", "2026-01-01T00:00:00+25:00", "-1000",
                 "+1000", "1000x", "99999999999999999999999", "2026-01-01T00:00:00ZZ",
                 "2026-1-1T00:00:00Z", "2026-01-01T00:00:00.Z", "T00:00:00Z"):
        if name == "2026":
            continue  # bare digits are milliseconds
        refused(errno.ENOENT, os.readlink, f"{topic}/by-time/p0/{name}", what=("by-time", name))


# --- JSON ---

def objects(path):
    data = read(path)
    check(data == b"" or data.endswith(b"\n"), "the last line has no end")
    return [json.loads(line) for line in data.splitlines()]


def test_jsonl_shows_every_field_in_order():
    topic = broker.topic("json")
    before = int(time.time() * 1000)
    append(f"{topic}/p0", b'plain\nquote " back \\ tab \t\n\xff\xfe\n\xe2\x82\xac uro \x01\x7f\n')
    got = objects(f"{topic}/p0.jsonl")
    equal([list(o) for o in got[:2]], [["offset", "timestamp", "key", "headers", "value"]] * 2)
    equal([o["offset"] for o in got], [0, 1, 2, 3])
    check(all(before <= o["timestamp"] <= time.time() * 1000 for o in got), "timestamps", got)
    equal([o["key"] for o in got], [None] * 4)
    equal([o["headers"] for o in got], [[]] * 4)
    equal(got[0]["value"], "plain")
    equal(got[1]["value"], 'quote " back \\ tab \t')
    equal(base64.b64decode(got[2]["value_base64"]), b"\xff\xfe")
    check("value" not in got[2], "value beside value_base64")
    equal(got[3]["value"], "€ uro \x01\x7f")
    equal(objects(f"{topic}/by-offset/p0/2.jsonl"), got[2:])


def test_jsonl_produces_what_its_lines_say():
    topic = broker.topic("json-in")
    wanted = [
        {"timestamp": 5, "key": "k", "headers": [{"name": "h", "value": "x"},
                                                 {"name": "h", "value": None}], "value": "v"},
        {"timestamp": 6, "key": None, "headers": [], "value": "line 1\nline 2"},
        {"timestamp": 7, "key": "", "headers": [], "value": ""},
        {"timestamp": 8, "key": "k", "headers": [], "value": None},
        {"timestamp": 9, "key_base64": "/w==", "headers": [], "value_base64": "AP/+"},
        {"timestamp": 10, "key": "ключ", "headers": [], "value": "\U0001f600 \u0000"},
    ]
    append(f"{topic}/p0.jsonl", "".join(json.dumps(o) + "\n" for o in wanted))
    got = objects(f"{topic}/p0.jsonl")
    equal([{k: v for k, v in o.items() if k != "offset"} for o in got], wanted)
    equal(read(f"{topic}/by-offset/p0/1.value"), b"line 1\nline 2")
    equal(read(f"{topic}/by-offset/p0/4.value"), b"\0\xff\xfe")
    equal(read(f"{topic}/by-offset/p0/3.value"), b"")
    other = broker.topic("json-copy")
    sh(f"cat {topic}/p0.jsonl >> {other}/p0.jsonl")
    equal(read(f"{other}/p0.jsonl"), read(f"{topic}/p0.jsonl"), "a copy by way of JSON")
    sh(f"cp {topic}/p0.jsonl {other}/append.jsonl", status=1)


def test_jsonl_keeps_to_the_bounds_of_timestamps():
    topic = broker.topic("json-late")
    setfattr(topic, "retention.ms", -1)
    hour = 3600 * 1000
    append(f"{topic}/p0.jsonl", '{"timestamp":5,"value":"old"}\n')
    future = int(time.time() * 1000) + 2 * hour
    refused(errno.EINVAL, append, f"{topic}/p0.jsonl", f'{{"value":"a"}}\n{{"timestamp":{future},"value":"b"}}\n')
    setfattr(topic, "message.timestamp.before.max.ms", str(hour))
    refused(errno.EINVAL, append, f"{topic}/p0.jsonl", '{"timestamp":5,"value":"c"}\n')
    append(f"{topic}/p0.jsonl", '{"value":"d"}\n')
    append(f"{topic}/p0", "e\n")
    setfattr(topic, "message.timestamp.type", "LogAppendTime")
    append(f"{topic}/p0.jsonl", '{"timestamp":5,"value":"f"}\n')
    equal([o["value"] for o in objects(f"{topic}/p0.jsonl")], ["old", "d", "e", "f"])


def test_tools_read_jsonl_in_order():
    topic = broker.topic("json-tools")
    append(f"{topic}/p0", lines(5000))
    whole = read(f"{topic}/p0.jsonl")
    equal(whole.count(b"\n"), 5000)
    out = scratch("json-tools")
    for command in ("cat p0.jsonl", "cat < p0.jsonl", f"cp p0.jsonl {out}/c && cat {out}/c",
                    "sed '' p0.jsonl", "dd if=p0.jsonl bs=777 status=none", "tail -n +1 p0.jsonl",
                    "sort -s -t: -k99 p0.jsonl", "cat by-offset/p0/0.jsonl", "tail -n 9999 p0.jsonl"):
        if command.startswith("sort"):
            equal(sorted(sh(command, cwd=topic).splitlines()), sorted(whole.splitlines()), command)
        else:
            equal(sh(command, cwd=topic), whole, command)
    equal(sh("head -n 2 p0.jsonl", cwd=topic), b"".join(whole.splitlines(True)[:2]))
    equal(sh("tail -n 1 p0.jsonl", cwd=topic), whole.splitlines(True)[-1])
    equal(sh("tail -n 3 by-offset/p0/4000.jsonl", cwd=topic), b"".join(whole.splitlines(True)[-3:]))
    equal(sh("wc -l < p0.jsonl", cwd=topic).strip(), b"5000")
    need("jq")
    equal(sh("jq -r .value p0.jsonl", cwd=topic), lines(5000), "jq")
    equal(sh("jq -r 'select(.offset == 77).value' p0.jsonl", cwd=topic), b"line 77\n")


# --- Streams ---

def test_stream_blocks_at_the_end_and_hands_over_what_lands():
    topic = broker.topic("streams")
    append(f"{topic}/p0", lines(3))
    with Follower("cat", f"{topic}/p0.stream") as whole, \
            Follower("cat", f"{topic}/by-offset/p0/latest.stream") as latest, \
            Follower("cat", f"{topic}/by-offset/p0/1.stream") as one, \
            Follower("cat", f"{topic}/p0.jsonl.stream") as json_stream, \
            Follower("cat", f"{topic}/by-offset/p0/2.jsonl.stream") as json_two:
        whole.until(lines(3))
        one.until(lines(2, 1))
        json_stream.until(lambda output: output.count(b"\n") == 3)
        json_two.until(lambda output: output.count(b"\n") == 1)
        until(lambda: b"latest.stream" in sh(f"ls -l /proc/{latest.process.pid}/fd") or
              b"3.stream" in sh(f"ls -l /proc/{latest.process.pid}/fd"), "cat to open it")
        for i in range(50):
            append(f"{topic}/p0", lines(1, 3 + i))
            whole.until(lines(4 + i), "stream")
        latest.until(lines(50, 3))
        one.until(lines(52, 1))
        json_stream.until(lambda output: output.count(b"\n") == 53)
        json_two.until(lambda output: output.count(b"\n") == 51)
        equal([json.loads(l)["offset"] for l in bytes(json_two.output).splitlines()],
              list(range(2, 53)))
    equal(sh("head -n 2 p0.stream", cwd=topic), lines(2))


# --- append, framings, keys, delimiters ---

def test_append_is_friendly():
    topic = broker.topic("append")
    source = os.path.join(scratch("append"), "lines")
    with open(source, "wb") as file:
        file.write(lines(3))
    for command in (f"cp {source} append", f"cat {source} > append", f"cat {source} >> append",
                    f"tee append < {source}", f"dd if={source} of=append status=none",
                    f"tee -a append < {source}", f"cp -f {source} append",
                    f"dd if={source} of=append conv=notrunc status=none"):
        before = int(getfattr(f"{topic}/p0", "end"))
        sh(command, cwd=topic)
        equal(int(getfattr(f"{topic}/p0", "end")) - before, 3, command)
        equal(read(f"{topic}/append"), b"", "append reads as empty")
        equal(os.stat(f"{topic}/append").st_size, 0)
    equal(read(f"{topic}/p0"), lines(3) * 8)
    inodes = {os.stat(f"{topic}/append").st_ino for _ in range(5)}
    equal(len(inodes), 1, "st_ino of append")


def murmur2(data):
    mask, m = 0xffffffff, 0x5bd1e995
    h = 0x9747b28c ^ len(data)
    whole = len(data) // 4 * 4
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    for i, byte in enumerate(data[whole:]):
        h ^= byte << 8 * i
    if len(data) > whole:
        h = h * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_append_picks_the_partition_by_the_keys_hash():
    equal(murmur2(b"foobar"), (-790332482) & 0xffffffff, "Kafka's own test value")
    topic = broker.topic("keys", key_separator="=")
    for n in range(1, 5):
        os.close(os.open(f"{topic}/p{n}", os.O_CREAT | os.O_WRONLY | os.O_APPEND))
    keys = [f"key{i}" for i in range(200)] + ["21", "foobar", "a-little-bit-long-string", "ключ"]
    append(f"{topic}/append", "".join(f"{k}=value of {k}\n" for k in keys))
    found = 0
    for n in range(5):
        for line in read(f"{topic}/p{n}").splitlines():
            key = line.split(b"=")[0]
            equal((murmur2(key) & 0x7fffffff) % 5, n, "partition of", key)
            found += 1
    equal(found, len(keys))


def test_append_without_key_stays_with_a_partition_and_changes():
    topic = broker.topic("sticky")
    for n in range(1, 4):
        sh(f"touch p{n}", cwd=topic)
    used = set()
    for i in range(60):
        before = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
        fd = os.open(f"{topic}/append", os.O_WRONLY)
        for j in range(5):
            os.write(fd, b"%d %d\n" % (i, j))
        os.close(fd)
        after = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
        grown = [n for n in range(4) if after[n] != before[n]]
        equal(len(grown), 1, "partitions that one small file went to")
        used.update(grown)
    equal(used, set(range(4)), "partitions used by 60 files")
    fd = os.open(f"{topic}/append", os.O_WRONLY)
    before = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
    for i in range(300):
        os.write(fd, b"x" * 4000 + b"\n")
    os.close(fd)
    after = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
    check(sum(a != b for a, b in zip(before, after)) > 1, "one partition got 1.2 MB:", before, after)


def test_keys_show_and_are_kept():
    topic = broker.topic("separator", key_separator=": ")
    append(f"{topic}/p0", b"host: a: b\nno key\n: empty key\n")
    equal(read(f"{topic}/p0"), b"host: a: b\nno key\n: empty key\n")
    got = objects(f"{topic}/p0.jsonl")
    equal([(o["key"], o["value"]) for o in got], [("host", "a: b"), (None, "no key"), ("", "empty key")])
    equal(read(f"{topic}/by-offset/p0/0.value"), b"a: b")
    setfattr(topic, "key.separator", "\\t")
    append(f"{topic}/p0", b"k\tv\n")
    equal(read(f"{topic}/p0"), b"host: a: b\nno key\n: empty key\nk\tv\n", "old messages keep theirs")


def test_framing_write_makes_each_write_a_message():
    topic = broker.topic("writes", framing="write", delimiter="")
    messages = [b"one", b"two\nlines\n", b"\0\xff", b"x" * 100000]
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    for message in messages:
        equal(os.write(fd, message), len(message))
    os.close(fd)
    equal(getfattr(f"{topic}/p0", "end"), "4")
    equal([read(f"{topic}/by-offset/p0/{i}.value") for i in range(4)], messages)
    equal(read(f"{topic}/p0"), b"".join(messages))
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    setfattr(topic, "max.message.bytes", 4 << 20)
    refused(errno.EMSGSIZE, os.write, fd, b"y" * (1 << 21), what="a write that is cut")
    os.close(fd)
    equal(getfattr(f"{topic}/p0", "end"), "4", "nothing of a cut write")


def test_framing_file_makes_each_file_a_message():
    topic = broker.topic("files", framing="file", max_message_bytes=8 << 20)
    pictures = [bytes(rng.randbytes(size)) for size in (10, 5000, 3000000)]
    out = scratch("files")
    for i, picture in enumerate(pictures):
        with open(f"{out}/{i}.png", "wb") as file:
            file.write(picture)
        sh(f"cp {out}/{i}.png {topic}/append")
        equal(getfattr(f"{topic}/p0", "end"), str(i + 1))
        sh(f"cmp {out}/{i}.png {topic}/by-offset/p0/{i}.value")
    fd = os.open(f"{topic}/append", os.O_WRONLY)
    os.write(fd, b"a")
    equal(getfattr(f"{topic}/p0", "end"), "3", "before the last close")
    copy = os.dup(fd)
    os.close(fd)
    equal(getfattr(f"{topic}/p0", "end"), "3", "before the last close")
    os.write(copy, b"b")
    os.close(copy)
    equal(read(f"{topic}/by-offset/p0/3.value"), b"ab")


def test_other_delimiters():
    for name, mark, text in (("nul", "\\0", b"\0"), ("crlf", "\\r\\n", b"\r\n"), ("bar", "|", b"|"),
                             ("word", "<END>", b"<END>")):
        topic = broker.topic("delimiter-" + name, delimiter=mark)
        equal(getfattr(topic, "delimiter"), mark)
        data = text.join([b"one\ntwo", b"", b"three \r x", b""])
        fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
        for i in range(len(data)):
            os.write(fd, data[i:i + 1])
        os.close(fd)
        equal(getfattr(f"{topic}/p0", "end"), "3", name)
        equal(read(f"{topic}/p0"), data, name)
        equal(read(f"{topic}/by-offset/p0/0.value"), b"one\ntwo", name)
    setfattr(topic, "delimiter", "\\n")
    append(f"{topic}/p0", "four\n")
    equal(read(f"{topic}/p0"), data + b"four\n", "old messages keep their delimiter")


# --- p0.log ---

def test_log_view_is_the_partition_as_one_endless_file():
    ours, theirs = twins("log", sample())
    sh(f"cmp {ours}.log {theirs}")
    st = os.stat(ours + ".log")
    equal(st.st_size, os.path.getsize(theirs))
    sh(f"cmp <(tail -n 20 {ours}.log) <(tail -n 20 {theirs})")
    append(ours, "more\n")
    equal(os.stat(ours + ".log").st_size, os.path.getsize(theirs) + 5)
    equal(sh(f"tail -c 5 {ours}.log"), b"more\n")
    check(os.stat(ours).st_ino != os.stat(ours + ".log").st_ino, "st_ino of p0 and p0.log")


if __name__ == "__main__":
    mounted.main(broker)
