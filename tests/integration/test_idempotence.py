#!/usr/bin/python3
# kqfs-test: timeout=300
"""Idempotent producers: what is sent again is in the log once, over restarts and kill -9.

KQFS_KILL_ROUNDS sets how often the broker is killed under a producer (5)."""

import contextlib
import os
import random
import socket
import threading
import time

import mounted
from mounted import *
from protocol import *

ROUNDS = int(os.environ.get("KQFS_KILL_ROUNDS", "5"))
rng = random.Random()

PARTITIONS = 3

broker = Server("b", config=f"[broker]\nnum.partitions = {PARTITIONS}\n")


def new_id(client, version=4, **more):
    return client.ask("InitProducerId", version, transaction_timeout_ms=60000,
                      **{"transactional_id": None, **more})


def send(client, topic, producer, epoch, sequence, *values):
    return produce(client, topic, batch([Record(v) for v in values],
                                        producer=(producer, epoch, sequence)))


def taken(answer, offset):
    refused(answer, "NONE")
    equal(answer["base_offset"], offset)


def content(topic):
    return read(broker.path(topic, "p0")).split()


# --- InitProducerId ---

def test_every_version_gives_an_id_of_its_own():
    seen = set()
    with broker.client() as client:
        for version in range(6):
            answer = new_id(client, version)
            refused(answer, "NONE")
            equal(answer["producer_epoch"], 0)
            seen.add(answer["producer_id"])
        equal(len(seen), 6)
        again = new_id(client, 4, producer_id=min(seen), producer_epoch=0)
        refused(again, "NONE")
        check(again["producer_id"] not in seen, again)
        refused(new_id(client, 4, producer_id=5), "INVALID_REQUEST")
    broker.stop()
    broker.start()
    with broker.client() as client:
        check(new_id(client)["producer_id"] > max(seen), "an id given before")


def test_transactions_are_refused():
    broker.topic("transactions")
    with broker.client() as client:
        answer = new_id(client, transactional_id="t")
        refused(answer, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
        equal((answer["producer_id"], answer["producer_epoch"]), (-1, -1))
        refused(produce(client, "transactions", batch([Record(b"x")], attributes=0x10,
                                                      producer=(1, 0, 0))), "INVALID_TXN_STATE")
        refused(produce(client, "transactions", batch([Record(b"x")], attributes=0x20)),
                "INVALID_RECORD")
    equal(content("transactions"), [])


# --- Sequences ---

def test_a_batch_sent_again_is_answered_with_its_offset():
    broker.topic("again")
    with broker.client() as client:
        producer = new_id(client)["producer_id"]
        for i in range(7):
            taken(send(client, "again", producer, 0, 2 * i, b"%da" % i, b"%db" % i), 2 * i)
        for i in range(2, 7):
            taken(send(client, "again", producer, 0, 2 * i, b"%da" % i, b"%db" % i), 2 * i)
        refused(send(client, "again", producer, 0, 0, b"0a", b"0b"), "OUT_OF_ORDER_SEQUENCE_NUMBER")
        refused(send(client, "again", producer, 0, 15, b"x"), "OUT_OF_ORDER_SEQUENCE_NUMBER")
    equal(content("again"), [b"%d%c" % (i, c) for i in range(7) for c in b"ab"])


def test_a_new_epoch_fences_the_old():
    broker.topic("epochs")
    with broker.client() as client:
        producer = new_id(client)["producer_id"]
        refused(send(client, "epochs", producer, 0, 1, b"x"), "OUT_OF_ORDER_SEQUENCE_NUMBER")
        taken(send(client, "epochs", producer, 0, 0, b"0"), 0)
        refused(send(client, "epochs", producer, 1, 1, b"x"), "OUT_OF_ORDER_SEQUENCE_NUMBER")
        taken(send(client, "epochs", producer, 1, 0, b"1"), 1)
        refused(send(client, "epochs", producer, 0, 1, b"x"), "INVALID_PRODUCER_EPOCH")
    equal(content("epochs"), [b"0", b"1"])


def test_lines_of_the_mount_come_between_and_do_not_disturb():
    broker.topic("between")
    with broker.client() as client:
        producer = new_id(client)["producer_id"]
        for i in range(5):
            taken(send(client, "between", producer, 0, i, b"tcp%d" % i), 2 * i)
            append(broker.path("between", "p0"), f"line{i}\n")
        taken(send(client, "between", producer, 0, 3, b"tcp3"), 6)
    equal(content("between"), [f"{what}{i}".encode() for i in range(5) for what in ("tcp", "line")])


# --- Restarts ---

def test_what_was_acknowledged_is_known_after_every_end():
    broker.topic("ends", segment_bytes=2000)
    sent = []
    with broker.client() as client:
        producer = new_id(client)["producer_id"]
    for end in (broker.stop, broker.kill) * 4:
        with broker.client() as client:
            for i, value in list(enumerate(sent))[-5:]:
                taken(send(client, "ends", producer, 0, i, value), i)
            for _ in range(rng.randrange(1, 20)):
                value = b"%d" % len(sent) + b"x" * rng.randrange(300)
                taken(send(client, "ends", producer, 0, len(sent), value), len(sent))
                sent.append(value)
        end()
        broker.start()
    with broker.client() as client:
        for i, value in list(enumerate(sent))[-5:]:
            taken(send(client, "ends", producer, 0, i, value), i)
    equal(content("ends"), sent)


class Line:
    """A long line to the broker: requests pass at once, answers are under way for a while. When it
    is cut, those are lost, and the client does not know what became of its requests."""

    DELAY = 0.005

    def __init__(self, address):
        self.to = address.split(":")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.lock, self.ends = threading.Lock(), []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near = self.listener.accept()[0]
            try:
                far = socket.create_connection((self.to[0], int(self.to[1])))
            except OSError:
                near.close()
                continue
            with self.lock:
                self.ends.append((near, far))
            for a, b, delay in ((near, far, 0), (far, near, self.DELAY)):
                threading.Thread(target=self.carry, args=(a, b, delay), daemon=True).start()

    def carry(self, a, b, delay):
        try:
            while data := a.recv(65536):
                if delay:
                    time.sleep(delay)
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        with self.lock:
            for near, far in self.ends:
                for end in (near, far):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
            self.ends.clear()


class Numbers:
    """A librdkafka producer in a child: sends numbers as fast as it is told to until STOP, then
    waits until all are delivered. Every one must be; how many is written to a pipe."""

    def __init__(self, topic, address):
        self.topic, self.address = topic, address
        self.stop_read, self.stop = os.pipe()
        self.told, self.tell = os.pipe()
        self.pid = in_child(self.run)

    def run(self):
        from confluent_kafka import Producer
        failed = []
        producer = Producer({
            "bootstrap.servers": self.address, "enable.idempotence": True, "linger.ms": 0,
            "batch.num.messages": 50, "queue.buffering.max.messages": 1000000, "retry.backoff.ms": 20, "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200, "message.timeout.ms": 120000, "log_level": 0})
        os.set_blocking(self.stop_read, False)
        number = 0
        while not self.stopped():
            for _ in range(500):
                producer.produce(self.topic, b"%d" % number, partition=number % PARTITIONS,
                                 on_delivery=lambda error, _: error and failed.append(str(error)))
                number += 1
            while len(producer) > 5000: # always some under way, never more than soon arrive
                producer.poll(0.01)
        left = producer.flush(120)
        check(not failed and left == 0, left, "messages were not delivered:", failed[:3])
        os.write(self.tell, b"%d" % number)

    def stopped(self):
        try:
            os.read(self.stop_read, 1)
            return True
        except BlockingIOError:
            return False

    def end(self):
        """How many numbers there were."""
        os.write(self.stop, b"x")
        finish(self.pid)
        return int(os.read(self.told, 20))


def test_numbers_of_librdkafka_are_there_once_in_order_whatever_dies():
    try:
        import confluent_kafka  # noqa: F401
    except ImportError:
        raise Skip("not installed: python3-confluent-kafka") from None
    address = f"127.0.0.1:{free_port()}"
    line = Line(address)
    own = Broker("own", ["--listen", f"plaintext://{address},advertised={line.address}",
                         "--num.partitions", str(PARTITIONS)]).start()
    topic = own.topic("numbers", segment_bytes=100000)
    numbers = Numbers("numbers", line.address)

    def end():
        return sum(int(getfattr(f"{topic}/p{n}", "end")) for n in range(PARTITIONS))

    try:
        for round_number in range(ROUNDS):
            wanted = end() + rng.randrange(500, 3000)
            until(lambda: end() >= wanted, "the producer to produce")
            line.cut()
            if round_number % 3 == 2:
                own.stop()
            elif round_number % 3 == 1:
                own.kill()
            else:
                continue
            time.sleep(rng.random() * 0.3)  # not to wait for anything: the client meets a dead port
            own.start()
    finally:
        count = numbers.end()
    for n in range(PARTITIONS):
        wanted = [b"%d" % i for i in range(n, count, PARTITIONS)]
        got = read(f"{topic}/p{n}").split()
        check(got == wanted, "partition", n, "of", len(wanted), "has", len(got), "first wrong:",
              next((pair for pair in zip(wanted, got) if pair[0] != pair[1]), "the end"))
    print(f"        {count} numbers, {ROUNDS} cuts")
    own.stop()


if __name__ == "__main__":
    mounted.main(broker)
