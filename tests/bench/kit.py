"""What the benchmark's rows stand on: daemons that are always stopped, clients, paired figures."""

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

CLIENT_TIMEOUT_S = 300
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


class CannotMeasure(Exception):
    """The row stays in the table, with this reason."""


class NotHere(CannotMeasure):
    """What the row compares with is not on this machine, and need not be."""


def cpus_text(cpus):
    return "any" if cpus is None else ",".join(str(cpu) for cpu in sorted(cpus))


@dataclass(frozen=True)
class Placement:
    """Where the daemon and its clients run: sets of CPUs, or None for wherever the scheduler likes."""

    daemon: frozenset | None
    client: frozenset | None

    def __str__(self):
        return f"daemon {cpus_text(self.daemon)}, client {cpus_text(self.client)}"


def _pin(cpus):
    if cpus is not None:
        os.sched_setaffinity(0, cpus)


def yielding(cpus):
    """For preexec_fn: runs on CPUS, and only where nobody else wants them. For what stands beside
    both sides of a figure on a machine with few CPUs, and would be elsewhere in earnest."""
    def prepare():
        _pin(cpus)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return prepare


def is_mounted(path):
    """Whether something is mounted there; answers for dead FUSE mounts too."""
    text = str(path).replace(" ", "\\040")
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1] == text for line in mounts)


def unmount(path, lazily=False):
    flag = ["-u", "-z"] if lazily else ["-u"]
    subprocess.run(["fusermount3", *flag, str(path)], stderr=subprocess.DEVNULL, check=False)


class Daemon:
    """A FUSE daemon in the foreground. Ready when start() returns; stop() may be called twice."""

    def __init__(self, arguments, mountpoint, cpus, log, prepare=None):
        self.mount = Path(mountpoint)
        self.mount.mkdir(parents=True, exist_ok=True)
        self.log = Path(log)
        begun = time.monotonic()
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
                preexec_fn=prepare or (lambda: _pin(cpus)))
        try:
            self._wait_ready(begun)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begun

    @property
    def pid(self):
        return self.process.pid

    def _wait_ready(self, begun):
        while not is_mounted(self.mount):
            if self.process.poll() is not None:
                raise CannotMeasure(f"{self.process.args[0]} did not start: {self.last_words()}")
            if time.monotonic() - begun > START_TIMEOUT_S:
                raise CannotMeasure(f"{self.process.args[0]} did not mount in time")
            time.sleep(0.001)
        os.stat(self.mount)

    def last_words(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}, nothing said"

    def kill(self):
        """As kill -9; the dead mount goes too."""
        self.process.kill()
        self.process.wait()
        unmount(self.mount, lazily=True)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if is_mounted(self.mount):
            unmount(self.mount, lazily=True)

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def rss_mib(self):
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) / 1024
        raise CannotMeasure("no Rss in smaps_rollup")

    def cpu(self):
        """What it has used so far; subtract what it had used before."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        threads = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it ended meanwhile
                nanoseconds = int((task / "schedstat").read_text().split()[0])
                switches = sum(int(line.split()[1])
                               for line in (task / "status").read_text().splitlines()
                               if "ctxt_switches" in line)
                threads[task.name] = (nanoseconds, switches)
        return Cpu(int(fields[11]) + int(fields[12]), threads)


@dataclass(frozen=True)
class Cpu:
    """Ticks of user and system time; (nanoseconds on a CPU, context switches) of each thread."""

    ticks: int
    threads: dict

    def __sub__(self, before):
        """(ticks, nanoseconds, switches); the latter two of threads that are still there."""
        nothing = (0, 0)
        pairs = [(now, before.threads.get(thread, nothing)) for thread, now in self.threads.items()]
        return (self.ticks - before.ticks, sum(now[0] - then[0] for now, then in pairs),
                sum(now[1] - then[1] for now, then in pairs))


@dataclass
class Bench:
    """One run: the build, the place for data, the sizes."""

    build: Path
    work: Path
    quick: bool
    pairs: int
    number: int = 0
    fixtures: dict = field(default_factory=dict)

    def size(self, full, quick):
        return quick if self.quick else full

    def _new(self, what):
        self.number += 1
        return self.work / f"{what}-{self.number}"

    def directory(self, what, stack):
        path = self._new(what)
        path.mkdir()
        stack.callback(remove_tree, path)
        return path

    def start(self, stack, arguments, what, cpus, mount=None, prepare=None):
        mount = mount or self._new(f"{what}-mount")
        daemon = Daemon(arguments, mount, cpus, self.work / f"{what}.log", prepare)
        stack.callback(daemon.stop)
        return daemon

    def plain(self, stack, cpus, options=()):
        """The plain FUSE yardstick; its file is .mount / "file"."""
        mount = self._new("plain-mount")
        backing = self.directory("plain", stack) / "backing"
        program = self.build / "tests/bench/plainfuse"
        return self.start(stack, [program, *options, backing, mount], "plain", cpus, mount)

    def empty(self, stack, topics, partitions, cpus, options=()):
        mount = self._new("empty-mount")
        program = self.build / "tests/bench/emptyfuse"
        return self.start(stack, [program, *options, topics, partitions, mount], "empty", cpus, mount)

    def kqfs(self, stack, cpus, data=None, options=()):
        mount = self._new("kqfs-mount")
        data = data or self.directory("kqfs-data", stack)
        arguments = [self.build / "kqfs", "-f", "--data", data, *options, mount]
        return self.start(stack, arguments, "kqfs", cpus, mount)

    def slow_disk(self, stack, size, delay_us, cpus=None):
        """A directory on a file system of its own, of SIZE bytes, every read from whose disk takes
        DELAY_US longer: a loop device over a file of plain FUSE, which runs on CPUS and yields to
        everybody, as a disk has no CPU at all."""
        if os.geteuid() != 0:
            raise CannotMeasure("needs root, for a loop device")
        mount, directory = self._new("slow-mount"), self.directory("slow", stack)
        image = self.directory("slow-image", stack) / "image"
        image.touch()
        os.truncate(image, size)
        program = self.build / "tests/bench/plainfuse"
        below = self.start(stack, [program, "-d", delay_us, image, mount], "slow", None, mount,
                           yielding(cpus))
        device = run(["losetup", "-f", "--show", "--direct-io=on", below.mount / "file"]).strip()
        stack.callback(run, ["losetup", "-d", device])
        run(["blockdev", "--setra", 256, device])
        run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,nodiscard", device])
        run(["mount", device, directory])
        stack.callback(run, ["umount", directory])
        return directory

    def recycle(self, size, count):
        """Frees page cache that such writes have just filled: memory that a virtual machine has to
        get from its host first is several times slower."""
        if size * count >= 64 << 20:
            scratch = self.work / "scratch"
            scratch.touch()
            self.client("write", scratch, 100, size, count * 5 // 4, "none")
            scratch.unlink()

    def client(self, *arguments, cpus=None, timeout=CLIENT_TIMEOUT_S):
        """Runs the client program; its figures as a dictionary."""
        command = [self.build / "tests/bench/client", *arguments]
        return json.loads(run(command, cpus, timeout))


def run(command, cpus=None, timeout=CLIENT_TIMEOUT_S, environment=None):
    """Output of COMMAND; CannotMeasure where it fails or hangs."""
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace",
                               env=environment, preexec_fn=lambda: _pin(cpus))
    name = " ".join([Path(words[0]).name, *words[1:2]])
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # It may hang in a mount: that goes when the row's daemons stop, so do not wait for it.
        process.kill()
        raise CannotMeasure(f"{name} did not end within {timeout} s") from None
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        raise CannotMeasure(f"{name}: {(errors.strip().splitlines() or ['failed'])[-1]}")
    return output


def remove_tree(path):
    """Removes what a row left, never through a mount."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        below = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{path}/")]
    for mountpoint in below:
        unmount(mountpoint, lazily=True)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def no_interruption():
    """Cleaning up is not cut short by a second Ctrl-C."""
    saved = {number: signal.signal(number, signal.SIG_IGN)
             for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def new_topic(daemon, name, partitions=1, **settings):
    """Makes a topic below the mount; its directory."""
    topic = daemon.mount / name
    topic.mkdir()
    for number in range(1, partitions):
        (topic / f"p{number}").touch()
    for key, value in settings.items():
        os.setxattr(topic, "user.kqfs." + key.replace("_", "."), str(value).encode())
    return topic


def drop_topic(topic):
    run(["rm", "-r", topic])


def settle():
    """Nothing waits for the disk when a measurement begins."""
    os.sync()


def make_cold(paths):
    """Their pages are read from the disk again."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def drop_caches():
    if os.geteuid() != 0:
        raise CannotMeasure("needs root, to drop the page cache")
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@dataclass
class Figures:
    yardstick: list
    kqfs: list

    @property
    def yardstick_median(self):
        return statistics.median(self.yardstick)

    @property
    def kqfs_median(self):
        return statistics.median(self.kqfs)

    @property
    def ratio(self):
        """The median of the pairs' ratios: what drifts in the machine drifts in both of a pair."""
        return statistics.median(k / y for k, y in zip(self.kqfs, self.yardstick) if y)


def in_pairs(pairs, *sides):
    """Runs each side once to warm up, then all in turn PAIRS times; a list of figures a side."""
    for side in sides:
        side()
    results = [[] for _ in sides]
    for _ in range(pairs):
        for side, result in zip(sides, results):
            result.append(side())
    return results


def in_turn(pairs, one, other):
    """As in_pairs, with twice as many pairs, of which every second one begins with the OTHER: what
    grows from one measurement to the next is on neither's side."""
    one()
    other()
    results = [], []
    for number in range(2 * pairs):
        sides = [(one, results[0]), (other, results[1])]
        for side, result in sides if number % 2 == 0 else reversed(sides):
            result.append(side())
    return results
