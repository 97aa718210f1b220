/* module.c -- the module hermes.native._fast: its types, and the binding to the core. */
#include "fast.h"

const hm_api *fast_core;

PyDoc_STRVAR(bind_doc, "bind(address, /)\n--\n\n"
                       "Use the core whose table of functions stands at ``address``.");

static PyObject *bind(PyObject *module, PyObject *address) {
    (void)module;
    const hm_api *api = PyLong_AsVoidPtr(address);
    if (api == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no table at address 0");
    if (api->version < HM_API_VERSION || api->size < sizeof(hm_api))
        return PyErr_Format(PyExc_ImportError,
                            "hermes.native._fast needs version %d of the core's table, found %u: "
                            "the two were not built together; reinstall hermes-broker",
                            HM_API_VERSION, (unsigned)api->version);
    fast_core = api;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"bind", bind, METH_O, bind_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(module_doc, "What exists per message as a Python object; see _fast.pyi.");

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_fast",      .m_doc = module_doc,
    .m_size = -1,          .m_methods = functions,
};

PyMODINIT_FUNC PyInit__fast(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (fast_add_message(module) < 0 || fast_add_sender(module) < 0 ||
        fast_add_reader(module) < 0 || fast_add_source(module) < 0 || fast_add_lock(module) < 0 ||
        fast_add_incoming(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
