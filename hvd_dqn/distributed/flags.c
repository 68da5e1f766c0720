/* Flags in memory that processes share: one process sets a flag, the others wait for it. NumPy gives
 * no memory order between processors. flags.pyi documents the functions. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

/* int64 numbers from one flag to the next: a cache line, so that writing a flag does not slow down
 * readers of the others. */
enum { STRIDE = 8 };

/* Polls before waiting yields the core (about 50 microseconds), and yields before it sleeps between
 * polls (some milliseconds). */
enum { POLLS = 2000, YIELDS = 8000 };

static void relax(int tried) {
  if (tried < POLLS) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  } else if (tried < POLLS + YIELDS) {
    sched_yield();
  } else {
    nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
  }
}

/* The number of flags in `view`, or -1 with an exception set. */
static Py_ssize_t flags_in(const Py_buffer *view) {
  const Py_ssize_t size = STRIDE * sizeof(int64_t);
  if (view->len > 0 && view->len % size == 0) return view->len / size;
  PyErr_SetString(PyExc_ValueError, "not an array of flags");
  return -1;
}

static PyObject *raise_flag(PyObject *self, PyObject *args) {
  Py_buffer view;
  Py_ssize_t which;
  long long value;
  if (!PyArg_ParseTuple(args, "w*nL", &view, &which, &value)) return NULL;
  const Py_ssize_t count = flags_in(&view);
  if (count >= 0 && (which < 0 || which >= count))
    PyErr_SetString(PyExc_IndexError, "flag index out of range");
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
      relax(tried < POLLS + YIELDS ? tried++ : tried);
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
