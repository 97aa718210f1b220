/* find.c -- finds the functions of liburing in the library that is installed. */
#include "liburing.h"

#include <dlfcn.h>
#include <string.h>

const char *hu_liburing_find(hu_liburing *table, const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return path;
    void *found;
#define FIND(result, name, parameters)                                                             \
    found = dlsym(library, "io_uring_" #name);                                                     \
    if (found == NULL)                                                                             \
        return "io_uring_" #name;                                                                  \
    memcpy(&table->name, &found, sizeof found);
    HU_FUNCTIONS(FIND)
#undef FIND
    return NULL; /* `library` stays open: the module that it is does, too */
}
