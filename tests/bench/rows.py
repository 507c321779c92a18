"""The rows of the benchmark's table: what each one runs, and what it has to reach.

A row is a function that takes a Bench and an ExitStack (on which it puts what must be undone) and
yields results. Ratios are kqfs to yardstick.
"""

import os
import subprocess
import time
from dataclasses import dataclass

import kit
from kit import CannotMeasure, Figures, Placement, in_pairs

ONE_CPU = Placement(frozenset({0}), frozenset({0}))
TWO_CPUS = Placement(frozenset({1}), frozenset({0}))
FREE = Placement(None, None)
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LINE = 100


@dataclass
class Result:
    work: str
    yardstick: str
    where: object
    kqfs_figure: str
    yardstick_figure: str = "—"
    ratio: float | None = None
    target: str = "reported"
    met: bool | None = None
    note: str = ""
    kqfs_values: tuple = ()
    yardstick_values: tuple = ()


ROWS = {}


def row(function):
    ROWS[function.__name__.replace("_", "-")] = function
    return function


def ratio_result(work, yardstick, where, figures, show, at_least=None, at_most=None, note=""):
    ratio = figures.ratio
    target, met = "reported", None
    if at_least is not None:
        target, met = f"≥ {at_least:g}", ratio >= at_least
    if at_most is not None:
        target, met = f"≤ {at_most:g}", ratio <= at_most
    return Result(work, yardstick, where, show(figures.kqfs_median), show(figures.yardstick_median),
                  ratio, target, met, note, tuple(figures.kqfs), tuple(figures.yardstick))


def rate(value):
    return f"{value / GIB:.2f} GiB/s" if value >= GIB / 2 else f"{value / MIB:.1f} MiB/s"


def per_second(value):
    return f"{value:,.0f}/s"


def micros(value):
    return f"{value:.1f} µs"


def seconds(value):
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def mib(value):
    return f"{value:.1f} MiB"


def bytes_per_second(answer):
    return answer["bytes"] / answer["seconds"]


def operations_per_second(answer):
    return answer["operations"] / answer["seconds"]


class Writers:
    """The same writes into kqfs, plain FUSE and ext4, each into a new and empty file."""

    def __init__(self, bench, stack, where, line, size, count, sync):
        self.bench, self.where = bench, where
        self.arguments = [line, size, count, sync]
        self.plain = bench.plain(stack, where.daemon)
        self.broker = bench.kqfs(stack, where.daemon)
        self.directory = bench.directory("ext4", stack)
        self.number = 0

    def _write(self, path):
        kit.settle()
        self.bench.recycle(*self.arguments[1:3])
        return self.bench.client("write", path, *self.arguments, cpus=self.where.client)

    def into_plain(self):
        path = self.plain.mount / "file"
        os.truncate(path, 0)
        return self._write(path)

    def into_kqfs(self):
        self.number += 1
        topic = kit.new_topic(self.broker, f"t{self.number}")
        answer = self._write(topic / "p0")
        kit.drop_topic(topic)
        return answer

    def into_ext4(self):
        path = self.directory / "file"
        path.unlink(missing_ok=True)
        path.touch()
        answer = self._write(path)
        path.unlink()
        return answer


def lines(bench, stack, where, at_least):
    count = bench.size(40000 if where is ONE_CPU else 20000, 500)
    writers = Writers(bench, stack, where, LINE, LINE, count, "none")
    results = in_pairs(bench.pairs, lambda: operations_per_second(writers.into_plain()),
                       lambda: operations_per_second(writers.into_kqfs()))
    yield ratio_result("100-byte lines, one write(2) each", "plain FUSE", where, Figures(*results),
                       per_second, at_least=at_least)


@row
def lines_one_cpu(bench, stack):
    yield from lines(bench, stack, ONE_CPU, 0.9)


@row
def lines_two_cpus(bench, stack):
    yield from lines(bench, stack, TWO_CPUS, 2.5)


@row
def lines_free(bench, stack):
    yield from lines(bench, stack, FREE, None)


@row
def idle_cpu(bench, stack):
    broker = bench.kqfs(stack, None)
    topic = kit.new_topic(broker, "idle")
    bench.client("write", topic / "p0", LINE, LINE, 1000, "none")
    park(bench, stack, topic / "by-offset/p0/latest.stream", bench.size(100, 10))
    period = bench.size(10, 1)
    time.sleep(bench.size(15, 1))  # threads that are no longer needed may end first
    before = broker.cpu()
    time.sleep(period)
    ticks, nanoseconds, switches = broker.cpu() - before
    yield Result(f"CPU of an idle mount, {bench.size(100, 10)} readers parked, over {period} s", "—",
                 FREE, f"{ticks} ticks, {nanoseconds / 1e6:.2f} ms, {switches} context switches",
                 target="0", met=ticks == 0, kqfs_values=(ticks, nanoseconds, switches))


def bulk(bench, stack, where, size, plain_target, ext4_target):
    # Little enough that the disk's own speed stays out of it, and often.
    total, pairs = bench.size(256 * MIB, 8 * MIB), bench.size(2, 1) * bench.pairs
    writers = Writers(bench, stack, where, LINE, size, total // size, "none")
    plain, ext4, broker = in_pairs(pairs, lambda: bytes_per_second(writers.into_plain()),
                                   lambda: bytes_per_second(writers.into_ext4()),
                                   lambda: bytes_per_second(writers.into_kqfs()))
    work = f"100-byte lines in {size // KIB} KiB writes"
    yield ratio_result(work, "plain FUSE", where, Figures(plain, broker), rate, at_least=plain_target)
    yield ratio_result(work, "ext4", where, Figures(ext4, broker), rate, at_least=ext4_target)


@row
def bulk_128k_one_cpu(bench, stack):
    yield from bulk(bench, stack, ONE_CPU, 128 * KIB, 0.65, 0.33)


@row
def bulk_128k_two_cpus(bench, stack):
    yield from bulk(bench, stack, TWO_CPUS, 128 * KIB, 0.65, 0.33)


@row
def bulk_1m_one_cpu(bench, stack):
    yield from bulk(bench, stack, ONE_CPU, MIB, 0.55, 0.33)


@row
def bulk_1m_two_cpus(bench, stack):
    yield from bulk(bench, stack, TWO_CPUS, MIB, 0.55, 0.33)


def reads(bench, stack, where):
    chunk = LINE * 10240  # whole lines, so that both sides hold the same bytes
    total = bench.size(GIB, 8 * MIB) // chunk * chunk
    plain, broker = bench.plain(stack, where.daemon), bench.kqfs(stack, where.daemon)
    sources = {"plain": plain.mount / "file", "kqfs": kit.new_topic(broker, "t") / "p0"}
    for path in sources.values():
        bench.client("write", path, LINE, chunk, total // chunk, "none")
    kit.settle()

    def read(side, size):
        answer = bench.client("read", sources[side], size, cpus=where.client)
        if answer["bytes"] != total:
            raise CannotMeasure(f"{side}: read {answer['bytes']} bytes of {total}")
        return bytes_per_second(answer)

    for size, target in ((128 * KIB, 0.65), (MIB, 0.5)):
        results = in_pairs(bench.pairs, lambda: read("plain", size), lambda: read("kqfs", size))
        yield ratio_result(f"cat p0 of {total / GIB:.1g} GiB of 100-byte lines, {size // KIB} KiB reads",
                           "plain FUSE", where, Figures(*results), rate, at_least=target)


@row
def cat_one_cpu(bench, stack):
    yield from reads(bench, stack, ONE_CPU)


@row
def cat_two_cpus(bench, stack):
    yield from reads(bench, stack, TWO_CPUS)


@row
def sealed_segment(bench, stack):
    segment = bench.size(512 * MIB, 8 * MIB)
    broker = bench.kqfs(stack, TWO_CPUS.daemon)
    topic = kit.new_topic(broker, "t", segment_bytes=segment)
    bench.client("write", topic / "p0", LINE, MIB, segment * 2 // MIB, "none")
    names = sorted((topic / "by-segment/p0").iterdir())
    if not names:
        raise CannotMeasure("no sealed segment is listed")
    copy = bench.directory("ext4", stack) / "segment"
    kept = bench.plain(stack, TWO_CPUS.daemon, ["-k"]).mount / "file"
    for target in (copy, kept):
        kit.run(["cp", "-L", names[0], target])
    kit.settle()

    def read(path):
        return bytes_per_second(bench.client("read", path, 128 * KIB, cpus=TWO_CPUS.client))

    ext4, plain, sealed = in_pairs(bench.pairs, lambda: read(copy), lambda: read(kept),
                                   lambda: read(names[0]))
    work = f"re-read of a sealed segment of {copy.stat().st_size // MIB} MiB of text"
    yield ratio_result(work, "ext4, warm", TWO_CPUS, Figures(ext4, sealed), rate, at_least=0.8)
    yield ratio_result(work, "plain FUSE, pages kept", TWO_CPUS, Figures(plain, sealed), rate)


def stream(bench, stack, where, reader_cpu):
    broker = bench.kqfs(stack, where.daemon)
    topic = kit.new_topic(broker, "t")
    count, free = bench.size(2000, 50), where.client is None
    pins = [-1, -1] if free else [min(where.client), reader_cpu]

    def hop(write, read):
        answer = bench.client("latency", write, read, count, 1000, *pins)
        return answer["p50_us"], answer["p99_us"]

    answers = in_pairs(bench.pairs, lambda: hop("-", "-"),
                       lambda: hop(topic / "p0", topic / "by-offset/p0/latest.stream"))
    placed = str(where) if free else f"daemon {min(where.daemon)}, writer {pins[0]}, reader {pins[1]}"
    for index, (name, target) in enumerate((("p50", 2.5), ("p99", 4))):
        figures = Figures(*([answer[index] for answer in side] for side in answers))
        yield ratio_result(f"append to wake-up of a .stream reader, {name}", "a hop through a pipe",
                           placed, figures, micros, at_most=target)


@row
def stream_one_cpu(bench, stack):
    yield from stream(bench, stack, ONE_CPU, 0)


@row
def stream_two_cpus(bench, stack):
    """Line and bytes through the pipe go to another CPU; the broker is where the reader is."""
    yield from stream(bench, stack, TWO_CPUS, min(TWO_CPUS.daemon))


@row
def stream_across(bench, stack):
    """Writer and reader share a CPU, and the pipe's hop crosses none; the broker is on the other."""
    yield from stream(bench, stack, TWO_CPUS, min(TWO_CPUS.client))


@row
def stream_free(bench, stack):
    yield from stream(bench, stack, FREE, -1)


@row
def group_commit(bench, stack):
    broker = bench.kqfs(stack, None)
    topic = kit.new_topic(broker, "t")
    period = bench.size(2, 0.2)

    def many(name, writers):
        kit.settle()
        return operations_per_second(bench.client("writers", topic / name, writers, period))

    one, append, p0 = in_pairs(bench.pairs, lambda: many("append", 1), lambda: many("append", 16),
                               lambda: many("p0", 16))
    yield ratio_result("16 writers on append, fsync after each line", "one such writer", FREE,
                       Figures(one, append), per_second, at_least=8)
    yield ratio_result("16 writers on p0, fsync after each line", "one writer on append", FREE,
                       Figures(one, p0), per_second)


@row
def bulk_fsync(bench, stack):
    writers = Writers(bench, stack, TWO_CPUS, LINE, 128 * KIB, bench.size(400, 10), "fdatasync")
    results = in_pairs(bench.pairs, lambda: bytes_per_second(writers.into_ext4()),
                       lambda: bytes_per_second(writers.into_kqfs()))
    yield ratio_result("lines in 128 KiB writes, each followed by fsync", "ext4, fdatasync", TWO_CPUS,
                       Figures(*results), rate, at_least=0.8)


def big_log(bench):
    """A data directory that holds topic `big` with 20 GiB in p0; made when first asked for."""
    if "big" in bench.fixtures:
        return bench.fixtures["big"]
    size = bench.size(20 * GIB, 200 * MIB)
    free = os.statvfs(bench.work)
    if free.f_bavail * free.f_frsize < size * 1.3 + 2 * GIB:
        raise CannotMeasure(f"needs {size * 1.3 / GIB + 2:.0f} GiB free in {bench.work}")
    data = bench.work / "big-data"
    broker = kit.Daemon([bench.build / "kqfs", "-f", "--data", data, bench.work / "big-mount"],
                        bench.work / "big-mount", None, bench.work / "big.log")
    try:
        topic = kit.new_topic(broker, "big", retention_bytes=-1, retention_ms=-1)
        bench.client("write", topic / "p0", LINE, MIB, size // MIB, "none", timeout=600)
    finally:
        broker.stop()
    os.sync()
    bench.fixtures["big"] = data
    return data


def recovery_point(data, topic):
    text = (data / "recovery-point-offset-checkpoint").read_text().split("\n")
    for line in text[2:]:
        fields = line.split()
        if len(fields) == 3 and fields[:2] == [topic, "0"]:
            return int(fields[2])
    return 0


def trail_mib(data, topic, end):
    """Bytes of log between the recovery point and END, from the partition's mean message."""
    size = sum(path.stat().st_size for path in (data / f"{topic}-0").glob("*.log"))
    return (end - recovery_point(data, topic)) * (size / end) / MIB if end else 0


@row
def start_after_kill(bench, stack):
    """Each round: start, append a burst, kill -9, and time the next start; the same when empty."""
    data, empty = big_log(bench), bench.directory("empty-data", stack)
    trails = {MIB: [], LINE: []}

    def round_on(directory, size, count):
        broker = bench.kqfs(stack, None, directory)
        if count:
            partition = broker.mount / "big/p0"
            bench.client("write", partition, LINE, size, count, "none")
            end = int(os.getxattr(partition, "user.kqfs.end"))
        broker.kill()
        if count:
            trails[size].append(trail_mib(directory, "big", end))
        broker = bench.kqfs(stack, None, directory)
        took = broker.start_seconds
        if count and int(os.getxattr(broker.mount / "big/p0", "user.kqfs.end")) < end:
            raise CannotMeasure("a message whose write returned is gone after kill -9")
        broker.stop()
        return took

    burst = bench.size(256, 8)
    nothing, big = in_pairs(bench.pairs, lambda: round_on(empty, MIB, 0),
                            lambda: round_on(data, MIB, burst))
    figures = Figures(nothing, big)
    more = figures.kqfs_median - figures.yardstick_median
    yield Result(f"start after kill -9, {bench.size('20 GiB', '200 MiB')} log, {burst} MiB just written",
                 "start on an empty one", FREE, seconds(figures.kqfs_median),
                 seconds(figures.yardstick_median), figures.ratio, "≤ + 200 ms", more <= 0.2,
                 f"+ {more * 1000:.0f} ms", tuple(big), tuple(nothing))
    for _ in range(bench.size(2, 1)):
        round_on(data, LINE, bench.size(1500000, 1000))
    yield Result("recovery point behind the end, 100-byte writes, worst", "—", FREE,
                 mib(max(trails[LINE])), target="≤ 64 MiB", met=max(trails[LINE]) <= 64,
                 kqfs_values=tuple(trails[LINE]))
    yield Result(f"recovery point behind the end, burst of {burst} MiB, worst", "—", FREE,
                 mib(max(trails[MIB])), target="≤ 64 MiB", met=max(trails[MIB]) <= 64,
                 kqfs_values=tuple(trails[MIB]))


@row
def append_into_big(bench, stack):
    data = big_log(bench)
    broker = bench.kqfs(stack, ONE_CPU.daemon, data)
    for size, count in ((LINE, bench.size(20000, 200)), (128 * KIB, bench.size(1000, 20))):
        def into(partition):
            kit.drop_caches()
            return bytes_per_second(bench.client("write", partition, LINE, size, count, "none",
                                                 cpus=ONE_CPU.client))

        def into_empty():
            topic = kit.new_topic(broker, "empty")
            figure = into(topic / "p0")
            kit.drop_topic(topic)
            return figure

        results = in_pairs(bench.pairs, into_empty, lambda: into(broker.mount / "big/p0"))
        what = "100-byte lines" if size == LINE else "128 KiB writes"
        yield ratio_result(f"appends into {bench.size('20 GiB', '200 MiB')}, cold: {what}",
                           "into an empty one", ONE_CPU, Figures(*results), rate, at_least=0.95)


def wide_tree(bench):
    """A data directory with many topics of 8 partitions; made when first asked for."""
    if "wide" in bench.fixtures:
        return bench.fixtures["wide"]
    data, topics = bench.work / "wide-data", bench.size(1000, 10)
    broker = kit.Daemon([bench.build / "kqfs", "-f", "--data", data, bench.work / "wide-mount"],
                        bench.work / "wide-mount", None, bench.work / "wide.log")
    try:
        for number in range(topics):
            kit.new_topic(broker, f"topic-{number:04}", 8)
    finally:
        broker.stop()
    bench.fixtures["wide"] = data
    return data


def listing(directory):
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    return kit.run(["ls", "-R", directory], environment=environment).replace(str(directory), "")


def timed_listing(directory, cpus):
    time.sleep(1.1)  # what the kernel remembers of the tree has timed out
    begun = time.monotonic()
    kit.run(["ls", "-lR", directory], cpus)
    return time.monotonic() - begun


@row
def ls_tree(bench, stack):
    topics, where = bench.size(1000, 10), FREE
    broker = bench.kqfs(stack, where.daemon, wide_tree(bench))
    empty = bench.empty(stack, topics, 8, where.daemon)
    same = listing(broker.mount) == listing(empty.mount)
    results = in_pairs(bench.pairs, lambda: timed_listing(empty.mount, where.client),
                       lambda: timed_listing(broker.mount, where.client))
    yield ratio_result(f"ls -lR of {topics:,} topics × 8 partitions", "an empty FUSE daemon", where,
                       Figures(*results), seconds, at_most=1.3,
                       note="" if same else "the trees differ")


@row
def memory(bench, stack):
    limit_idle, limit_wide, growth_limit = 10, 96, 0.5
    broker = bench.kqfs(stack, None)
    time.sleep(1)
    idle = broker.rss_mib()
    yield Result("memory: idle", "—", FREE, mib(idle), target=f"≤ {limit_idle} MiB",
                 met=idle <= limit_idle, kqfs_values=(idle,))
    topic = kit.new_topic(broker, "t")
    names = bench.size(200000, 2000)
    bench.client("write", topic / "p0", LINE, LINE * 1000, names // 1000 + 1, "none")
    bench.client("names", topic / "by-offset/p0", 0, 999)
    before = broker.rss_mib()
    bench.client("names", topic / "by-offset/p0", 1000, names + 999)
    growth = broker.rss_mib() - before
    yield Result(f"memory: growth over {names:,} distinct names", "—", FREE, mib(growth),
                 target="none", met=growth <= growth_limit,
                 note=f"none: at most {growth_limit} MiB, {growth_limit * MIB / names:.1f} bytes a name",
                 kqfs_values=(growth, before))
    broker.stop()
    broker = bench.kqfs(stack, None, wide_tree(bench))
    listing(broker.mount)
    wide = broker.rss_mib()
    yield Result(f"memory: {bench.size(8000, 80):,} partitions, after ls -R", "—", FREE, mib(wide),
                 target=f"≤ {limit_wide} MiB", met=wide <= limit_wide, kqfs_values=(wide,))


def park(bench, stack, path, count):
    """COUNT threads that sit in read(2) of PATH; they go with STACK, or when its close() is called."""
    command = [str(bench.build / "tests/bench/client"), "park", str(path), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close():
        process.kill()
        process.stdout.close()
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass  # it goes when the daemon does

    stack.callback(close)
    if not process.stdout.readline():
        raise CannotMeasure(f"cannot park {count} readers")
    return close


@row
def parked_readers(bench, stack):
    readers = bench.size(1000, 20)
    broker = bench.kqfs(stack, None)
    topic = kit.new_topic(broker, "t", 8)
    bench.client("write", topic / "p0", LINE, LINE, 1000, "none")
    without, within, threads = [], [], []

    times = bench.size(100, 5)
    loop = f"for i in $(seq {times}); do ls -l '{topic}' >/dev/null || exit 1; done"

    def some_ls():
        begun = time.monotonic()
        kit.run(["sh", "-c", loop])
        return (time.monotonic() - begun) / times

    some_ls()
    idle_threads = broker.threads()
    for _ in range(bench.pairs):
        without.append(some_ls())
        unpark = park(bench, stack, topic / "by-offset/p0/latest.stream", readers)
        threads.append(broker.threads())
        within.append(some_ls())
        unpark()
    more = max(threads) - idle_threads
    yield Result(f"threads for {readers:,} parked .stream readers", "none parked", FREE,
                 str(max(threads)), str(idle_threads), target="no thread each", met=more < readers / 10,
                 kqfs_values=tuple(threads), yardstick_values=(idle_threads,))
    yield ratio_result(f"ls -l of a topic, {readers:,} .stream readers parked", "none parked", FREE,
                       Figures(without, within), lambda value: f"{value * 1000:.2f} ms", at_most=2)
