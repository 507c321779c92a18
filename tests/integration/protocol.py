"""A small Kafka client that hides nothing: every field of every version, as net/schema has it.

Messages are dicts; a field that is not given has its default. Batches are made and taken apart
here, too, so that tests can make bad ones.
"""

import gzip
import re
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import mounted

SCHEMAS = Path(__file__).resolve().parents[2] / "net" / "schema"
FOREVER = 127


# --- Schemas ---

@dataclass
class Field:
    name: str
    type: str
    array: bool
    versions: tuple
    null: tuple = (1, 0)
    tag: int = -1
    default: str = ""
    fields: list = field(default_factory=list)  # of a struct

    def default_value(self):
        if self.array:
            return None if self.default == "null" else []
        if self.default == "null" or self.type == "records":
            return None
        if self.fields:
            return {f.name: f.default_value() for f in self.fields}
        if self.type in ("string", "bytes"):
            return "" if self.type == "string" else b""
        if self.type == "uuid":
            return bytes(16)
        if self.type == "bool":
            return self.default == "true"
        return int(self.default or "0", 0)


class Api:
    def __init__(self, path):
        self.request, self.response, fields, stack = [], [], None, []
        for line in path.read_text().splitlines():
            line = line.split("#")[0].rstrip()
            words = line.split()
            if not words:
                continue
            if line[0] != " ":
                if words[0] == "api":
                    self.key, self.name = int(words[1]), words[2]
                elif words[0] == "flexible":
                    self.flexible = FOREVER if words[1] == "none" else int(words[1].rstrip("+"))
                else:
                    fields = getattr(self, words[0])
                    self.versions = versions_of(words[1])
                    stack = [fields]
                continue
            depth = (len(line) - len(line.lstrip())) // 2
            entry = parse_field(words)
            del stack[depth:]
            stack[-1].append(entry)
            stack.append(entry.fields)


def versions_of(text):
    low, plus, high = re.fullmatch(r"(\d+)(?:(\+)|-(\d+))?", text).groups()
    return int(low), FOREVER if plus else int(high or low)


def parse_field(words):
    entry = Field(words[0], words[1].removeprefix("[]"), words[1].startswith("[]"),
                  versions_of(words[2]))
    rest = iter(words[3:])
    for word in rest:
        if word == "null":
            entry.null = versions_of(next(rest))
        elif word == "tag":
            entry.tag = int(next(rest))
        elif word == "=":
            entry.default = next(rest)
    return entry


APIS = {api.name: api for api in map(Api, sorted(SCHEMAS.glob("*.txt")))}


# --- Writing and reading ---

NUMBERS = {"bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I",
           "int64": "q", "float64": "d"}


def uvarint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def varint(value):
    return uvarint(((value << 1) ^ (value >> 63)) & 0xffffffffffffffff)


def length(value, flexible, narrow):
    if flexible:
        return uvarint(value + 1)
    return struct.pack(">h" if narrow else ">i", value)


def write_plain(entry, value, flexible):
    if entry.type in NUMBERS:
        return struct.pack(">" + NUMBERS[entry.type], value)
    if entry.type == "uuid":
        return value
    narrow = entry.type == "string"
    if value is None:
        return length(-1, flexible, narrow)
    value = value.encode() if isinstance(value, str) else bytes(value)
    return length(len(value), flexible, narrow) + value


def write_value(entry, value, version, flexible):
    if entry.array:
        if value is None:
            return length(-1, flexible, False)
        return length(len(value), flexible, False) + b"".join(
            write_fields(entry.fields, item, version, flexible) if entry.fields
            else write_plain(entry, item, flexible) for item in value)
    if entry.fields:
        if entry.null[0] <= version <= entry.null[1]:
            if value is None:
                return b"\xff"
            return b"\x01" + write_fields(entry.fields, value, version, flexible)
        return write_fields(entry.fields, value, version, flexible)
    return write_plain(entry, value, flexible)


def write_fields(fields, values, version, flexible):
    unknown = set(values) - {f.name for f in fields}
    assert not unknown, f"no such fields: {unknown}"
    out, tags = [], []
    for entry in fields:
        if not entry.versions[0] <= version <= entry.versions[1]:
            continue
        value = values.get(entry.name, entry.default_value())
        if entry.tag < 0:
            out.append(write_value(entry, value, version, flexible))
        elif value != entry.default_value():
            data = write_value(entry, value, version, flexible)
            tags.append((entry.tag, uvarint(entry.tag) + uvarint(len(data)) + data))
    if flexible:
        out.append(uvarint(len(tags)))
        out += [data for _, data in sorted(tags)]
    return b"".join(out)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        piece = self.data[self.at:self.at + count]
        if len(piece) < count:
            raise EOFError(f"{count} bytes wanted, {len(piece)} left")
        self.at += count
        return piece

    def number(self, code):
        return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))[0]

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def varint(self):
        value = self.uvarint()
        return value >> 1 ^ -(value & 1)

    def length(self, flexible, narrow):
        return self.uvarint() - 1 if flexible else self.number("h" if narrow else "i")

    def plain(self, entry, flexible):
        if entry.type in NUMBERS:
            return self.number(NUMBERS[entry.type])
        if entry.type == "uuid":
            return self.take(16)
        size = self.length(flexible, entry.type == "string")
        value = None if size < 0 else self.take(size)
        return value.decode() if value is not None and entry.type == "string" else value

    def value(self, entry, version, flexible):
        if entry.array:
            count = self.length(flexible, False)
            return None if count < 0 else [
                self.fields(entry.fields, version, flexible) if entry.fields
                else self.plain(entry, flexible) for _ in range(count)]
        if entry.fields:
            if entry.null[0] <= version <= entry.null[1] and self.number("b") < 0:
                return None
            return self.fields(entry.fields, version, flexible)
        return self.plain(entry, flexible)

    def fields(self, fields, version, flexible):
        values = {f.name: f.default_value() for f in fields}
        for entry in fields:
            if entry.tag < 0 and entry.versions[0] <= version <= entry.versions[1]:
                values[entry.name] = self.value(entry, version, flexible)
        if flexible:
            for _ in range(self.uvarint()):
                tag, data = self.uvarint(), Reader(self.take(self.uvarint()))
                for entry in fields:
                    if entry.tag == tag:
                        values[entry.name] = data.value(entry, version, flexible)
        return values


# --- The client ---

class Closed(Exception):
    """The broker has closed the connection."""


class Client:
    def __init__(self, address, client_id="test", timeout=30):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client_id = client_id
        self.correlation = 0

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def frame(self, name, version, **values):
        """The next request, and what receive() takes to read its response."""
        api = APIS[name]
        flexible = version >= api.flexible
        self.correlation += 1
        head = struct.pack(">hhi", api.key, version, self.correlation)
        head += struct.pack(">h", len(self.client_id)) + self.client_id.encode()
        frame = head + (b"\0" if flexible else b"")
        frame += write_fields(api.request, values, version, flexible)
        return struct.pack(">i", len(frame)) + frame, (api, version, self.correlation)

    def send(self, name, version, **values):
        """Returns what receive() takes to read the response."""
        frame, sent = self.frame(name, version, **values)
        try:
            self.socket.sendall(frame)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        return sent

    def read(self, count):
        parts = []
        while count:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except ConnectionResetError as error:
                raise Closed from error
            if not part:
                raise Closed
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def receive(self, sent):
        api, version, correlation = sent
        reader = Reader(self.read(struct.unpack(">i", self.read(4))[0]))
        assert reader.number("i") == correlation, "responses come in the order of the requests"
        flexible = version >= api.flexible
        if flexible and api.name != "ApiVersions":
            assert reader.uvarint() == 0
        answer = reader.fields(api.response, version, flexible)
        assert reader.at == len(reader.data), "bytes behind the response"
        return answer

    def ask(self, name, version, **values):
        return self.receive(self.send(name, version, **values))


# --- Record batches ---

def make_crc_table():
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ 0x82f63b78 if n & 1 else n >> 1
        yield n


CRC_TABLE = list(make_crc_table())


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xffffffff


NOW = int(time.time() * 1000)  # an older message may begin a new segment


@dataclass
class Record:
    value: bytes = b""
    key: bytes = None
    headers: tuple = ()
    timestamp: int = NOW
    offset: int = 0


def counted(data):
    return varint(-1) if data is None else varint(len(data)) + data


def write_record(record, index, base_timestamp):
    body = b"\0" + varint(record.timestamp - base_timestamp) + varint(index)
    body += counted(record.key) + counted(record.value) + varint(len(record.headers))
    for name, value in record.headers:
        body += counted(name.encode()) + counted(value)
    return varint(len(body)) + body


def snappy(data):
    """One literal after the other, which is allowed."""
    out = [uvarint(len(data))]
    for at in range(0, len(data), 60):
        piece = data[at:at + 60]
        out.append(bytes([len(piece) - 1 << 2]) + piece)
    return b"".join(out)


def lz4(data):
    """A frame of blocks that are not compressed; 0x82 is the checksum of this header."""
    out = [b"\x04\x22\x4d\x18\x60\x40\x82"]
    for at in range(0, len(data), 65536):
        piece = data[at:at + 65536]
        out.append(struct.pack("<I", len(piece) | 1 << 31) + piece)
    return b"".join(out) + bytes(4)


def zstd(data):
    """A frame of raw blocks."""
    out, pieces = [b"\x28\xb5\x2f\xfd\x00\x58"], range(0, len(data), 65536)
    for at in pieces:
        piece = data[at:at + 65536]
        last = at + 65536 >= len(data)
        out.append(struct.pack("<I", len(piece) << 3 | last)[:3] + piece)
    return b"".join(out)


def identity(data):
    return data


CODECS = [identity, lambda data: gzip.compress(data, 1), snappy, lz4, zstd]


def batch(records, codec=0, base_offset=0, epoch=-1, attributes=0, producer=(-1, -1, -1),
          magic=2, count=None, last_delta=None, crc=None):
    """A batch of format 2 as a producer sends it."""
    base = records[0].timestamp
    body = CODECS[codec](b"".join(write_record(r, i, base) for i, r in enumerate(records)))
    tail = struct.pack(">hiqqqhii", attributes | codec,
                       len(records) - 1 if last_delta is None else last_delta, base,
                       max(r.timestamp for r in records), *producer,
                       len(records) if count is None else count) + body
    head = struct.pack(">ibI", epoch, magic, crc32c(tail) if crc is None else crc)
    return struct.pack(">qi", base_offset, len(head) + len(tail)) + head + tail


def unsnappy(data):
    if data.startswith(b"\x82SNAPPY\0"):
        raise NotImplementedError("snappy of Java clients")
    reader = Reader(data)
    size, out = reader.uvarint(), bytearray()
    while reader.at < len(data):
        tag = reader.take(1)[0]
        if tag & 3:
            raise NotImplementedError("snappy with copies")
        count = tag >> 2
        if count >= 60:
            count = int.from_bytes(reader.take(count - 59), "little")
        out += reader.take(count + 1)
    assert len(out) == size
    return bytes(out)


def blocks(reader, read_head):
    out = bytearray()
    while True:
        size, stored, last = read_head(reader)
        if size and not stored:
            raise NotImplementedError("compressed blocks")
        out += reader.take(size)
        if last:
            return bytes(out)


def unlz4(data):
    def head(reader):
        size = struct.unpack("<I", reader.take(4))[0]
        return size & 0x7fffffff, size >> 31, size == 0
    reader = Reader(data)
    reader.take(7)
    return blocks(reader, head)


def unzstd(data):
    def head(reader):
        size = int.from_bytes(reader.take(3), "little")
        return size >> 3, size >> 1 & 3 == 0, size & 1
    reader = Reader(data)
    reader.take(6)
    return blocks(reader, head)


DECODERS = [identity, gzip.decompress, unsnappy, unlz4, unzstd]


@dataclass
class Batch:
    base_offset: int
    epoch: int
    attributes: int
    producer: tuple
    records: list
    data: bytes


def read_batch(reader):
    start = reader.at
    base_offset, size = reader.number("q"), reader.number("i")
    epoch, magic, crc = reader.number("i"), reader.number("b"), reader.number("I")
    rest = Reader(reader.take(size - 9))
    assert magic == 2 and crc32c(rest.data) == crc, "a batch is whole"
    attributes, _, base = rest.number("h"), rest.number("i"), rest.number("q")
    newest = rest.number("q")
    producer, count = (rest.number("q"), rest.number("h"), rest.number("i")), rest.number("i")
    data = Reader(DECODERS[attributes & 7](rest.data[rest.at:]))
    records = [read_record(data, base_offset, base, newest if attributes & 8 else None)
               for _ in range(count)]
    assert data.at == len(data.data)
    return Batch(base_offset, epoch, attributes, producer, records, reader.data[start:reader.at])


def read_record(reader, base_offset, base, append_time):
    def bytes_or_none():
        size = body.varint()
        return None if size < 0 else body.take(size)
    body = Reader(reader.take(reader.varint()))
    body.take(1)
    timestamp, offset = base + body.varint(), base_offset + body.varint()
    key, value = bytes_or_none(), bytes_or_none()
    headers = tuple((body.take(body.varint()).decode(), bytes_or_none())
                    for _ in range(body.varint()))
    assert body.at == len(body.data)
    return Record(value, key, headers, timestamp if append_time is None else append_time, offset)


def batches(data):
    """The whole batches of a Fetch response; one that is cut off ends it."""
    reader, found = Reader(data or b""), []
    while len(reader.data) - reader.at >= 12:
        size = struct.unpack_from(">i", reader.data, reader.at + 8)[0]
        if reader.at + 12 + size > len(reader.data):
            break
        found.append(read_batch(reader))
    return found


def records(data, offset=0):
    return [r for b in batches(data) for r in b.records if r.offset >= offset]


# --- Short forms ---

def produce(client, topic, data, partition=0, version=9, acks=-1, topic_id=None, timeout_ms=10000,
            **more):
    """Sends one partition's records; returns its part of the response (None with acks=0)."""
    sent = client.send(
        "Produce", version, acks=acks, timeout_ms=timeout_ms, **more,
        topic_data=[dict(name=topic, topic_id=topic_id or bytes(16),
                         partition_data=[dict(index=partition, records=data)])])
    if acks == 0:
        return None
    return client.receive(sent)["responses"][0]["partition_responses"][0]


def fetch_request(topic, offset, partition=0, max_bytes=1 << 20, topic_id=None, epoch=-1,
                  partition_max=1 << 20, wait=0, least=1, isolation=0, **more):
    return dict(max_wait_ms=wait, min_bytes=least, max_bytes=max_bytes, isolation_level=isolation,
                topics=[dict(topic=topic, topic_id=topic_id or bytes(16), partitions=[
                    dict(partition=partition, current_leader_epoch=epoch, fetch_offset=offset,
                         partition_max_bytes=partition_max)])], **more)


def fetch(client, topic, offset, version=11, **more):
    answer = client.ask("Fetch", version, **fetch_request(topic, offset, **more))
    assert answer["error_code"] == 0
    return answer["responses"][0]["partitions"][0]


def metadata(client, topic, version=9, create=True):
    return client.ask("Metadata", version, topics=[dict(name=topic)],
                      allow_auto_topic_creation=create)["topics"][0]


# --- Words for checks ---

class Server(mounted.Broker):
    """A broker that listens on the mount's behalf, too."""

    def __init__(self, name="b", options=(), **more):
        self.address = f"127.0.0.1:{mounted.free_port()}"
        super().__init__(name, ["--listen", f"plaintext://{self.address}", *options], **more)

    def client(self, **more):
        return Client(self.address, **more)

    def metric(self, name):
        text = mounted.read(self.path(".kqfs", "metrics")).decode()
        return int(re.search(rf"^{re.escape(name)} (\d+)$", text, re.M)[1])


def error(name):
    return ERRORS.index(name)


ERRORS = [None] * 200
for _line in (Path(__file__).resolve().parents[2] / "net" / "errmap.h").read_text().splitlines():
    if _found := re.fullmatch(r"\s*KQ_ERROR_(\w+) = (\d+),", _line):
        ERRORS[int(_found[2])] = _found[1]


def refused(answer, name):
    mounted.equal(ERRORS[answer["error_code"]], name)
