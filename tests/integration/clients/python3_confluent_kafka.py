#!/usr/bin/python3
"""python3-confluent-kafka of Debian (1.7, over librdkafka 2.0)."""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

from driver import Unsupported, b64, raw, serve
from librdkafka import settings

OFFSETS = {"earliest": -2, "latest": -1}


def message(record):
    return {"offset": record.offset(), "timestamp": record.timestamp()[1], "key": b64(record.key()),
            "value": b64(record.value()), "headers": [[n, b64(v)] for n, v in record.headers() or []]}


def results(futures):
    for future in futures.values():
        future.result(20)


class Client:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.consumer = None
        self.admin = None
        self.security = {}

    def _send(self, config, topic, partition, messages, timeout):
        """Each delivered message's offset, or the exception of the first that failed."""
        offsets, errors = {}, []

        def delivered(n):
            def told(error, record):
                if error:
                    errors.append(KafkaException(error))
                else:
                    offsets[n] = record.offset()
            return told

        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20,
                             "message.max.bytes": 64 << 20, **self.security, **config})
        for n, m in enumerate(messages):
            more = {"timestamp": m["timestamp"]} if m.get("timestamp") else {}
            while True:
                try:
                    producer.produce(topic, raw(m["value"]), raw(m["key"]),
                                     -1 if partition is None else partition,
                                     on_delivery=delivered(n),
                                     headers=[(k, raw(v)) for k, v in m.get("headers", [])] or None,
                                     **more)
                    break
                except BufferError:
                    producer.poll(0.1)
            if n % 200 == 0:
                producer.poll(0.001)
        producer.flush(timeout)
        return offsets, errors

    def produce(self, topic, partition, messages, codec="none", acks=-1, idempotent=False):
        offsets, errors = self._send({"acks": acks, "compression.type": codec,
                                      "enable.idempotence": idempotent,
                                      "message.timeout.ms": 15000}, topic, partition, messages, 20)
        if errors:
            raise errors[0]
        return {"offsets": [offsets[n] if acks else -1 for n in range(len(messages))]}

    def numbers(self, topic, partition, first, count, idempotent=False):
        messages = [{"key": None, "value": b64(str(n).encode())} for n in range(first, first + count)]
        offsets, _ = self._send({"acks": -1, "enable.idempotence": idempotent,
                                 "max.in.flight": 5 if idempotent else 1,
                                 "retry.backoff.ms": 50, "reconnect.backoff.max.ms": 200,
                                 "message.timeout.ms": 60000}, topic, partition, messages, 60)
        return {"acknowledged": len(offsets)}

    def _reader(self, group, **more):
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": group,
                         "enable.auto.commit": False, "auto.offset.reset": "earliest",
                         **self.security, **more})

    def consume(self, topic, partition, count, timeout_ms, **where):
        start = where["from"]
        consumer = self._reader("unused")
        if isinstance(start, str):
            at = TopicPartition(topic, partition, OFFSETS[start])
        elif "offset" in start:
            at = TopicPartition(topic, partition, start["offset"])
        else:
            at = consumer.offsets_for_times([TopicPartition(topic, partition, start["time"])], 10)[0]
        consumer.assign([at])
        got, end = [], time.monotonic() + timeout_ms / 1000
        while len(got) < count and time.monotonic() < end:
            for record in consumer.consume(min(count - len(got), 1000), 0.1):
                if record.error():
                    raise KafkaException(record.error())
                got.append(message(record))
        consumer.close()
        return {"messages": got}

    def join(self, group, topic, instance=None):
        more = {"group.instance.id": instance} if instance else {}
        self.consumer = self._reader(group, **{"session.timeout.ms": 6000,
                                               "heartbeat.interval.ms": 500, **more})
        self.consumer.subscribe([topic])

    def poll(self, timeout_ms, count):
        got, end = [], time.monotonic() + timeout_ms / 1000
        while len(got) < count and time.monotonic() < end:
            for record in self.consumer.consume(count - len(got), 0.1):
                if not record.error():
                    got.append(message(record) | {"partition": record.partition()})
                elif record.error().code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(record.error())
        return {"messages": got, "assigned": sorted(p.partition for p in self.consumer.assignment())}

    def commit(self):
        self.consumer.commit(asynchronous=False)

    def leave(self):
        self.consumer.close()
        self.consumer = None

    def committed(self, group, topic, partitions):
        consumer = self._reader(group)
        found = consumer.committed([TopicPartition(topic, p) for p in partitions], 10)
        consumer.close()
        return {"offsets": [max(p.offset, -1) for p in found]}

    def set_offset(self, group, topic, partition, offset):
        consumer = self._reader(group)
        consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
        consumer.close()

    def _admin(self):
        # One for all: what it is asked for ends with it.
        if not self.admin:
            self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        return self.admin

    def create(self, topic, partitions, config):
        results(self._admin().create_topics([NewTopic(topic, partitions, 1, config=config)]))

    def delete(self, topic):
        results(self._admin().delete_topics([topic]))

    def add_partitions(self, topic, count):
        results(self._admin().create_partitions([NewPartitions(topic, count)]))

    def alter(self, topic, config):
        # AlterConfigs replaces all values of a topic: those it has must be given again.
        kept = {n: c.value for n, c in self._described(topic).items() if c.source == 1}
        resource = ConfigResource("topic", topic, set_config=kept | config)
        results(self._admin().alter_configs([resource]))

    def _described(self, topic):
        futures = self._admin().describe_configs([ConfigResource("topic", topic)])
        return next(iter(futures.values())).result(20)

    def describe(self, topic):
        return {"config": {n: c.value for n, c in self._described(topic).items()}}

    def secure(self, bootstrap, token=None, **wanted):
        self.bootstrap = bootstrap
        self.security = settings(**wanted)
        if token:
            with open(token) as file:
                text = file.read()
            self.security["oauth_cb"] = lambda _: (text, time.time() + 600)

    def _log_in(self):
        """Fails with what the library says, which tries again until its time is over."""
        errors = []
        client = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0, **self.security,
                           "error_cb": errors.append})
        while not errors:
            client.poll(0.1)
            try:
                return {"topics": list(client.list_topics(timeout=1).topics)}
            except KafkaException:
                client.poll(0.1)
        raise KafkaException(errors[0])

    def topics(self):
        if self.security:
            return self._log_in()
        return {"topics": list(self._admin().list_topics(timeout=10).topics)}

    def groups(self):
        return {"groups": [g.id for g in self._admin().list_groups(timeout=10)]}

    def describe_group(self, group):
        found = self._admin().list_groups(group, timeout=10)
        if not found or found[0].error:
            raise KafkaException(found[0].error if found else KafkaError._UNKNOWN_GROUP)
        return {"state": found[0].state, "members": len(found[0].members)}

    def delete_records(self, **_):
        raise Unsupported("confluent-kafka 1.7 has no DeleteRecords")

    def delete_group(self, **_):
        raise Unsupported("confluent-kafka 1.7 has no DeleteGroups")


serve(Client)
