#!/usr/bin/python3
"""python3-kafka of Debian (kafka-python 2.0.2)."""

import logging
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, NewPartitions, NewTopic
from kafka.errors import KafkaError

from driver import Unsupported, b64, raw, serve


def message(record):
    return {"offset": record.offset, "timestamp": record.timestamp, "key": b64(record.key),
            "value": b64(record.value), "headers": [[n, b64(v)] for n, v in record.headers]}


class Token:
    """What kafka-python asks for a token of OAUTHBEARER."""

    def __init__(self, path):
        with open(path) as file:
            self.text = file.read()

    def token(self):
        return self.text


class Said(logging.Handler):
    """The last error in the log: what is raised is often no more than NoBrokersAvailable."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.last = None
        logging.getLogger("kafka").addHandler(self)

    def emit(self, record):
        self.last = record.getMessage()


class Client:
    def __init__(self, bootstrap):
        self.servers = {"bootstrap_servers": bootstrap}
        self.consumer = None
        self.name = None

    def _producer(self, codec="none", acks=-1, **more):
        return KafkaProducer(**self.servers, acks="all" if acks == -1 else acks,
                             compression_type=None if codec == "none" else codec,
                             linger_ms=20, max_request_size=64 << 20, max_block_ms=20000, **more)

    def produce(self, topic, partition, messages, codec="none", acks=-1, idempotent=False):
        if idempotent:
            raise Unsupported("kafka-python 2.0.2 has no idempotent producer")
        producer = self._producer(codec, acks)
        try:
            sent = [producer.send(topic, raw(m["value"]), raw(m["key"]),
                                  [(n, raw(v)) for n, v in m.get("headers", [])] or None,
                                  partition, m.get("timestamp")) for m in messages]
            producer.flush(20)
            done = [future.get(20) for future in sent]
            if acks == 0:
                # It hears nothing of the connection over which it sends. One that has closed it
                # before the broker has asked the kernel whose it was is nobody.
                time.sleep(0.5)
        finally:
            producer.close(5)
        return {"offsets": [d.offset if acks else -1 for d in done]}

    def numbers(self, topic, partition, first, count, idempotent=False):
        if idempotent:
            raise Unsupported("kafka-python 2.0.2 has no idempotent producer")
        producer = self._producer(retries=1000, max_in_flight_requests_per_connection=1,
                                  retry_backoff_ms=50, request_timeout_ms=10000)
        acknowledged = 0
        for n in range(first, first + count):
            future = producer.send(topic, str(n).encode(), partition=partition)
            future.add_callback(lambda _: None)
            if n % 200 == 0:
                time.sleep(0.001)
        producer.flush(60)
        acknowledged = count if future.succeeded() else 0
        producer.close(5)
        return {"acknowledged": acknowledged}

    def consume(self, topic, partition, count, timeout_ms, **where):
        start = where["from"]
        consumer = KafkaConsumer(**self.servers, enable_auto_commit=False,
                                 group_id=None, consumer_timeout_ms=timeout_ms,
                                 fetch_max_bytes=64 << 20, max_partition_fetch_bytes=8 << 20)
        at = TopicPartition(topic, partition)
        consumer.assign([at])
        if start == "earliest":
            consumer.seek_to_beginning(at)
        elif start == "latest":
            consumer.seek_to_end(at)
        elif "offset" in start:
            consumer.seek(at, start["offset"])
        else:
            consumer.seek(at, consumer.offsets_for_times({at: start["time"]})[at].offset)
        got = []
        if count:
            for record in consumer:
                got.append(message(record))
                if len(got) == count:
                    break
        consumer.close()
        return {"messages": got}

    def join(self, group, topic, instance=None):
        if instance:
            raise Unsupported("kafka-python 2.0.2 has no static members")
        self.consumer = KafkaConsumer(topic, **self.servers, group_id=group,
                                      enable_auto_commit=False, auto_offset_reset="earliest",
                                      session_timeout_ms=6000, heartbeat_interval_ms=500)

    def poll(self, timeout_ms, count):
        got, end = [], time.monotonic() + timeout_ms / 1000
        while len(got) < count and time.monotonic() < end:
            for records in self.consumer.poll(100, count - len(got)).values():
                got += [message(r) | {"partition": r.partition} for r in records]
        return {"messages": got,
                "assigned": sorted(p.partition for p in self.consumer.assignment())}

    def commit(self):
        self.consumer.commit()

    def leave(self):
        self.consumer.close(autocommit=False)
        self.consumer = None

    def _admin(self):
        return KafkaAdminClient(**self.servers)

    def committed(self, group, topic, partitions):
        offsets = self._admin().list_consumer_group_offsets(
            group, partitions=[TopicPartition(topic, p) for p in partitions])
        return {"offsets": [offsets[TopicPartition(topic, p)].offset for p in partitions]}

    def set_offset(self, group, topic, partition, offset):
        consumer = KafkaConsumer(**self.servers, group_id=group,
                                 enable_auto_commit=False)
        consumer.assign([TopicPartition(topic, partition)])
        consumer.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, "")})
        consumer.close(autocommit=False)

    def create(self, topic, partitions, config):
        self._admin().create_topics([NewTopic(topic, partitions, 1, topic_configs=config)])

    def delete(self, topic):
        self._admin().delete_topics([topic])

    def add_partitions(self, topic, count):
        self._admin().create_partitions({topic: NewPartitions(count)})

    def alter(self, topic, config):
        # AlterConfigs replaces all values of a topic: those it has must be given again.
        kept = {n: v for n, v, own in self._described(topic) if own}
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=kept | config)
        for error, text, *_ in self._admin().alter_configs([resource]).resources:
            if error:
                raise KafkaError(f"{error} {text}")

    def _described(self, topic):
        for answer in self._admin().describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic)]):
            for error, text, _, _, entries in answer.resources:
                if error:
                    raise KafkaError(f"{error} {text}")
                for name, value, _, source, *_ in entries:
                    yield name, value, source == 1

    def describe(self, topic):
        return {"config": {n: v for n, v, _ in self._described(topic)}}

    def secure(self, bootstrap, protocol, ca, certificate=None, key=None, mechanism=None, user=None,
               password=None, token=None, **_):
        if mechanism == "GSSAPI":
            raise Unsupported("not tried: kafka-python leaves it to its user to get a ticket")
        self.servers = {
            "bootstrap_servers": bootstrap, "security_protocol": protocol, "ssl_cafile": ca,
            "ssl_certfile": certificate, "ssl_keyfile": key, "sasl_mechanism": mechanism,
            "sasl_plain_username": user, "sasl_plain_password": password,
            "sasl_oauth_token_provider": token and Token(token)}

    def topics(self):
        said = Said()
        try:
            return {"topics": self._admin().list_topics()}
        except KafkaError as error:
            raise RuntimeError(f"{error}: {said.last}") from error

    def groups(self):
        return {"groups": [g[0] for g in self._admin().list_consumer_groups()]}

    def describe_group(self, group):
        found = self._admin().describe_consumer_groups([group])[0]
        if found.error_code:
            raise KafkaError(str(found.error_code))
        return {"state": found.state, "members": len(found.members)}

    def delete_group(self, group):
        for _, error in self._admin().delete_consumer_groups([group]):
            if error.errno:
                raise error


serve(Client)
