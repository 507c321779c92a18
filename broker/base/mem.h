/* Memory through a seam that a test can make fail (KQ_FAULT_MEMORY). Any thread.
 *
 * All return NULL when there is no memory; free with free(3). Sizes from outside are checked
 * against their limit before they come here. */
#pragma once

#include <stdarg.h>
#include <stddef.h>

#include "broker/base/err.h"

void *kq_alloc(size_t size);
void *kq_zalloc(size_t size);
void *kq_realloc(void *old, size_t size);
void *kq_memdup(const void *bytes, size_t size);
char *kq_strdup(const char *string);
char *kq_format(const char *format, ...) kq_printf_like(1, 2);
