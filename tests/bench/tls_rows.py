"""The rows of the TCP front end inside TLS, and of what permissions cost: see rows.py."""

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import kit
from kit import CannotMeasure, Figures, NotHere, in_pairs
from rows import (GIB, KIB, MIB, Result, bytes_per_second, micros, operations_per_second, per_second,
                  rate, ratio_result, row)
from tcp_rows import SERVER_ON_1, cpu_seconds, filled, quiet

RANGE = 32 * MIB        # of a response; the same one each time
IN_THE_GUEST = "KQFS_BENCH_GUEST"
CONSUMERS = 4
CONSUMER_BYTES = MIB    # as Kafka's clients ask for of a partition
BESIDE_RATE = 48 * MIB  # of each consumer inside TLS
SAME_CPU = 0.05
SEARCHES = 4            # before the first pair
PAIRS_MAX = 4           # times --pairs, until both have taken the same CPU


def make_keys(bench, kind):
    """A certificate that vouches for itself, and its key; KIND: rsa or ec."""
    if not shutil.which("openssl"):
        raise NotHere("needs openssl")
    key, certificate = bench.work / f"{kind}.key", bench.work / f"{kind}.pem"
    if not key.exists():
        how = {"rsa": ["rsa:2048"], "ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]}[kind]
        kit.run(["openssl", "req", "-x509", "-newkey", *how, "-nodes", "-keyout", key, "-out",
                 certificate, "-subj", "/CN=127.0.0.1", "-days", 2])
    return certificate, key


def listening(bench, stack, cpus, kind="ec", options=()):
    """A broker that listens inside TLS (.tls_port) and beside it (.port)."""
    certificate, key = make_keys(bench, kind)
    listeners = "plaintext://127.0.0.1:0 ssl://127.0.0.1:0"
    broker = bench.kqfs(stack, cpus, None, ["--listen", listeners, "--certificate", certificate,
                                            "--key", key, *options])
    broker.mount.chmod(0o755)
    said = broker.log.read_text(errors="replace")
    ports = {scheme: int(port) for scheme, port in
             re.findall(r"listening (?:at|on) (\w+)://127\.0\.0\.1:(\d+)", said)}
    if len(ports) != 2:
        raise CannotMeasure("the broker does not say where it listens")
    broker.port, broker.tls_port = ports["plaintext"], ports["ssl"]
    return broker


def readable(bench, broker, name, size):
    """As filled; for clients without a name too."""
    log = filled(bench, broker, name, size)
    (broker.mount / name).chmod(0o755)
    (broker.mount / name / "p0").chmod(0o644)
    return log


def metric(broker, name):
    text = (broker.mount / ".kqfs/metrics").read_text()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.split("{")[0].split(" ")[0] == name)


class Child:
    """A process that prints a line of JSON when it is ready."""

    def __init__(self, stack, command, cpus):
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE,
                                        stdin=subprocess.PIPE, text=True,
                                        preexec_fn=lambda: kit._pin(cpus))
        stack.callback(self.stop)
        line = self.process.stdout.readline()
        if not line:
            raise CannotMeasure(f"{Path(str(command[0])).name} {command[1]} did not start")
        self.said = json.loads(line)

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


# --- Bytes ---

def fetch_against_loop(bench, stack, how, size, answer_bytes, names):
    """Results of kqfs against a bare loop that sends the same range, HOW: write or sendfile."""
    where = SERVER_ON_1
    broker = listening(bench, stack, where.daemon)
    log = readable(bench, broker, "t", 2 * answer_bytes)
    client = bench.build / "tests/bench/client"
    loop = Child(stack, [client, "tls-serve", log, *make_keys(bench, "ec"), how], where.daemon)
    cpu = {loop.pid: [], broker.pid: []}

    def measured(pid, *arguments):
        before = cpu_seconds(pid)
        answer = bench.client(*arguments, cpus=where.client)
        total = answer["bytes"] + answer_bytes  # the first response is not in the figure
        cpu[pid].append((cpu_seconds(pid) - before) / (total / GIB))
        return bytes_per_second(answer)

    def looped():
        return measured(loop.pid, "tls-drain", "127.0.0.1", loop.said["port"], size, answer_bytes)

    def fetched():
        return measured(broker.pid, "refetch", "tls", "127.0.0.1", broker.tls_port, "t", size,
                        answer_bytes, 0)

    results = in_pairs(bench.pairs, looped, fetched)
    sent = {way: metric(broker, f"kqfs_tls_{way}_bytes_total") for way in ("sendfile", "copied")}
    wrong, right = ("sendfile", "copied") if how == "write" else ("copied", "sendfile")
    if sent[wrong] or not sent[right]:
        raise CannotMeasure(f"{sent[wrong]:.0f} bytes went the other way")
    yield ratio_result(names[0], names[1], where, Figures(*results), rate, at_least=0.9)
    yield ratio_result(names[0] + ": server CPU per GiB", names[1], where,
                       Figures(cpu[loop.pid][1:], cpu[broker.pid][1:]), lambda v: f"{v:.3f} s",
                       at_most=1.11)


def has_kernel_tls():
    return "tls" in Path("/proc/sys/net/ipv4/tcp_available_ulp").read_text().split()


@row
def tls_fetch(bench, stack):
    """A consumer whose bytes the broker encrypts: a kernel with TLS would take that over."""
    if has_kernel_tls():
        raise NotHere("this kernel encrypts itself (rmmod tls)")
    names = ("fetch over TLS, AES-128-GCM, a consumer that discards",
             "a loop of SSL_write, 256 KiB at once")
    size = bench.size(2 * GIB, 64 * MIB)
    yield from fetch_against_loop(bench, stack, "write", size, bench.size(RANGE, 4 * MIB), names)


KTLS_NAMES = ("fetch over TLS, AES-128-GCM, the kernel encrypts (in a virtual machine)",
              "a loop of SSL_sendfile")


def in_guest(bench):
    """The row's results, measured in a virtual machine whose kernel has TLS."""
    here = Path(__file__).resolve().parent
    command = ('modprobe tls && mkdir /run/bench && "$1" --build "$2" --work /run/bench --pairs "$3" '
               '--json /run/figures tls-kernel >&2 && echo FIGURES && cat /run/figures')
    words = [here.parent / "vm/run-in-vm", "--timeout", 900, "--", "bash", "-c", command, "bench",
             here / "run", bench.build, bench.pairs]
    if shutil.which("qemu-system-x86_64") is None:
        raise NotHere("needs QEMU (packaging/install-missing test, tests/vm)")
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True,
                            timeout=1000, env={**os.environ, IN_THE_GUEST: "1"}, check=False)
    if result.returncode == 77:
        raise NotHere((result.stderr.strip().splitlines() or ["no virtual machine here"])[-1])
    if result.returncode or "FIGURES" not in result.stdout:
        raise CannotMeasure((result.stdout + result.stderr).strip().splitlines()[-1])
    figures = json.loads(result.stdout.split("FIGURES\n")[-1])
    return [Result(**figure) for figure in figures["rows"]["tls-kernel"]]


@row
def tls_kernel(bench, stack):
    """A consumer whose bytes the kernel encrypts from the page cache."""
    if has_kernel_tls():
        guest = IN_THE_GUEST in os.environ
        size, answer = (48 * MIB, 8 * MIB) if guest else (2 * GIB, RANGE)
        yield from fetch_against_loop(bench, stack, "sendfile", bench.size(size, 16 * MIB),
                                      bench.size(answer, 4 * MIB), KTLS_NAMES)
    elif bench.quick:
        raise NotHere("a virtual machine takes too long for --quick")
    else:
        yield from in_guest(bench)


# --- One plaintext client beside others ---

class Load:
    """Consumers of SCHEME for the block, each at RATE bytes a second; .cpus is the broker's share of
    a CPU meanwhile, a figure each time."""

    def __init__(self, bench, broker, scheme, where):
        self.broker, self.cpus, self.where, self.rate = broker, [], where, BESIDE_RATE
        port = broker.tls_port if scheme == "tls" else broker.port
        self.command = [bench.build / "tests/bench/client", "refetch", scheme, "127.0.0.1", port,
                        "load", 1 << 60, CONSUMER_BYTES]

    def __enter__(self):
        command = [str(word) for word in [*self.command, int(self.rate)]]
        self.running = [subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                         preexec_fn=lambda: kit._pin(self.where.client))
                        for _ in range(CONSUMERS)]
        time.sleep(0.5)
        self.before, self.begun = cpu_seconds(self.broker.pid), time.monotonic()

    def __exit__(self, *_):
        used = cpu_seconds(self.broker.pid) - self.before
        self.cpus.append(used / (time.monotonic() - self.begun))
        ended = [process.poll() for process in self.running]
        for process in self.running:
            process.kill()
            process.wait()
        if any(status is not None for status in ended):
            raise CannotMeasure("a consumer failed")


def tune(load, wanted, seconds, searches):
    """Until LOAD takes about as much of the broker's CPU as WANTED."""
    for _ in range(searches):
        with load:
            time.sleep(seconds)
        share = load.cpus.pop()
        load.rate *= wanted / share
        if abs(share / wanted - 1) <= SAME_CPU:
            return


def equal_pairs(pairs, measure, beside, inside):
    """Figures of both loads from the last pairs, twice as many as --pairs, once the broker's CPU is the same
    by their medians. By the last few those BESIDE are tuned further. Every second pair begins with the
    other, the first is thrown away. Then each side's CPU."""
    wanted, done = [], []
    for number in range(1 + PAIRS_MAX * pairs):
        order = [beside, inside] if number % 2 else [inside, beside]
        figures = {load: measure(load) for load in order}
        one, other = beside.cpus.pop(), inside.cpus.pop()
        wanted.append(beside.rate * other / one)
        beside.rate = statistics.median(wanted[-5:])
        if number:
            done.append((figures[beside], figures[inside], one, other))
        if len(done) >= 2 * pairs:
            *results, ones, others = zip(*done[-2 * pairs:])
            cpus = statistics.median(ones), statistics.median(others)
            if abs(cpus[1] / cpus[0] - 1) <= SAME_CPU:
                break
    return *results, cpus


@row
def tls_beside(bench, stack):
    """What one plaintext client sees of others' TLS, beyond the CPU that it takes."""
    where = SERVER_ON_1
    broker = listening(bench, stack, where.daemon)
    readable(bench, broker, "load", 8 * MIB)
    kit.new_topic(broker, "t")
    count, interval = bench.size(2000, 200), 1000
    inside, beside = (Load(bench, broker, scheme, where) for scheme in ("tls", "plain"))
    with inside:
        time.sleep(bench.size(3, 0.5))
    tune(beside, inside.cpus.pop(), bench.size(2, 0.5), bench.size(SEARCHES, 1))

    def latency(load):
        with load:
            return bench.client("tcp-latency", "127.0.0.1", broker.port, "t", count, interval,
                                cpus=where.client)["p99_us"]

    # Plaintext is the yardstick.
    *results, cpus = equal_pairs(bench.pairs, latency, beside, inside)
    result = ratio_result(f"p99 of a plaintext client at 1,000 messages/s, {CONSUMERS} TLS consumers "
                          "beside it", "plaintext consumers that take as much of the broker's CPU",
                          where, Figures(*results), micros, at_most=1.2,
                          note=f"CPU {cpus[1]:.3f} against {cpus[0]:.3f}")
    if abs(cpus[1] / cpus[0] - 1) > SAME_CPU:
        result.met, result.note = None, result.note + ", too far apart to compare"
    yield result


# --- Handshakes ---

def openssl_server(bench, stack, kind, cpus):
    certificate, key = make_keys(bench, kind)
    log = open(bench.work / f"s_server-{kind}.log", "w+", encoding="utf-8")
    process = subprocess.Popen(["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert",
                                str(certificate), "-key", str(key), "-tls1_3", "-num_tickets", "1",
                                "-www"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                               preexec_fn=lambda: kit._pin(cpus))
    stack.callback(log.close)
    stack.callback(process.wait)
    stack.callback(process.kill)
    for _ in range(1200):
        found = re.search(r"ACCEPT 127\.0\.0\.1:(\d+)", Path(log.name).read_text())
        if found:
            return process.pid, int(found[1])
        time.sleep(0.05)
    raise CannotMeasure("openssl s_server does not say where it listens")


@row
def tls_handshakes(bench, stack):
    where, clients = SERVER_ON_1, 4
    for kind, key in (("rsa", "RSA-2048"), ("ec", "P-256")):
        broker = listening(bench, stack, where.daemon, kind)
        pid, port = openssl_server(bench, stack, kind, where.daemon)
        for how in ("full", "resumed"):
            count = bench.size(2000 if how == "full" and kind == "rsa" else 4000, 40)
            cpu = {pid: [], broker.pid: []}

            def shaken(server, at):
                def run():
                    before = cpu_seconds(server)
                    answer = bench.client("tls-handshakes", "127.0.0.1", at, count, clients, how,
                                          cpus=where.client)
                    cpu[server].append((cpu_seconds(server) - before) / count * 1e6)
                    return operations_per_second(answer)
                return run

            results = in_pairs(bench.pairs, shaken(pid, port), shaken(broker.pid, broker.tls_port))
            used = [statistics.median(cpu[server][1:]) for server in (broker.pid, pid)]
            yield ratio_result(f"{how} handshakes, TLS 1.3, {key}", "openssl s_server", where,
                               Figures(*results), per_second, at_least=0.8,
                               note=f"CPU {used[0]:.0f} µs each against {used[1]:.0f} µs")
        broker.stop()


# --- What permissions cost ---

class Counted:
    """A broker under callgrind, without a mount: every client is nobody, whom an ACL names."""

    def __init__(self, bench, stack):
        if not shutil.which("valgrind") or not shutil.which("setfacl"):
            raise NotHere("needs valgrind and setfacl")
        self.bench, self.data = bench, bench.directory("kqfs-data", stack)
        with contextlib.ExitStack() as own:
            broker = bench.kqfs(own, None, self.data)
            topic = kit.new_topic(broker, "t")
            kit.run(["setfacl", "-m", "u:nobody:x", topic])
            kit.run(["setfacl", "-m", "u:nobody:rw", topic / "p0"])
        self.log, self.out = bench.work / "callgrind.log", bench.work / "callgrind.out"
        self.process = subprocess.Popen(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.out}", str(bench.build / "kqfs"),
             "-f", "--no-mount", "--data", str(self.data), "--listen", "plaintext://127.0.0.1:0",
             "--plaintext.user", "nobody"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"))
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        self.port = self._port()
        for what in "produce", "fetch":
            self.ask(what, 200)

    def _port(self):
        for _ in range(2400):
            found = re.search(r"listening at plaintext://127\.0\.0\.1:(\d+)", self.log.read_text())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise CannotMeasure("kqfs did not start under callgrind")

    def ask(self, what, count):
        self.bench.client("tcp-requests", "127.0.0.1", self.port, "t", count, what)

    def instructions(self, what, count):
        """Of one request: in all, and of these those of kq_authorize and what it calls."""
        kit.run(["callgrind_control", "--zero", self.process.pid])
        self.ask(what, count)
        kit.run(["callgrind_control", "--dump", self.process.pid])
        dump = max(self.out.parent.glob(f"{self.out.name}.*"), key=lambda path: path.stat().st_mtime_ns)
        text = kit.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", dump])
        lines = {name: int(number.replace(",", "")) / count for number, name in
                 re.findall(r"^\s*([\d,]+) \(.*?\)\s+(?:\S*:)?(PROGRAM TOTALS|kq_authorize)(?= |$)", text, re.M)}
        if "kq_authorize" not in lines:
            raise CannotMeasure("no request asked whether it may")
        return lines["PROGRAM TOTALS"], lines["kq_authorize"]


@row
def authorisation(bench, stack):
    """There is no switch that turns it off: what it takes is taken out of the sum."""
    counted = Counted(bench, stack)
    for what in "produce", "fetch":
        every, asking = counted.instructions(what, bench.size(5000, 200))
        yield Result(f"instructions of a small {what} request by a user whom an ACL names",
                     "the same less what kq_authorize and all below it take", "any",
                     f"{every:,.0f}", f"{every - asking:,.0f}", every / (every - asking), "≤ 1.02",
                     every / (every - asking) <= 1.02)


# --- What does nothing ---

@row
def tls_idle(bench, stack):
    count, where = bench.size(1000, 100), SERVER_ON_1
    limit = str(count + 1000)
    kib = {"plain": [], "tls": []}

    def held(scheme):
        def run():
            with contextlib.ExitStack() as own:
                broker = listening(bench, own, where.daemon, options=[
                    "--max.connections", limit, "--max.connections.per.ip", limit])
                port = broker.tls_port if scheme == "tls" else broker.port
                before = broker.rss_mib()
                Child(own, [bench.build / "tests/bench/client", "tls-idle", scheme, "127.0.0.1",
                            port, count], where.client)
                quiet(broker.pid)
                kib[scheme].append((broker.rss_mib() - before) * KIB / count)
        return run

    in_pairs(bench.pairs, held("plain"), held("tls"))
    plain, inside = (statistics.median(kib[scheme][1:]) for scheme in ("plain", "tls"))
    yield Result(f"{count:,} idle TLS connections: memory of the broker for each",
                 "as many plaintext ones", where, f"{inside:.1f} KiB", f"{plain:.1f} KiB",
                 target="≤ + 20 KiB", met=inside - plain <= 20, kqfs_values=tuple(kib["tls"]),
                 yardstick_values=tuple(kib["plain"]))
