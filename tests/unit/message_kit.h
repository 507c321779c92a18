/* Messages of any schema: filled by chance, and shown as text. */
#pragma once

#include <inttypes.h>
#include <stdlib.h>

#include "broker/base/schema.h"
#include "tests/unit/chance.h"

struct message_array {
    void *elements;
    int32_t count;
};

/* --- Shown: fields in the order of their names; what is zero, empty or false is left out, so that
 * an absent field shows what its default is --- */

static inline void show_hex(const uint8_t *bytes, int64_t length, struct kq_buf *ret)
{
    if (length < 0) {
        kq_buf_append_string(ret, "null");
        return;
    }
    kq_buf_append_string(ret, "x");
    for (int64_t i = 0; i < length; i++)
        kq_buf_printf(ret, "%02x", bytes[i]);
}

static inline void show_shape(const struct kq_wire_schema *schema, unsigned shape,
                              const void *message, struct kq_buf *ret);

/* Returns whether it is more than zero. */
static inline bool show_value(const struct kq_wire_schema *schema, uint8_t type, unsigned shape,
                              const void *value, struct kq_buf *ret)
{
    const struct kq_str *string = value;
    const struct kq_bytes *bytes = value;
    const struct kq_wire_records *records = value;
    const void *pointed;
    int64_t number;
    switch (type) {
    case KQ_WIRE_BOOL:
        kq_buf_append_string(ret, *(const bool *)value ? "true" : "false");
        return *(const bool *)value;
    case KQ_WIRE_INT8:
        number = *(const int8_t *)value;
        break;
    case KQ_WIRE_INT16:
        number = *(const int16_t *)value;
        break;
    case KQ_WIRE_UINT16:
        number = *(const uint16_t *)value;
        break;
    case KQ_WIRE_INT32:
        number = *(const int32_t *)value;
        break;
    case KQ_WIRE_UINT32:
        number = *(const uint32_t *)value;
        break;
    case KQ_WIRE_INT64:
    case KQ_WIRE_FLOAT64:
        number = *(const int64_t *)value;
        break;
    case KQ_WIRE_UUID:
        show_hex(value, 16, ret);
        return memcmp(value, (uint8_t[16]){0}, 16) != 0;
    case KQ_WIRE_STRING:
        if (string->length < 0) {
            kq_buf_append_string(ret, "null");
            return true;
        }
        kq_buf_append_string(ret, "\"");
        kq_buf_append(ret, string->data, (size_t)string->length);
        kq_buf_append_string(ret, "\"");
        return string->length != 0;
    case KQ_WIRE_BYTES:
        show_hex(bytes->data, bytes->length, ret);
        return bytes->length != 0;
    case KQ_WIRE_RECORDS:
        show_hex(records->data, records->length, ret);
        return records->length != 0;
    case KQ_WIRE_NULLABLE_STRUCT:
        memcpy(&pointed, value, sizeof(pointed));
        if (pointed)
            show_shape(schema, shape, pointed, ret);
        else
            kq_buf_append_string(ret, "null");
        return true;
    default:
        show_shape(schema, shape, value, ret);
        return true;
    }
    kq_buf_printf(ret, "%" PRId64, number);
    return number != 0;
}

static inline size_t message_element_size(const struct kq_wire_schema *schema,
                                          const struct kq_wire_field *field)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 16, 24};
    return field->type == KQ_WIRE_STRUCT ? schema->shapes[field->shape].size : sizes[field->type];
}

static inline bool show_array(const struct kq_wire_schema *schema,
                              const struct kq_wire_field *field, const struct message_array *array,
                              struct kq_buf *ret)
{
    if (array->count < 0)
        kq_buf_append_string(ret, "null");
    for (int32_t i = 0; i < array->count; i++) {
        const uint8_t *at = array->elements;
        kq_buf_append_string(ret, i ? " " : "[");
        show_value(schema, field->type, field->shape,
                   at + (size_t)i * message_element_size(schema, field), ret);
    }
    if (array->count > 0)
        kq_buf_append_string(ret, "]");
    return array->count != 0;
}

static inline int compare_names(const void *a, const void *b)
{
    const struct kq_wire_field *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static inline void show_shape(const struct kq_wire_schema *schema, unsigned index,
                              const void *message, struct kq_buf *ret)
{
    const struct kq_wire_shape *shape = &schema->shapes[index];
    const struct kq_wire_field *fields[64];
    unsigned count = shape->field_count + shape->tagged_count;
    bool first = true;
    for (unsigned i = 0; i < count; i++)
        fields[i] = &shape->fields[i];
    qsort(fields, count, sizeof(*fields), compare_names);
    kq_buf_append_string(ret, "{");
    for (unsigned i = 0; i < count; i++) {
        const void *value = (const uint8_t *)message + fields[i]->offset;
        size_t before = ret->length;
        kq_buf_printf(ret, "%s%s=", first ? "" : " ", fields[i]->name);
        bool shown = fields[i]->array
                         ? show_array(schema, fields[i], value, ret)
                         : show_value(schema, fields[i]->type, fields[i]->shape, value, ret);
        if (shown)
            first = false;
        else
            ret->length = before;
    }
    kq_buf_append_string(ret, "}");
}

/* The message as a NUL-terminated string in RET. */
static inline const char *show_message(const struct kq_wire_schema *schema, const void *message,
                                       struct kq_buf *ret)
{
    ret->length = 0;
    show_shape(schema, 0, message, ret);
    kq_buf_append(ret, "", 1);
    return (const char *)ret->data;
}

/* --- Filled by chance: what VERSION has; all else stays at its default --- */

static inline void fill_shape(const struct kq_wire_schema *schema, unsigned shape, int16_t version,
                              struct kq_arena *arena, void *ret);

static inline char *fill_bytes(struct kq_arena *arena, int32_t *ret_length)
{
    *ret_length = (int32_t)(chance(50) ? chance(6) : chance(300));
    char *bytes = kq_arena_alloc(arena, (size_t)*ret_length);
    for (int32_t i = 0; i < *ret_length; i++)
        bytes[i] = (char)('a' + chance(26));
    return bytes;
}

static inline void fill_value(const struct kq_wire_schema *schema,
                              const struct kq_wire_field *field, int16_t version,
                              struct kq_arena *arena, bool nullable, void *ret)
{
    int32_t length = -1;
    uint64_t number = chance(3) ? chance(UINT64_MAX) : chance(2) - 1;
    char *bytes;
    void *pointed;
    switch (field->type) {
    case KQ_WIRE_BOOL:
        *(bool *)ret = number & 1;
        break;
    case KQ_WIRE_STRING:
        bytes = nullable && !chance(4) ? NULL : fill_bytes(arena, &length);
        *(struct kq_str *)ret = (struct kq_str){bytes, length};
        break;
    case KQ_WIRE_BYTES:
        bytes = nullable && !chance(4) ? NULL : fill_bytes(arena, &length);
        *(struct kq_bytes *)ret = (struct kq_bytes){(uint8_t *)bytes, length};
        break;
    case KQ_WIRE_RECORDS:
        bytes = nullable && !chance(4) ? NULL : fill_bytes(arena, &length);
        *(struct kq_wire_records *)ret = (struct kq_wire_records){NULL, (uint8_t *)bytes, length};
        break;
    case KQ_WIRE_STRUCT:
        fill_shape(schema, field->shape, version, arena, ret);
        break;
    case KQ_WIRE_NULLABLE_STRUCT:
        pointed = chance(3) ? kq_schema_array(schema, field->shape, arena, 1) : NULL;
        if (pointed)
            fill_shape(schema, field->shape, version, arena, pointed);
        memcpy(ret, &pointed, sizeof(pointed));
        break;
    default:
        memset(ret, 0, message_element_size(schema, field));
        memcpy(ret, &number,
               message_element_size(schema, field) > 8 ? 8 : message_element_size(schema, field));
    }
}

static inline void fill_array(const struct kq_wire_schema *schema,
                              const struct kq_wire_field *field, int16_t version,
                              struct kq_arena *arena, bool nullable, struct message_array *ret)
{
    size_t size = message_element_size(schema, field);
    ret->count = nullable && !chance(4) ? -1 : (int32_t)chance(4);
    if (ret->count <= 0)
        return;
    uint8_t *at = ret->elements = kq_arena_array(arena, (size_t)ret->count, size);
    for (int32_t i = 0; i < ret->count; i++, at += size) {
        if (field->type == KQ_WIRE_STRUCT)
            kq_schema_init(schema, field->shape, at);
        fill_value(schema, field, version, arena, false, at);
    }
}

static inline void fill_shape(const struct kq_wire_schema *schema, unsigned index, int16_t version,
                              struct kq_arena *arena, void *ret)
{
    const struct kq_wire_shape *shape = &schema->shapes[index];
    for (int i = 0; i < shape->field_count + shape->tagged_count; i++) {
        const struct kq_wire_field *field = &shape->fields[i];
        void *value = (uint8_t *)ret + field->offset;
        bool nullable = version >= field->null_lowest && version <= field->null_highest;
        if (version < field->lowest || version > field->highest)
            continue;
        if (field->array)
            fill_array(schema, field, version, arena, nullable, value);
        else
            fill_value(schema, field, version, arena, nullable, value);
    }
}

/* A message of SCHEMA from ARENA. */
static inline void *fill_message(const struct kq_wire_schema *schema, int16_t version,
                                 struct kq_arena *arena)
{
    void *message = kq_schema_array(schema, 0, arena, 1);
    fill_shape(schema, 0, version, arena, message);
    return message;
}
