/* What exported C uses of <string.h>, where no C library is. */
#ifndef AGENTKD_WASM_STRING_H
#define AGENTKD_WASM_STRING_H

#include <stddef.h>

#define memcpy __builtin_memcpy

#endif
