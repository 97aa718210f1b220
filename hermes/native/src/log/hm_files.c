/* hm_files.c -- opens and lists the files of a log, without changing them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log_internal.h"

#define NAME_SIZE   40
#define BASE_DIGITS 20

static int map_file(int fd, bool writable, uint64_t *size, void **map) {
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        return -HM_EIO;
    }
    *size = (uint64_t)status.st_size;
    *map = NULL;
    if (*size == 0) {
        return 0;
    }
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    *map = mmap(NULL, *size, protection, MAP_SHARED, fd, 0);
    if (*map == MAP_FAILED) {
        *map = NULL;
        return -HM_EMAPS;
    }
    madvise(*map, *size, MADV_WILLNEED);
    return 0;
}

static void read_header(hm_files *files) {
    files->header_error = files->size < HM_LOG_SEGMENT_HEADER
                              ? -HM_ETRUNC
                              : hm_header_decode(files->map, &files->header);
    files->seal_error = -HM_EEMPTY;
    if (files->size >= HM_LOG_SEGMENT_HEADER) {
        uint32_t crc;
        memcpy(&crc, files->map + 56, sizeof crc);
        files->seal_error = hm_seal_decode(files->map, crc, &files->seal);
        files->synced_unsound = hm_synced_decode(files->map, crc, &files->synced);
    }
    if (files->seal_error == 0 &&
        (files->seal.end > files->size || files->seal.end < HM_LOG_SEGMENT_HEADER)) {
        files->seal_error = -HM_ELENGTH;
    }
}

/* Maps one file by name.  1: there is none. */
static int map_name(int dirfd, const char *name, bool writable, uint64_t *size, void **map) {
    int fd = openat(dirfd, name, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? 1 : hm_code_of(errno);
    }
    int error = map_file(fd, writable, size, map);
    close(fd);
    return error;
}

static int map_both(int dirfd, uint64_t base, bool writable, hm_files *files) {
    char name[NAME_SIZE];
    hm_segment_name(name, sizeof name, base, "log");
    int error = map_name(dirfd, name, writable, &files->size, (void **)&files->map);
    error = error == 1 ? -HM_EIO : error;
    if (error == 0) {
        hm_segment_name(name, sizeof name, base, "index");
        error = map_name(dirfd, name, writable, &files->slot_bytes, (void **)&files->slots);
        files->has_index = error == 0;
        files->slot_count = files->slot_bytes / sizeof(hm_record);
        error = error == 1 ? 0 : error;
    }
    hm_fault_install();
    if (files->map && (files->map_fault = hm_fault_watch(files->map, files->size)) == NULL) {
        error = -HM_ENOMEM;
    }
    if (files->slots &&
        (files->slots_fault = hm_fault_watch(files->slots, files->slot_bytes)) == NULL) {
        error = -HM_ENOMEM;
    }
    return error;
}

/* The records as they are now, in private memory.  0 or -HM_EMAPS. */
static int hold_records(hm_files *files) {
    if (files->slots == NULL) {
        return 0;
    }
    hm_record *held =
        mmap(NULL, files->slot_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (held == MAP_FAILED) {
        return -HM_EMAPS;
    }
    for (uint64_t i = 0; i < files->slot_count; i++) {
        /* acquire: pairs with hm_index_add -- the record is written when it counts. */
        uint64_t count_crc = atomic_load_explicit(&files->slots[i].count_crc, memory_order_acquire);
        memcpy(&held[i], &files->slots[i], sizeof *held);
        atomic_store_explicit(&held[i].count_crc, count_crc, memory_order_relaxed);
    }
    hm_fault_drop(files->slots_fault);
    munmap(files->slots, files->slot_bytes);
    files->slots = held;
    files->slots_fault = NULL;
    return 0;
}

/* Beside a running broker: what its slot has of the segment, and the file does not yet.  The records
 * first: so none speaks of frames that are appended while the slot is copied. */
static int lay_slot(int dirfd, uint64_t base, hm_files *files) {
    uint64_t size;
    uint8_t *image;
    int error = hold_records(files);
    error = error ? error : hm_hot_image(dirfd, base, files->map, files->size, &image, &size);
    if (error == 0 && image) {
        if (files->map) {
            hm_fault_drop(files->map_fault);
            munmap(files->map, files->size);
        }
        files->map = image;
        files->size = size;
        files->map_fault = NULL;
    }
    return error;
}

static int open_once(int dirfd, uint64_t base, bool writable, hm_files *files) {
    memset(files, 0, sizeof *files);
    int error = map_both(dirfd, base, writable, files);
    error = error || writable ? error : lay_slot(dirfd, base, files);
    if (error) {
        hm_files_close(files);
        return error;
    }
    read_header(files);
    return 0;
}

/* Whether the index has another size than the seal says: it was cut, and then the segment sealed,
 * after it was mapped. */
static bool is_outrun(const hm_files *files) {
    return files->seal_error == 0 && files->has_index &&
           files->slot_bytes != files->seal.records * sizeof(hm_record);
}

int hm_files_open(int dirfd, uint64_t base, bool writable, hm_files *files) {
    int error = open_once(dirfd, base, writable, files);
    if (error == 0 && !writable && is_outrun(files)) {
        hm_files_close(files);
        error = open_once(dirfd, base, writable, files);
    }
    return error;
}

void hm_files_park(hm_files *files) {
    hm_files both = *files;
    hm_files_close(&both);
    files->map = NULL;
    files->slots = NULL;
    files->map_fault = files->slots_fault = NULL;
    files->parked = true;
}

int hm_files_unpark(int dirfd, uint64_t base, hm_files *files) {
    if (!files->parked) {
        return 0;
    }
    hm_files again = *files;
    int error = map_both(dirfd, base, true, &again);
    bool same = again.size == files->size && again.slot_bytes == files->slot_bytes;
    if (error || !same) {
        hm_files_close(&again);
        return error ? error : -HM_EIO;
    }
    again.parked = false;
    *files = again;
    return 0;
}

void hm_files_close(hm_files *files) {
    if (files->map) {
        hm_fault_drop(files->map_fault);
        munmap(files->map, files->size);
    }
    if (files->slots) {
        hm_fault_drop(files->slots_fault);
        munmap(files->slots, files->slot_bytes);
    }
    memset(files, 0, sizeof *files);
}

/* The base in "<20 digits>.<suffix>"; false if the name is no such thing. */
static bool parse_name(const char *name, const char *suffix, uint64_t *base) {
    uint64_t value = 0;
    for (int i = 0; i < BASE_DIGITS; i++) {
        if (name[i] < '0' || name[i] > '9' || value > HM_LOG_FARTHEST / 10) {
            return false;
        }
        value = value * 10 + (uint64_t)(name[i] - '0');
    }
    *base = value;
    return name[BASE_DIGITS] == '.' && strcmp(name + BASE_DIGITS + 1, suffix) == 0 && value > 0;
}

static int compare_bases(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* Appends one element of `size` bytes to a growing array.  False: no memory. */
static bool push(void **array, uint64_t *count, const void *element, size_t size) {
    if ((*count & (*count - 1)) == 0) { /* 0 or a power of two: full */
        void *grown = realloc(*array, (*count ? *count * 2 : 1) * size);
        if (grown == NULL) {
            return false;
        }
        *array = grown;
    }
    memcpy((uint8_t *)*array + *count * size, element, size);
    ++*count;
    return true;
}

static bool push_name(hm_listing *listing, const char *name) {
    char *copy = strdup(name);
    if (copy && push((void **)&listing->litter, &listing->litter_count, &copy, sizeof copy)) {
        return true;
    }
    free(copy);
    return false;
}

static bool has_base(const hm_listing *listing, uint64_t base) {
    return listing->count &&
           bsearch(&base, listing->bases, listing->count, sizeof base, compare_bases);
}

/* Index files stand in no particular order: judged when all log files are known. */
static int list_names(DIR *stream, hm_listing *listing, bool indexes) {
    uint64_t base;
    bool fits = true;
    for (struct dirent *entry; fits && (entry = readdir(stream));) {
        if (indexes) {
            if (parse_name(entry->d_name, "index", &base) && !has_base(listing, base)) {
                fits = push_name(listing, entry->d_name);
            }
        } else if (parse_name(entry->d_name, "log", &base)) {
            fits = push((void **)&listing->bases, &listing->count, &base, sizeof base);
        } else if (strncmp(entry->d_name, "spare-", 6) == 0) {
            fits = push_name(listing, entry->d_name);
        }
    }
    return fits ? 0 : -HM_ENOMEM;
}

int hm_listing_read(int dirfd, hm_listing *listing) {
    memset(listing, 0, sizeof *listing);
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream == NULL) {
        int error = hm_code_of(errno);
        if (fd >= 0) {
            close(fd);
        }
        return error;
    }
    int error = list_names(stream, listing, false);
    if (listing->count) {
        qsort(listing->bases, listing->count, sizeof *listing->bases, compare_bases);
    }
    rewinddir(stream);
    error = error ? error : list_names(stream, listing, true);
    closedir(stream);
    if (error) {
        hm_listing_free(listing);
    }
    return error;
}

void hm_listing_free(hm_listing *listing) {
    for (uint64_t i = 0; i < listing->litter_count; i++) {
        free(listing->litter[i]);
    }
    free(listing->litter);
    free(listing->bases);
    memset(listing, 0, sizeof *listing);
}
