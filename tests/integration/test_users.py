#!/usr/bin/python3
# kqfs-test: timeout=400
"""Users of the network as files: kqfs passwd on a broker that runs, .kqfs/users, .kqfs/passwd."""

import contextlib
import errno
import os
import pty
import re
import signal
import stat
import subprocess
import termios

from mounted import *
from protocol import Client

SETTINGS = """[net]
listen = sasl_plaintext://{address}
[sasl]
mechanisms = SCRAM-SHA-256 SCRAM-SHA-512 PLAIN
plain_without_tls = true
failed_authentication_delay_ms = 0
"""
OTHER = (2001, 3001, [])
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")
BOTH = b"SCRAM-SHA-256 iterations=4096\nSCRAM-SHA-512 iterations=4096\n"
EXPECTED = r"login refused|audit: denied|similar messages|\.kqfs/passwd"


class UserBroker(Broker):
    def __init__(self, name, **named):
        self.address = f"127.0.0.1:{free_port()}"
        super().__init__(name, config=SETTINGS.format(address=self.address), **named)
        self.allow(EXPECTED)

    def passwd(self, name, *options, password="", status=0, where=None, **named):
        done = subprocess.run(
            [os.environ["KQFS_BIN"], "passwd", *(where or ["--data", self.data]), *options, name],
            input=password if isinstance(password, bytes) else password.encode() + b"\n",
            capture_output=True, timeout=120, **named)
        equal(done.returncode, status, name, done.stderr)
        equal(done.stdout, b"", "nothing is printed")
        return done.stderr.decode()

    def users(self):
        return sorted(os.listdir(self.path(".kqfs/users")))

    def shows(self, name):
        return read(self.path(".kqfs/users", name))


def kcat(broker, name, password, mechanism, timeout=60):
    """Lists topics as NAME; what kcat said, and whether it was let in."""
    # The password goes by a file, not by the arguments that ps shows.
    path = os.path.join(broker.directory, "kcat.conf")
    with open(path, "w") as file:
        file.write(f"bootstrap.servers={broker.address}\nsecurity.protocol=sasl_plaintext\n"
                   f"sasl.mechanism={mechanism}\nsasl.username={name}\nsasl.password={password}\n")
    try:
        done = subprocess.run(["kcat", "-F", path, "-L", "-m", str(timeout)],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    finally:
        os.unlink(path)
    return done.returncode == 0, done.stderr.decode()


def is_let_in(broker, name, password):
    """With PLAIN, which is held against what is kept for SCRAM."""
    with Client(broker.address) as client:
        equal(client.ask("SaslHandshake", 1, mechanism="PLAIN")["error_code"], 0)
        proof = b"\0" + name.encode() + b"\0" + password.encode()
        return client.ask("SaslAuthenticate", 2, auth_bytes=proof)["error_code"] == 0


def write_text(broker, text):
    fd = os.open(broker.path(".kqfs/passwd"), os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


broker = UserBroker("b")


# --- Logging in ---

def test_a_password_that_was_set_on_a_running_broker_logs_in_at_once():
    need("kcat")
    broker.passwd("app1", password="first word")
    for mechanism in MECHANISMS:
        let_in, said = kcat(broker, "app1", "first word", mechanism)
        check(let_in, mechanism, said)


def test_a_changed_password_refuses_the_old_one():
    need("kcat")
    broker.passwd("changed", password="old word")
    check(is_let_in(broker, "changed", "old word"))
    broker.passwd("changed", password="new word")
    check(not is_let_in(broker, "changed", "old word"))
    check(is_let_in(broker, "changed", "new word"))
    for word, wanted, patience in (("old word", False, 2), ("new word", True, 60)):
        let_in, said = kcat(broker, "changed", word, "SCRAM-SHA-512", patience)
        equal(let_in, wanted, word, said)
        check(wanted or "Authentication failed" in said, said)


def test_passwords_survive_a_stop_and_kill_9():
    with UserBroker("survives") as other:
        other.passwd("app1", password="stays")
        other.kill()
        other.start()
        check(is_let_in(other, "app1", "stays"))
        os.unlink(other.path(".kqfs/users/app1"))
        other.passwd("app2", password="stays too")
        other.restart()
        equal(other.users(), ["app2"])
        check(is_let_in(other, "app2", "stays too"))
        check(not is_let_in(other, "app1", "stays"))


# --- Files ---

def test_a_users_file_tells_mechanisms_and_iterations():
    broker.passwd("shown", password="a word")
    equal(sh(f"cat {broker.path('.kqfs/users/shown')}"), BOTH)
    check("shown" in broker.users())
    equal(stat.S_IMODE(os.stat(broker.path(".kqfs/users")).st_mode), 0o755)
    equal(stat.S_IMODE(os.stat(broker.path(".kqfs/users/shown")).st_mode), 0o444)
    equal(stat.S_IMODE(os.stat(broker.path(".kqfs/passwd")).st_mode), 0o200)
    refused(errno.ENOENT, broker.shows, "nobody-here")
    refused(errno.EPERM, append, broker.path(".kqfs/users/new"), b"x", os.O_CREAT)
    refused(errno.EPERM, append, broker.path(".kqfs/users/shown"), b"x")
    refused(errno.EPERM, os.mkdir, broker.path(".kqfs/users/new"))
    refused(errno.EPERM, os.chmod, broker.path(".kqfs/users"), 0o777)
    refused(errno.EPERM, os.chmod, broker.path(".kqfs/passwd"), 0o666)
    refused(errno.EPERM, os.unlink, broker.path(".kqfs/passwd"))
    for flags in os.O_RDONLY, os.O_RDWR:
        refused(errno.EACCES, os.open, broker.path(".kqfs/passwd"), flags)
    sh(f"ls -laR {broker.path('.kqfs')} && grep -r SCRAM {broker.path('.kqfs')}")


def test_rm_takes_a_user_away():
    broker.passwd("gone", password="a word")
    check(is_let_in(broker, "gone", "a word"))
    sh(f"rm {broker.path('.kqfs/users/gone')}")
    check("gone" not in broker.users())
    check(not is_let_in(broker, "gone", "a word"))
    refused(errno.ENOENT, os.unlink, broker.path(".kqfs/users/gone"))
    broker.passwd("gone", password="another")
    broker.passwd("gone", "--delete")
    refused(errno.ENOENT, broker.shows, "gone")
    check("has no password" in broker.passwd("gone", "--delete", status=1))


def test_a_name_that_is_no_files_is_written_otherwise():
    names = {"a/b": "a%2fb", "50%": "50%25", "..": "%2e%2e", "x y": "x y", "ä": "ä"}
    for name, file in names.items():
        broker.passwd(name, password="a word")
        check(is_let_in(broker, name, "a word"), name)
        check(file in broker.users(), file, broker.users())
        equal(broker.shows(file), BOTH, name)
        os.unlink(broker.path(".kqfs/users", file))
        check(not is_let_in(broker, name, "a word"), name)


def test_only_whole_lines_act():
    path = broker.path(".kqfs/passwd")
    broker.passwd("lines", password="a word")
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"delete li")
    refused(errno.EINVAL, os.close, fd)
    check("lines" in broker.users())
    for text, wanted in ((b"hello\n", errno.EINVAL), (b"delete nobody-here\n", errno.ENOENT),
                         (b"delete lines\ndelete nobody-here\n", errno.ENOENT),
                         (b"set lines SCRAM-SHA-256 iterations=1\n", errno.EINVAL),
                         (b"x" * 5000, errno.EMSGSIZE)):
        refused(wanted, write_text, broker, text, what=text[:40])
        check("lines" in broker.users(), text[:40])
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    for byte in b"delete lines":
        os.write(fd, bytes([byte]))
        check("lines" in broker.users())
    os.write(fd, b"\n")
    check("lines" not in broker.users())
    os.fsync(fd)
    os.close(fd)
    check("`kqfs passwd` writes" in broker.log(), "the log names the remedy")


def test_many_at_once():
    pids = [in_child(lambda n: [broker.passwd(f"many{n}", password=f"word {i}") for i in range(5)], n)
            for n in range(4)]
    for _ in range(20):
        for name in broker.users():
            with contextlib.suppress(FileNotFoundError):
                broker.shows(name)
    finish(*pids)
    for n in range(4):
        check(is_let_in(broker, f"many{n}", "word 4"))
        os.unlink(broker.path(f".kqfs/users/many{n}"))


# --- Who may ---

def test_who_does_not_own_the_root_changes_nothing():
    need_root()
    broker.passwd("kept", password="a word")
    users, passwd = broker.path(".kqfs/users"), broker.path(".kqfs/passwd")
    equal(as_user(OTHER, read, f"{users}/kept"), BOTH)
    refused(errno.EACCES, as_user, OTHER, os.unlink, f"{users}/kept")
    refused(errno.EACCES, as_user, OTHER, os.open, passwd, os.O_WRONLY)
    said = as_user(OTHER, lambda: broker.passwd("kept", password="mine", status=1,
                                                where=["--mountpoint", broker.mount]))
    check("owner of the mount's root" in said, said)
    check(is_let_in(broker, "kept", "a word"))


def test_who_may_not_list_the_root_sees_no_users():
    need_root()
    broker.passwd("unseen", password="a word")
    users = broker.path(".kqfs/users")
    try:
        os.chmod(broker.mount, 0o1711)
        refused(errno.EACCES, as_user, OTHER, os.listdir, users)
        refused(errno.EACCES, as_user, OTHER, read, f"{users}/unseen")
        sh(f"setfacl -m u:{OTHER[0]}:rwx {broker.mount}")
        check("unseen" in as_user(OTHER, os.listdir, users))
        refused(errno.EACCES, as_user, OTHER, os.unlink, f"{users}/unseen")
    finally:
        sh(f"setfacl -b {broker.mount}")
        os.chmod(broker.mount, 0o1755)


def test_the_owner_of_the_root_sets_passwords_from_the_next_request_on():
    need_root()
    broker.passwd("owned", password="a word")
    held = os.open(broker.path(".kqfs/passwd"), os.O_WRONLY)
    try:
        os.chown(broker.mount, *OTHER[:2])
        as_user(OTHER, lambda: broker.passwd("owned", password="mine",
                                             where=["--mountpoint", broker.mount]))
        check(is_let_in(broker, "owned", "mine"))
        fd = as_user(OTHER, lambda: os.write(os.open(broker.path(".kqfs/passwd"), os.O_WRONLY),
                                             b"delete owned\n"))
        equal(fd, 13)
        os.chown(broker.mount, 0, 0)
        # What was opened before does not keep the right.
        refused(errno.EPERM, as_user, OTHER, os.write, held, b"delete kept\n")
    finally:
        os.chown(broker.mount, 0, 0)
        os.close(held)


# --- Where the password comes from, and where it does not go ---

class Terminal:
    """kqfs passwd NAME on a terminal of its own."""

    def __init__(self, name):
        self.said = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(os.environ["KQFS_BIN"],
                     [os.environ["KQFS_BIN"], "passwd", "--data", broker.data, name])

    def until(self, text):
        while text not in self.said:
            try:
                part = os.read(self.fd, 1000)
            except OSError:
                part = b""
            check(part, "it ended without", text, self.said)
            self.said += part
        self.said = self.said.split(text, 1)[1]

    def types(self, prompt, text):
        self.until(prompt)
        until(lambda: not self.echoes(), "the terminal to be silent")
        os.write(self.fd, text)

    def echoes(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def ended(self):
        with contextlib.suppress(OSError):
            while part := os.read(self.fd, 1000):
                self.said += part
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return status


def test_a_password_from_a_terminal_is_asked_for_twice_and_not_shown():
    terminal = Terminal("typed")
    terminal.types(b"New password of typed: ", b"typed word\n")
    with open(f"/proc/{terminal.pid}/cmdline", "rb") as file:
        check(b"typed word" not in file.read())
    terminal.types(b"Once more, the password of typed: ", b"typed word\n")
    equal(terminal.ended(), 0, terminal.said)
    check(b"word" not in terminal.said.replace(b"password", b""), terminal.said)
    check(is_let_in(broker, "typed", "typed word"))


def test_two_that_differ_change_nothing():
    terminal = Terminal("differ")
    terminal.types(b"New password of differ: ", b"one\n")
    terminal.types(b"Once more, the password of differ: ", b"two\n")
    equal(os.waitstatus_to_exitcode(terminal.ended()), 2, terminal.said)
    check(b"differ" in terminal.said, terminal.said)
    check("differ" not in broker.users())


def test_an_interrupt_leaves_the_terminal_as_it_was():
    terminal = Terminal("interrupted")
    terminal.types(b"New password of interrupted: ", b"half\x03")
    until(terminal.echoes, "the terminal to echo again")
    equal(os.waitstatus_to_exitcode(terminal.ended()), -signal.SIGINT, terminal.said)
    check("interrupted" not in broker.users())


def test_the_first_line_of_the_input_is_the_password():
    for text, word in ((b"one line\nmore\n", "one line"), (b"no newline", "no newline"),
                       ("ä€, =\t".encode() + b"\n", "ä€, =\t"), (b"x" * 1024 + b"\n", "x" * 1024)):
        broker.passwd("lined", password=text)
        check(is_let_in(broker, "lined", word), word[:20])


def test_what_is_no_name_and_no_password_is_refused():
    before = broker.users()
    for name, text in (("", b"a\n"), ("a\nb", b"a\n"), ("x" * 256, b"a\n"), ("bad", b"\n"),
                       ("bad", b""), ("bad", b"x" * 1025 + b"\n")):
        said = broker.passwd(name, password=text, status=2)
        check(said.count("\n") == 1 and "passwd" in said, said)
    broker.passwd(b"\xff", password=b"a\n", status=2)
    equal(broker.users(), before)


def test_no_password_is_in_the_log_nor_in_any_file():
    word = "Xyzzy-plugh-4711"
    broker.passwd("secret", password=word)
    check(not is_let_in(broker, "secret", word + "!"))
    check(is_let_in(broker, "secret", word))
    kept = read(os.path.join(broker.data, "kqfs-users.log"))
    equal(stat.S_IMODE(os.stat(os.path.join(broker.data, "kqfs-users.log")).st_mode), 0o600)
    keys = set(re.findall(rb"(?:salt|stored-key|server-key|secret)=([0-9a-f]+)", kept))
    check(len(keys) > 6)
    shown = [broker.log().encode()] + [
        read(broker.path(".kqfs", name)) for name in ("metrics", "config", "version")] + [
        broker.shows(name) for name in broker.users()]
    for top, _, files in os.walk(broker.data):
        for name in files:
            check(word.encode() not in read(os.path.join(top, name)), name)
    for text in shown:
        check(word.encode() not in text, short(text))
        check(not any(key in text for key in keys), short(text))


# --- Where no broker is, and where it is another user ---

def test_a_directory_that_no_broker_uses_and_a_mount_that_is_dead():
    other = UserBroker("stopped")
    other.passwd("app1", password="before")
    other.start()
    check(is_let_in(other, "app1", "before"))
    other.process.kill()
    other.process.wait()
    check(is_mounted(other.mount), "the dead mount is there")
    other.passwd("app1", password="between")
    other.kill()
    other.start()
    check(is_let_in(other, "app1", "between"))
    other.stop()


def test_a_broker_without_a_mount_names_who_can():
    other = UserBroker("unmounted", options=["--no-mount"])
    command = [c for c in other.command() if c != other.mount]
    with open(other.log_path, "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: "listening at" in other.log(), "the broker to listen")
        said = other.passwd("app1", password="a word", status=3)
        check("kafka-configs" in said, said)
    finally:
        process.terminate()
        equal(process.wait(60), 0)


def test_root_leaves_the_data_of_a_service_user_to_it():
    need_root()
    # Sanitizers trace their own process at its end, which no confined process may.
    other = UserBroker("confined", options=["--user", "nobody"], env={
        "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
    other.passwd("early", "--user", "nobody", password="before the start")
    other.start()
    check(is_let_in(other, "early", "before the start"))
    other.passwd("app1", password="while it runs")
    check(is_let_in(other, "app1", "while it runs"))
    equal(other.users(), ["app1", "early"])
    other.stop()
    other.passwd("app1", password="stopped")
    check(not any(os.stat(os.path.join(top, name)).st_uid != 65534
                  for top, below, files in os.walk(other.data) for name in below + files),
          "files of others in the data directory")
    other.start()
    check(is_let_in(other, "app1", "stopped"))
    other.stop()


if __name__ == "__main__":
    main(broker)
