#!/usr/bin/python3
"""A mount by an ordinary user, through fusermount3."""

import errno
import os
import signal
import stat

import mounted
from mounted import *

USER = (65534, 65534, [])  # nobody: fusermount3 wants a user that has a name
OTHER = (2003, 3003, [])

_fuse_mode = None


def prepare():
    """An ordinary user must reach /dev/fuse, the binary and the directory."""
    need("fusermount3")
    if os.geteuid() != 0:
        return None
    global _fuse_mode
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    if mode & 0o006 != 0o006:
        # As Debian ships it; put back at the end.
        _fuse_mode = mode
        os.chmod("/dev/fuse", 0o666)
    try:
        as_user(USER, lambda: os.close(os.open("/dev/fuse", os.O_RDWR)))
        as_user(USER, os.stat, test_directory())
    except OSError as error:
        raise Skip(f"another user cannot: {error}")
    binary = os.environ["KQFS_BIN"]
    if error_of(as_user, USER, lambda: os.close(os.open(binary, os.O_RDONLY))):
        copy = os.path.join(test_directory(), "kqfs")
        sh(f"install -m 755 {binary} {copy}")
        os.environ["KQFS_BIN"] = copy
    return USER


def own_broker(name, user, **named):
    broker = Broker(name, user=user, **named)
    if user:
        for path in (broker.directory, broker.mount):
            os.chown(path, user[0], user[1])
    return broker


def acting(user, function, *arguments):
    return as_user(user, function, *arguments) if user else function(*arguments)


def test_an_ordinary_user_mounts_produces_and_consumes():
    user = prepare()
    with own_broker("own", user) as broker:
        def use():
            os.mkdir(broker.path("t"))
            append(broker.path("t/p0"), lines(100))
            equal(read(broker.path("t/p0")), lines(100))
            setfattr(broker.path("t"), "retention.ms", "5000000")
            equal(getfattr(broker.path("t"), "retention.ms"), "5000000")
            os.chmod(broker.path("t/p0"), 0o600)
            sh(f"tail -n 1 {broker.path('t/p0')} && ls -laR {broker.mount} && rm -r {broker.path('t')}")
            os.mkdir(broker.path("u"))
            st = os.stat(broker.path("u/p0"))
            equal((st.st_uid, st.st_gid), (os.geteuid(), os.getegid()))
        acting(user, use)
        if user:
            for who in (OTHER, (0, 0, [])):
                refused(errno.EACCES, as_user, who, os.listdir, broker.mount, what=("seen by", who))
        equal(broker.process.poll(), None)


def test_messages_survive_kill_9_and_restart():
    user = prepare()
    broker = own_broker("again", user).start()
    acting(user, os.mkdir, broker.path("t"))
    acting(user, append, broker.path("t/p0"), lines(10))
    broker.process.send_signal(signal.SIGKILL)
    broker.process.wait()
    acting(user, sh, f"fusermount3 -u {broker.mount}")
    broker.kill()
    broker.start()
    equal(acting(user, read, broker.path("t/p0")), lines(10))
    broker.stop()


def test_the_data_directory_is_closed_to_others():
    user = prepare()
    with own_broker("closed", user) as broker:
        equal(stat.S_IMODE(os.stat(broker.data).st_mode), 0o700)


def test_allow_other_where_it_is_not_permitted_names_the_remedy():
    user = prepare()
    if not user:
        raise Skip("needs root, to be another user")
    with open("/etc/fuse.conf") as conf:
        if any(line.strip() == "user_allow_other" for line in conf):
            raise Skip("/etc/fuse.conf permits allow_other")
    broker = own_broker("others", user, options=["-o", "allow_other"])
    status, said = broker.fails_to_start()
    equal(status, 5, said)
    check("user_allow_other" in said and "/etc/fuse.conf" in said, said)
    check(not is_mounted(broker.mount))


def test_a_mountpoint_of_somebody_else_is_refused():
    user = prepare()
    if not user:
        raise Skip("needs root, to be another user")
    broker = own_broker("foreign", user)
    os.chown(broker.mount, 0, 0)
    status, said = broker.fails_to_start()
    check(status in (2, 4, 5), status, said)
    equal(len([l for l in said.splitlines() if l.startswith("kqfs:")]), 1, said)


def test_without_access_to_dev_fuse_the_error_says_so():
    user = prepare()
    if not user or _fuse_mode is None:
        raise Skip("/dev/fuse is open to all here, as it should be")
    os.chmod("/dev/fuse", 0o600)
    try:
        status, said = own_broker("closed-fuse", user).fails_to_start()
        equal(status, 5, said)
        check("/dev/fuse" in said, said)
    finally:
        os.chmod("/dev/fuse", 0o666)


def test_data_that_is_not_writable_is_refused_with_the_reason():
    user = prepare()
    if not user:
        raise Skip("needs root, to be another user")
    data = scratch("root-data")
    os.chmod(data, 0o755)
    broker = own_broker("readonly", user, data=data)
    status, said = broker.fails_to_start()
    equal(status, 4, said)
    check(data in said, said)


if __name__ == "__main__":
    try:
        mounted.main()
    finally:
        if _fuse_mode is not None:
            os.chmod("/dev/fuse", _fuse_mode)
