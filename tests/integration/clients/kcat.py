#!/usr/bin/python3
"""kcat of Debian (1.7 over librdkafka 2.0), run anew for each command."""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time

from driver import Unsupported, b64, raw, serve
from librdkafka import settings

KEY, END = "\x1e", "\x1f"  # between key and value, between messages


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.member = None
        self.security = []

    def _command(self, *arguments):
        return ["kcat", "-b", self.bootstrap, *self.security, *arguments]

    def _run(self, arguments, given=b"", timeout=60):
        done = subprocess.run(self._command(*arguments), input=given, capture_output=True,
                              timeout=timeout)
        # Lost connections are no failure: the library tells of them and connects again.
        bad = [line for line in done.stderr.decode(errors="replace").splitlines()
               if line.startswith(("% ERROR", "% FATAL", "% Delivery failed"))
               and "transport failure" not in line and "connections are down" not in line]
        if done.returncode or bad:
            raise RuntimeError((bad or [f"kcat ended with {done.returncode}"])[0])
        return done.stdout

    def _send(self, topic, partition, messages, options, timeout=60, more=()):
        arguments = [*more, "-P", "-t", topic, "-D", END, "-K", KEY, "-Z"]
        arguments += [] if partition is None else ["-p", str(partition)]
        for name, value in messages[0].get("headers", []):
            arguments += ["-H", f"{name}={raw(value).decode()}"]
        for option in options:
            arguments += ["-X", option]
        if any(m.get("timestamp") for m in messages):
            raise Unsupported("kcat sets no timestamps")
        given = b"".join((raw(m["key"]) or b"") + KEY.encode() + raw(m["value"]) + END.encode()
                         for m in messages)
        self._run(arguments, given, timeout)

    def produce(self, topic, partition, messages, codec="none", acks=-1, idempotent=False):
        options = [f"compression.codec={codec}", f"acks={acks}", "linger.ms=20",
                   f"enable.idempotence={str(idempotent).lower()}", "message.max.bytes=67108864",
                   "message.timeout.ms=15000"]
        if len(messages) > 1 and any(len(raw(m["value"])) > 1 << 16 for m in messages):
            raise Unsupported("kcat cuts its input at 1 MiB")
        if len(messages) == 1 and len(raw(messages[0]["value"])) > 1 << 16:
            # A file is one message, whatever its size.
            with tempfile.NamedTemporaryFile(dir=os.environ.get("KQFS_TEST_DIR")) as file:
                file.write(raw(messages[0]["value"]))
                file.flush()
                arguments = ["-P", "-t", topic, "-p", str(partition or 0)]
                for option in options:
                    arguments += ["-X", option]
                self._run(arguments + [file.name])
        else:
            self._send(topic, partition, messages, options)
        return {"offsets": [-1] * len(messages)}

    def numbers(self, topic, partition, first, count, idempotent=False):
        messages = [{"key": None, "value": b64(str(n).encode())} for n in range(first, first + count)]
        self._send(topic, partition, messages,
                   [f"enable.idempotence={str(idempotent).lower()}", "retry.backoff.ms=50",
                    "reconnect.backoff.max.ms=200", "acks=-1", "message.timeout.ms=60000",
                    "batch.num.messages=100", "linger.ms=1",
                    f"max.in.flight={5 if idempotent else 1}"], 90, ["-E"])
        return {"acknowledged": count}

    @staticmethod
    def _message(line):
        record = json.loads(line)
        headers = record.get("headers") or []
        return {"offset": record["offset"], "timestamp": record["ts"],
                "partition": record["partition"],
                "key": b64(record["key"].encode()) if record.get("key") else None,
                "value": b64(record["payload"].encode()) if record["payload"] is not None else None,
                "headers": [[n, b64(v.encode())] for n, v in zip(headers[::2], headers[1::2])]}

    def consume(self, topic, partition, count, timeout_ms, **where):
        start = where["from"]
        if isinstance(start, dict):
            start = start.get("offset", f"s@{start.get('time')}")
        start = {"earliest": "beginning", "latest": "end"}.get(start, start)
        # A time ends where no message follows: -e is left out, the count ends it.
        arguments = ["-C", "-q", "-J", "-t", topic, "-p", str(partition), "-o", str(start),
                     "-X", "fetch.message.max.bytes=8388608", "-c", str(count)]
        lines = []
        process = subprocess.Popen(self._command(*arguments), stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        stop = threading.Timer(timeout_ms / 1000, process.terminate)
        stop.start()
        out, error = process.communicate()
        stop.cancel()
        lines = out.decode().splitlines()
        if process.returncode > 0 or b"ERROR" in error:
            raise RuntimeError(error.decode(errors="replace").strip())
        return {"messages": [self._message(line) for line in lines[:count]]}

    def join(self, group, topic, instance=None):
        options = ["-X", "enable.auto.commit=true", "-X", "auto.commit.interval.ms=200",
                   "-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=500",
                   "-X", "auto.offset.reset=earliest"]
        if instance:
            options += ["-X", f"group.instance.id={instance}"]
        self.member = subprocess.Popen(
            self._command("-J", "-u", "-G", group, *options, topic),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.arrived, self.assigned = queue.Queue(), []
        threading.Thread(target=self._read, args=(self.member.stdout,), daemon=True).start()
        threading.Thread(target=self._watch, args=(self.member.stderr,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self.arrived.put(self._message(line))

    def _watch(self, stream):
        """% Group g rebalanced (memberid …): assigned: t [0], t [1]"""
        for line in stream:
            text = line.decode(errors="replace")
            if "rebalanced" in text:
                self.assigned = sorted(int(part.split("]")[0]) for part in text.split(" [")[1:]) \
                    if " assigned:" in text else []

    def poll(self, timeout_ms, count):
        got, end = [], time.monotonic() + timeout_ms / 1000
        while len(got) < count and (left := end - time.monotonic()) > 0:
            try:
                got.append(self.arrived.get(timeout=left))
            except queue.Empty:
                break
        return {"messages": got, "assigned": self.assigned}

    def commit(self):
        time.sleep(0.5)  # it commits by itself each 200 ms

    def leave(self):
        self.member.terminate()
        self.member.wait(20)

    def secure(self, bootstrap, token=None, **wanted):
        if token:
            raise Unsupported("kcat makes tokens that nobody has signed, and takes no others")
        self.bootstrap = bootstrap
        self.security = [part for name, value in settings(**wanted).items()
                         for part in ("-X", f"{name}={value}")]

    def topics(self):
        if self.security:
            self._log_in()
        return {"topics": [t["topic"] for t in json.loads(self._run(["-L", "-J"]))["topics"]]}

    def _log_in(self):
        """Fails with what the library says, which tries again until its time is over."""
        with subprocess.Popen(self._command("-L", "-m", "60"), stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr:
                if "|FAIL|" in line:
                    process.kill()
                    raise RuntimeError(line.strip())


serve(Client)
