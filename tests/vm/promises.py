"""What kqfs promises to keep through a power loss: each class makes promises, and checks them later.

act() runs in a thread of its own until stopping is set; after each operation that must survive it
calls ack(key, number), which puts a mark into the disk's log. check() gets the mount after the power
loss and the last number that was acknowledged under each key before it, and yields what is wrong.
"""

import itertools
import os
import re
import struct
import threading

LINE = re.compile(rb"(\d\d) (\d{6}) x*\n")


class Promise:
    """NAME is its topic. THREADS of them run act()."""

    threads = 1
    settings = {}

    def __init__(self, name):
        self.name = name

    def prepare(self, mount):
        self.topic(mount, make=True)
        for key, value in self.settings.items():
            os.setxattr(self.topic(mount), f"user.kqfs.{key}", value.encode())

    def topic(self, mount, make=False):
        path = os.path.join(mount, self.name)
        if make:
            os.mkdir(path)
        return path


def line_of(writer, number, size):
    head = b"%02d %06d " % (writer, number)
    return head + b"x" * (size - len(head) - 1) + b"\n"


class Lines(Promise):
    """Every acknowledged line is there, once, whole, and each writer's are in order."""

    def __init__(self, name, file="p0", how="fsync", threads=1, size=100, segment=None):
        super().__init__(name)
        self.file, self.how, self.threads, self.size = file, how, threads, size
        if segment:
            self.settings = {"segment.bytes": str(segment)}

    def act(self, mount, writer, ack, stopping):
        flags = os.O_WRONLY | os.O_APPEND | (os.O_DSYNC if self.how == "dsync" else 0)
        fd = os.open(os.path.join(self.topic(mount), self.file), flags)
        number = 0
        while not stopping.is_set():
            os.write(fd, line_of(writer, number, self.size))
            if self.how == "fsync":
                os.fsync(fd)
            ack(writer, number)
            number += 1
        os.close(fd)

    def check(self, mount, acked):
        with open(os.path.join(self.topic(mount), "p0"), "rb") as partition:
            text = partition.read()
        numbers, at = {writer: [] for writer in range(self.threads)}, 0
        while at < len(text):
            found = LINE.match(text, at)
            if not found or len(found[0]) != self.size or int(found[1]) >= self.threads:
                yield f"not a whole line at byte {at}: {text[at:at + 40]!r}"
                return
            numbers[int(found[1])].append(int(found[2]))
            at = found.end()
        for writer, have in numbers.items():
            yield from self.check_writer(writer, have, acked.get(str(writer), -1))

    def check_writer(self, writer, have, acked, first=0):
        """Of what was not acknowledged any part may be there, but once and in order too."""
        covered = max(0, acked + 1 - first)
        if have[:covered] != list(range(first, acked + 1)):
            missing = sorted(set(range(first, acked + 1)) - set(have))
            yield (f"writer {writer}: of {covered} acknowledged lines {len(missing)} are missing, "
                   f"from {missing[:1]} on" if missing else f"writer {writer}: lines are out of order")
        if any(a >= b for a, b in zip(have, have[1:])):
            yield f"writer {writer}: lines are there twice or out of order"


class Retained(Lines):
    """What retention leaves is one run up to the last line, and p0.log keeps every byte's place."""

    def __init__(self, name):
        super().__init__(name, size=512, segment=16384)
        self.settings = {**self.settings, "retention.bytes": "49152", "file.delete.delay.ms": "100"}

    def check(self, mount, acked):
        path = os.path.join(self.topic(mount), "p0")
        self.start, end = (int(os.getxattr(path, f"user.kqfs.{key}")) for key in ("start", "end"))
        # A drop may have been under way: then all there was is gone, but counted.
        if end <= acked.get("0", -1):
            yield f"line {acked['0']} was acknowledged, the end is {end}"
        yield from super().check(mount, acked)
        with open(path, "rb") as partition, open(path + ".log", "rb") as whole:
            text, at = partition.read(), self.start * self.size
            size = os.stat(path + ".log").st_size
            if size != at + len(text):
                yield f"p0.log has {size} bytes: {at} before offset {self.start}, and then {len(text)}"
            whole.seek(at)
            found = whole.read()
            if found != text:
                common = len(os.path.commonprefix([found, text]))
                yield (f"p0.log from {at} on is {len(found)} bytes, p0 {len(text)}; they part at byte "
                       f"{common}: {found[common:common + 30]!r}, {text[common:common + 30]!r}")

    def check_writer(self, writer, have, acked):
        yield from super().check_writer(writer, have, acked, self.start)


class Dropped(Retained):
    """After rm p0 the lines written later are there, at their places."""

    def __init__(self, name):
        super().__init__(name)
        self.settings = {"segment.bytes": "16384"}

    def act(self, mount, writer, ack, stopping):
        path, number = os.path.join(self.topic(mount), "p0"), 0
        while not stopping.is_set():
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for _ in range(20):
                os.write(fd, line_of(writer, number, self.size))
                number += 1
            os.fsync(fd)
            ack(writer, number - 1)
            os.close(fd)
            if number % 60 == 0:
                # A sync of the next line makes the drop durable too: text keeps its place.
                os.unlink(path)
                fd = os.open(path, os.O_WRONLY | os.O_APPEND)
                os.write(fd, line_of(writer, number, self.size))
                os.fsync(fd)
                ack(writer, number)
                os.close(fd)
                number += 1


class Emptied(Retained):
    """What rm p0 removed stays removed, had it been synced or not, and offsets go on behind it."""

    def __init__(self, name):
        super().__init__(name)
        self.settings = {"segment.bytes": "16384"}

    def act(self, mount, writer, ack, stopping):
        path, number = os.path.join(self.topic(mount), "p0"), 0
        for step in itertools.count(1):
            if stopping.is_set():
                return
            fd = os.open(path, os.O_WRONLY | os.O_APPEND)
            for _ in range(10):
                os.write(fd, line_of(writer, number, self.size))
                number += 1
            if step % 2:
                os.fsync(fd)
                ack(writer, number - 1)
            os.close(fd)
            if step % 3 == 0:
                os.unlink(path)
                ack("start", number)

    def check(self, mount, acked):
        yield from super().check(mount, acked)
        if self.start < acked.get("start", 0):
            yield f"rm at offset {acked['start']} was acknowledged, the start is {self.start}"


class Counted(Promise):
    """Operations that set something to a growing number: the last acknowledged one, or the one that
    was under way, is what is there. set() does it, get() tells, modulo MODULUS."""

    limit = modulus = 10**6

    def act(self, mount, writer, ack, stopping):
        number = 0
        while not stopping.is_set() and number < self.limit:
            self.set(mount, number)
            ack(0, number)
            number += 1
            stopping.wait(0.15)

    def check(self, mount, acked):
        last = acked.get("0", -1)
        found = self.get(mount)
        if last >= 0 and found not in (last % self.modulus, (last + 1) % self.modulus):
            yield f"{last % self.modulus} was acknowledged, {found} is there"

    def partition(self, mount):
        return os.path.join(self.topic(mount), "p0")


class Configured(Counted):
    def set(self, mount, number):
        value = str(86400000 + number).encode()
        os.setxattr(self.topic(mount), "user.kqfs.retention.ms", value)

    def get(self, mount):
        return int(os.getxattr(self.topic(mount), "user.kqfs.retention.ms")) - 86400000


class Owned(Counted):
    def set(self, mount, number):
        os.chown(self.partition(mount), number, -1)

    def get(self, mount):
        return os.stat(self.partition(mount)).st_uid


class Moded(Counted):
    modulus = 0o1000

    def set(self, mount, number):
        os.chmod(self.partition(mount), number % self.modulus)

    def get(self, mount):
        return os.stat(self.partition(mount)).st_mode & 0o777


class Listed(Counted):
    """An ACL that names a user: u::rw- u:N:r-- g::--- m::r-- o::---, in the kernel's format."""

    def set(self, mount, number):
        none = 0xFFFFFFFF
        entries = [(1, 6, none), (2, 4, number), (4, 0, none), (16, 4, none), (32, 0, none)]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        os.setxattr(self.partition(mount), "system.posix_acl_access", acl)

    def get(self, mount):
        acl = os.getxattr(self.partition(mount), "system.posix_acl_access")
        return struct.unpack_from("<HHI", acl, 12)[2]


class Grown(Counted):
    """Partitions are added, and stay."""

    limit = 40

    def set(self, mount, number):
        path = os.path.join(self.topic(mount), f"p{number + 1}")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640))

    def get(self, mount):
        names = os.listdir(self.topic(mount))
        return sum(re.fullmatch(r"p\d+", name) is not None for name in names) - 2


class Made(Counted):
    """Topics are made, and stay."""

    limit = 60

    def topic(self, mount, make=False):
        return mount

    def path(self, mount, number):
        return os.path.join(mount, f"{self.name}-{number}")

    def set(self, mount, number):
        os.mkdir(self.path(mount, number))

    def get(self, mount):
        number = 0
        while os.path.isfile(os.path.join(self.path(mount, number), "p0")):
            number += 1
        return number - 1


class Unmade(Promise):
    """Topics that come and go, under few names: what was made is there, what was deleted is not, and
    what another by its name holds is its own. Step after step, so that only one is ever under way."""

    slots = 3

    def prepare(self, mount):
        pass

    def path(self, mount, slot):
        return os.path.join(mount, f"{self.name}-{slot}")

    def act(self, mount, writer, ack, stopping):
        for step in itertools.count():
            if stopping.is_set():
                return
            turn, what = divmod(step, 4)
            path = self.path(mount, turn % self.slots)
            if what == 0:
                os.mkdir(path)
            elif what == 1:
                fd = os.open(os.path.join(path, "p0"), os.O_WRONLY | os.O_APPEND)
                os.write(fd, b"%d\n" % turn)
                os.fsync(fd)
                os.close(fd)
            elif what == 2:
                os.unlink(os.path.join(path, "p0"))
            else:
                os.rmdir(path)
            ack(0, step)
            stopping.wait(0.05)

    def expected(self, slot, last):
        """The text of SLOT's topic after step LAST of all; None: there is no such topic."""
        turn, what = divmod(last, 4)
        behind = (turn - slot) % self.slots
        if last < 0 or turn - behind < 0 or behind:  # it is through with its turn, or had none
            return None
        return [b"", b"%d\n" % turn, b"", None][what]

    def check(self, mount, acked):
        last = acked.get("0", -1)
        for slot in range(self.slots):
            path, text = os.path.join(self.path(mount, slot), "p0"), None
            if os.path.isfile(path):
                with open(path, "rb") as partition:
                    text = partition.read()
            may_be = [self.expected(slot, last), self.expected(slot, last + 1)]
            if text not in may_be:
                yield f"after step {last} topic {slot} is {text!r} and not one of {may_be!r}"


def all_promises():
    return [
        Lines("synced", threads=2),
        Lines("dsync", how="dsync"),
        Lines("shared", file="append", threads=4),
        Lines("rolling", size=1000, segment=16384),
        Retained("retained"),
        Dropped("dropped"),
        Emptied("emptied"),
        Configured("configured"),
        Owned("owned"),
        Moded("moded"),
        Listed("listed"),
        Grown("grown"),
        Made("made"),
        Unmade("unmade"),
    ]


def run_all(promises, mount, mark, seconds):
    """Makes promises for so long; returns the errors that acting met."""
    stopping, errors, threads = threading.Event(), [], []

    def act(promise, writer):
        def ack(key, number):
            mark(f"{promise.name}:{key}:{number}")
        try:
            promise.act(mount, writer, ack, stopping)
        except OSError as error:
            errors.append(f"{promise.name}: {error}")

    for promise in promises:
        promise.prepare(mount)
        for writer in range(promise.threads):
            threads.append(threading.Thread(target=act, args=(promise, writer)))
    for thread in threads:
        thread.start()
    stopping.wait(seconds)
    stopping.set()
    for thread in threads:
        thread.join()
    return errors
