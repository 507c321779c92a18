"""What the integration tests share: a broker on a mount of its own, and small words for checks.

A test is an executable file test_*.py. It takes

    KQFS_BIN         the kqfs binary
    KQFS_TEST_DIR    a private empty directory (made where it is not given)
    KQFS_TEST_TOOLS  where the helper binaries of this directory were built

and exits 0 (passed), 77 (skipped; the reason is printed) or otherwise (failed). Names of test
functions given as arguments run these alone. Whatever happens, what was mounted is unmounted and
every broker that was started is stopped; a broker whose log has a suspicious word, or that does not
stop cleanly, fails the test.
"""

import contextlib
import errno
import os
import pickle
import random
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback

SUSPICIOUS = re.compile(
    r"ERROR|[Aa]ssert|Sanitizer|runtime error|BUG|[Dd]eadlock|overflow|[Uu]nexpected|leak|"
    r"terminate called|[Ss]egmentation|stack smashing|double free|corrupt")

TIMEOUT_S = int(os.environ.get("KQFS_TEST_TIMEOUT", "280"))  # of one test function


class Skip(Exception):
    """This test cannot run here; the text says why."""


class Failed(AssertionError):
    pass


# --- Words for checks ---

def check(condition, *what):
    if not condition:
        raise Failed(" ".join(str(w) for w in what) or "check failed")


def short(value, limit=400):
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def difference(actual, wanted):
    """Where two long values part."""
    for i, (a, w) in enumerate(zip(actual, wanted)):
        if a != w:
            return f"differ at {i}: got {short(actual[i:i + 60])}, wanted {short(wanted[i:i + 60])}"
    return f"lengths differ: got {len(actual)}, wanted {len(wanted)}"


def equal(actual, wanted, *what):
    if actual == wanted:
        return
    text = " ".join(str(w) for w in what)
    if isinstance(actual, (bytes, str, list)) and type(actual) is type(wanted) and \
            len(actual) + len(wanted) > 300:
        raise Failed(f"{text}: {difference(actual, wanted)}")
    raise Failed(f"{text}: got {short(actual)}, wanted {short(wanted)}")


def error_of(function, *arguments, **named):
    """The errno with which FUNCTION fails, or 0."""
    try:
        function(*arguments, **named)
    except OSError as error:
        return error.errno
    return 0


def name_of(number):
    return errno.errorcode.get(number, str(number)) if number else "success"


def refused(wanted, function, *arguments, what=None, **named):
    """FUNCTION must fail with errno WANTED (or one of a tuple)."""
    number = error_of(function, *arguments, **named)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    if number not in wanted:
        raise Failed(f"{what or (function.__name__, arguments)}: {name_of(number)}, "
                     f"wanted {' or '.join(map(name_of, wanted))}")


def until(condition, what, timeout=60.0, every=0.02):
    """Waits for CONDITION to become true; returns its value."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(every)


# --- Files and commands ---

def read(path):
    with open(path, "rb", buffering=0) as file:
        parts = []
        while part := file.read(1 << 20):
            parts.append(part)
        return b"".join(parts)


def write_all(fd, data):
    """Like a careful program: goes on behind a short write."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def append(path, data, flags=0):
    """Opens for appending, writes, closes."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | flags)
    try:
        write_all(fd, data if isinstance(data, bytes) else data.encode())
    finally:
        os.close(fd)


def lines(count, start=0, width=0):
    return b"".join(b"line %0*d\n" % (width, i) for i in range(start, start + count))


def sh(command, cwd=None, status=0, timeout=60, env=None, stdin=None):
    """Runs COMMAND with bash; returns what it printed. Fails where its exit status is not STATUS
    (None: any)."""
    done = subprocess.run(["bash", "-c", "set -o pipefail; " + command], cwd=cwd, timeout=timeout,
                          stdin=subprocess.DEVNULL if stdin is None else None, input=stdin,
                          capture_output=True, env={**os.environ, "LC_ALL": "C", **(env or {})})
    if status is not None and done.returncode != status:
        raise Failed(f"`{command}` exited {done.returncode}: {short(done.stderr.decode())}")
    return done.stdout


def need(*programs):
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        raise Skip(f"not installed: {' '.join(missing)}")


def need_feature(name, library):
    """NAME is left out of builds without LIBRARY (meson_options.txt)."""
    linked = subprocess.run(["ldd", os.environ["KQFS_BIN"]], capture_output=True, check=True, timeout=60).stdout
    if library.encode() not in linked:
        raise Skip(f"this kqfs was built without {name}")


def need_root():
    if os.geteuid() != 0:
        raise Skip("only root can do this")


def getfattr(path, name):
    return os.getxattr(path, "user.kqfs." + name).decode()


def setfattr(path, name, value):
    os.setxattr(path, "user.kqfs." + name, str(value).encode())


class Follower:
    """A program whose output is collected while it runs: tail -f, cat of a stream."""

    def __init__(self, *command, cwd=None):
        self.process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.output = bytearray()
        self.errors = bytearray()
        self.threads = [threading.Thread(target=self._collect, args=pair, daemon=True)
                        for pair in ((self.process.stdout, self.output),
                                     (self.process.stderr, self.errors))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _collect(pipe, into):
        while part := os.read(pipe.fileno(), 1 << 16):
            into += part

    def until(self, wanted, what="output", timeout=60.0):
        """Until the output is WANTED (bytes), or it holds for WANTED(output)."""
        test = wanted if callable(wanted) else lambda output: len(output) >= len(wanted)
        try:
            until(lambda: test(bytes(self.output)) or self.process.poll() is not None, what, timeout)
        except Failed as failure:
            raise Failed(f"{failure}; got {short(bytes(self.output))}, {bytes(self.errors)!r}")
        if not callable(wanted):
            equal(bytes(self.output), wanted, what, self.process.args, bytes(self.errors).decode())

    def ended(self, timeout=60.0):
        """Waits for its end by itself; returns the exit status."""
        status = self.process.wait(timeout)
        for thread in self.threads:
            thread.join(timeout)
        return status

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.ended()
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)


# --- Other users ---

def as_user(who, function, *arguments):
    """FUNCTION(*ARGUMENTS) in a child that is WHO: (uid, gid, supplementary groups). Returns its
    value; OSErrors and failed checks come through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            uid, gid, groups = who
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                answer = (True, function(*arguments))
            except (OSError, Failed) as error:
                answer = (False, error)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(answer, pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(pid, 0)
    check(status == 0, "the child failed with status", status)
    good, value = pickle.loads(data)
    if not good:
        raise value
    return value


def in_child(function, *arguments):
    """Starts FUNCTION in a child; returns its pid. finish() waits for it."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(*pids):
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    check(not any(statuses), "a child failed:", statuses)


# --- The broker ---

def free_port():
    """A TCP port of 127.0.0.1 that nobody listens on now: for a broker that must come back on the
    same one. Not of those that the kernel gives to clients: one that connects again and again while
    the broker is gone would some day be given the broker's, and talk to itself."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        behind = max(int(file.read().split()[0]), 20000)
    while True:
        with socket.socket() as some, contextlib.suppress(OSError):
            some.bind(("127.0.0.1", random.SystemRandom().randrange(10000, behind)))
            return some.getsockname()[1]


def is_mounted(path):
    with open("/proc/self/mountinfo") as mounts:
        return any(line.split()[4] == path.replace(" ", "\\040") for line in mounts)


class Broker:
    """One data directory and one mountpoint; started and stopped at will."""

    running = []  # of this process

    def __init__(self, name="b", options=(), config=None, data=None, user=None, env=None):
        self.directory = os.path.join(test_directory(), name)
        os.makedirs(self.directory, exist_ok=True)
        self.data = data or os.path.join(self.directory, "data")
        self.mount = os.path.join(self.directory, "mnt")
        if not is_mounted(self.mount):  # a dead one cannot even be asked whether it is there
            os.makedirs(self.mount, exist_ok=True)
        self.log_path = os.path.join(self.directory, "log")
        self.options = list(options)
        self.config = config
        self.user = user  # (uid, gid, groups)
        self.env = env or {}
        self.allowed = []  # patterns of lines that are expected although they look suspicious
        self.log_checked = 0
        self.process = None

    def command(self):
        command = [os.environ["KQFS_BIN"], "-f", "--data", self.data]
        if self.config is not None:
            path = os.path.join(self.directory, "kqfs.conf")
            with open(path, "w") as file:
                file.write(self.config)
            command += ["--config", path]
        return command + self.options + [self.mount]

    def _become_user(self):
        if self.user:
            uid, gid, groups = self.user
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)

    def spawn(self):
        """Starts without waiting."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                preexec_fn=self._become_user, env={**os.environ, **self.env})
        Broker.running.append(self)

    def start(self, timeout=30):
        """Until it serves: the mount shows before that, and a broker stopped in between ends with
        "interrupted"."""
        said = len(self.log())
        self.spawn()
        until(lambda: is_mounted(self.mount) or self.process.poll() is not None,
              "the mount to appear", timeout)
        until(lambda: " is mounted on " in self.log()[said:] or self.process.poll() is not None,
              "the broker to be ready", timeout)
        if self.process.poll() is not None:
            Broker.running.remove(self)
            raise Failed(f"the broker did not start ({self.process.returncode}): "
                         f"{short(self.log()[-2000:], 2000)}")
        return self

    def fails_to_start(self, timeout=30):
        """Starts, expects it to end by itself; returns exit status and the lines it said."""
        before = len(self.log())
        self.spawn()
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            raise Failed("the broker started although it should not")
        Broker.running.remove(self)
        self.log_checked = os.path.getsize(self.log_path)
        return status, self.log()[before:]

    def stop(self, timeout=30):
        """SIGTERM: must end with 0 and leave nothing mounted."""
        if self not in Broker.running:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("the broker did not stop on SIGTERM")
        Broker.running.remove(self)
        self.clean_mount()
        self.check_log()
        check(status == 0, f"the broker ended with {status}:", self.log()[-2000:])

    def kill(self):
        """kill -9, and takes the dead mount away."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self in Broker.running:
            Broker.running.remove(self)
        self.clean_mount()

    def clean_mount(self):
        for lazy in ([], ["-z"]):
            if is_mounted(self.mount):
                subprocess.run(["fusermount3", "-u", *lazy, self.mount], capture_output=True)

    def restart(self):
        self.stop()
        return self.start()

    def log(self):
        try:
            with open(self.log_path, errors="replace") as log:
                return log.read()
        except FileNotFoundError:
            return ""

    def allow(self, pattern):
        self.allowed.append(re.compile(pattern))

    def check_log(self):
        text = self.log()[self.log_checked:]
        self.log_checked += len(text)
        for line in text.splitlines():
            if SUSPICIOUS.search(line) and not any(a.search(line) for a in self.allowed):
                raise Failed(f"suspicious line in the broker's log: {line}")

    def path(self, *parts):
        return os.path.join(self.mount, *parts)

    def topic(self, name, **settings):
        """A new topic; settings with _ for the dots of their names. Returns its path."""
        path = self.path(name)
        os.mkdir(path)
        for key, value in settings.items():
            setfattr(path, key.replace("_", "."), value)
        return path

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        else:
            with contextlib.suppress(Failed):
                self.stop()


# --- Running ---

_directory = None


def test_directory():
    global _directory
    if _directory is None:
        given = os.environ.get("KQFS_TEST_DIR")
        _directory = os.path.realpath(given or tempfile.mkdtemp(prefix="kqfs-test-"))
        # Other users must be able to come to the mount.
        os.chmod(_directory, os.stat(_directory).st_mode | 0o711)
    return _directory


def scratch(name):
    """A new directory beside the mounts."""
    path = os.path.join(test_directory(), name)
    os.makedirs(path)
    return path


def tool(name):
    path = os.path.join(os.environ.get("KQFS_TEST_TOOLS", ""), name)
    if not os.access(path, os.X_OK):
        raise Skip(f"KQFS_TEST_TOOLS has no {name}")
    return path


def _stop_all():
    for broker in list(Broker.running):
        with contextlib.suppress(Failed, OSError):
            broker.stop()


def _abort():
    """A request that never ends cannot be interrupted; without its broker it fails."""
    print(f"        gave up after {TIMEOUT_S} s", flush=True)
    for broker in list(Broker.running):
        broker.process.kill()


def _run_one(name, function):
    timer = threading.Timer(TIMEOUT_S, _abort)
    timer.daemon = True
    timer.start()
    began = time.monotonic()
    try:
        function()
        result, why = "ok", ""
    except Skip as skip:
        result, why = "skip", f": {skip}"
    except Failed as failure:
        line = traceback.extract_tb(failure.__traceback__)
        place = next((f for f in line if not f.filename.endswith("mounted.py")), line[-1])
        result, why = "FAIL", f" (line {place.lineno}): {failure}"
    except BaseException:
        result, why = "FAIL", ":\n" + traceback.format_exc()
    finally:
        timer.cancel()
    print(f"{result:5} {name} [{time.monotonic() - began:.1f} s]{why}", flush=True)
    return result


def main(shared=None):
    """Runs the functions test_* of the calling file, in order. SHARED: a Broker that serves them
    all; it is started before and stopped after them."""
    if not os.access(os.environ.get("KQFS_BIN", ""), os.X_OK):
        sys.exit("KQFS_BIN must name the kqfs binary")
    os.environ["KQFS_BIN"] = os.path.realpath(os.environ["KQFS_BIN"])
    if not os.path.exists("/dev/fuse"):
        print("skipped: no /dev/fuse here")
        sys.exit(77)
    caller = sys.modules["__main__"]
    tests = [(n, f) for n, f in vars(caller).items() if n.startswith("test_") and callable(f)]
    tests = [(n, f) for n, f in tests if f.__module__ == "__main__"]
    tests = [t for t in tests if not sys.argv[1:] or t[0] in sys.argv[1:]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.umask(0o022)
    results = []
    try:
        if shared:
            shared.start()
        for name, function in tests:
            if shared and shared.process.poll() is not None:
                print(f"FAIL  the broker is gone ({shared.process.returncode})")
                results.append("FAIL")
                shared.kill()
                shared.start()
            results.append(_run_one(name, function))
        if shared:
            results.append(_run_one("the broker stops cleanly and has nothing to complain of",
                                    shared.stop))
    finally:
        _stop_all()
        if "KQFS_TEST_DIR" not in os.environ and _directory:
            if "FAIL" in results:
                print(f"left for a look: {_directory}")
            else:
                shutil.rmtree(_directory, ignore_errors=True)
    if "FAIL" in results:
        sys.exit(1)
    if results and all(r == "skip" for r in results if r != "ok") and "skip" in results \
            and results.count("ok") == (1 if shared else 0):
        sys.exit(77)
    sys.exit(0)
