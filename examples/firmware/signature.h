/* Ed25519 of RFC 8032, for the key that is compiled in: make GATE_KEY=… */
#ifndef SIGNATURE_H
#define SIGNATURE_H

#include <stddef.h>
#include <stdint.h>

/* Returns 0 if `signature`, 64 bytes, is the key's for `length` bytes at `data`. */
int32_t signature_is_genuine(const uint8_t *data, size_t length, const uint8_t *signature);

#endif
