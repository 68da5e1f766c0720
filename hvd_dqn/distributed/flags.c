/* Numbers in memory that processes share: one writes, all may wait. NumPy orders no memory between
 * processors. What the functions do is said in flags.pyi. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

/* Numbers from one flag to the next: a cache line, so that a writer disturbs no reader of others. */
enum { STRIDE = 8 };

/* Looks at a flag before the core is offered to others, and offers before the waiting sleeps: about
 * 50 microseconds, and some milliseconds. */
enum { LOOKS = 2000, OFFERS = 8000 };

static void relax(int tried) {
  if (tried < LOOKS) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  } else if (tried < LOOKS + OFFERS) {
    sched_yield();
  } else {
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
  }
}

/* How many flags `view` holds, or -1 with an error set. */
static Py_ssize_t flags_in(const Py_buffer *view) {
  const Py_ssize_t size = STRIDE * sizeof(int64_t);
  if (view->len > 0 && view->len % size == 0) return view->len / size;
  PyErr_SetString(PyExc_ValueError, "this is no array of flags");
  return -1;
}

static PyObject *raise_flag(PyObject *self, PyObject *args) {
  Py_buffer view;
  Py_ssize_t which;
  long long value;
  if (!PyArg_ParseTuple(args, "w*nL", &view, &which, &value)) return NULL;
  const Py_ssize_t count = flags_in(&view);
  if (count >= 0 && (which < 0 || which >= count))
    PyErr_SetString(PyExc_IndexError, "no such flag");
  else if (count >= 0)
    __atomic_store_n((int64_t *)view.buf + which * STRIDE, value, __ATOMIC_RELEASE);
  PyBuffer_Release(&view);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject *wait_for_flags(PyObject *self, PyObject *args) {
  Py_buffer view;
  long long value;
  if (!PyArg_ParseTuple(args, "y*L", &view, &value)) return NULL;
  const Py_ssize_t count = flags_in(&view);
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t which = 0, tried = 0; which < count;)
    if (__atomic_load_n((int64_t *)view.buf + which * STRIDE, __ATOMIC_ACQUIRE) >= value)
      which++;
    else
      relax(tried < LOOKS + OFFERS ? tried++ : tried);
  Py_END_ALLOW_THREADS
  PyBuffer_Release(&view);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"raise_flag", raise_flag, METH_VARARGS, NULL},
    {"wait_for_flags", wait_for_flags, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "flags",
                                    .m_size = 0,
                                    .m_methods = methods,
                                    .m_slots = slots};

PyMODINIT_FUNC PyInit_flags(void) { return PyModuleDef_Init(&module); }
