/* hm_end.c -- the end mark of a log: how far its messages were on disk when it was made.
 *
 * Only a log that lost what it once had on disk ends before its mark.
 *
 * The file "end" holds the mark twice, at 0 and at 512, so that a write that is cut short leaves the
 * other.  Without a sound byte there is no mark:
 *
 *      0   8  magic            "HMEND\r\n\0"
 *      8   8  next sequence    after the last message on disk
 *     16   8  end position     after its frame
 *     24   8  first sequence   of the oldest message kept
 *     32   8  first position   of its frame
 *     40   4  crc              CRC-32C of bytes 0..40
 *     44  20  reserved         0
 *
 * All other bytes of the file are 0.
 */
#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "log_internal.h"

#define END_NAME   "end"
#define END_SIZE   64
#define END_CRC    40
#define END_SECTOR 512 /* what a disk writes whole */

static const uint8_t MAGIC[8] = {'H', 'M', 'E', 'N', 'D', '\r', '\n', 0};

static void encode(uint8_t *out, const hm_end *end) {
    memset(out, 0, END_SIZE);
    memcpy(out, MAGIC, sizeof MAGIC);
    memcpy(out + 8, &end->next_sequence, 8);
    memcpy(out + 16, &end->position, 8);
    memcpy(out + 24, &end->first_sequence, 8);
    memcpy(out + 32, &end->first_position, 8);
    uint32_t crc = hm_crc32c(0, out, END_CRC);
    memcpy(out + END_CRC, &crc, sizeof crc);
}

static bool decode(const uint8_t *data, hm_end *end) {
    uint8_t again[END_SIZE];
    memcpy(&end->next_sequence, data + 8, 8);
    memcpy(&end->position, data + 16, 8);
    memcpy(&end->first_sequence, data + 24, 8);
    memcpy(&end->first_position, data + 32, 8);
    encode(again, end);
    return memcmp(again, data, END_SIZE) == 0 && end->next_sequence <= HM_LOG_FARTHEST &&
           end->first_sequence <= end->next_sequence && end->first_position <= end->position;
}

int hm_end_read(int dirfd, hm_end *end, bool *damaged) {
    uint8_t data[END_SECTOR + END_SIZE] = {0};
    memset(end, 0, sizeof *end);
    *damaged = false;
    int fd = openat(dirfd, END_NAME, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -HM_EEMPTY;
    }
    static const uint8_t nothing[sizeof data];
    ssize_t got = pread(fd, data, sizeof data, 0);
    close(fd);
    if (got >= 0 && memcmp(data, nothing, (size_t)got) == 0) {
        return -HM_EEMPTY; /* made, and not written yet */
    }
    hm_end copies[2];
    bool sound[2] = {got >= END_SIZE && decode(data, &copies[0]),
                     got == (ssize_t)sizeof data && decode(data + END_SECTOR, &copies[1])};
    bool padded = memcmp(data + END_SIZE, nothing, END_SECTOR - END_SIZE) == 0;
    *damaged = !sound[0] || !sound[1] || !padded;
    for (int i = 0; i < 2; i++) {
        if (sound[i] && copies[i].next_sequence >= end->next_sequence) {
            *end = copies[i];
        }
    }
    return sound[0] || sound[1] ? 0 : -HM_ECRC;
}

int hm_end_open(int dirfd) {
    return openat(dirfd, END_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

bool hm_end_write(int fd, const hm_end *end) {
    uint8_t data[END_SIZE];
    assert(end->first_sequence <= end->next_sequence && end->first_position <= end->position);
    encode(data, end);
    return pwrite(fd, data, END_SIZE, 0) == END_SIZE &&
           pwrite(fd, data, END_SIZE, END_SECTOR) == END_SIZE;
}
