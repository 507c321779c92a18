#!/usr/bin/python3
"""The command: what it takes, how it starts and stops, what it says when it cannot."""

import contextlib
import errno
import os
import re
import shlex
import signal
import socket
import subprocess

import mounted
from mounted import *

NOBODY = (65534, 65534, [])


def gone(pid):
    """Has process PID ended? Who reaps it, and when, is not ours to know."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Place:
    """A data directory and a mountpoint for commands that are started here by hand."""

    def __init__(self, name):
        self.directory = scratch(name)
        self.data = os.path.join(self.directory, "data")
        self.mount = os.path.join(self.directory, "mnt")
        os.mkdir(self.mount)

    def run(self, *arguments, user=None, timeout=60, env=None, binary=None):
        """Runs kqfs to the end of what its caller waits for; (exit status, what it said)."""
        def become():
            if user:
                os.setgroups(user[2])
                os.setresgid(user[1], user[1], user[1])
                os.setresuid(user[0], user[0], user[0])
        done = subprocess.run([binary or os.environ["KQFS_BIN"], *arguments], cwd=self.directory,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, preexec_fn=become, env={**os.environ, **(env or {})})
        return done.returncode, done.stdout + done.stderr

    def fails(self, status, pattern, *arguments, **named):
        """Must end with STATUS, one line that matches PATTERN, and nothing mounted or made."""
        code, said = self.run(*arguments, **named)
        equal((code, len(said.splitlines())), (status, 1), arguments, said)
        check(re.search(pattern, said), f"{arguments}: said {said!r}")
        check(not is_mounted(self.mount), "it mounted all the same")

    def start(self, *arguments, **named):
        """In the background; whatever happens, unmount() ends it."""
        code, said = self.run("--data", self.data, *arguments, self.mount, **named)
        equal(code, 0, said)
        check(is_mounted(self.mount), "returned before it was mounted")

    def pid(self):
        found = [int(p) for p in os.listdir("/proc") if p.isdigit() and self._is_ours(p)]
        equal(len(found), 1, "processes of this broker")
        return found[0]

    def _is_ours(self, pid):
        try:
            command = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            return os.path.realpath(f"/proc/{pid}/exe") == os.environ["KQFS_BIN"] and \
                self.mount.encode() in command
        except OSError:
            return False

    def end(self):
        """Unmounts and waits for the broker's end."""
        if not is_mounted(self.mount):
            return
        pid = self.pid()
        sh(f"fusermount3 -u {self.mount}")
        until(lambda: gone(pid), "the broker to end")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Failed):
            pid = self.pid()
            os.kill(pid, signal.SIGTERM)
            until(lambda: gone(pid), "the broker to end")
        if is_mounted(self.mount):
            subprocess.run(["fusermount3", "-uz", self.mount], capture_output=True)


# --- What it takes ---

def test_mistakes_on_the_command_line_are_one_line_and_start_nothing():
    with Place("mistakes") as p:
        m = p.mount
        p.fails(2, "no MOUNTPOINT")
        p.fails(2, "no option --what", "--what", m)
        p.fails(2, "no option -x", "-x", m)
        p.fails(2, "needs a value", m, "--data")
        p.fails(2, "wat: no such mount option", "-o", "wat", m)
        p.fails(2, "num.partitions: `0` is not a whole number", "--num.partitions", "0", m)
        p.fails(2, "retention.ms: `soon`", "-o", "topic.retention.ms=soon", m)
        p.fails(2, "nowhere.conf: no such file", "--config", "nowhere.conf", m)
        p.fails(2, "not part of this build", "kafka://localhost:9092", m)
        p.fails(5, "nowhere: no such directory.*mkdir", "--data", p.data, "nowhere")
        p.fails(5, "is not a directory", "--data", p.data, "/dev/null")
        check(not os.path.exists(p.data), "a data directory was made")


def test_mistakes_in_the_file_name_file_line_and_key():
    with Place("file") as p:
        def wrong(text, pattern):
            with open(p.directory + "/k.conf", "w") as file:
                file.write(text)
            p.fails(2, pattern, "--config", "k.conf", "--data", p.data, p.mount)
        wrong("[broker]\n\nnum.partition = 3\n", r"k\.conf:3: num\.partition: no such setting")
        wrong("[broker]\nnum.partitions = three\n", r"k\.conf:2: num\.partitions: `three`")
        wrong("[topic]\nsegment.bytes = 1\n", r"k\.conf:2: segment\.bytes: `1`")
        wrong("[nets]\na = 1\n", r"k\.conf:2: nets: no such section")
        wrong("num.partitions = 3\n", r"k\.conf:1: num\.partitions: stands before any section")
        wrong("[broker]\ngarbage\n", r"k\.conf:2: neither")
        wrong("[mount]\npoll.us=1\npoll.us=2\n", r"k\.conf:3: poll\.us: set twice, first in line 2")
        check(not os.path.exists(p.data), "a data directory was made")


def test_help_and_version_need_nothing_else():
    with Place("help") as p:
        for option in ("-h", "--help"):
            code, said = p.run(option)
            equal(code, 0)
            check(said.startswith("Usage: kqfs [options] MOUNTPOINT"), said)
            check(len(said.splitlines()) <= 24 and max(map(len, said.splitlines())) <= 80, said)
        code, said = p.run("-V")
        equal(code, 0)
        check(re.match(r"kqfs \d+\.\d+\.\d+\nlibfuse 3\.", said), said)


def test_the_config_file_shows_each_value_and_where_it_came_from():
    with Place("origin") as p:
        with open(p.directory + "/k.conf", "w") as file:
            file.write("[broker]\nnum.partitions = 3\n[topic]\nretention.ms = 5000\n"
                       "segment.ms = 6000\n[mount]\npoll.us = 1\n")
        p.start("--config", "k.conf", "-o", "poll.us=2,topic.retention.ms=7000",
                "--topic.retention.ms", "8000")
        shown = read(p.mount + "/.kqfs/config").decode()
        for line in ("num.partitions = 3 ; {}:2", "retention.ms = 8000 ; command line",
                     "segment.ms = 6000 ; {}:5", "poll.us = 2 ; -o", "max.topics = 100000 ; default",
                     f"data = {p.data} ; command line"):
            check(line.format(p.directory + "/k.conf") in shown, line, "is not in", shown)
        equal(read(p.mount + "/.kqfs/version")[:5], b"kqfs ")
        os.mkdir(p.mount + "/t")
        check(os.path.exists(p.mount + "/t/p2"), "three partitions")
        equal(os.getxattr(p.mount + "/t", "user.kqfs.retention.ms"), b"8000")
        # What is shown is a file that it reads.
        with open(p.directory + "/again.conf", "w") as file:
            file.write(shown)
        p.end()
        code, said = p.run("--config", "again.conf")
        equal((code, said), (0, ""))
        again = read(p.mount + "/.kqfs/config").decode()
        equal(re.sub(" ;.*", "", again), re.sub(" ;.*", "", shown))


def test_source_and_mountpoint_as_mount_hands_them_over():
    with Place("source") as p:
        code, said = p.run(p.data, p.mount, "-o",
                           "rw,nosuid,nodev,noauto,_netdev,x-systemd.automount,num.partitions=2")
        equal((code, said), (0, ""))
        os.mkdir(p.mount + "/t")
        check(os.path.exists(p.mount + "/t/p1"), "two partitions")
        line = next(l for l in open("/proc/self/mountinfo") if f" {p.mount} " in l)
        check("nosuid" in line and f"fuse.kqfs {p.data}" in line, line)


def test_read_only_mounts_refuse_writes_with_erofs():
    with Place("ro") as p:
        p.start("-o", "ro")
        refused(errno.EROFS, os.mkdir, p.mount + "/t")


# --- Starting and stopping ---

def test_the_background_process_leaves_everything_of_its_caller():
    with Place("daemon") as p:
        p.start()
        pid = p.pid()
        equal(os.readlink(f"/proc/{pid}/cwd"), "/")
        for fd in (0, 1, 2):
            equal(os.readlink(f"/proc/{pid}/fd/{fd}"), "/dev/null")
        equal(os.getsid(pid), pid, "session")
        soft, hard = re.search(r"Max open files +(\d+) +(\d+)",
                               open(f"/proc/{pid}/limits").read()).groups()
        equal(soft, hard, "limit of open files")
        equal(os.stat(p.data).st_mode & 0o777, 0o700)


def test_each_stop_signal_ends_it_cleanly():
    with Place("signals") as p:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            p.start()
            if number == signal.SIGTERM:
                os.mkdir(p.mount + "/t")
            append(p.mount + "/t/p0", f"{number}\n")
            pid = p.pid()
            os.kill(pid, number)
            until(lambda: gone(pid), "the end")
            check(not is_mounted(p.mount), "still mounted")
        p.start()
        equal(read(p.mount + "/t/p0"), b"15\n2\n1\n")


def test_signals_that_follow_the_first_do_no_harm():
    with Place("storm") as p:
        process = subprocess.Popen([os.environ["KQFS_BIN"], "-f", "--data", p.data, p.mount],
                                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: is_mounted(p.mount), "the mount")
        os.mkdir(p.mount + "/t")
        append(p.mount + "/t/p0", "kept\n")
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        equal(process.returncode, 0)
        check(not is_mounted(p.mount), "still mounted")
        p.start()
        equal(read(p.mount + "/t/p0"), b"kept\n")


def test_unmounting_ends_it():
    with Place("unmount") as p:
        p.start()
        pid = p.pid()
        sh(f"fusermount3 -u {p.mount}")
        until(lambda: gone(pid), "the broker to end")


def test_a_service_manager_hears_when_it_is_ready_and_when_it_stops():
    with Place("notify") as p:
        path = p.directory + "/socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
            heard.bind(path)
            heard.settimeout(30)
            process = subprocess.Popen([os.environ["KQFS_BIN"], "-f", "--data", p.data, p.mount],
                                       stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                       env={**os.environ, "NOTIFY_SOCKET": path})
            equal(heard.recv(64), b"READY=1")
            check(is_mounted(p.mount), "ready before it was mounted")
            process.terminate()
            equal(heard.recv(64), b"STOPPING=1")
            equal(process.wait(30), 0)


# --- What it says when it cannot ---

def test_a_second_broker_on_the_data_is_refused_until_the_first_has_ended():
    with Place("second") as p:
        p.start()
        other = p.directory + "/other"
        os.mkdir(other)
        code, said = p.run("--data", p.data, other)
        equal((code, len(said.splitlines())), (3, 1), said)
        check(p.data in said, said)
        check(not is_mounted(other), "it mounted all the same")
        p.end()
        p.start()


def test_data_within_its_own_mount_is_refused_and_so_is_the_reverse():
    with Place("within") as p:
        p.fails(4, "lies inside its own mount", "--data", p.mount + "/data", p.mount)
        p.fails(4, "lies inside its own mount", "--data", p.mount, p.mount)
        os.symlink("mnt", p.directory + "/link")
        p.fails(4, "lies inside its own mount", "--data", "link/data", p.mount)
        p.fails(5, "lies inside the data directory", "--data", p.directory, p.mount)


def test_a_dead_mount_left_over_is_named_with_its_remedy():
    with Place("dead") as p:
        p.start()
        os.kill(p.pid(), signal.SIGKILL)
        until(lambda: error_of(os.stat, p.mount) == errno.ENOTCONN, "the mount to be dead")
        code, said = p.run("--data", p.data, p.mount)
        equal((code, len(said.splitlines())), (5, 1), said)
        remedy = re.search("`(fusermount3 -u .*)`", said)
        check(remedy, said)
        sh(remedy[1])
        p.start()


def test_a_data_directory_that_cannot_be_used_is_named():
    with Place("unusable") as p:
        with open(p.data, "w"):
            pass
        p.fails(4, re.escape(p.data), "--data", p.data, p.mount)
        p.fails(4, "data/within", "--data", p.data + "/within", p.mount)
        need_root()
        os.unlink(p.data)
        os.mkdir(p.data, 0o755)
        os.chown(p.mount, *NOBODY[:2])
        p.fails(4, re.escape(p.data), "--data", p.data, p.mount, user=NOBODY)


def test_without_a_usable_dev_fuse_the_line_says_so():
    need_root()
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        raise Skip("/dev/fuse is for everybody here")
    with Place("devfuse") as p:
        os.chown(p.mount, *NOBODY[:2])
        os.mkdir(p.data)
        os.chown(p.data, *NOBODY[:2])
        p.fails(5, "/dev/fuse", "--data", p.data, p.mount, user=NOBODY)


def in_namespace(p, script):
    """Runs SCRIPT as root in a mount namespace of its own, with kqfs in /usr/local/bin."""
    need_root()
    need("unshare")
    prepared = f"""
        set -e
        mount -t tmpfs none /usr/local/bin
        cp {os.environ['KQFS_BIN']} /usr/local/bin/kqfs
        chmod 755 /usr/local/bin/kqfs
        mkdir -p {p.data}
        ended() {{ while pgrep -x kqfs --ns $$ --nslist mnt >/dev/null; do sleep 0.05; done; }}
        {script}
    """
    return sh(f"unshare -m --propagation private bash -c {shlex.quote(prepared)}", env={
        "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}).decode()


def test_mount_works_by_type_and_from_fstab():
    with Place("mount8") as p:
        said = in_namespace(p, f"""
            mount -t fuse.kqfs {p.data} {p.mount} -o allow_other,num.partitions=2,nofail
            mkdir {p.mount}/t; echo one >> {p.mount}/t/p1
            findmnt -n -o SOURCE,FSTYPE {p.mount}
            umount {p.mount}; ended
            echo '{p.data} {p.mount} fuse.kqfs allow_other,noauto,user,x-systemd.automount 0 0' \\
                > {p.directory}/fstab
            mount -T {p.directory}/fstab {p.mount}
            cat {p.mount}/t/p1
            umount {p.mount}; ended
            """)
        equal(said.split(), [p.data, "fuse.kqfs", "one"])


def test_the_helper_of_mount_is_the_command_by_another_name():
    with Place("helper") as p:
        helper = p.directory + "/mount.fuse.kqfs"
        os.symlink(os.environ["KQFS_BIN"], helper)
        code, said = p.run(p.data, p.mount, "-f", "-o", "rw", binary=helper)
        equal((code, said), (0, ""))
        check(not is_mounted(p.mount), "mount -f mounts nothing")
        code, said = p.run(p.data, p.mount, "-o", "rw,wat", binary=helper)
        equal(code, 2, said)
        code, said = p.run(p.data, p.mount, "-n", "-v", "-s", "-o", "rw,wat", binary=helper)
        equal((code, "wat" in said), (0, True), said)
        check(is_mounted(p.mount), "is mounted")


def test_an_unprivileged_mount_works_and_keeps_to_its_user():
    with Place("user") as p:
        said = in_namespace(p, f"""
            mknod {p.directory}/fuse c 10 229; chmod 666 {p.directory}/fuse
            mount --bind {p.directory}/fuse /dev/fuse
            rmdir {p.data}; mkdir -m 700 {p.data}
            chown nobody {p.data} {p.mount}
            as() {{ setpriv --reuid nobody --regid nogroup --clear-groups "$@"; }}
            as kqfs --data {p.data} {p.mount}
            as mkdir {p.mount}/t
            as sh -c 'echo mine >> {p.mount}/t/append; cat {p.mount}/t/p0'
            cat {p.mount}/t/p0 2>/dev/null || echo not-for-root
            as fusermount3 -u {p.mount}; ended
            as kqfs --data {p.data} -o allow_other {p.mount} 2>&1 || echo $?
            """)
        check(said.startswith("mine\nnot-for-root\n"), said)
        if "user_allow_other" not in re.findall("^user_allow_other", open("/etc/fuse.conf").read(),
                                                re.M):
            check("user_allow_other" in said and said.endswith("\n5\n"), said)


if __name__ == "__main__":
    mounted.main()
