/* hm_pool.c -- the storage that a log's files may take, and the system's word on it. */
#include <errno.h>
#include <sys/mman.h>

#include "log_internal.h"

int hm_map_sync(void *map, uint64_t begin, uint64_t end) {
    begin = begin / HM_PAGE * HM_PAGE;
    if (begin >= end) {
        return 0;
    }
    /* msync, not fdatasync: it writes this range only, and leaves the zeros prepared behind it
     * alone. */
    return msync((uint8_t *)map + begin, end - begin, MS_SYNC) == 0 ? 0 : errno;
}

int hm_code_of(int error) {
    return error == ENOSPC || error == EDQUOT   ? -HM_ENOSPACE
           : error == EFBIG                     ? -HM_EFSIZE
           : error == EMFILE || error == ENFILE ? -HM_EFILES
           : error == ENOMEM                    ? -HM_ENOMEM
                                                : -HM_EIO;
}

int hm_file_allocate(int fd, uint64_t offset, uint64_t size) {
    int error = hm_platform_allocate(fd, offset, size);
    return error ? hm_code_of(error) : 0;
}

int hm_segment_charge(hm_segment *segment, uint64_t bytes) {
    hm_pool *pool = segment->pool;
    pthread_mutex_lock(&pool->lock);
    uint64_t limit = pool->options.disk_bytes;
    bool fits = limit == 0 || pool->disk_used + bytes <= limit;
    if (fits) {
        pool->disk_used += bytes;
        segment->disk_bytes += bytes;
    }
    pthread_mutex_unlock(&pool->lock);
    return fits ? 0 : -HM_ENOSPACE;
}
