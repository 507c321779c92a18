#include "broker/base/mem.h"

#include <stdio.h>
#include <string.h>

#include "broker/base/fault.h"

void *kq_alloc(size_t size)
{
    return kq_fault(KQ_FAULT_MEMORY) ? NULL : malloc(size);
}

void *kq_zalloc(size_t size)
{
    return kq_fault(KQ_FAULT_MEMORY) ? NULL : calloc(1, size);
}

void *kq_realloc(void *old, size_t size)
{
    return kq_fault(KQ_FAULT_MEMORY) ? NULL : realloc(old, size);
}

void *kq_memdup(const void *bytes, size_t size)
{
    void *copy = kq_alloc(size ? size : 1);
    if (copy && size)
        memcpy(copy, bytes, size);
    return copy;
}

char *kq_strdup(const char *string)
{
    return kq_memdup(string, strlen(string) + 1);
}

char *kq_format(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    if (kq_fault(KQ_FAULT_MEMORY))
        return NULL;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    return length < 0 ? NULL : text;
}
