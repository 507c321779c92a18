"""Device-mapper's log-writes target: a recording disk, marks in its log, and replay of any prefix.

The target passes everything on to a device and notes each write, in the order in which a disk with a
volatile cache may be trusted with it: a plain write is logged when the next flush covers it, a write
with FUA when it completes. So each prefix of the log that ends with a flush or FUA entry is what a
disk may hold after the power failed there. The format: Documentation/admin-guide/device-mapper/
log-writes.rst and drivers/md/dm-log-writes.c in Linux.
"""

import fcntl
import mmap
import os
import random
import struct
import subprocess
from dataclasses import dataclass

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SECTOR = 512

_IOCTL_SIZE = 312  # struct dm_ioctl
_TARGET_MESSAGE = 3 << 30 | _IOCTL_SIZE << 16 | 0xFD << 8 | 14  # _IOWR(0xfd, 14, struct dm_ioctl)


class Recorder:
    """A device-mapper device NAME over the first SIZE bytes of DEVICE, its writes logged to LOG."""

    def __init__(self, name, device, log, size):
        self.name = name
        table = f"0 {size // SECTOR} log-writes {device} {log}"
        # The machine may run no udev: then dmsetup makes the device's file itself.
        os.environ["DM_DISABLE_UDEV"] = "1"
        subprocess.run(["dmsetup", "create", name, "--table", table], check=True)
        self.path = f"/dev/mapper/{name}"
        self._control = os.open("/dev/mapper/control", os.O_RDWR)

    def mark(self, text):
        """Puts TEXT (no blanks) into the log, behind everything flushed so far. Any thread."""
        payload = struct.pack("=Q", 0) + f"mark {text}".encode() + b"\0"
        payload += bytes(-len(payload) % 8)
        header = struct.pack("=3I7IQ128s129s7x", 4, 0, 0, _IOCTL_SIZE + len(payload), _IOCTL_SIZE,
                             0, 0, 0, 0, 0, 0, self.name.encode(), b"")
        fcntl.ioctl(self._control, _TARGET_MESSAGE, bytearray(header + payload))

    def remove(self):
        subprocess.run(["dmsetup", "remove", "--retry", self.name], check=True)


@dataclass
class Entry:
    sector: int  # in units of the log's sector size
    count: int
    flags: int
    text: str  # of a mark
    data_at: int  # byte in the log device

    @property
    def is_mark(self):
        return bool(self.flags & MARK)

    @property
    def is_barrier(self):
        return bool(self.flags & (FLUSH | FUA))


class Log:
    """The entries of a log device."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        magic, version, count, self.sector_size = struct.unpack("<QQQI", self._read(0, 28))
        if magic != MAGIC or version != 1:
            raise ValueError(f"{path} holds no log of writes")
        self.entries, at = [], self.sector_size
        for _ in range(count):
            entry, at = self._entry(at)
            self.entries.append(entry)

    def _read(self, at, size):
        return os.pread(self.fd, size, at)

    def _entry(self, at):
        sector, count, flags, length = struct.unpack("<QQQQ", self._read(at, 32))
        text = self._read(at + 32, length).decode() if flags & MARK else ""
        data = at + self.sector_size
        after = data if flags & DISCARD else data + count * self.sector_size
        return Entry(sector, count, flags, text, data), after

    def data(self, entry):
        return self._read(entry.data_at, entry.count * self.sector_size)


class Replay:
    """The disk as it was when recording began, moved forward through the log."""

    def __init__(self, log, base_path):
        self.log, self.next = log, 0
        self.image = _read_image(base_path)

    def _apply(self, entry, limit=None):
        at, size = entry.sector * self.log.sector_size, entry.count * self.log.sector_size
        if entry.is_mark or not entry.count:
            return
        data = bytes(size) if entry.flags & DISCARD else self.log.data(entry)
        self.image[at:at + len(data[:limit])] = data[:limit]

    def advance(self, index):
        """Applies all entries up to INDEX, which must not go back."""
        while self.next <= index:
            self._apply(self.log.entries[self.next])
            self.next += 1

    def write_to(self, path):
        """Puts the image onto a device that nobody has open."""
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
        try:
            view, step = memoryview(self.image), 4 << 20
            for at in range(0, len(self.image), step):
                os.pwrite(fd, view[at:at + step], at)
            view.release()
        finally:
            os.close(fd)

    def write_torn_to(self, path, seed):
        """As write_to, with some of the writes that no flush had covered yet: any of them may have
        reached the disk, in any order, and the last one in part. Returns how many did."""
        choose, saved, torn = random.Random(seed), [], 0
        for entry in self.log.entries[self.next:]:
            if entry.is_barrier or entry.is_mark:
                break
            if choose.random() < 0.5:
                continue
            at, size = entry.sector * self.log.sector_size, entry.count * self.log.sector_size
            saved.append((at, self.image[at:at + size]))
            cut = choose.randrange(1, entry.count + 1) * self.log.sector_size
            self._apply(entry, cut if choose.random() < 0.2 else None)
            torn += 1
        self.write_to(path)
        for at, data in reversed(saved):
            self.image[at:at + len(data)] = data
        return torn


def _read_image(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
        image = mmap.mmap(-1, size)  # page-aligned, as O_DIRECT wants it
        for at in range(0, size, 4 << 20):
            data = os.pread(fd, 4 << 20, at)
            if data.strip(b"\0"):
                image[at:at + len(data)] = data
        return image
    finally:
        os.close(fd)
