/* fuzz_driver.h -- a main() for a fuzz target where there is no libFuzzer: replays a corpus, then
 * mutates it.
 *
 * Include it last.  Under libFuzzer (-DHM_LIBFUZZER -fsanitize=fuzzer) it is empty.
 *
 *     fuzz_x ROUNDS SEED FILE...
 *
 * Everything follows from ROUNDS, SEED and the files: a failure comes back with the same arguments.
 * Every input is an allocation of exactly its size, so that AddressSanitizer sees the first byte
 * too many.
 */
#ifndef HM_FUZZ_DRIVER_H
#define HM_FUZZ_DRIVER_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifndef HM_LIBFUZZER
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_INPUT_MAX     65536 /* bytes: room for a few frames, or a small log */
#define FUZZ_CORPUS_MAX    1024  /* files */
#define FUZZ_MUTATIONS_MAX 6     /* to one input: more only makes noise of it */

static uint64_t fuzz_seed;

static uint32_t fuzz_below(size_t bound) {
    fuzz_seed = fuzz_seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fuzz_seed >> 33) % bound);
}

static void fuzz_run(const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size > 0 ? size : 1);
    if (exact == NULL)
        abort();
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

/* Changes one thing; returns the new size. */
static size_t fuzz_mutate(uint8_t *data, size_t size) {
    static const uint8_t odd[] = {0, 1, 7, 8, 0x7F, 0x80, 0xFF, '.', '*', '>'};
    size_t at = size > 0 ? fuzz_below(size) : 0;
    size_t length = size > 0 ? 1 + fuzz_below(size - at < 16 ? size - at : 16) : 0;

    switch (fuzz_below(7)) {
    case 0: /* flip a bit */
        if (size > 0)
            data[at] ^= (uint8_t)(1u << fuzz_below(8));
        return size;
    case 1: /* any byte */
        if (size > 0)
            data[at] = (uint8_t)fuzz_below(256);
        return size;
    case 2: /* a byte at which something changes */
        if (size > 0)
            data[at] = odd[fuzz_below(sizeof odd)];
        return size;
    case 3: /* a run of one of them: large numbers, zeroed fields */
        if (size > 0)
            memset(data + at, odd[fuzz_below(sizeof odd)], length);
        return size;
    case 4: /* the end is missing */
        return at;
    case 5: /* a piece is missing */
        memmove(data + at, data + at + length, size - at - length);
        return size - length;
    default: /* a piece stands there twice */
        if (size + length > FUZZ_INPUT_MAX)
            return size;
        memmove(data + at + length, data + at, size - at);
        return size + length;
    }
}

int main(int argc, char **argv) {
    static uint8_t inputs[FUZZ_CORPUS_MAX][FUZZ_INPUT_MAX], input[FUZZ_INPUT_MAX];
    static size_t sizes[FUZZ_CORPUS_MAX];
    size_t files = 0;

    if (argc < 4 || argc - 3 > FUZZ_CORPUS_MAX) {
        fprintf(stderr, "usage: %s ROUNDS SEED FILE...\n", argv[0]);
        return 2;
    }
    for (int i = 3; i < argc; i++, files++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) {
            perror(argv[i]);
            return 2;
        }
        sizes[files] = fread(inputs[files], 1, FUZZ_INPUT_MAX, file);
        fclose(file);
        fuzz_run(inputs[files], sizes[files]);
    }
    unsigned long rounds = strtoul(argv[1], NULL, 10);
    fuzz_seed = strtoul(argv[2], NULL, 10);
    for (unsigned long round = 0; round < rounds; round++) {
        size_t which = fuzz_below(files), size = sizes[which];
        memcpy(input, inputs[which], size);
        for (uint32_t left = 1 + fuzz_below(FUZZ_MUTATIONS_MAX); left > 0; left--)
            size = fuzz_mutate(input, size);
        fuzz_run(input, size);
    }
    printf("%zu files replayed, %lu mutations\n", files, rounds);
    return 0;
}
#endif

#endif
