#!/usr/bin/env python3
"""Makes C from message schemas: generate.py ROOM OUTPUT-DIRECTORY SCHEMA...

For each SCHEMA file a header of its name with the C structs and typed calls; messages.c with the
tables that broker/base/schema.c reads and writes by and, where the files describe requests, the list
of all keys. ROOM ("net") is what the headers are included by: "net/message/<name>.h". README.md
beside this file describes the notation.
"""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

FOREVER = 127
NEVER = (1, 0)

# notation: (C type, enum, bytes on the wire at least: before flexible versions, in them)
PLAIN = {
    "bool": ("bool", "BOOL", 1, 1),
    "int8": ("int8_t", "INT8", 1, 1),
    "int16": ("int16_t", "INT16", 2, 2),
    "uint16": ("uint16_t", "UINT16", 2, 2),
    "int32": ("int32_t", "INT32", 4, 4),
    "uint32": ("uint32_t", "UINT32", 4, 4),
    "int64": ("int64_t", "INT64", 8, 8),
    "float64": ("double", "FLOAT64", 8, 8),
    "uuid": ("uint8_t", "UUID", 16, 16),
    "string": ("struct kq_str", "STRING", 2, 1),
    "bytes": ("struct kq_bytes", "BYTES", 4, 1),
    "records": ("struct kq_wire_records", "RECORDS", 4, 1),
}
INTEGERS = {"int8", "int16", "uint16", "int32", "uint32", "int64"}


class SchemaError(Exception):
    """A line that the notation does not allow."""


@dataclass
class Field:
    name: str
    type: str  # a plain type or an item's name
    array: bool
    versions: tuple
    null: tuple = NEVER
    tag: int = -1
    ignorable: bool = False
    default: str = ""
    where: str = ""

    def is_in(self, version):
        return self.versions[0] <= version <= self.versions[1]

    def is_null(self, version):
        return self.null[0] <= version <= self.null[1]

    @property
    def struct(self):
        return self.type not in PLAIN

    @property
    def by_pointer(self):
        return self.struct and not self.array and self.null != NEVER


@dataclass
class Item:
    name: str  # "" for the message itself
    fields: list = field(default_factory=list)


@dataclass
class Message:
    title: str  # Kafka's name
    versions: tuple
    flexible: int
    items: list = field(default_factory=list)

    @property
    def c_name(self):
        return "kq_" + snake(self.title)

    def item(self, name):
        return next((item for item in self.items if item.name == name), None)

    def struct(self, item):
        return self.c_name + ("_" + item.name if item.name else "")


@dataclass
class Api:
    key: int
    title: str
    request: Message = None
    response: Message = None


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def versions_of(text, where):
    """A range: "3", "3-7", "3+", "none"."""
    if text == "none":
        return NEVER
    match = re.fullmatch(r"(\d+)(\+|-(\d+))?", text)
    if not match:
        raise SchemaError(f"{where}: not a range of versions: {text}")
    lowest = int(match[1])
    if match[2] == "+":
        return lowest, FOREVER
    return lowest, int(match[3] or lowest)


# --- The notation ---


def parse_field(words, where):
    name, kind, versions = words[:3]
    result = Field(name, kind.removeprefix("[]"), kind.startswith("[]"),
                   versions_of(versions, where), where=where)
    rest = iter(words[3:])
    for word in rest:
        if word == "null":
            result.null = versions_of(next(rest), where)
        elif word == "tag":
            result.tag = int(next(rest))
        elif word == "ignorable":
            result.ignorable = True
        elif word == "=":
            result.default = next(rest)
        else:
            raise SchemaError(f"{where}: what is {word}?")
    return result


def parse_body(lines, message):
    """Fields, indented by two below their struct; LINES from the message's first field on."""
    message.items.append(Item(""))
    stack = [message.items[0]]
    opened = None
    while lines:
        number, depth, words, where = lines[0]
        if depth == 0:
            break
        lines.pop(0)
        if depth > len(stack):
            if depth != len(stack) + 1 or not opened or not opened.struct:
                raise SchemaError(f"{where}: indented too far")
            if message.item(opened.type):
                raise SchemaError(f"{where}: there are two items named {opened.type}")
            stack.append(Item(opened.type))
            message.items.append(stack[-1])
        del stack[depth:]
        if len(words) < 3:
            raise SchemaError(f"{where}: a field has a name, a type and versions")
        opened = parse_field(words, where)
        stack[-1].fields.append(opened)
    check(message)


def check(message):
    for item in message.items:
        names = set()
        for entry in item.fields:
            if entry.name in names:
                raise SchemaError(f"{entry.where}: {entry.name} is there already")
            names.add(entry.name)
            if entry.struct and not message.item(entry.type):
                raise SchemaError(f"{entry.where}: no item is named {entry.type}")
            if entry.type == "records" and (entry.array or entry.tag >= 0):
                raise SchemaError(f"{entry.where}: records stand alone")
            if entry.tag >= 0 and entry.versions[0] < message.flexible:
                raise SchemaError(f"{entry.where}: tagged before the first flexible version")
            if entry.default == "null" and entry.null == NEVER:
                raise SchemaError(f"{entry.where}: never null, but that is the default")
        tags = [entry.tag for entry in item.fields if entry.tag >= 0]
        if len(set(tags)) != len(tags) or len(tags) > 63:
            raise SchemaError(f"{message.title}: a tag is used twice")
        item.fields.sort(key=lambda entry: entry.tag)  # the untagged ones stay in order, in front


def parse(path):
    """The APIs and the records of a file."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        text = text.split("#")[0].rstrip()
        if text:
            indent = len(text) - len(text.lstrip())
            lines.append((number, indent // 2, text.split(), f"{path}:{number}"))
    apis, records = [], []
    flexible = 32767
    while lines:
        _, depth, words, where = lines.pop(0)
        if depth:
            raise SchemaError(f"{where}: outside of a message")
        if words[0] == "api" and len(words) == 3:
            apis.append(Api(int(words[1]), words[2]))
        elif words[0] == "flexible" and len(words) == 2:
            flexible = 32767 if words[1] == "none" else versions_of(words[1], where)[0]
        elif words[0] in ("request", "response") and len(words) == 2 and apis:
            title = apis[-1].title + words[0].capitalize()
            message = Message(title, versions_of(words[1], where), flexible)
            parse_body(lines, message)
            setattr(apis[-1], words[0], message)
        elif words[0] == "record" and len(words) == 3:
            message = Message(words[1], versions_of(words[2], where), flexible)
            parse_body(lines, message)
            records.append(message)
        else:
            raise SchemaError(f"{where}: what is {words[0]}?")
    if any(not (api.request and api.response) for api in apis):
        raise SchemaError(f"{path}: a key has a request and a response")
    return apis, records


# --- C ---


def member(message, entry):
    """The lines that declare a field."""
    kind = "struct " + message.struct(message.item(entry.type)) if entry.struct \
        else PLAIN[entry.type][0]
    if entry.array:
        bound = "(*%s)[16]" if entry.type == "uuid" else "*%s"
        return [f"{kind} {bound % entry.name};", f"int32_t {entry.name}_count;"]
    if entry.type == "uuid":
        return [f"uint8_t {entry.name}[16];"]
    return [f"{kind} {'*' if entry.by_pointer else ''}{entry.name};"]


def literal(entry):
    """A default that is not all zeros, as an initialiser; None."""
    default = entry.default
    if entry.array or entry.struct:
        return None
    if entry.type == "string" and default == "null":
        return "{NULL, -1}"
    if entry.type == "bytes" and default == "null":
        return "{NULL, -1}"
    if entry.type == "records":
        return "{NULL, NULL, -1}"
    if entry.type == "string" and default:
        return f'{{"{default}", {len(default)}}}'
    if entry.type == "bool":
        return "true" if default == "true" else None
    if entry.type in INTEGERS and default and int(default, 0) != 0:
        value = int(default, 0)
        return "INT64_MIN" if value == -2**63 else str(value)
    if default not in ("", "0", "0.0", "false", "null"):
        raise SchemaError(f"{entry.where}: a default of {entry.type}: {default}")
    return None


def defaults(message, item, prefix=""):
    result = []
    for entry in item.fields:
        if entry.array and entry.default == "null":
            result.append(f".{prefix}{entry.name}_count = -1")
        elif entry.struct and not entry.array and not entry.by_pointer:
            result += defaults(message, message.item(entry.type), f"{prefix}{entry.name}.")
        elif (value := literal(entry)) is not None:
            result.append(f".{prefix}{entry.name} = {value}")
    return result


def minimum(message, item, version):
    """Bytes that the item takes on the wire at least."""
    flexible = version >= message.flexible
    total = 1 if flexible else 0
    for entry in item.fields:
        if not entry.is_in(version) or entry.tag >= 0:
            continue
        if entry.array:
            total += 1 if flexible else 4
            if entry.struct and not minimum(message, message.item(entry.type), version):
                raise SchemaError(f"{entry.where}: elements of no bytes in version {version}")
        elif entry.struct:
            nullable = entry.is_null(version)
            total += 1 if nullable else minimum(message, message.item(entry.type), version)
        else:
            total += PLAIN[entry.type][3 if flexible else 2]
    return total


def header(path, room, messages):
    guard = f"{room}/message/{path.stem}.h, made from {room}/schema/{path.name}"
    out = [f"/* {guard}: do not edit. */", "#pragma once", "", "#include \"broker/base/schema.h\"", ""]
    for message in messages:
        for item in reversed(message.items):
            out.append(f"struct {message.struct(item)} {{")
            declared = [line for entry in item.fields for line in member(message, entry)]
            out += ["    " + line for line in declared or ["char none;"]]
            out += ["};", ""]
        out += calls(message)
    return "\n".join(out)


def calls(message):
    name = message.c_name
    out = [f"extern const struct kq_wire_schema {name}_schema;", "",
           f"static inline void {name}_init(struct {name} *ret)",
           "{", f"    kq_schema_init(&{name}_schema, 0, ret);", "}", "",
           f"static inline int {name}_read(struct kq_wire_reader *reader, int16_t version,",
           f"    struct {name} *ret)",
           "{", f"    return kq_schema_read(&{name}_schema, reader, version, ret);", "}", "",
           f"static inline int {name}_write(struct kq_wire_writer *writer, int16_t version,",
           f"    const struct {name} *message)",
           "{", f"    return kq_schema_write(&{name}_schema, writer, version, message);", "}", ""]
    for index, item in enumerate(message.items[1:], 1):
        struct = message.struct(item)
        out += [f"static inline struct {struct} *{struct}_array(",
                "    struct kq_arena *arena, size_t count)", "{",
                f"    return (struct {struct} *)kq_schema_array(&{name}_schema, {index}, arena,",
                "                                             count);", "}", ""]
    return out


def field_row(message, item, entry):
    kind = PLAIN[entry.type][1] if not entry.struct else \
        "NULLABLE_STRUCT" if entry.by_pointer else "STRUCT"
    shape = message.items.index(message.item(entry.type)) if entry.struct else 0
    parts = [f'"{entry.name}"', f"offsetof(struct {message.struct(item)}, {entry.name})",
             f"KQ_WIRE_{kind}", str(int(entry.array)), str(int(entry.ignorable)),
             *map(str, entry.versions), *map(str, entry.null), str(entry.tag), str(shape)]
    return "    {" + ", ".join(parts) + "},"


def tables(message):
    out = []
    lowest, highest = message.versions
    for item in message.items:
        struct = message.struct(item)
        out.append(f"static const struct kq_wire_field {struct}_fields[] = {{")
        out += [field_row(message, item, entry) for entry in item.fields] or ["    {0},"]
        out += ["};"]
        values = ", ".join(defaults(message, item)) or "0"
        out.append(f"static const struct {struct} {struct}_defaults = {{{values}}};")
        sizes = [minimum(message, item, version) for version in range(lowest, highest + 1)]
        if max(sizes) > 255:
            raise SchemaError(f"{struct}: too many fields")
        out.append(f"static const uint8_t {struct}_minimum[] = {{{', '.join(map(str, sizes))}}};")
    out.append(f"static const struct kq_wire_shape {message.c_name}_shapes[] = {{")
    for item in message.items:
        struct = message.struct(item)
        tagged = sum(entry.tag >= 0 for entry in item.fields)
        out.append(f"    {{{struct}_fields, &{struct}_defaults, {struct}_minimum, sizeof(struct {struct}), "
                   f"{len(item.fields) - tagged}, {tagged}}},")
    out += ["};",
            f"const struct kq_wire_schema {message.c_name}_schema = {{",
            f'    "{message.title}", {lowest}, {highest}, {message.flexible}, '
            f"{message.c_name}_shapes}};", ""]
    return out


def list_of_keys(apis):
    out = ["const struct kq_message kq_messages[] = {"]
    for api in apis:
        request = api.request
        if request.versions != api.response.versions or request.flexible != api.response.flexible:
            raise SchemaError(f"{api.title}: request and response do not agree")
        out.append(f'    {{{api.key}, {request.versions[0]}, {request.versions[1]}, '
                   f'{request.flexible}, "{api.title}", &{request.c_name}_schema, '
                   f"&{api.response.c_name}_schema}},")
    out += ["};", f"const size_t kq_message_count = {len(apis)};", "",
            "/* Key -> its place in the list plus one. */",
            "const uint8_t kq_message_places[KQ_MESSAGE_KEYS] = {"]
    out += [f"    [{api.key}] = {place}," for place, api in enumerate(apis, 1)]
    return out + ["};", ""]


def generate(room, directory, paths):
    apis, body, includes = [], [], []
    for path in sorted(paths):
        these, records = parse(path)
        messages = [m for api in these for m in (api.request, api.response)] + records
        (directory / f"{path.stem}.h").write_text(header(path, room, messages))
        includes.append(f'#include "{room}/message/{path.stem}.h"')
        apis += these
        for message in messages:
            body += tables(message)
    out = [f"/* Made from {room}/schema: do not edit. */"]
    if apis:
        includes.append('#include "net/message.h"')
        body += list_of_keys(sorted(apis, key=lambda api: api.key))
    (directory / "messages.c").write_text("\n".join(out + includes + [""] + body))


def main():
    room, directory, *paths = sys.argv[1:]
    try:
        generate(room, Path(directory), [Path(path) for path in paths])
    except (SchemaError, ValueError, StopIteration) as error:
        sys.exit(f"generate.py: {error}")


main()
