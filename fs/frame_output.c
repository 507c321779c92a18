#include "fs/frame_output.h"

#include <string.h>

#include "broker/base/mem.h"

void kq_frame_output_begin(struct kq_frame_output *output)
{
    for (size_t i = 0; i < output->count; i++) {
        struct kq_frame_batch *batch = &output->batches[i];
        if ((size_t)batch->partition + 1 < output->slot_count)
            output->slots[batch->partition + 1] = 0;
    }
    output->count = 0;
}

/* One more batch, with the memory of an earlier request's. */
static int add_batch(struct kq_frame_output *output)
{
    if (output->count < output->allocated)
        return 0;
    size_t allocated = output->allocated ? output->allocated * 2 : 1;
    struct kq_frame_batch *batches =
        kq_realloc(output->batches, allocated * sizeof(*output->batches));
    if (!batches)
        return -ENOMEM;
    memset(batches + output->allocated, 0,
           (allocated - output->allocated) * sizeof(*output->batches));
    for (size_t i = 0; i < output->count; i++)
        batches[i].builder.out = &batches[i].bytes; /* they have moved */
    output->batches = batches;
    output->allocated = allocated;
    return 0;
}

static int make_slots(struct kq_frame_output *output, size_t count)
{
    if (count <= output->slot_count)
        return 0;
    uint32_t *slots = kq_realloc(output->slots, count * sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    memset(slots + output->slot_count, 0, (count - output->slot_count) * sizeof(*slots));
    output->slots = slots;
    output->slot_count = count;
    return 0;
}

static int begin_batch(struct kq_frame_output *output, const struct kq_frame_request *request,
                       int32_t partition, struct kq_frame_batch **ret)
{
    int r = add_batch(output);
    if (r < 0)
        return r;
    struct kq_frame_batch *batch = &output->batches[output->count];
    batch->bytes.length = 0;
    r = kq_batch_begin(&batch->builder, &batch->bytes, request->attributes);
    if (r < 0)
        return r;
    batch->partition = partition;
    batch->records = 0;
    batch->text_length = 0;
    output->count++;
    *ret = batch;
    return 0;
}

int kq_frame_output_batch(struct kq_frame_output *output, const struct kq_frame_request *request,
                          int32_t partition, struct kq_frame_batch **ret)
{
    if (output->count > 0 && output->batches[output->count - 1].partition == partition) {
        *ret = &output->batches[output->count - 1];
        return 0;
    }
    int r = make_slots(output, (size_t)request->partitions + 1);
    if (r < 0)
        return r;
    uint32_t *slot = &output->slots[partition + 1];
    if (*slot) {
        *ret = &output->batches[*slot - 1];
        return 0;
    }
    r = begin_batch(output, request, partition, ret);
    if (r == 0)
        *slot = (uint32_t)output->count;
    return r;
}

void kq_frame_output_finish(struct kq_frame_output *output)
{
    for (size_t i = 0; i < output->count; i++) {
        struct kq_frame_batch *batch = &output->batches[i];
        batch->records = batch->builder.count;
        kq_batch_finish(&batch->builder);
    }
}

void kq_frame_output_trim(struct kq_frame_output *output, size_t keep)
{
    kq_frame_output_begin(output);
    for (size_t i = 0; i < output->allocated; i++)
        kq_buf_clear(&output->batches[i].bytes, keep);
    kq_buf_clear(&output->joined, keep);
    kq_buf_clear(&output->scratch, keep);
}

void kq_frame_output_release(struct kq_frame_output *output)
{
    for (size_t i = 0; i < output->allocated; i++)
        kq_buf_release(&output->batches[i].bytes);
    kq_buf_release(&output->joined);
    kq_buf_release(&output->scratch);
    free(output->batches);
    free(output->slots);
    *output = (struct kq_frame_output){0};
}
