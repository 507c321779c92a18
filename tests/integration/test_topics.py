#!/usr/bin/python3
"""Topics and partitions: made, listed, configured and removed with the tools of every day."""

import errno
import os
import re
import stat

import mounted
from mounted import *

broker = Broker("b", config="[broker]\nnum.partitions = 2\n")


def partitions(topic):
    return sorted(n for n in os.listdir(topic) if re.fullmatch(r"p\d+", n))


def touch(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


# --- The tree ---

def test_mkdir_makes_a_topic_with_the_default_number_of_partitions():
    os.mkdir(broker.path("made"))
    equal(sorted(os.listdir(broker.path("made"))),
          ["append", "by-offset", "by-segment", "by-time", "p0", "p1"])
    st = os.stat(broker.path("made"))
    check(stat.S_ISDIR(st.st_mode) and st.st_mode & stat.S_ISVTX, oct(st.st_mode))
    check(os.stat(broker.mount).st_mode & stat.S_ISVTX, "the root is sticky")
    equal((st.st_uid, st.st_gid), (os.geteuid(), os.getegid()), "owner")
    refused(errno.EEXIST, os.mkdir, broker.path("made"))


def test_what_is_listed_is_what_is_there():
    topic = broker.topic("listed")
    for n in (0, 1):
        append(f"{topic}/p{n}", lines(3))
    for name, wanted in (("by-offset", ["p0", "p1"]), ("by-time", ["p0", "p1"]),
                         ("by-segment", ["p0", "p1"]), ("by-offset/p0", ["earliest", "latest"]),
                         ("by-time/p0", []), ("by-segment/p0", [])):
        equal(sorted(os.listdir(f"{topic}/{name}")), wanted, name)
    equal(sh("echo p*", cwd=topic).split(), [b"p0", b"p1"])
    for entry in os.scandir(topic):
        st = entry.stat(follow_symlinks=False)
        equal(entry.is_dir(follow_symlinks=False), stat.S_ISDIR(st.st_mode), entry.name)
        equal(entry.inode(), st.st_ino, "d_ino of", entry.name)
    names = os.listdir(broker.mount)
    check(".kqfs" not in names, "readdir of the root lists .kqfs")
    check(os.path.isdir(broker.path(".kqfs")), ".kqfs opens")
    equal(sorted(os.listdir(topic)), sorted(n for n in sh("ls -a", cwd=topic).decode().split()
                                            if n not in (".", "..")))


def test_walking_tools_meet_each_message_once_and_no_error():
    walk = Broker("walk", config="[broker]\nnum.partitions = 2\n[topic]\nsegment.bytes = 4096\n")
    with walk:
        topic = walk.topic("walked")
        for n in (0, 1):
            for i in range(40):
                append(f"{topic}/p{n}", b"".join(b"needle %d %d %d\n" % (n, i, j) for j in range(25)))
        total = sum(os.path.getsize(f"{topic}/p{n}") for n in (0, 1))
        check(os.listdir(f"{topic}/by-segment/p0"), "sealed segments are listed")
        found = sh("grep -r needle .", cwd=walk.mount)
        equal(found.count(b"\n"), 2000, "lines that grep -r finds")
        equal(len(set(found.splitlines())), 2000)
        sizes = sh("find . -type f -printf '%s\\n'", cwd=walk.mount).split()
        equal(sum(map(int, sizes)), total, "bytes that find sees")
        out = scratch("walked")
        sh(f"cp -r {walk.mount} {out}/cp && rsync -r {walk.mount}/ {out}/rsync && "
           f"tar -C {walk.mount} -c . | tar -C {out} -x")
        for copy in ("cp", "rsync", "."):
            equal(sh("grep -rh needle walked | sort | uniq -c | sort -u -k1,1 -n | awk '{print $1}'",
                     cwd=f"{out}/{copy}"), b"1\n", "each message once in the copy of", copy)
            check(sh("find walked -type f -name 'p*' | wc -l", cwd=f"{out}/{copy}") == b"2\n")
        sh(f"cp -a {walk.mount}/walked {out}/cp-a && diff -r --no-dereference {out}/cp-a "
           f"{walk.mount}/walked")
        equal(int(sh("du -sb --apparent-size walked/p0", cwd=walk.mount).split()[0]), total // 2)
        blocks = int(sh("du -s -B1 walked", cwd=walk.mount).split()[0])
        check(total <= blocks < 3 * total + 100000, "du says", blocks, "of", total)
        sh("ls -laR .", cwd=walk.mount)
        sh("find . -ls", cwd=walk.mount)


def test_by_segment_shows_sealed_segments_that_make_up_the_partition():
    topic = broker.topic("segments", segment_bytes=4096)
    data = lines(2000)
    for i in range(0, len(data), 1000):
        append(f"{topic}/p0", b"")
    parts = data.splitlines(keepends=True)
    for i in range(0, 2000, 20):
        append(f"{topic}/p0", b"".join(parts[i:i + 20]))
    names = sorted(os.listdir(f"{topic}/by-segment/p0"))
    check(len(names) > 3, "sealed segments:", names)
    equal(names[0], "0" * 20)
    together, at = b"", 0
    for name in names:
        check(re.fullmatch(r"\d{20}", name), name)
        equal(int(name), at, "a segment begins where the one before ended")
        path = f"{topic}/by-segment/p0/{name}"
        check(os.path.islink(path), "a link")
        check(os.path.realpath(path) == broker.path(".kqfs/segments/segments/p0", name), path)
        text = read(path)
        equal(os.stat(path).st_size, len(text))
        at += text.count(b"\n")
        together += text
    equal(together, data[:len(together)])
    equal(read(f"{topic}/by-offset/p0/{at}"), data[len(together):])
    out = sh("ls by-segment/p0/* | xargs -P 4 -n 1 wc -l | awk '{n += $1} END {print n}'", cwd=topic)
    equal(int(out), at, "xargs -P over segments")
    sh("tar -chf - by-segment > /dev/null", cwd=topic)


def test_control_files():
    for name in ("metrics", "version", "config"):
        path = broker.path(".kqfs", name)
        check(read(path), name, "is empty")
        refused((errno.EACCES, errno.EPERM, errno.EROFS), os.open, path, os.O_WRONLY, what=name)
    check(re.search(r"\d+\.\d+", read(broker.path(".kqfs/version")).decode()), "a version")
    metrics = read(broker.path(".kqfs/metrics")).decode()
    for line in metrics.splitlines():
        check(re.fullmatch(r"# (HELP|TYPE) kqfs_\w+ .*|kqfs_\w+(\{[^}]*\})? -?[0-9.e+]+", line),
              "no Prometheus line:", line)
    check("# TYPE kqfs_" in metrics)
    config = read(broker.path(".kqfs/config")).decode()
    check(re.search(r"num\.partitions *= *2", config), "config shows num.partitions:", config)
    equal(sorted(set(os.listdir(broker.path(".kqfs"))) & {"metrics", "version", "config"}),
          ["config", "metrics", "version"])
    refused(errno.ENOENT, os.stat, broker.path(".kqfs/nothing"))


def test_statfs_tells_of_the_disk_below():
    ours, below = os.statvfs(broker.mount), os.statvfs(broker.data)
    equal(ours.f_blocks * ours.f_frsize, below.f_blocks * below.f_frsize)
    check(abs(ours.f_bavail * ours.f_frsize - below.f_bavail * below.f_frsize) < 1 << 30)
    sh(f"df {broker.mount} && df -i {broker.mount}")
    equal(ours.f_namemax, 249)


# --- Names ---

def test_names_follow_kafkas_rule():
    for name in ("a", "A.b_c-9", "x" * 249, "...", "-", "_", ".hidden", "p0", "append", "by-offset"):
        os.mkdir(broker.path(name))
        check(name in os.listdir(broker.mount), name)
        os.rmdir(broker.path(name))
    for name in ("a b", "ä", "a:b", "a,b", "a\n", "a*", "x" * 250, ".kqfs2x/..", "~", "a#b"):
        if "/" in name:
            continue
        refused(errno.ENAMETOOLONG if len(name) > 249 else errno.EINVAL, os.mkdir,
                broker.path(name), what=("mkdir", name))
    refused((errno.EEXIST, errno.EINVAL), os.mkdir, broker.path(".kqfs"))
    refused(errno.ENOENT, os.stat, broker.path("nothing"))
    refused((errno.ENOENT, errno.ENAMETOOLONG), os.stat, broker.path("y" * 255))


def test_a_file_in_the_root_and_what_is_no_partition_are_refused():
    topic = broker.topic("strange")
    for path in (broker.path("file"), f"{topic}/file", f"{topic}/p", f"{topic}/p-1", f"{topic}/p02",
                 f"{topic}/px", f"{topic}/by-offset/p0/7x"):
        refused((errno.EINVAL, errno.EPERM, errno.ENOENT, errno.EACCES), touch, path, what=path)
    refused((errno.EINVAL, errno.EPERM), os.mkdir, f"{topic}/sub")
    for path in (broker.path("x"), f"{topic}/x", f"{topic}/p2"):
        refused(errno.EPERM, os.symlink, "p0", path, what=("symlink", path))
        refused(errno.EPERM, os.mkfifo, path, what=("mkfifo", path))
        refused(errno.EPERM, os.link, f"{topic}/p0", path, what=("link", path))
        if os.geteuid() == 0:
            refused(errno.EPERM, os.mknod, path, stat.S_IFCHR | 0o600, os.makedev(1, 3),
                    what=("mknod", path))
    equal(partitions(topic), ["p0", "p1"])
    for mode in (0o4755, 0o2755, 0o6755):
        refused(errno.EPERM, os.chmod, f"{topic}/p0", mode, what=("chmod", oct(mode)))


# --- Acts ---

def test_touch_adds_the_next_partition_only():
    topic = broker.topic("touched")
    refused(errno.ENOENT, touch, f"{topic}/p3")
    refused(errno.ENOENT, touch, f"{topic}/p7")
    refused(errno.ENOENT, os.stat, f"{topic}/p2")
    sh("touch p2", cwd=topic)
    sh("touch p3 && touch p0 && touch p3", cwd=topic)
    equal(partitions(topic), ["p0", "p1", "p2", "p3"])
    append(f"{topic}/p3", "x\n")
    equal(read(f"{topic}/p3"), b"x\n")
    sh("echo created >> p4", cwd=topic)
    equal(read(f"{topic}/p4"), b"created\n")
    equal(os.stat(f"{topic}/p4").st_mode & 0o777, 0o644)
    sh("touch by-offset append", cwd=topic, status=None)
    equal(sorted(os.listdir(f"{topic}/by-offset")), ["p0", "p1", "p2", "p3", "p4"])


def test_rm_of_a_partition_drops_its_messages_and_keeps_the_name():
    topic = broker.topic("emptied")
    append(f"{topic}/p0", lines(5))
    sh("rm p0", cwd=topic)
    equal(os.stat(f"{topic}/p0").st_size, 0)
    equal((getfattr(f"{topic}/p0", "start"), getfattr(f"{topic}/p0", "end")), ("5", "5"))
    append(f"{topic}/p0", "new\n")
    equal(read(f"{topic}/p0"), b"new\n")
    equal(getfattr(f"{topic}/p0", "end"), "6")
    refused(errno.ENOENT, os.stat, f"{topic}/by-offset/p0/4")
    sh("rm -f p0 p1 append", cwd=topic)
    equal(partitions(topic), ["p0", "p1"])
    refused(errno.ENOENT, os.unlink, f"{topic}/p9")


def test_rmdir_wants_an_empty_topic():
    topic = broker.topic("full")
    append(f"{topic}/p1", "x\n")
    refused(errno.ENOTEMPTY, os.rmdir, topic)
    equal(read(f"{topic}/p1"), b"x\n")
    os.unlink(f"{topic}/p1")
    os.rmdir(topic)
    refused(errno.ENOENT, os.stat, topic)
    check("full" not in os.listdir(broker.mount))


def test_rm_r_deletes_a_topic_and_its_data():
    topic = broker.topic("gone", segment_bytes=4096)
    for i in range(30):
        append(f"{topic}/p0", lines(100))
    sh(f"rm -r {topic}")
    refused(errno.ENOENT, os.stat, topic)
    until(lambda: not sh(f"find {broker.data} -name 'gone-*' -size +0").strip(),
          "the topic's data to go")
    os.mkdir(topic)
    equal(read(f"{topic}/p0"), b"", "a new topic of the same name")
    equal(getfattr(f"{topic}/p0", "end"), "0")
    sh(f"rm -rf {topic}")


def test_tar_that_extracts_over_a_topic_ends():
    topic = broker.topic("restored")
    append(f"{topic}/p0", lines(5))
    archive = os.path.join(test_directory(), "restored.tar")
    sh(f"tar -cf {archive} -C {broker.mount} restored")
    append(f"{topic}/p0", lines(5))
    sh(f"tar -xf {archive} -C {broker.mount}", status=2)
    for _ in range(3):
        sh("rm append p0", cwd=topic)
    for _ in range(30):  # with something to remove, or something in between, as often as one likes
        append(f"{topic}/p0", "x\n")
        os.unlink(f"{topic}/p0")
        os.unlink(f"{topic}/append")
    for _ in range(30):
        append(f"{topic}/p0", "x\n")
        os.unlink(f"{topic}/p0")
    sh(f"rm -r {topic}")


def test_links_have_no_attributes_that_could_not_be_read():
    topic = broker.topic("linked")
    append(f"{topic}/p0", lines(5))
    sh("setfacl -m u:nobody:r p0; setfacl -m u:nobody:rx .", cwd=topic)
    equal(os.listxattr(f"{topic}/by-offset/p0/latest", follow_symlinks=False), [])
    check("system.posix_acl_access" in os.listxattr(f"{topic}/by-offset/p0/latest"), "behind it")
    equal(sh("getfattr -h -d -m - by-offset/p0/latest 2>&1", cwd=topic), b"")
    equal(sh("tar --xattrs --acls -cf /dev/null . 2>&1", cwd=topic), b"")


def test_a_handle_on_a_deleted_topic_ends_clearly():
    topic = broker.topic("deleted")
    append(f"{topic}/p0", "x\n")
    reader = os.open(f"{topic}/p0", os.O_RDONLY)
    writer = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    with Follower("cat", f"{topic}/p0.stream") as stream:
        stream.until(b"x\n")
        sh(f"rm -r {topic}")
        stream.ended()
    number = error_of(os.write, writer, b"y\n")
    check(number in (errno.ESTALE, errno.ENOENT, errno.EIO), "write:", name_of(number))
    error_of(os.pread, reader, 10, 0)
    os.close(reader)
    error_of(os.close, writer)


def test_mv_is_refused_and_loses_nothing():
    topic = broker.topic("before")
    append(f"{topic}/p0", "x\n")
    refused(errno.EPERM, os.rename, topic, broker.path("after"))
    refused(errno.EPERM, os.rename, f"{topic}/p0", f"{topic}/p9")
    refused(errno.EPERM, os.rename, f"{topic}/p0", f"{topic}/p1")
    equal(read(f"{topic}/p0"), b"x\n")
    equal(partitions(topic), ["p0", "p1"])


# --- Configuration ---

def test_topic_attributes_are_its_configuration():
    topic = broker.topic("configured")
    equal([a for a in os.listxattr(topic) if a.startswith("user.")], [], "nothing set, nothing listed")
    for name, value in (("retention.ms", "86400000"), ("retention.bytes", "1000000"),
                        ("segment.bytes", "65536"), ("max.message.bytes", "2000"),
                        ("cleanup.policy", "delete"), ("message.timestamp.type", "LogAppendTime"),
                        ("framing", "write"), ("delimiter", "|"), ("key.separator", ":"),
                        ("retention.ms", "-1")):
        setfattr(topic, name, value)
        equal(getfattr(topic, name), value, name)
    equal(sorted(a for a in os.listxattr(topic) if a.startswith("user.")),
          sorted("user.kqfs." + n for n in (
              "retention.ms", "retention.bytes", "segment.bytes", "max.message.bytes",
              "cleanup.policy", "message.timestamp.type", "framing", "delimiter", "key.separator")))
    check(int(getfattr(topic, "segment.ms")) > 0, "a default can be read")
    dumped = sh("getfattr -d .", cwd=topic).decode()
    check('user.kqfs.retention.bytes="1000000"' in dumped, dumped)
    sh("setfattr -n user.kqfs.retention.ms -v 86400000 .", cwd=topic)
    equal(getfattr(topic, "retention.ms"), "86400000")
    os.removexattr(topic, "user.kqfs.retention.ms")
    check("user.kqfs.retention.ms" not in os.listxattr(topic))
    equal(getfattr(topic, "retention.ms"), "604800000", "the default again")
    refused(errno.ENODATA, os.removexattr, topic, "user.kqfs.retention.ms")


def test_bad_attributes_are_refused():
    topic = broker.topic("misconfigured")
    for name, value, wanted in (
            ("no.such", "1", errno.ENOTSUP), ("Retention.ms", "1", errno.ENOTSUP),
            ("retention.ms", "soon", errno.EINVAL), ("retention.ms", "", errno.EINVAL),
            ("retention.ms", "-2", errno.EINVAL), ("retention.ms", "1 ", errno.EINVAL),
            ("retention.ms", "99999999999999999999", errno.EINVAL), ("segment.bytes", "0", errno.EINVAL),
            ("segment.bytes", "3000000000", errno.EINVAL), ("framing", "lines", errno.EINVAL),
            ("delimiter", "", errno.EINVAL), ("delimiter", "x" * 17, errno.EINVAL),
            ("delimiter", "\\q", errno.EINVAL), ("cleanup.policy", "none", errno.EINVAL),
            ("message.timestamp.type", "Now", errno.EINVAL)):
        refused(wanted, setfattr, topic, name, value, what=(name, value))
    refused(errno.ENOTSUP, os.setxattr, topic, "user.other", b"1")
    refused((errno.ENODATA, errno.ENOTSUP), os.getxattr, topic, "user.other")
    refused((errno.ENODATA, errno.ENOTSUP), os.getxattr, topic, "user.kqfs.no.such")
    equal([a for a in os.listxattr(topic) if a.startswith("user.")], [])
    setfattr(topic, "retention.ms", 5000)
    refused(errno.EEXIST, os.setxattr, topic, "user.kqfs.retention.ms", b"1", os.XATTR_CREATE)
    refused(errno.ENODATA, os.setxattr, topic, "user.kqfs.segment.ms", b"1000", os.XATTR_REPLACE)
    equal(getfattr(topic, "retention.ms"), "5000")


def test_partition_attributes_tell_and_are_read_only():
    topic = broker.topic("told")
    append(f"{topic}/p0", lines(10))
    p0 = f"{topic}/p0"
    equal(sorted(a for a in os.listxattr(p0) if a.startswith("user.")),
          sorted("user.kqfs." + n for n in ("start", "end", "high_watermark", "bytes")))
    equal([getfattr(p0, n) for n in ("start", "end", "high_watermark")], ["0", "10", "10"])
    check(int(getfattr(p0, "bytes")) >= len(lines(10)))
    for name in ("start", "end", "high_watermark", "bytes"):
        refused(errno.EPERM, setfattr, p0, name, "5", what=name)
        refused(errno.EPERM, os.removexattr, p0, "user.kqfs." + name, what=name)
    check('user.kqfs.end="10"' in sh("getfattr -d p0", cwd=topic).decode())


def test_configuration_and_messages_survive_a_restart():
    topic = broker.topic("kept", retention_ms=123456789, key_separator="=")
    sh("touch p2", cwd=topic)
    append(f"{topic}/p2", "k=v\n")
    os.chmod(topic, 0o1700)
    os.chmod(f"{topic}/p2", 0o640)
    inodes = [os.stat(f"{topic}/{n}").st_ino for n in ("", "p2", "p2.log", "append")]
    broker.restart()
    equal(partitions(topic), ["p0", "p1", "p2"])
    equal(getfattr(topic, "retention.ms"), "123456789")
    equal(getfattr(topic, "key.separator"), "=")
    equal(read(f"{topic}/p2"), b"k=v\n")
    equal(os.stat(topic).st_mode & 0o7777, 0o1700)
    equal(os.stat(f"{topic}/p2").st_mode & 0o7777, 0o640)
    equal([os.stat(f"{topic}/{n}").st_ino for n in ("", "p2", "p2.log", "append")], inodes,
          "st_ino after a restart")


def test_a_topic_comes_back_from_a_backup():
    """As docs/filesystem.md has it."""
    need("getfattr", "setfattr", "getfacl", "setfacl")
    topic = broker.topic("saved")
    setfattr(topic, "retention.ms", "9000000000000")
    os.chmod(f"{topic}/p1", 0o604)
    append(f"{topic}/p0", lines(300))
    append(f"{topic}/p0", b"\xff\0no text\n")
    append(f"{topic}/p1.jsonl", '{"key":"k","value":"v","timestamp":1500000000000,'
                                '"headers":[{"name":"h","value":"w"}]}\n')
    before = [sh(f"cat p{n}.jsonl", cwd=topic) for n in (0, 1)]
    check(b"1500000000000" in before[1] and b'"w"' in before[1], before[1])
    out = scratch("backup")
    sh(f"getfattr -d -m user.kqfs saved > {out}/settings; getfacl saved saved/p* > {out}/acl;"
       f"for p in saved/p*; do cat $p.jsonl > {out}/${{p##*/}}.jsonl; done", cwd=broker.mount)
    sh("rm -r saved && mkdir saved", cwd=broker.mount)
    sh(f"setfattr --restore={out}/settings && setfacl --restore={out}/acl &&"
       f"for p in saved/p*; do cat {out}/${{p##*/}}.jsonl >> $p.jsonl; done", cwd=broker.mount)
    equal([sh(f"cat p{n}.jsonl", cwd=topic) for n in (0, 1)], before)
    equal(getfattr(topic, "retention.ms"), "9000000000000")
    equal(stat.S_IMODE(os.stat(f"{topic}/p1").st_mode) & 0o777, 0o604)


def test_modification_times_tell_of_the_last_append():
    topic = broker.topic("times")
    append(f"{topic}/p0", "x\n")
    first = os.stat(f"{topic}/p0").st_mtime
    check(abs(first - time.time()) < 60, "mtime", first)
    until(lambda: time.time() > first + 0.01, "the clock")
    append(f"{topic}/p0", "x\n")
    check(os.stat(f"{topic}/p0").st_mtime >= first)
    sh("ls -l --time-style=full-iso p0", cwd=topic)


if __name__ == "__main__":
    mounted.main(broker)
