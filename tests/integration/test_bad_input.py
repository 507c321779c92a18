#!/usr/bin/python3
"""Bad input: each kind is refused with its errno or exit code, and nothing is lost by it."""

import errno
import os
import re
import struct

import mounted
from mounted import *

broker = Broker("b")


def end_of(topic):
    return int(getfattr(f"{topic}/p0", "end"))


# --- Writing ---

def test_writing_otherwise_than_by_appending_is_eperm_and_loses_nothing():
    topic = broker.topic("eperm")
    append(f"{topic}/p0", lines(5))
    p0 = f"{topic}/p0"
    sh("echo x > p0", cwd=topic, status=1)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC,
                  os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_WRONLY | os.O_APPEND | os.O_TRUNC):
        refused(errno.EPERM, os.open, p0, flags, 0o600, what=("open", flags))
    for size in (0, 3, os.path.getsize(p0), 1000):
        refused(errno.EPERM, os.truncate, p0, size, what=("truncate", size))
    fd = os.open(p0, os.O_WRONLY | os.O_APPEND)
    refused((errno.EPERM, errno.EINVAL), os.ftruncate, fd, 0)
    os.close(fd)
    sh("truncate -s 0 p0", cwd=topic, status=1)
    sh("cp /etc/hostname p0", cwd=topic, status=1)
    for name in ("p0.log", "p0.stream", "by-offset/p0/0", "by-offset/p0/0.value",
                 "by-offset/p0/0.jsonl"):
        refused((errno.EPERM, errno.EACCES, errno.EROFS), os.open, f"{topic}/{name}", os.O_WRONLY,
                what=("open to write", name))
    sh("fallocate -l 1M p0", cwd=topic, status=1)
    equal(read(p0), lines(5))


def test_a_line_above_the_limit_is_emsgsize_and_leaves_nothing():
    topic = broker.topic("long", max_message_bytes=1000)
    p0 = f"{topic}/p0"
    append(p0, lines(3))
    fd = os.open(p0, os.O_WRONLY | os.O_APPEND)
    refused(errno.EMSGSIZE, os.write, fd, b"good\n" + b"x" * 2000 + b"\nalso good\n", what="one long line")
    equal(end_of(topic), 3, "nothing of that request")
    os.write(fd, b"next\n")
    equal(sh("tail -n 1 p0", cwd=topic), b"next\n")
    refused(errno.EMSGSIZE, os.write, fd, b"begin " + b"y" * 2000, what="an endless half line")
    os.write(fd, b"rest of what was refused\nwhole\n")
    os.close(fd)
    equal(read(p0), lines(3) + b"next\nwhole\n", "no cut message")
    fd = os.open(p0, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"z" * 600)
    refused(errno.EMSGSIZE, os.write, fd, b"z" * 600)
    os.close(fd)
    equal(read(p0), lines(3) + b"next\nwhole\n", "nothing at the close")
    equal(sh("head -c 5000 /dev/zero | tr '\\0' x >> p0", cwd=topic, status=None), b"")
    equal(read(p0), lines(3) + b"next\nwhole\n")
    for length in range(900, 1001):
        number = error_of(append, p0, b"w" * length + b"\n")
        check(number in (0, errno.EMSGSIZE), name_of(number))
        equal(sh("tail -n 1 p0", cwd=topic).count(b"w") == length, number == 0, length)


def test_a_request_of_many_lines_above_the_limit_of_one_batch_is_fine():
    topic = broker.topic("batches", max_message_bytes=1000)
    append(f"{topic}/p0", lines(10000))
    equal(read(f"{topic}/p0"), lines(10000))


def test_malformed_json_is_einval_and_leaves_nothing():
    topic = broker.topic("json")
    good = b'{"value":"good"}\n'
    bad = [b"x", b"{", b"{}", b"[]", b'"s"', b"1", b"null", b"", b'{"value":1}', b'{"value":"a"',
           b'{"value":"a"}}', b'{"value":"a"} x', b'{"value":"\xff"}', b'{"value":"\\ud800"}',
           b'{"value":"a","key":5}', b'{"value":"a","timestamp":"now"}',
           b'{"value":"a","timestamp":1.5}', b'{"value":"a","timestamp":99999999999999999999}',
           b'{"value":"a","headers":{}}', b'{"value":"a","headers":[1]}',
           b'{"value":"a","headers":[{"value":"x"}]}', b'{"value_base64":"*"}',
           b'{"value_base64":"AAA"}', b'{"value":"a","value_base64":"AAAA"}',
           b'{"value":"a","value":"b"}', b'{"value":"a","surprise":1}', b"{'value':'a'}",
           b'{"value":"a"}{"value":"b"}', b"[" * 100000]
    for line in bad:
        before = end_of(topic)
        for request in (line + b"\n", good + line + b"\n", good + line + b"\n" + good):
            refused(errno.EINVAL, append, f"{topic}/p0.jsonl", request, what=short(line))
            equal(end_of(topic), before, "nothing of that request:", short(line))
        append(f"{topic}/p0.jsonl", good)
        equal(end_of(topic), before + 1)
    refused(errno.EPERM, os.open, f"{topic}/p0.jsonl", os.O_WRONLY)
    refused(errno.EPERM, os.open, f"{topic}/p0.jsonl", os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    sh("printf '{\"value\":\"no newline\"}' >> p0.jsonl; test \"$(tail -n 1 p0)\" = 'no newline'",
       cwd=topic)


# --- Names, offsets, times: see test_topics and test_produce_consume for all of them ---

def test_names_offsets_and_times():
    topic = broker.topic("names")
    append(f"{topic}/p0", lines(3))
    refused(errno.EINVAL, os.mkdir, broker.path("no spaces"))
    sh("touch p7", cwd=topic, status=1)
    refused(errno.ENOENT, os.open, f"{topic}/p7", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for name in ("by-offset/p0/4", "by-offset/p0/four", "by-time/p0/noon"):
        refused(errno.ENOENT, os.lstat, f"{topic}/{name}", what=name)
    os.unlink(f"{topic}/p0")
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0/0", what="an offset that is gone")
    equal(read(f"{topic}/by-offset/p0/3"), b"")


# --- Configuration ---

def one_line(text, *words):
    found = [line for line in text.splitlines() if line.strip()]
    equal(len(found), 1, "lines:", text)
    for word in words:
        check(word in found[0], f"`{word}` in: {found[0]}")


def test_a_bad_configuration_file_is_one_line_and_an_exit_code():
    for number, (config, words) in enumerate((
            ("[broker]\n\nno.such.key = 1\n", (":3", "no.such.key")),
            ("[broker]\nnum.partitions = many\n", (":2", "num.partitions")),
            ("[broker]\nnum.partitions = 0\n", (":2", "num.partitions")),
            ("[broker]\nnum.partitions 3\n", (":2",)),
            ("[broker\nnum.partitions = 3\n", (":1",)),
            ("[nowhere]\nnum.partitions = 3\n", (":2",)),
            ("[topic]\nretention.ms = soon\n", (":2", "retention.ms")),
            ("[topic]\nframing = words\n", (":2", "framing")),
            ("num.partitions = 3\n", (":1", "num.partitions")))):
        bad = Broker(f"config{number}", config=config)
        status, said = bad.fails_to_start()
        one_line(said, "kqfs.conf", *words)
        equal(status, 2, "exit code for", config)
        check(not is_mounted(bad.mount))
        check(not os.path.exists(bad.data), "a data directory was made")


def test_a_bad_command_line_is_one_line_and_an_exit_code():
    for number, options in enumerate((["--no-such"], ["--num.partitions", "x"], ["--num.partitions"],
                                      ["-o", "no_such_option=5"], ["-o", "num.partitions=0"],
                                      ["--topic.retention.ms", "x"], ["--config", "/no/such/file"])):
        bad = Broker(f"line{number}", options=options)
        status, said = bad.fails_to_start()
        equal(status, 2, "exit code for", options, said)
        one_line(said)
        check(not os.path.exists(bad.data), "a data directory was made:", options)
    for arguments in ([], ["/no/such/mountpoint"]):
        done = subprocess.run([os.environ["KQFS_BIN"], "-f", "--data", scratch(f"d{len(arguments)}"),
                               *arguments], capture_output=True, timeout=20)
        check(done.returncode not in (0, None) and done.returncode < 128, arguments, done)
        one_line(done.stderr.decode())


def test_help_and_version():
    shown = sh("$KQFS_BIN --help").decode().splitlines()
    check(len(shown) <= 24 and max(map(len, shown)) <= 80, "help fits a screen", len(shown))
    equal(sh("$KQFS_BIN -h").decode().splitlines(), shown)
    check(re.search(r"\d+\.\d+", sh("$KQFS_BIN -V").decode()))


# --- The data directory ---

def test_a_second_broker_on_the_data_is_refused():
    second = Broker("second", data=broker.data)
    status, said = second.fails_to_start()
    equal(status, 3, said)
    one_line(said, broker.data)
    os.stat(broker.path("names"))


def test_data_inside_the_mount_is_refused():
    inside = Broker("inside")
    inside.data = os.path.join(inside.mount, "data")
    status, said = inside.fails_to_start()
    equal(status, 4, said)
    one_line(said)
    check(not is_mounted(inside.mount))
    link = os.path.join(inside.directory, "link")
    os.symlink(inside.mount, link)
    inside.data = os.path.join(link, "deep", "data")
    status, said = inside.fails_to_start()
    equal(status, 4, said)


def test_data_that_cannot_be_used_is_refused_with_the_reason():
    parent = scratch("unusable")
    with open(f"{parent}/file", "w"):
        pass
    for number, data in enumerate((f"{parent}/file", f"{parent}/file/below", "/proc/nothing",
                                   f"{parent}/no/such/parent")):
        bad = Broker(f"data{number}", data=data)
        if data.endswith("parent"):
            continue
        status, said = bad.fails_to_start()
        equal(status, 4, data, said)
        one_line(said, data)
        check(not is_mounted(bad.mount))


def test_a_dead_mount_that_was_left_over_is_named():
    dead = Broker("dead").start()
    dead.process.kill()
    dead.process.wait()
    Broker.running.remove(dead)
    refused(errno.ENOTCONN, os.listdir, dead.mount)
    dead.log_checked = os.path.getsize(dead.log_path)
    again = Broker("dead")
    try:
        status, said = again.fails_to_start()
        equal(status, 5, said)
        one_line(said, "fusermount3 -u")
    finally:
        dead.clean_mount()
    again.start()
    again.stop()


def test_a_failing_start_leaves_nothing_in_the_background():
    mountpoint = scratch("bg")
    done = subprocess.run([os.environ["KQFS_BIN"], "--data", broker.data, mountpoint],
                          capture_output=True, timeout=20)
    equal(done.returncode, 3, done.stderr)
    one_line(done.stderr.decode())
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            check(mountpoint.encode() not in read(f"/proc/{pid}/cmdline"), "left running:", pid)


def test_the_background_is_entered_only_when_the_mount_works():
    place = Broker("daemon")
    done = subprocess.run([os.environ["KQFS_BIN"], "--data", place.data, place.mount],
                          capture_output=True, timeout=30)
    try:
        equal((done.returncode, done.stdout + done.stderr), (0, b""))
        check(is_mounted(place.mount))
        os.mkdir(place.path("t"))
        append(place.path("t/p0"), "x\n")
    finally:
        place.clean_mount()
    again = Broker("daemon")

    def started():
        """It takes the first one a moment to let go of the data."""
        try:
            return again.start()
        except Failed as failure:
            check("in use by another broker" in str(failure), failure)

    until(started, "the first to have stopped")
    equal(read(again.path("t/p0")), b"x\n", "after fusermount3 -u and a new start")
    again.stop()


if __name__ == "__main__":
    mounted.main(broker)
