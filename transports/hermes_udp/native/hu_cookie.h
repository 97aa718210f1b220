/* hu_cookie.h -- keyed hashes for cookies and session ids: SipHash-2-4.
 *
 * Short inputs, a secret key, and nothing that an attacker learns from many results: that is what
 * it was made for.
 */
#ifndef HU_COOKIE_H
#define HU_COOKIE_H

#include <stddef.h>
#include <stdint.h>

/* cdef-begin -- one function, for the tests. */
uint64_t hu_siphash(const uint8_t *key, const uint8_t *data, uint64_t size);
/* cdef-end */

#endif
