/* Messages of Kafka's protocol by their schema: which fields of a C struct a version has, in which
 * form and order. schema/generate.py makes the schemas; this reads and writes by them.
 *
 * A message's C struct is plain data: strings, bytes and records are kq_str, kq_bytes and
 * kq_wire_records; an array is a pointer with an int32_t count (<name>_count, -1 null) right behind
 * it; a struct is embedded, or, where it can be null, a pointer (NULL). All of it is borrowed:
 * nothing is freed but the arena.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/base/wire.h"

enum kq_wire_type {
    KQ_WIRE_BOOL,
    KQ_WIRE_INT8,
    KQ_WIRE_INT16,
    KQ_WIRE_UINT16,
    KQ_WIRE_INT32,
    KQ_WIRE_UINT32,
    KQ_WIRE_INT64,
    KQ_WIRE_FLOAT64,
    KQ_WIRE_UUID,
    KQ_WIRE_STRING,
    KQ_WIRE_BYTES,
    KQ_WIRE_RECORDS,
    KQ_WIRE_STRUCT,         /* embedded */
    KQ_WIRE_NULLABLE_STRUCT /* by pointer */
};

struct kq_wire_field {
    const char *name;
    uint16_t offset; /* in the struct */
    uint8_t type;    /* of the field, or of its elements */
    bool array;
    bool ignorable;     /* a version without this field may lose its value */
    int8_t lowest;      /* versions that have it */
    int8_t highest;     /* INT8_MAX: and all later ones */
    int8_t null_lowest; /* versions in which it may be null; none: lowest above highest */
    int8_t null_highest;
    int16_t tag;   /* -1: not tagged */
    uint8_t shape; /* of a struct: its place in the schema's shapes */
};

/* A struct of a message. */
struct kq_wire_shape {
    const struct kq_wire_field *fields; /* in the order of the wire, then the tagged ones in that
                                           of their tags */
    const void *defaults;               /* a struct with every field at its default */
    const uint8_t *minimum;             /* bytes on the wire at least, for each version */
    uint32_t size;                      /* of the C struct */
    uint16_t field_count;               /* not tagged */
    uint16_t tagged_count;
};

struct kq_wire_schema {
    const char *name; /* Kafka's: "MetadataRequest" */
    int16_t lowest, highest;
    int16_t flexible;                   /* first flexible version; INT16_MAX: none */
    const struct kq_wire_shape *shapes; /* the first is the message itself */
};

/* Sets *RET (of shapes[SHAPE]) to the defaults. */
void kq_schema_init(const struct kq_wire_schema *schema, unsigned shape, void *ret);

/* COUNT structs of shapes[SHAPE] from ARENA, all at their defaults. NULL as kq_arena_array. */
void *kq_schema_array(const struct kq_wire_schema *schema, unsigned shape, struct kq_arena *arena,
                      size_t count);

/* Reads a message into *RET, whose size is that of the first shape; fields which VERSION does not
 * have get their default. Returns reader->error: 0; -EBADMSG, -ENOMEM, -E2BIG, and *RET is then
 * undefined. -EINVAL: VERSION is not one of the schema. Bytes behind the message are left. */
int kq_schema_read(const struct kq_wire_schema *schema, struct kq_wire_reader *reader,
                   int16_t version, void *ret);

/* As kq_schema_read, of all of LENGTH bytes: -EBADMSG too if some are left over. */
int kq_schema_parse(const struct kq_wire_schema *schema, const void *bytes, size_t length,
                    int16_t version, struct kq_arena *arena, void *ret);

/* Writes *MESSAGE. Returns writer->error: 0; -ENOMEM; -EINVAL: a value that VERSION cannot hold, or
 * a field which VERSION does not have and which is neither ignorable nor at its default. */
int kq_schema_write(const struct kq_wire_schema *schema, struct kq_wire_writer *writer,
                    int16_t version, const void *message);

/* Is the field of *MESSAGE at its default? */
bool kq_schema_is_default(const struct kq_wire_schema *schema, const struct kq_wire_shape *shape,
                          const struct kq_wire_field *field, const void *message);
