#!/usr/bin/python3
# kqfs-test: timeout=600
"""Access: every operation on every kind of file as every kind of user, with many modes and ACLs,
compared with the same tree on a plain file system, append-only files (chattr +a) where p0 is one."""

import errno
import itertools
import os
import random
import stat
import struct

import mounted
from mounted import *

OWNER, MEMBER, OTHER, NAMED, GROUPED = 2001, 2002, 2003, 2004, 2005
GROUP, NAMED_GROUP = 3001, 3010
USERS = {
    "root": (0, 0, []),
    "owner": (OWNER, GROUP, []),
    "member": (MEMBER, 3002, [GROUP]),
    "other": (OTHER, 3003, []),
    "named user": (NAMED, 3004, []),
    "of named group": (GROUPED, 3005, [4000, NAMED_GROUP]),
    "named and member": (NAMED, GROUP, [NAMED_GROUP]),
    "nobody": (65534, 65534, []),
}
SEGMENT = "0" * 20

broker = Broker("b", options=["-o", "allow_other", "--topic.segment.bytes", "4096"])
rng = random.Random(11)


# --- ACLs ---

def acl(user, group, other, users=(), groups=(), mask=None):
    entry = lambda tag, permissions, number=0xffffffff: struct.pack("<HHI", tag, permissions, number)
    out = struct.pack("<I", 2) + entry(1, user)
    out += b"".join(entry(2, permissions, number) for number, permissions in users)
    out += entry(4, group)
    out += b"".join(entry(8, permissions, number) for number, permissions in groups)
    if mask is not None:
        out += entry(16, mask)
    return out + entry(32, other)


ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"

TOPIC_MODES = [0o755, 0o777, 0o700, 0o711, 0o710, 0o750, 0o775, 0o773, 0o705, 0o000, 0o555]
TOPIC_ACLS = [acl(7, 0, 0, [(NAMED, 7)], mask=7), acl(7, 0, 0, [(NAMED, 1)], mask=7),
              acl(7, 5, 5, [(NAMED, 0)], mask=7), acl(7, 0, 0, [], [(NAMED_GROUP, 5)], mask=7),
              acl(7, 7, 0, [(NAMED, 7)], [(NAMED_GROUP, 7)], mask=1),
              acl(7, 0, 0, [], [(NAMED_GROUP, 7)], mask=5)]
FILE_MODES = [0o644, 0o666, 0o600, 0o640, 0o660, 0o620, 0o604, 0o602, 0o606, 0o060, 0o006, 0o000, 0o777,
              0o400, 0o200]
FILE_ACLS = [acl(6, 0, 0, [(NAMED, 6)], mask=6), acl(6, 0, 0, [(NAMED, 6)], mask=4),
             acl(6, 4, 4, [(NAMED, 0)], mask=7), acl(6, 0, 0, [], [(NAMED_GROUP, 4)], mask=6),
             acl(6, 0, 6, [(NAMED, 6)], [(NAMED_GROUP, 0)], mask=6),
             acl(6, 4, 0, [], [(NAMED_GROUP, 2)], mask=6), acl(0, 6, 6, [(OWNER, 7)], mask=7),
             acl(6, 6, 6, [(NAMED, 6)], [(NAMED_GROUP, 6)], mask=0)]
ROOT_MODES = [0o777, 0o755, 0o711, 0o700, 0o773, 0o770]

DEFAULT_VARIANT = (0o777, 0o755, 0o644)


def variants():
    """(root, topic, file), each a mode or an ACL."""
    topics, files = TOPIC_MODES + TOPIC_ACLS, FILE_MODES + FILE_ACLS
    out = [(0o777, 0o755, f) for f in files]
    out += [(0o777, t, 0o666) for t in topics]
    out += [(r, 0o777, 0o666) for r in ROOT_MODES]
    out += [(rng.choice(ROOT_MODES), rng.choice(topics), rng.choice(files)) for _ in range(25)]
    return out


# --- The operations ---

def opens(flags):
    def operation(path):
        os.close(os.open(path, flags | os.O_NONBLOCK))
    return operation


def reads(path):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(fd, 10)
    finally:
        os.close(fd)


def writes(path):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, b'{"value":"x"}\n')
    finally:
        os.close(fd)


def asks(how):
    def operation(path):
        if not os.access(path, how):
            raise PermissionError(errno.EACCES, path)
    return operation


def chmods(path):
    os.chmod(path, os.stat(path).st_mode & 0o7777)


def setfacls(path):
    os.setxattr(path, ACCESS, acl(7, 5, 5, [(NAMED, 7)], mask=7))


WRITE_NO_APPEND = opens(os.O_WRONLY)
APPENDS = opens(os.O_WRONLY | os.O_APPEND)
NEVER_WRITTEN = (errno.EPERM, errno.EACCES, errno.EROFS)

# (name, operation, path in the mount, path in the twin, what to expect where the twin grants it)
ASKING = [(f"access {n}", asks(how)) for n, how in (("r", 4), ("w", 2), ("x", 1), ("rw", 6))]

READ_VIEWS = ["t/p0.stream", "t/p0.jsonl.stream", "t/p0.log", "t/by-offset/p0/1", "t/by-offset/p0/1.value",
              "t/by-offset/p0/1.jsonl", "t/by-offset/p0/1.stream", f".kqfs/segments/t/p0/{SEGMENT}",
              f"t/by-segment/p0/{SEGMENT}"]


def operations():
    out = []
    add = lambda *row: out.append(row)
    for path in ("t/p0", "t/p0.jsonl"):
        add("open r", opens(os.O_RDONLY), path, path, 0)
        add("read", reads, path, path, 0)
        add("open w", WRITE_NO_APPEND, path, path, 0)
        add("open a", APPENDS, path, path, 0)
        add("open ra", opens(os.O_RDWR | os.O_APPEND), path, path, 0)
        add("open rw", opens(os.O_RDWR), path, path, 0)
        add("open a trunc", opens(os.O_WRONLY | os.O_APPEND | os.O_TRUNC), path, path, 0)
        add("open r trunc", opens(os.O_RDONLY | os.O_TRUNC), path, path, 0)
        add("open creat a", opens(os.O_CREAT | os.O_WRONLY | os.O_APPEND), path, path, 0)
        add("write", writes, path, path, 0)
        add("truncate", lambda p: os.truncate(p, 0), path, path, 0)
        add("stat", os.stat, path, path, 0)
        for name, operation in ASKING:
            add(name, operation, path, path, 0)
    add("touch", lambda p: os.utime(p), "t/p0", "t/p0", 0)
    add("chmod", chmods, "t/p0", "t/p0.free", 0)
    add("chown to oneself", lambda p: os.chown(p, os.getuid(), -1), "t/p0", "t/p0.free", 0)
    add("chgrp", lambda p: os.chown(p, -1, GROUP), "t/p0", "t/p0.free", 0)
    add("chgrp to a foreign group", lambda p: os.chown(p, -1, 9), "t/p0", "t/p0.free", 0)
    add("getxattr acl", lambda p: error_of(os.getxattr, p, ACCESS) not in (0, errno.ENODATA) and
        os.getxattr(p, ACCESS), "t/p0", "t/p0.free", 0)
    add("getxattr user", lambda p: os.getxattr(p, "user.kqfs.end"), "t/p0", "t/p0.free", 0)
    add("setxattr user", lambda p: os.setxattr(p, "user.kqfs.end", b"1"), "t/p0", "t/p0.free", errno.EPERM)
    add("setfacl default", lambda p: os.setxattr(p, DEFAULT, acl(7, 5, 5)), "t/p0", "t/p0.free", 0)
    add("rename", lambda p: os.rename(p, p + "x"), "t/p0", "t/p0.rename", errno.EPERM)
    add("link", lambda p: os.link(p, p + "l"), "t/p0", "t/p0", errno.EPERM)
    for name, operation in (("open w", WRITE_NO_APPEND), ("open a", APPENDS), ("open r", opens(os.O_RDONLY)),
                            ("open w trunc", opens(os.O_WRONLY | os.O_TRUNC)), ("write", writes),
                            ("read", reads), ("stat", os.stat), *ASKING):
        add(name, operation, "t/append", "t/append", 0)
    for path in READ_VIEWS:
        add("open r", opens(os.O_RDONLY), path, path, 0)
        add("read", reads, path, path, 0 if "stream" not in path else (0, errno.EAGAIN))
        add("open a", APPENDS, path, path, NEVER_WRITTEN)
        add("stat", os.stat, path, path, 0)
        add("access r", asks(4), path, path, 0)
    for path in READ_VIEWS + ["t/append", "t/p0.jsonl"]:
        add("chmod", lambda p: os.chmod(p, 0o666), path, None, (errno.EPERM, errno.EACCES))
        add("chown", lambda p: os.chown(p, os.getuid(), -1), path, None, (errno.EPERM, errno.EACCES))
        add("setfacl", setfacls, path, None, (errno.EPERM, errno.EACCES, errno.ENOTSUP))
    for path in (".kqfs/metrics", ".kqfs/version", ".kqfs/config"):
        add("read", reads, path, path, 0)
        add("open a", APPENDS, path, path, NEVER_WRITTEN)
    for path in ("", "t"):
        add("list", os.listdir, path, path, 0)
        add("stat", os.stat, path, path, 0)
        add("chmod", chmods, path, path, 0)
        add("chgrp", lambda p: os.chown(p, -1, GROUP), path, path, 0)
        for name, operation in ASKING:
            add(name, operation, path, path, 0)
    for path in ("t/by-offset/p0/earliest", "t/by-offset/p0/latest", "t/by-time/p0/0"):
        add("readlink", os.readlink, path, path, 0)
    add("getxattr user", lambda p: os.getxattr(p, "user.kqfs.retention.ms"), "t", "t", 0)
    add("setxattr user", lambda p: os.setxattr(p, "user.kqfs.retention.ms", b"86400000"), "t", "t", 0)
    add("removexattr user", lambda p: os.removexattr(p, "user.kqfs.retention.bytes"), "t", "t", 0)
    add("mkdir in a topic", os.mkdir, "t/sub", "t/sub", (errno.EPERM, errno.EINVAL))
    add("mkdir", os.mkdir, "new", "new", 0)
    add("rename a topic", lambda p: os.rename(p, p + "x"), "empty", "moved", errno.EPERM)
    add("rmdir", os.rmdir, "empty", "empty", 0)
    add("unlink append", os.unlink, "t/append", "t/append.unlink", 0)
    add("unlink", os.unlink, "t/p0", "t/p0.unlink", 0)
    return out


OPERATIONS = operations()


def run_all(base, which):
    out = []
    for row in OPERATIONS:
        path = row[which]
        out.append(None if path is None else
                   error_of(row[1], os.path.join(base, path) if path else base))
    return out


# --- The two trees ---

def set_access(path, access, sticky=False):
    """The mode first, so that an ACL of an earlier variant goes away with it."""
    error_of(os.removexattr, path, ACCESS)
    if isinstance(access, int):
        os.chmod(path, access | (stat.S_ISVTX if sticky else 0))
    else:
        os.chmod(path, 0o600 | (stat.S_ISVTX if sticky else 0))
        os.setxattr(path, ACCESS, access)


TWIN_FILES = ["t/p0", "t/p0.free", "t/p0.rename", "t/p0.unlink", "t/p0.jsonl", "t/append", "t/append.unlink",
              *[p for p in READ_VIEWS if "by-segment" not in p]]
TWIN_APPEND_ONLY = ["t/p0", "t/p0.jsonl"]


def make_twin(base):
    for path in TWIN_FILES:
        os.makedirs(os.path.dirname(f"{base}/{path}"), exist_ok=True)
    for path in ("t/by-segment/p0", "t/by-time/p0", ".kqfs"):
        os.makedirs(f"{base}/{path}", exist_ok=True)
    for name in ("metrics", "version", "config"):
        with open(f"{base}/.kqfs/{name}", "w"):
            os.chmod(f"{base}/.kqfs/{name}", 0o444)
    os.symlink(f"{base}/.kqfs/segments/t/p0/{SEGMENT}", f"{base}/t/by-segment/p0/{SEGMENT}")
    for path in ("t/by-offset/p0/earliest", "t/by-offset/p0/latest", "t/by-time/p0/0"):
        os.symlink("0", f"{base}/{path}")


def directories_of(base):
    return [base, f"{base}/t"] + sorted(
        path for path, _, _ in os.walk(base) if path not in (base, f"{base}/t"))


def prepare_twin(base, variant):
    """Before each user: makes again what may be gone, with the access of the variant."""
    root, topic, file = variant
    for name in ("new", "t/sub", "empty", "emptyx", "moved", "movedx"):
        error_of(os.rmdir, f"{base}/{name}")
    for name in ("t/p0.renamex", "t/p0l"):
        error_of(os.unlink, f"{base}/{name}")
    for path in ("empty", "moved"):
        os.mkdir(f"{base}/{path}")
        os.chown(f"{base}/{path}", OWNER, GROUP)
        set_access(f"{base}/{path}", topic, True)
    for path in TWIN_FILES:
        path = f"{base}/{path}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.close(fd)
        os.chown(path, OWNER, GROUP)
        set_access(path, file)
    os.setxattr(f"{base}/t/p0.free", "user.kqfs.end", b"1")
    for path in directories_of(base):
        os.chown(path, OWNER if path != base else 0, GROUP if path != base else 0)
        inside = path.endswith("/.kqfs") or path.endswith("/.kqfs/segments")
        set_access(path, 0o755 if inside else root if path == base else topic, not inside)
    os.setxattr(f"{base}/t", "user.kqfs.retention.ms", b"1")
    os.setxattr(f"{base}/t", "user.kqfs.retention.bytes", b"1")


def prepare_ours(base, variant):
    root, topic, file = variant
    error_of(os.rmdir, f"{base}/new")
    error_of(os.mkdir, f"{base}/empty")
    for path, access, sticky in (("empty", topic, True), ("t/p0", file, False), ("t", topic, True)):
        os.chown(f"{base}/{path}", OWNER, GROUP)
        set_access(f"{base}/{path}", access, sticky)
    os.setxattr(f"{base}/t", "user.kqfs.retention.bytes", b"100000000")
    if int(getfattr(f"{base}/t/p0", "start")) > 0:
        sh(f"rm -r {base}/t")
        fill_ours(base)
        return prepare_ours(base, variant)
    os.chown(base, 0, 0)
    set_access(base, root, True)


def fill_ours(base):
    os.mkdir(f"{base}/t")
    for _ in range(10):
        append(f"{base}/t/p0", lines(100))


def compare(variant, user, ours, theirs):
    wrong = []
    for row, a, b in zip(OPERATIONS, ours, theirs):
        granted = row[4] if isinstance(row[4], tuple) else (row[4],)
        wanted = granted if not b else (b,)
        if a not in wanted:
            show = [oct(v) if isinstance(v, int) else "acl " + str(i) for i, v in
                    zip(("", *(TOPIC_ACLS.index(variant[1]) if variant[1] in TOPIC_ACLS else "",
                               FILE_ACLS.index(variant[2]) if variant[2] in FILE_ACLS else "")), variant)]
            wrong.append(f"{row[0]} of {row[2] or 'the root'} as {user}, root/topic/file "
                         f"{'/'.join(show)}: {name_of(a)}, wanted {'/'.join(map(name_of, wanted))}")
    return wrong


def reachable():
    need_root()
    try:
        as_user(USERS["other"], os.stat, broker.directory)
    except OSError:
        raise Skip(f"other users do not reach {broker.directory}")


def test_matrix():
    reachable()
    twin = scratch("twin")
    probe = f"{twin}/probe"
    open(probe, "w").close()
    append_only = subprocess.run(["chattr", "+a", probe], capture_output=True).returncode == 0
    subprocess.run(["chattr", "-a", probe], capture_output=True)
    os.unlink(probe)
    if not append_only:
        raise Skip("chattr +a does not work here")
    make_twin(twin)
    fill_ours(broker.mount)
    count, refusals, wrong = 0, 0, []
    all_variants = variants()
    files = [f"{twin}/{p}" for p in TWIN_APPEND_ONLY]
    for variant in all_variants:
        for user, who in USERS.items():
            prepare_ours(broker.mount, variant)
            prepare_twin(twin, variant)
            subprocess.run(["chattr", "+a", *files], check=True)
            try:
                theirs = as_user(who, run_all, twin, 3)
            finally:
                subprocess.run(["chattr", "-a", *files], check=True)
            ours = as_user(who, run_all, broker.mount, 2)
            wrong += compare(variant, user, ours, theirs)
            count += len(OPERATIONS)
            refusals += sum(map(bool, theirs))
    kinds = len({row[2] for row in OPERATIONS})
    print(f"        {count} checks: {len(OPERATIONS)} operations on {kinds} kinds of file × "
          f"{len(USERS)} users × {len(all_variants)} modes and ACLs, {refusals} of them "
          f"refused by the plain tree; {len(wrong)} differ")
    check(not wrong, f"{len(wrong)} of {count} differ:\n  " + "\n  ".join(wrong[:40]))
    set_access(broker.mount, 0o777, True)
    sh(f"rm -r {broker.mount}/t {broker.mount}/empty")


def test_derived_files_show_the_access_of_their_partition_at_once():
    reachable()
    os.chmod(broker.mount, 0o1777)
    topic = broker.topic("derived")
    for _ in range(10):
        append(f"{topic}/p0", lines(100))
    paths = [f"{topic}/{p[2:]}" for p in READ_VIEWS if p.startswith("t/")]
    paths += [f"{topic}/append", f"{topic}/p0.jsonl",
              broker.path(".kqfs/segments/derived/p0", SEGMENT)]
    for i in range(60):
        mode, uid, gid = rng.randrange(0o1000), rng.choice((0, OWNER, OTHER)), rng.choice((0, GROUP))
        os.chown(f"{topic}/p0", uid, gid)
        os.chmod(f"{topic}/p0", mode)
        if i % 3 == 0:
            os.setxattr(f"{topic}/p0", ACCESS, rng.choice(FILE_ACLS))
        wanted = os.stat(f"{topic}/p0")
        wanted_acl = os.getxattr(f"{topic}/p0", ACCESS) if i % 3 == 0 else None
        for path in paths:
            st = os.stat(path)
            equal((oct(st.st_mode & 0o777), st.st_uid, st.st_gid),
                  (oct(wanted.st_mode & 0o777), wanted.st_uid, wanted.st_gid), path)
            if wanted_acl:
                equal(os.getxattr(path, ACCESS), wanted_acl, "ACL of", path)
        os.removexattr(f"{topic}/p0", ACCESS) if i % 3 == 0 else None


def facl(path):
    return sh(f"getfacl -npE --omit-header {path}").decode()


def test_setfacl_and_chmod_do_as_on_a_plain_file_system():
    reachable()
    topic = broker.topic("facl")
    twin = scratch("facl")
    os.mkdir(f"{twin}/t")
    os.chmod(f"{twin}/t", 0o1755)
    with open(f"{twin}/t/p0", "w"):
        os.chmod(f"{twin}/t/p0", os.stat(f"{topic}/p0").st_mode & 0o777)
    for step in range(150):
        target = rng.choice(("", "/p0"))
        who = rng.choice(("u:2004", "g:3010", "u:", "g:", "o:", "m:", "u:2005", "g:3001"))
        permissions = rng.choice(("r", "rw", "rwx", "-", "x", "w", "rx"))
        command = rng.choice((f"setfacl -m {who}:{permissions}", f"setfacl -x {who}", "setfacl -b",
                              f"chmod {rng.randrange(0o1000):o}", f"setfacl -n -m {who}:{permissions}",
                              *([f"setfacl -d -m {who}:{permissions}", "setfacl -k"] if not target else [])))
        ours = subprocess.run(f"{command} {topic}{target}", shell=True, capture_output=True).returncode
        theirs = subprocess.run(f"{command} {twin}/t{target}", shell=True, capture_output=True).returncode
        equal(ours, theirs, f"step {step}, exit status of `{command}` on t{target}")
        if not target and command.startswith("chmod"):
            os.chmod(f"{twin}/t", os.stat(f"{twin}/t").st_mode & 0o777 | stat.S_ISVTX)
        equal(facl(topic + target), facl(f"{twin}/t{target}"), f"step {step}, behind `{command}` on t{target}")
        equal(os.stat(topic + target).st_mode, os.stat(f"{twin}/t{target}").st_mode, command)
    before = facl(topic), facl(f"{topic}/p0")
    broker.restart()
    equal((facl(topic), facl(f"{topic}/p0")), before, "after a restart")


def test_malformed_acls_are_refused_as_on_a_plain_file_system():
    reachable()
    topic = broker.topic("facl-bad")
    twin = scratch("facl-bad")
    os.mkdir(f"{twin}/t")
    open(f"{twin}/t/p0", "w").close()
    good = acl(6, 4, 4, [(NAMED, 6)], [(NAMED_GROUP, 4)], mask=6)
    cases = [good[:n] for n in range(len(good))] + [b"\1\0\0\0" + good[4:], b"\xff" * 28]
    for _ in range(200):
        broken = bytearray(good)
        broken[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        cases.append(bytes(broken))
    for value in cases:
        for name, target in ((ACCESS, "/p0"), (ACCESS, ""), (DEFAULT, ""), (DEFAULT, "/p0")):
            equal(name_of(error_of(os.setxattr, topic + target, name, value)),
                  name_of(error_of(os.setxattr, f"{twin}/t{target}", name, value)), name, target,
                  value.hex())


def test_new_nodes_inherit_as_on_a_plain_file_system():
    reachable()
    os.chmod(broker.mount, 0o1777)
    twin = scratch("inherit")
    os.chmod(twin, 0o1777)
    defaults = [None, acl(7, 5, 0, [(NAMED, 7)], mask=7), acl(7, 5, 5), acl(7, 7, 7, [(NAMED, 6)], mask=2),
                acl(6, 0, 0, [], [(NAMED_GROUP, 7)], mask=5)]

    def make(base, name, umask, directory_mode, file_mode):
        os.umask(umask)
        os.mkdir(f"{base}/{name}", directory_mode)

    def touch(path, umask, mode):
        os.umask(umask)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, mode))

    number = 0
    for default, umask, mode in itertools.product(defaults, (0o022, 0o077, 0o002, 0), (0o777, 0o750)):
        name = f"inherit{number}"
        number += 1
        for base in (broker.mount, twin):
            if default is None:
                error_of(os.removexattr, base, DEFAULT)
            else:
                os.setxattr(base, DEFAULT, default)
            as_user(USERS["other"], make, base, name, umask, mode, None)
            as_user(USERS["root"], touch, f"{base}/{name}/p1", umask, 0o666)
            error_of(os.chmod, f"{twin}/{name}", os.stat(f"{twin}/{name}").st_mode & 0o777 | stat.S_ISVTX) \
                if base == twin else None
        for path in ("", "/p1"):
            ours, theirs = f"{broker.mount}/{name}{path}", f"{twin}/{name}{path}"
            what = ("default", defaults.index(default), oct(umask), oct(mode), path or "topic")
            equal(facl(ours), facl(theirs), *what)
            a, b = os.stat(ours), os.stat(theirs)
            equal((oct(a.st_mode), a.st_uid, a.st_gid), (oct(b.st_mode), b.st_uid, b.st_gid), *what)
        sh(f"rm -r {broker.mount}/{name}")
    os.removexattr(broker.mount, DEFAULT)


def test_partitions_of_a_new_topic_follow_the_creators_umask():
    reachable()

    def make(path, umask):
        os.umask(umask)
        os.mkdir(path)

    for umask, readable in ((0o077, False), (0o022, True)):
        path = broker.path(f"umask{umask:o}")
        as_user(USERS["other"], make, path, umask)
        st = os.stat(f"{path}/p0")
        equal((st.st_uid, st.st_gid), (OTHER, 3003), "owner of p0")
        equal(bool(st.st_mode & 0o004), readable, oct(st.st_mode))
        check(not st.st_mode & 0o133, "nobody executes, others do not write", oct(st.st_mode))


def test_append_goes_only_to_partitions_that_the_caller_may_write():
    reachable()
    topic = broker.topic("some")
    for n in range(1, 4):
        sh(f"touch {topic}/p{n}")
    for n, mode in enumerate((0o666, 0o600, 0o644, 0o662)):
        os.chmod(f"{topic}/p{n}", mode)

    def produce(count):
        for i in range(count):
            fd = os.open(f"{topic}/append", os.O_WRONLY)
            os.write(fd, b"%d\n" % i)
            os.close(fd)

    as_user(USERS["other"], produce, 80)
    ends = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
    equal((ends[1], ends[2], sum(ends)), (0, 0, 80), "messages by partition", ends)
    check(ends[0] and ends[3], "both that are allowed are used", ends)
    os.setxattr(f"{topic}/p1", ACCESS, acl(6, 0, 0, [], [(NAMED_GROUP, 2)], mask=2))
    os.chmod(f"{topic}/p3", 0o660)
    os.setxattr(f"{topic}/p3", ACCESS, acl(6, 0, 0, [(OTHER, 2)], mask=2))
    as_user(USERS["of named group"], produce, 80)
    after = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
    check(after[1] > 0 and after[3] == ends[3] and after[2] == 0, "by the group's entry", ends, after)
    setfattr(topic, "key.separator", "=")
    keys, denied = [f"k{i}" for i in range(40)], 0
    for key in keys:
        before = [int(getfattr(f"{topic}/p{n}", "end")) for n in range(4)]
        number = error_of(as_user, USERS["nobody"], append, f"{topic}/append", f"{key}=v\n")
        grown = [int(getfattr(f"{topic}/p{n}", "end")) - before[n] for n in range(4)]
        check(number in (0, errno.EACCES), name_of(number))
        equal(grown, [0 if number else 1, 0, 0, 0], "a key", key, name_of(number))
        denied += number != 0
    check(0 < denied < len(keys), "keys of other partitions are refused", denied)


def test_only_the_owner_deletes_and_configures():
    reachable()
    os.chmod(broker.mount, 0o1777)

    def make(path):
        os.umask(0)
        os.mkdir(path, 0o777)
        append(f"{path}/p0", "x\n")

    path = broker.path("sticky")
    as_user(USERS["owner"], make, path)
    os.chmod(f"{path}/p0", 0o666)
    for mode in (0o777, 0o755, 0o1777):
        as_user(USERS["owner"], os.chmod, path, mode)
        equal(os.stat(path).st_mode & 0o7777, mode | 0o1000, "chmod keeps the sticky bit")
    as_user(USERS["root"], os.chmod, broker.mount, 0o777)
    equal(os.stat(broker.mount).st_mode & 0o7777, 0o1777)
    for who in ("other", "member", "nobody"):
        refused(errno.EPERM, as_user, USERS[who], os.unlink, f"{path}/p0")
        refused(errno.EPERM, as_user, USERS[who], os.rmdir, path)
        refused(errno.EPERM, as_user, USERS[who], setfattr, path, "retention.ms", "1")
        refused(errno.EPERM, as_user, USERS[who], os.chmod, f"{path}/p0", 0o666)
        subprocess_status = as_user(USERS[who], lambda: subprocess.run(
            ["rm", "-rf", path], capture_output=True).returncode)
        check(subprocess_status != 0)
    equal(read(f"{path}/p0"), b"x\n")
    as_user(USERS["owner"], setfattr, path, "retention.ms", "86400000")
    equal(as_user(USERS["owner"], lambda: subprocess.run(["rm", "-r", path]).returncode), 0)
    refused(errno.ENOENT, os.stat, path)


def test_nobody_is_refused_until_chmod_or_setfacl_grants():
    reachable()
    topic = broker.topic("grant")
    append(f"{topic}/p0", "secret\n")
    os.chmod(f"{topic}/p0", 0o600)
    nobody = USERS["nobody"]
    refused(errno.EACCES, as_user, nobody, read, f"{topic}/p0")
    os.chmod(f"{topic}/p0", 0o604)
    equal(as_user(nobody, read, f"{topic}/p0"), b"secret\n")
    refused(errno.EACCES, as_user, nobody, append, f"{topic}/p0", "x\n")
    os.chmod(f"{topic}/p0", 0o600)
    refused(errno.EACCES, as_user, nobody, read, f"{topic}/p0")
    sh(f"setfacl -m u:65534:rw {topic}/p0")
    as_user(nobody, append, f"{topic}/p0", "public\n")
    equal(as_user(nobody, read, f"{topic}/by-offset/p0/1"), b"public\n")
    sh(f"setfacl -x u:65534 {topic}/p0")
    refused(errno.EACCES, as_user, nobody, read, f"{topic}/by-offset/p0/1")
    broker.restart()
    refused(errno.EACCES, as_user, nobody, read, f"{topic}/p0")


def test_an_open_handle_keeps_what_it_was_granted():
    reachable()
    topic = broker.topic("opened")
    fd = os.open(f"{topic}/p0", os.O_WRONLY | os.O_APPEND)
    os.chmod(f"{topic}/p0", 0)
    os.write(fd, b"still\n")
    os.close(fd)
    equal(read(f"{topic}/p0"), b"still\n")


if __name__ == "__main__":
    mounted.main(broker)
