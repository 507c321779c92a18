/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Is it UTF-8? Then RET is its length inside a JSON string, escapes counted. Any thread. */
bool kq_utf8_json_length(const uint8_t *bytes, size_t length, size_t *ret);
