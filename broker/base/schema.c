#include "broker/base/schema.h"

/* What one call reads or writes by. */
struct pass {
    const struct kq_wire_schema *schema;
    int16_t version;
    bool flexible;
};

static const uint8_t element_sizes[] = {
    [KQ_WIRE_BOOL] = sizeof(bool),
    [KQ_WIRE_INT8] = sizeof(int8_t),
    [KQ_WIRE_INT16] = sizeof(int16_t),
    [KQ_WIRE_UINT16] = sizeof(uint16_t),
    [KQ_WIRE_INT32] = sizeof(int32_t),
    [KQ_WIRE_UINT32] = sizeof(uint32_t),
    [KQ_WIRE_INT64] = sizeof(int64_t),
    [KQ_WIRE_FLOAT64] = sizeof(double),
    [KQ_WIRE_UUID] = 16,
    [KQ_WIRE_STRING] = sizeof(struct kq_str),
    [KQ_WIRE_BYTES] = sizeof(struct kq_bytes),
    [KQ_WIRE_RECORDS] = sizeof(struct kq_wire_records),
};

/* Bytes on the wire at least, before flexible versions and in them. */
static const uint8_t element_minimums[][2] = {
    [KQ_WIRE_BOOL] = {1, 1},   [KQ_WIRE_INT8] = {1, 1},    [KQ_WIRE_INT16] = {2, 2},
    [KQ_WIRE_UINT16] = {2, 2}, [KQ_WIRE_INT32] = {4, 4},   [KQ_WIRE_UINT32] = {4, 4},
    [KQ_WIRE_INT64] = {8, 8},  [KQ_WIRE_FLOAT64] = {8, 8}, [KQ_WIRE_UUID] = {16, 16},
    [KQ_WIRE_STRING] = {2, 1}, [KQ_WIRE_BYTES] = {4, 1},   [KQ_WIRE_RECORDS] = {4, 1},
};

static bool is_in(const struct kq_wire_field *field, int16_t version)
{
    return version >= field->lowest && version <= field->highest;
}

static bool is_nullable(const struct kq_wire_field *field, int16_t version)
{
    return version >= field->null_lowest && version <= field->null_highest;
}

/* An array as it lies in a message. */
struct array {
    void *elements;
    int32_t count;
};

void kq_schema_init(const struct kq_wire_schema *schema, unsigned shape, void *ret)
{
    memcpy(ret, schema->shapes[shape].defaults, schema->shapes[shape].size);
}

void *kq_schema_array(const struct kq_wire_schema *schema, unsigned shape, struct kq_arena *arena,
                      size_t count)
{
    uint32_t size = schema->shapes[shape].size;
    uint8_t *array = kq_arena_array(arena, count, size);
    for (size_t i = 0; array && i < count; i++)
        kq_schema_init(schema, shape, array + i * size);
    return array;
}

/* --- Reading --- */

static void read_shape(const struct pass *pass, struct kq_wire_reader *reader, unsigned shape,
                       uint8_t *ret);

static void read_plain(const struct pass *pass, struct kq_wire_reader *reader,
                       const struct kq_wire_field *field, bool nullable, void *ret)
{
    struct kq_bytes bytes;
    switch (field->type) {
    case KQ_WIRE_BOOL:
        *(bool *)ret = kq_wire_read_bool(reader);
        break;
    case KQ_WIRE_INT8:
        *(int8_t *)ret = kq_wire_read_int8(reader);
        break;
    case KQ_WIRE_INT16:
    case KQ_WIRE_UINT16:
        *(uint16_t *)ret = kq_wire_read_uint16(reader);
        break;
    case KQ_WIRE_INT32:
    case KQ_WIRE_UINT32:
        *(uint32_t *)ret = kq_wire_read_uint32(reader);
        break;
    case KQ_WIRE_INT64:
        *(int64_t *)ret = kq_wire_read_int64(reader);
        break;
    case KQ_WIRE_FLOAT64:
        *(double *)ret = kq_wire_read_float64(reader);
        break;
    case KQ_WIRE_UUID:
        kq_wire_read_uuid(reader, ret);
        break;
    case KQ_WIRE_STRING:
        *(struct kq_str *)ret = kq_wire_read_string(reader, pass->flexible, nullable);
        break;
    case KQ_WIRE_BYTES:
        *(struct kq_bytes *)ret = kq_wire_read_bytes(reader, pass->flexible, nullable);
        break;
    case KQ_WIRE_RECORDS:
        bytes = kq_wire_read_bytes(reader, pass->flexible, nullable);
        *(struct kq_wire_records *)ret = (struct kq_wire_records){NULL, bytes.data, bytes.length};
        break;
    }
}

static void read_array(const struct pass *pass, struct kq_wire_reader *reader,
                       const struct kq_wire_field *field, struct array *ret)
{
    const struct kq_wire_schema *schema = pass->schema;
    const struct kq_wire_shape *shape = NULL;
    size_t size, minimum;
    if (field->type == KQ_WIRE_STRUCT) {
        shape = &schema->shapes[field->shape];
        size = shape->size;
        minimum = shape->minimum[pass->version - schema->lowest];
    } else {
        size = element_sizes[field->type];
        minimum = element_minimums[field->type][pass->flexible];
    }
    ret->elements = NULL;
    ret->count =
        kq_wire_read_count(reader, pass->flexible, is_nullable(field, pass->version), minimum);
    if (ret->count <= 0)
        return;
    uint8_t *at = ret->elements = kq_wire_reader_array(reader, ret->count, size);
    for (int32_t i = 0; i < ret->count && !reader->error; i++, at += size) {
        if (shape)
            read_shape(pass, reader, field->shape, at);
        else
            read_plain(pass, reader, field, false, at);
    }
}

/* A null struct is the byte -1, any other has the byte 1 in front (KIP-893). */
static void read_nullable(const struct pass *pass, struct kq_wire_reader *reader,
                          const struct kq_wire_field *field, void **ret)
{
    int8_t mark = is_nullable(field, pass->version) ? kq_wire_read_int8(reader) : 1;
    *ret = NULL;
    if (mark < 0 || reader->error)
        return;
    *ret = kq_wire_reader_array(reader, 1, pass->schema->shapes[field->shape].size);
    if (*ret)
        read_shape(pass, reader, field->shape, *ret);
}

static void read_field(const struct pass *pass, struct kq_wire_reader *reader,
                       const struct kq_wire_field *field, void *ret)
{
    if (field->array)
        read_array(pass, reader, field, ret);
    else if (field->type == KQ_WIRE_STRUCT)
        read_shape(pass, reader, field->shape, ret);
    else if (field->type == KQ_WIRE_NULLABLE_STRUCT)
        read_nullable(pass, reader, field, ret);
    else
        read_plain(pass, reader, field, is_nullable(field, pass->version), ret);
}

static const struct kq_wire_field *find_tag(const struct pass *pass,
                                            const struct kq_wire_shape *shape, int64_t tag)
{
    const struct kq_wire_field *field = shape->fields + shape->field_count;
    for (unsigned i = 0; i < shape->tagged_count; i++, field++)
        if (field->tag == tag)
            return is_in(field, pass->version) ? field : NULL;
    return NULL;
}

static void read_tags(const struct pass *pass, struct kq_wire_reader *reader,
                      const struct kq_wire_shape *shape, uint8_t *ret)
{
    int64_t tag = -1;
    struct kq_wire_reader part;
    for (uint32_t count = kq_wire_read_uvarint(reader); count && !reader->error; count--) {
        kq_wire_read_tag(reader, &tag, &part);
        if (reader->error)
            return;
        const struct kq_wire_field *field = find_tag(pass, shape, tag);
        if (!field)
            continue;
        read_field(pass, &part, field, ret + field->offset);
        if (kq_wire_reader_finish(&part) < 0)
            kq_wire_reader_fail(reader, part.error);
    }
}

static void read_shape(const struct pass *pass, struct kq_wire_reader *reader, unsigned index,
                       uint8_t *ret)
{
    const struct kq_wire_shape *shape = &pass->schema->shapes[index];
    memcpy(ret, shape->defaults, shape->size);
    for (unsigned i = 0; i < shape->field_count; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        if (is_in(field, pass->version))
            read_field(pass, reader, field, ret + field->offset);
    }
    if (pass->flexible)
        read_tags(pass, reader, shape, ret);
}

static bool begin(struct pass *pass, const struct kq_wire_schema *schema, int16_t version)
{
    *pass = (struct pass){schema, version, version >= schema->flexible};
    return version >= schema->lowest && version <= schema->highest;
}

int kq_schema_read(const struct kq_wire_schema *schema, struct kq_wire_reader *reader,
                   int16_t version, void *ret)
{
    struct pass pass;
    if (begin(&pass, schema, version))
        read_shape(&pass, reader, 0, ret);
    else
        kq_wire_reader_fail(reader, -EINVAL);
    return reader->error;
}

int kq_schema_parse(const struct kq_wire_schema *schema, const void *bytes, size_t length,
                    int16_t version, struct kq_arena *arena, void *ret)
{
    struct kq_wire_reader reader;
    kq_wire_reader_init(&reader, bytes, length, arena);
    int r = kq_schema_read(schema, &reader, version, ret);
    return r < 0 ? r : kq_wire_reader_finish(&reader);
}

/* --- Writing --- */

static bool is_shape_default(const struct kq_wire_schema *schema, unsigned index, const void *value)
{
    const struct kq_wire_shape *shape = &schema->shapes[index];
    for (int i = 0; i < shape->field_count + shape->tagged_count; i++)
        if (!kq_schema_is_default(schema, shape, &shape->fields[i], value))
            return false;
    return true;
}

bool kq_schema_is_default(const struct kq_wire_schema *schema, const struct kq_wire_shape *shape,
                          const struct kq_wire_field *field, const void *message)
{
    const void *value = (const uint8_t *)message + field->offset;
    const void *standard = (const uint8_t *)shape->defaults + field->offset;
    if (field->array)
        return ((const struct array *)value)->count == ((const struct array *)standard)->count;
    switch (field->type) {
    case KQ_WIRE_STRING:
        return kq_str_is(*(const struct kq_str *)value, *(const struct kq_str *)standard);
    case KQ_WIRE_BYTES:
        return ((const struct kq_bytes *)value)->length ==
               ((const struct kq_bytes *)standard)->length;
    case KQ_WIRE_RECORDS:
        return ((const struct kq_wire_records *)value)->length ==
               ((const struct kq_wire_records *)standard)->length;
    case KQ_WIRE_STRUCT:
        return is_shape_default(schema, field->shape, value);
    case KQ_WIRE_NULLABLE_STRUCT:
        return *(void *const *)value == NULL;
    default:
        return memcmp(value, standard, element_sizes[field->type]) == 0;
    }
}

static void write_shape(const struct pass *pass, struct kq_wire_writer *writer, unsigned shape,
                        const uint8_t *value);

static void write_plain(const struct pass *pass, struct kq_wire_writer *writer,
                        const struct kq_wire_field *field, bool nullable, const void *value)
{
    switch (field->type) {
    case KQ_WIRE_BOOL:
        kq_wire_write_bool(writer, *(const bool *)value);
        break;
    case KQ_WIRE_INT8:
        kq_wire_write_int8(writer, *(const int8_t *)value);
        break;
    case KQ_WIRE_INT16:
    case KQ_WIRE_UINT16:
        kq_wire_write_int16(writer, *(const int16_t *)value);
        break;
    case KQ_WIRE_INT32:
    case KQ_WIRE_UINT32:
        kq_wire_write_int32(writer, *(const int32_t *)value);
        break;
    case KQ_WIRE_INT64:
        kq_wire_write_int64(writer, *(const int64_t *)value);
        break;
    case KQ_WIRE_FLOAT64:
        kq_wire_write_float64(writer, *(const double *)value);
        break;
    case KQ_WIRE_UUID:
        kq_wire_write_raw(writer, value, 16);
        break;
    case KQ_WIRE_STRING:
        kq_wire_write_string(writer, pass->flexible, nullable, *(const struct kq_str *)value);
        break;
    case KQ_WIRE_BYTES:
        kq_wire_write_bytes(writer, pass->flexible, nullable, *(const struct kq_bytes *)value);
        break;
    case KQ_WIRE_RECORDS:
        kq_wire_write_records(writer, pass->flexible, nullable,
                              *(const struct kq_wire_records *)value);
        break;
    }
}

static void write_array(const struct pass *pass, struct kq_wire_writer *writer,
                        const struct kq_wire_field *field, bool nullable, const struct array *array)
{
    bool structs = field->type == KQ_WIRE_STRUCT;
    size_t size = structs ? pass->schema->shapes[field->shape].size : element_sizes[field->type];
    const uint8_t *at = array->elements;
    kq_wire_write_count(writer, pass->flexible, nullable, array->count);
    for (int32_t i = 0; i < array->count && !writer->error; i++, at += size) {
        if (structs)
            write_shape(pass, writer, field->shape, at);
        else
            write_plain(pass, writer, field, false, at);
    }
}

static void write_nullable(const struct pass *pass, struct kq_wire_writer *writer,
                           const struct kq_wire_field *field, bool nullable, const void *value)
{
    if (nullable)
        kq_wire_write_int8(writer, value ? 1 : -1);
    else if (!value)
        kq_wire_writer_fail(writer, -EINVAL);
    if (value)
        write_shape(pass, writer, field->shape, value);
}

static void write_field(const struct pass *pass, struct kq_wire_writer *writer,
                        const struct kq_wire_field *field, const void *value)
{
    bool nullable = is_nullable(field, pass->version);
    if (field->array)
        write_array(pass, writer, field, nullable, value);
    else if (field->type == KQ_WIRE_STRUCT)
        write_shape(pass, writer, field->shape, value);
    else if (field->type == KQ_WIRE_NULLABLE_STRUCT)
        write_nullable(pass, writer, field, nullable, *(void *const *)value);
    else
        write_plain(pass, writer, field, nullable, value);
}

/* Does the value go onto the wire? A tagged one does if it is not at its default. */
static bool is_written(const struct pass *pass, struct kq_wire_writer *writer,
                       const struct kq_wire_shape *shape, const struct kq_wire_field *field,
                       const uint8_t *value)
{
    bool present = is_in(field, pass->version);
    if (present && field->tag < 0)
        return true;
    if (kq_schema_is_default(pass->schema, shape, field, value))
        return false;
    if (!present && !field->ignorable)
        kq_wire_writer_fail(writer, -EINVAL);
    return present;
}

static void write_tags(const struct pass *pass, struct kq_wire_writer *writer,
                       const struct kq_wire_shape *shape, const uint8_t *value)
{
    const struct kq_wire_field *fields = shape->fields + shape->field_count;
    uint64_t written = 0;
    for (unsigned i = 0; i < shape->tagged_count; i++)
        if (is_written(pass, writer, shape, &fields[i], value))
            written |= UINT64_C(1) << i;
    if (pass->flexible)
        kq_wire_write_uvarint(writer, (uint32_t)__builtin_popcountll(written));
    for (unsigned i = 0; written >> i && !writer->error; i++) {
        if (!(written >> i & 1))
            continue;
        kq_wire_write_uvarint(writer, (uint32_t)fields[i].tag);
        size_t from = writer->buf->length;
        write_field(pass, writer, &fields[i], value + fields[i].offset);
        kq_wire_write_size_at(writer, from);
    }
}

static void write_shape(const struct pass *pass, struct kq_wire_writer *writer, unsigned index,
                        const uint8_t *value)
{
    const struct kq_wire_shape *shape = &pass->schema->shapes[index];
    for (unsigned i = 0; i < shape->field_count && !writer->error; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        if (is_written(pass, writer, shape, field, value))
            write_field(pass, writer, field, value + field->offset);
    }
    write_tags(pass, writer, shape, value);
}

int kq_schema_write(const struct kq_wire_schema *schema, struct kq_wire_writer *writer,
                    int16_t version, const void *message)
{
    struct pass pass;
    if (begin(&pass, schema, version))
        write_shape(&pass, writer, 0, message);
    else
        kq_wire_writer_fail(writer, -EINVAL);
    return writer->error;
}
