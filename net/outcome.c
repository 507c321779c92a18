#include "net/outcome.h"

#include <string.h>

#include "broker/base/mem.h"

enum kind {
    ERROR_CODE,
    RECORDS,
    STRUCT,
    POINTER, /* to a struct, or NULL */
    ARRAY,   /* of structs */
};

struct step {
    uint16_t offset;
    uint8_t kind;
    uint8_t shape; /* that it leads to */
};

/* The steps of one struct of the message. */
struct stage {
    struct step *steps;
    uint32_t count, size;
};

struct kq_outcome_plan {
    unsigned shapes;
    struct stage stages[];
};

/* Structs name only those behind them, so the largest number is that of the last. */
static unsigned last_shape(const struct kq_wire_schema *schema)
{
    unsigned last = 0;
    for (unsigned i = 0; i <= last; i++) {
        const struct kq_wire_shape *shape = &schema->shapes[i];
        for (unsigned f = 0; f < (unsigned)shape->field_count + shape->tagged_count; f++)
            if (shape->fields[f].shape > last)
                last = shape->fields[f].shape;
    }
    return last;
}

/* False: the field is none that counts. */
static bool plan_field(const struct kq_outcome_plan *plan, const struct kq_wire_field *field,
                       struct step *ret)
{
    bool leads = field->type == KQ_WIRE_STRUCT || field->type == KQ_WIRE_NULLABLE_STRUCT;
    if (leads && plan->stages[field->shape].count == 0)
        return false;
    *ret = (struct step){.offset = field->offset, .shape = field->shape};
    if (leads)
        ret->kind = field->array ? ARRAY : field->type == KQ_WIRE_STRUCT ? STRUCT : POINTER;
    else if (field->type == KQ_WIRE_INT16 && !field->array)
        ret->kind = ERROR_CODE;
    else if (field->type == KQ_WIRE_RECORDS && !field->array)
        ret->kind = RECORDS;
    else
        return false;
    return ret->kind != ERROR_CODE || strcmp(field->name, "error_code") == 0;
}

static int plan_shape(struct kq_outcome_plan *plan, const struct kq_wire_schema *schema,
                      unsigned index)
{
    const struct kq_wire_shape *shape = &schema->shapes[index];
    struct stage *stage = &plan->stages[index];
    unsigned fields = (unsigned)shape->field_count + shape->tagged_count;
    stage->size = shape->size;
    stage->steps = kq_alloc((fields + 1) * sizeof(*stage->steps));
    if (!stage->steps)
        return -ENOMEM;
    for (unsigned f = 0; f < fields; f++)
        if (plan_field(plan, &shape->fields[f], &stage->steps[stage->count]))
            stage->count++;
    return 0;
}

int kq_outcome_plan_new(const struct kq_message *message, struct kq_outcome_plan **ret)
{
    const struct kq_wire_schema *schema = message->response;
    unsigned shapes = last_shape(schema) + 1;
    struct kq_outcome_plan *plan = kq_zalloc(sizeof(*plan) + shapes * sizeof(*plan->stages));
    int r = plan ? 0 : -ENOMEM;
    if (plan)
        plan->shapes = shapes;
    for (unsigned i = shapes; r == 0 && i-- > 0;)
        r = plan_shape(plan, schema, i);
    if (r < 0) {
        kq_outcome_plan_free(plan);
        return r;
    }
    *ret = plan;
    return 0;
}

void kq_outcome_plan_free(struct kq_outcome_plan *plan)
{
    for (unsigned i = 0; plan && i < plan->shapes; i++)
        free(plan->stages[i].steps);
    free(plan);
}

struct walk {
    const struct kq_outcome_plan *plan;
    void (*error)(void *context, int16_t code);
    void *context;
    uint64_t copied;
};

static void walk_shape(struct walk *walk, unsigned shape, const uint8_t *at);

/* An array lies in its struct as a pointer with a count behind it. */
static void walk_array(struct walk *walk, unsigned shape, const uint8_t *at)
{
    const uint8_t *elements = *(uint8_t *const *)at;
    int32_t count = *(const int32_t *)(at + sizeof(void *));
    for (int32_t i = 0; i < count; i++)
        walk_shape(walk, shape, elements + (size_t)i * walk->plan->stages[shape].size);
}

static void walk_shape(struct walk *walk, unsigned shape, const uint8_t *at)
{
    const struct stage *stage = &walk->plan->stages[shape];
    for (unsigned i = 0; i < stage->count; i++) {
        const struct step *step = &stage->steps[i];
        const uint8_t *field = at + step->offset;
        const struct kq_wire_records *records = (const struct kq_wire_records *)field;
        switch (step->kind) {
        case ERROR_CODE:
            if (*(const int16_t *)field)
                walk->error(walk->context, *(const int16_t *)field);
            break;
        case RECORDS:
            if (!records->extent && records->length > 0)
                walk->copied += (uint64_t)records->length;
            break;
        case STRUCT:
            walk_shape(walk, step->shape, field);
            break;
        case POINTER:
            if (*(uint8_t *const *)field)
                walk_shape(walk, step->shape, *(uint8_t *const *)field);
            break;
        default:
            walk_array(walk, step->shape, field);
        }
    }
}

uint64_t kq_outcome_walk(const struct kq_outcome_plan *plan, const void *response,
                         void (*error)(void *context, int16_t code), void *context)
{
    struct walk walk = {.plan = plan, .error = error, .context = context};
    walk_shape(&walk, 0, response);
    return walk.copied;
}
