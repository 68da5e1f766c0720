/* The replay's loops over a batch. NumPy would need dozens of calls for each, which take most of a
 * small batch's time. kernels.pyi documents the functions. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Bits of a row's kind; the same as in ring.py. */
enum { TERMINATED = 1, TRUNCATED = 2, FINAL_OBS = 4, FIRST_OBS = 8 };

/* The number of items in `view`; −1 with an error set if its size is not a multiple of theirs. */
static Py_ssize_t count_of(const Py_buffer *view, size_t itemsize) {
  if (view->len % (Py_ssize_t)itemsize) {
    PyErr_SetString(PyExc_ValueError, "an array is of another type");
    return -1;
  }
  return view->len / (Py_ssize_t)itemsize;
}

static int require(int condition, PyObject *error, const char *message) {
  if (!condition && !PyErr_Occurred()) PyErr_SetString(error, message);
  return condition;
}

/* Release all buffers; return NULL if an error is set, otherwise None. */
static PyObject *finish(Py_buffer *views, int count) {
  for (int i = 0; i < count; i++) PyBuffer_Release(&views[i]);
  if (PyErr_Occurred()) return NULL;
  Py_RETURN_NONE;
}

static PyObject *set_leaves(PyObject *self, PyObject *args) {
  Py_buffer views[3] = {0};
  if (!PyArg_ParseTuple(args, "w*y*y*", &views[0], &views[1], &views[2])) return NULL;
  double *tree = views[0].buf;
  const int64_t *index = views[1].buf;
  const double *value = views[2].buf;
  const int64_t leaves = count_of(&views[0], sizeof(double)) / 2;
  const Py_ssize_t batch = count_of(&views[1], sizeof(int64_t));
  if (!require(!(leaves & (leaves - 1)), PyExc_ValueError, "this is no binary tree") ||
      !require(count_of(&views[2], sizeof(double)) == batch, PyExc_ValueError,
               "as many values as leaves are needed"))
    return finish(views, 3);
  for (Py_ssize_t i = 0; i < batch; i++)
    if (!require(0 <= index[i] && index[i] < leaves, PyExc_IndexError, "no such leaf"))
      return finish(views, 3);
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; i < batch; i++) tree[leaves + index[i]] = value[i];
  int level = 1;
  for (int64_t first = leaves / 2; first > 0; first /= 2, level++)
    for (Py_ssize_t i = 0; i < batch; i++) {
      const int64_t node = (leaves + index[i]) >> level;
      tree[node] = tree[2 * node] + tree[2 * node + 1];
    }
  Py_END_ALLOW_THREADS
  return finish(views, 3);
}

static PyObject *draw_leaves(PyObject *self, PyObject *args) {
  Py_buffer views[4] = {0};
  if (!PyArg_ParseTuple(args, "y*y*w*w*", &views[0], &views[1], &views[2], &views[3])) return NULL;
  const double *tree = views[0].buf, *part = views[1].buf;
  int64_t *node = views[2].buf;
  double *rest = views[3].buf; /* what is left of each sum to pass; finally the leaves' values */
  const int64_t leaves = count_of(&views[0], sizeof(double)) / 2;
  const Py_ssize_t batch = count_of(&views[1], sizeof(double));
  if (!require(!(leaves & (leaves - 1)), PyExc_ValueError, "this is no binary tree") ||
      !require(count_of(&views[2], sizeof(int64_t)) == batch &&
                   count_of(&views[3], sizeof(double)) == batch,
               PyExc_ValueError, "as many places as draws are needed") ||
      !require(leaves > 0 && tree[1] > 0, PyExc_ValueError, "no leaf is greater than zero"))
    return finish(views, 4);
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; i < batch; i++) {
    node[i] = 1;
    rest[i] = ((double)i + part[i]) / (double)batch * tree[1];
  }
  /* All searches descend level by level together, so that their cache misses overlap. */
  for (int64_t first = 1; first < leaves; first *= 2)
    for (Py_ssize_t i = 0; i < batch; i++) {
      const int64_t left = 2 * node[i];
      const int right = rest[i] >= tree[left] && tree[left + 1] > 0;
      rest[i] -= right ? tree[left] : 0;
      node[i] = left + right;
      if (2 * first < leaves) __builtin_prefetch(tree + 2 * node[i]); /* the next level */
    }
  for (Py_ssize_t i = 0; i < batch; i++) {
    rest[i] = tree[node[i]];
    node[i] -= leaves;
  }
  Py_END_ALLOW_THREADS
  return finish(views, 4);
}

static PyObject *weigh_leaves(PyObject *self, PyObject *args) {
  Py_buffer views[2] = {0};
  double exponent, smallest = INFINITY;
  if (!PyArg_ParseTuple(args, "y*dw*", &views[0], &exponent, &views[1])) return NULL;
  const double *value = views[0].buf;
  float *weight = views[1].buf;
  const Py_ssize_t batch = count_of(&views[0], sizeof(double));
  if (!require(batch > 0 && count_of(&views[1], sizeof(float)) == batch, PyExc_ValueError,
               "as many weights as leaves are needed, and one at least"))
    return finish(views, 2);
  for (Py_ssize_t i = 0; i < batch; i++) smallest = value[i] < smallest ? value[i] : smallest;
  for (Py_ssize_t i = 0; i < batch; i++) weight[i] = (float)pow(smallest / value[i], exponent);
  for (int i = 0; i < 2; i++) PyBuffer_Release(&views[i]);
  return PyFloat_FromDouble(smallest);
}

static PyObject *value_priorities(PyObject *self, PyObject *args) {
  Py_buffer views[2] = {0};
  double least, exponent, highest = 0;
  if (!PyArg_ParseTuple(args, "y*ddw*", &views[0], &least, &exponent, &views[1])) return NULL;
  const float *priority = views[0].buf;
  double *value = views[1].buf;
  const Py_ssize_t batch = count_of(&views[0], sizeof(float));
  if (!require(batch >= 0 && count_of(&views[1], sizeof(double)) == batch, PyExc_ValueError,
               "as many values as priorities are needed"))
    return finish(views, 2);
  for (Py_ssize_t i = 0; i < batch; i++) {
    value[i] = pow((double)priority[i] + least, exponent);
    if (!isfinite(priority[i]) || !isfinite(value[i])) highest = NAN;
    else if (value[i] > highest) highest = value[i]; /* NaN stays: no value is greater */
  }
  for (int i = 0; i < 2; i++) PyBuffer_Release(&views[i]);
  return PyFloat_FromDouble(highest);
}

/* The rings of several environments; see ring.py. */
typedef struct {
  const uint8_t *kinds;
  const int64_t *cursor, *filled;
  Py_ssize_t rows, n_step, stack;
} Rings;

/* Check that there is a ring per cursor, with `slots` rows in total. */
static int are_rings(const Rings *rings, Py_ssize_t slots, Py_ssize_t num_envs,
                     Py_ssize_t filled) {
  const Py_ssize_t rows = rings->rows;
  if (!require(rows > 0 && num_envs >= 0 && filled == num_envs &&
                   (num_envs ? slots % num_envs == 0 && slots / num_envs == rows : slots == 0),
               PyExc_ValueError, "the arrays do not fit each other"))
    return 0;
  for (Py_ssize_t i = 0; i < num_envs; i++)
    if (!require(0 <= rings->cursor[i] && rings->cursor[i] < rows && 0 <= rings->filled[i] &&
                     rings->filled[i] < rows,
                 PyExc_IndexError, "no such row"))
      return 0;
  return 1;
}

/* Find the window that starts at a slot; return whether a sample may start there. */
static int look(const Rings *rings, int64_t slot, int64_t *length, uint8_t *terminated,
                int64_t *depth) {
  const Py_ssize_t rows = rings->rows, stack = rings->stack;
  const int64_t column = slot / rows, row = slot % rows;
  const uint8_t *ring = rings->kinds + column * rows;
  const int64_t age = (rings->cursor[column] - row + rows) % rows;
  const int64_t older = rings->filled[column] - age;
  int64_t steps = rings->n_step, before = stack - 1;
  uint8_t ends = 0;
  for (int64_t k = 0; k < rings->n_step && k < age; k++) {
    const uint8_t kind = ring[row + k < rows ? row + k : row + k - rows];
    if (kind & (TERMINATED | TRUNCATED)) {
      ends = kind;
      steps = k + 1;
      break;
    }
  }
  int whole = older >= stack - 1;
  for (int64_t k = 0; k < stack && k <= older; k++)
    if (ring[row >= k ? row - k : row - k + rows] & FIRST_OBS) {
      before = k;
      whole = 1;
      break;
    }
  *length = steps;
  *terminated = (ends & TERMINATED) != 0;
  *depth = before;
  return !(ring[row] & FINAL_OBS) && age > 0 && steps <= age && older >= 0 && whole;
}

static PyObject *find_windows(PyObject *self, PyObject *args) {
  Py_buffer views[8] = {0};
  Rings rings;
  if (!PyArg_ParseTuple(args, "y*y*y*y*nnnw*w*w*w*", &views[0], &views[1], &views[2], &views[3],
                        &rings.rows, &rings.n_step, &rings.stack, &views[4], &views[5], &views[6],
                        &views[7]))
    return NULL;
  rings.kinds = views[0].buf, rings.cursor = views[1].buf, rings.filled = views[2].buf;
  const int64_t *slot = views[3].buf;
  uint8_t *valid = views[4].buf, *terminated = views[6].buf;
  int64_t *length = views[5].buf, *depth = views[7].buf;
  const Py_ssize_t slots = count_of(&views[0], 1), batch = count_of(&views[3], sizeof(int64_t));
  if (!are_rings(&rings, slots, count_of(&views[1], sizeof(int64_t)),
                 count_of(&views[2], sizeof(int64_t))) ||
      !require(count_of(&views[4], 1) == batch && count_of(&views[6], 1) == batch &&
                   count_of(&views[5], sizeof(int64_t)) == batch &&
                   count_of(&views[7], sizeof(int64_t)) == batch,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 8);
  for (Py_ssize_t i = 0; i < batch; i++) {
    if (!require(0 <= slot[i] && slot[i] < slots, PyExc_IndexError, "no such slot"))
      return finish(views, 8);
    __builtin_prefetch(rings.kinds + slot[i]); /* misses within `look` would not overlap */
  }
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; i < batch; i++)
    valid[i] = look(&rings, slot[i], &length[i], &terminated[i], &depth[i]);
  Py_END_ALLOW_THREADS
  return finish(views, 8);
}

static PyObject *draw_windows(PyObject *self, PyObject *args) {
  Py_buffer views[8] = {0};
  Rings rings;
  if (!PyArg_ParseTuple(args, "y*y*y*y*nnnw*w*w*w*", &views[0], &views[1], &views[2], &views[3],
                        &rings.rows, &rings.n_step, &rings.stack, &views[4], &views[5], &views[6],
                        &views[7]))
    return NULL;
  rings.kinds = views[0].buf, rings.cursor = views[1].buf, rings.filled = views[2].buf;
  const double *place = views[3].buf;
  int64_t *slot = views[4].buf, *length = views[5].buf, *depth = views[7].buf;
  uint8_t *terminated = views[6].buf;
  const Py_ssize_t rows = rings.rows, num_envs = count_of(&views[1], sizeof(int64_t));
  const Py_ssize_t places = count_of(&views[3], sizeof(double));
  const Py_ssize_t most = count_of(&views[4], sizeof(int64_t));
  Py_ssize_t found = 0;
  int64_t filled = 0, *edges = NULL;
  if (!are_rings(&rings, count_of(&views[0], 1), num_envs, count_of(&views[2], sizeof(int64_t))) ||
      !require(places >= 0 && count_of(&views[5], sizeof(int64_t)) == most &&
                   count_of(&views[6], 1) == most && count_of(&views[7], sizeof(int64_t)) == most,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 8);
  for (Py_ssize_t i = 0; i < places; i++)
    if (!require(0 <= place[i] && place[i] < 1, PyExc_IndexError, "no such row"))
      return finish(views, 8);
  edges = PyMem_New(int64_t, num_envs + places);
  if (!require(edges != NULL, PyExc_MemoryError, "no memory for the rows")) return finish(views, 8);
  for (Py_ssize_t i = 0; i < num_envs; i++) edges[i] = filled += rings.filled[i];
  int64_t *drawn = edges + num_envs;
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; filled && i < places; i++) {
    const int64_t rounded = (int64_t)(place[i] * (double)filled);
    const int64_t number = rounded < filled ? rounded : filled - 1;
    Py_ssize_t column = 0;
    for (Py_ssize_t left = num_envs; left > 1; left -= left / 2)
      if (edges[column + left / 2 - 1] <= number) column += left / 2;
    const int64_t row = rings.cursor[column] - (edges[column] - number);
    drawn[i] = column * rows + (row < 0 ? row + rows : row);
    __builtin_prefetch(rings.kinds + drawn[i]); /* misses within `look` would not overlap */
  }
  for (Py_ssize_t i = 0; filled && i < places && found < most; i++) {
    slot[found] = drawn[i];
    found += look(&rings, drawn[i], &length[found], &terminated[found], &depth[found]);
  }
  Py_END_ALLOW_THREADS
  PyMem_Free(edges);
  for (int i = 0; i < 8; i++) PyBuffer_Release(&views[i]);
  return PyLong_FromSsize_t(found);
}

static PyObject *read_steps(PyObject *self, PyObject *args) {
  Py_buffer views[9] = {0};
  Py_ssize_t rows;
  if (!PyArg_ParseTuple(args, "y*y*y*y*y*ny*w*w*w*", &views[0], &views[1], &views[2], &views[3],
                        &views[4], &rows, &views[5], &views[6], &views[7], &views[8]))
    return NULL;
  const int32_t *actions = views[0].buf;
  const float *rewards = views[1].buf;
  const int64_t *slot = views[2].buf, *length = views[3].buf;
  const uint8_t *terminated = views[4].buf;
  const double *power = views[5].buf;
  int64_t *action = views[6].buf;
  float *sum = views[7].buf, *discount = views[8].buf;
  const Py_ssize_t slots = count_of(&views[0], sizeof(int32_t));
  const Py_ssize_t powers = count_of(&views[5], sizeof(double));
  const Py_ssize_t batch = count_of(&views[2], sizeof(int64_t));
  if (!require(rows > 0 && slots >= 0 && slots % rows == 0 && powers > 0 &&
                   count_of(&views[1], sizeof(float)) == slots &&
                   count_of(&views[3], sizeof(int64_t)) == batch &&
                   count_of(&views[4], 1) == batch &&
                   count_of(&views[6], sizeof(int64_t)) == batch &&
                   count_of(&views[7], sizeof(float)) == batch &&
                   count_of(&views[8], sizeof(float)) == batch,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 9);
  for (Py_ssize_t i = 0; i < batch; i++) {
    if (!require(0 <= slot[i] && slot[i] < slots && 0 <= length[i] && length[i] < powers,
                 PyExc_IndexError, "no such window"))
      return finish(views, 9);
    __builtin_prefetch(rewards + slot[i]);
    __builtin_prefetch(actions + slot[i]);
  }
  int alike = 1;
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; i < batch; i++) {
    const int64_t row = slot[i] % rows;
    const float *ring = rewards + (slot[i] - row);
    double reward = 0;
    for (int64_t k = 0; k < length[i]; k++)
      reward += power[k] * (double)ring[(row + k) % rows];
    action[i] = actions[slot[i]];
    sum[i] = (float)reward;
    discount[i] = terminated[i] ? 0 : (float)power[length[i]];
    alike &= terminated[i] || length[i] == powers - 1;
  }
  Py_END_ALLOW_THREADS
  for (int i = 0; i < 9; i++) PyBuffer_Release(&views[i]);
  return PyBool_FromLong(alike);
}

/* LARGE: batches of this many bytes fit into no core's own cache. AHEAD: bytes between a copy and
 * its prefetch; the processor's own prefetching stops at the end of each page of 4 KiB. */
enum { LARGE = 4 << 20, AHEAD = 8 << 10 };

/* As memcpy, but past the caches: an ordinary write first reads the line that it overwrites.
 * `after` is what will be copied next. */
static void copy_past_caches(char *to, const char *from, Py_ssize_t length, const char *after) {
  Py_ssize_t at = 0;
#ifdef __SSE2__
  const Py_ssize_t edge = length > AHEAD ? length - AHEAD : 0;
  for (; (uintptr_t)to % 16 == 0 && at + 64 <= length; at += 64) {
    __builtin_prefetch(at < edge ? from + at + AHEAD : after + (at - edge));
    for (int k = 0; k < 64; k += 16)
      _mm_stream_si128((__m128i *)(to + at + k), _mm_loadu_si128((const __m128i *)(from + at + k)));
  }
#endif
  memcpy(to + at, from + at, length - at);
}

/* Consecutive frames to copy, as in kernels.pyi; `pitch` stored frames per environment. */
typedef struct {
  const char *frames;
  const int64_t *slot, *steps;
  Py_ssize_t rows, pitch, unit, before;
} Stretches;

/* The address of the first frame of sample i. */
static const char *beginning(const Stretches *of, Py_ssize_t i) {
  const int64_t later = (of->steps ? of->steps[i] : 0) - of->before;
  const int64_t row = (of->slot[i] % of->rows + later) % of->rows;
  const int64_t column = of->slot[i] / of->rows;
  return of->frames + (column * of->pitch + (row < 0 ? row + of->rows : row)) * of->unit;
}

static PyObject *copy_stretches(PyObject *self, PyObject *args) {
  Py_buffer views[5] = {0};
  Py_ssize_t rows, again, unit, before;
  if (!PyArg_ParseTuple(args, "y*nnny*z*y*nw*", &views[0], &rows, &again, &unit, &views[1],
                        &views[2], &views[3], &before, &views[4]))
    return NULL;
  const char *frames = views[0].buf;
  const int64_t *slot = views[1].buf, *steps = views[2].buf, *depth = views[3].buf;
  char *goal = views[4].buf;
  const Py_ssize_t batch = count_of(&views[1], sizeof(int64_t)), pitch = rows + again;
  const Py_ssize_t length = batch ? views[4].len / batch : 0;
  if (!require(rows > 0 && unit > 0 && 0 <= again && again <= rows &&
                   rows <= views[0].len / unit && views[0].len % (pitch * unit) == 0 &&
                   batch * length == views[4].len &&
                   length <= (again + 1) * unit &&
                   (!steps || count_of(&views[2], sizeof(int64_t)) == batch) &&
                   count_of(&views[3], sizeof(int64_t)) == batch,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 5);
  const Py_ssize_t slots = views[0].len / (pitch * unit) * rows;
  for (Py_ssize_t i = 0; i < batch; i++)
    if (!require(0 <= slot[i] && slot[i] < slots &&
                     before - depth[i] - (steps ? steps[i] : 0) <= length / unit,
                 PyExc_IndexError, "no such stretch"))
      return finish(views, 5);
  const Stretches stretches = {frames, slot, steps, rows, pitch, unit, before};
  Py_BEGIN_ALLOW_THREADS
  const char *next = batch ? beginning(&stretches, 0) : frames;
  for (Py_ssize_t i = 0; i < batch; i++) {
    const char *from = next;
    char *to = goal + i * length;
    next = i + 1 < batch ? beginning(&stretches, i + 1) : from;
    if (views[4].len < LARGE) memcpy(to, from, length);
    else copy_past_caches(to, from, length, next);
    const int64_t missing = before - (steps ? steps[i] : 0) - depth[i];
    if (missing > 0) memset(to, 0, missing * unit);
  }
#ifdef __SSE2__
  _mm_sfence(); /* make the writes visible to other threads and the GPU before this returns */
#endif
  Py_END_ALLOW_THREADS
  return finish(views, 5);
}

static PyObject *write_frames(PyObject *self, PyObject *args) {
  Py_buffer views[4] = {0};
  Py_ssize_t rows, again, unit;
  if (!PyArg_ParseTuple(args, "w*nny*y*y*n", &views[0], &rows, &again, &views[1], &views[2],
                        &views[3], &unit))
    return NULL;
  char *frames = views[0].buf;
  const int64_t *column = views[1].buf, *row = views[2].buf;
  const char *obs = views[3].buf;
  const Py_ssize_t count = count_of(&views[1], sizeof(int64_t)), pitch = rows + again;
  const Py_ssize_t length = count ? views[3].len / count : 0;
  if (!require(rows > 0 && unit > 0 && 0 <= again && again <= rows &&
                   count_of(&views[2], sizeof(int64_t)) == count &&
                   count * length == views[3].len && (!count || unit <= length) &&
                   rows <= views[0].len / unit &&
                   views[0].len % (pitch * unit) == 0,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 4);
  const Py_ssize_t columns = views[0].len / (pitch * unit);
  for (Py_ssize_t i = 0; i < count; i++)
    if (!require(0 <= column[i] && column[i] < columns && 0 <= row[i] && row[i] < rows,
                 PyExc_IndexError, "no such row"))
      return finish(views, 4);
  Py_BEGIN_ALLOW_THREADS
  for (Py_ssize_t i = 0; i < count; i++) {
    const char *newest = obs + (i + 1) * length - unit;
    char *place = frames + (column[i] * pitch + row[i]) * unit;
    memcpy(place, newest, unit);
    if (row[i] < again) memcpy(place + rows * unit, newest, unit);
  }
  Py_END_ALLOW_THREADS
  return finish(views, 4);
}

static PyObject *take_steps(PyObject *self, PyObject *args) {
  Py_buffer views[10] = {0};
  if (!PyArg_ParseTuple(args, "w*w*w*w*w*w*y*y*y*y*", &views[0], &views[1], &views[2], &views[3],
                        &views[4], &views[5], &views[6], &views[7], &views[8], &views[9]))
    return NULL;
  int32_t *actions = views[0].buf;
  float *rewards = views[1].buf;
  uint8_t *kinds = views[2].buf;
  int64_t *moved = views[3].buf, *cursor = views[4].buf, *filled = views[5].buf;
  const int64_t *action = views[6].buf;
  const float *reward = views[7].buf;
  const uint8_t *terminated = views[8].buf, *truncated = views[9].buf;
  const Py_ssize_t num_envs = count_of(&views[3], sizeof(int64_t));
  const Py_ssize_t slots = count_of(&views[2], 1), rows = num_envs > 0 ? slots / num_envs : 0;
  if (!require(rows > 0 && num_envs * rows == slots &&
                   count_of(&views[0], sizeof(int32_t)) == slots &&
                   count_of(&views[1], sizeof(float)) == slots &&
                   count_of(&views[4], sizeof(int64_t)) == num_envs &&
                   count_of(&views[5], sizeof(int64_t)) == num_envs &&
                   count_of(&views[6], sizeof(int64_t)) == num_envs &&
                   count_of(&views[7], sizeof(float)) == num_envs &&
                   count_of(&views[8], 1) == num_envs && count_of(&views[9], 1) == num_envs,
               PyExc_ValueError, "the arrays do not fit each other"))
    return finish(views, 10);
  for (Py_ssize_t i = 0; i < num_envs; i++)
    if (!require(0 <= cursor[i] && cursor[i] < rows, PyExc_IndexError, "no such row"))
      return finish(views, 10);
  for (Py_ssize_t i = 0; i < num_envs; i++) {
    const Py_ssize_t slot = i * rows + cursor[i];
    actions[slot] = (int32_t)action[i];
    rewards[slot] = reward[i];
    kinds[slot] |= (terminated[i] ? TERMINATED : 0) | (truncated[i] ? TRUNCATED : 0);
    moved[i]++;
    cursor[i] = moved[i] % rows;
    filled[i] = moved[i] < rows - 1 ? moved[i] : rows - 1;
    kinds[i * rows + cursor[i]] = 0;
  }
  return finish(views, 10);
}

static PyMethodDef methods[] = {
    {"take_steps", take_steps, METH_VARARGS, NULL},
    {"write_frames", write_frames, METH_VARARGS, NULL},
    {"copy_stretches", copy_stretches, METH_VARARGS, NULL},
    {"set_leaves", set_leaves, METH_VARARGS, NULL},
    {"draw_leaves", draw_leaves, METH_VARARGS, NULL},
    {"weigh_leaves", weigh_leaves, METH_VARARGS, NULL},
    {"value_priorities", value_priorities, METH_VARARGS, NULL},
    {"find_windows", find_windows, METH_VARARGS, NULL},
    {"draw_windows", draw_windows, METH_VARARGS, NULL},
    {"read_steps", read_steps, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module) {
  return PyModule_AddIntConstant(module, "LARGE", LARGE);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_constants}, {0, NULL}};

static struct PyModuleDef module = {.m_base = PyModuleDef_HEAD_INIT,
                                    .m_name = "kernels",
                                    .m_size = 0,
                                    .m_methods = methods,
                                    .m_slots = slots};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModuleDef_Init(&module); }
