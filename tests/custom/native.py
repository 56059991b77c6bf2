"""Native custom operations that the tests share, compiled from C once; Cython's likewise."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

import smelt

SOURCE = r"""
#include <math.h>
#include <stdint.h>

#define ARGUMENTS const void **inputs, void **outputs, const int64_t *sizes, const int64_t **shapes
#define IN(k) ((const float *)inputs[k])
#define OUT(k) ((float *)outputs[k])

int32_t c_swish(ARGUMENTS) {
  for (int64_t i = 0; i < sizes[0]; i++) OUT(0)[i] = IN(0)[i] / (1 + expf(-IN(0)[i]));
  return 1;
}

int32_t c_swish_grad(ARGUMENTS) { /* of grad, y, x */
  for (int64_t i = 0; i < sizes[0]; i++) {
    float s = 1 / (1 + expf(-IN(2)[i]));
    OUT(0)[i] = IN(0)[i] * (s + IN(1)[i] * (1 - s));
  }
  return 1;
}

int32_t row_scale(ARGUMENTS) { /* x (n, k), w (k) */
  for (int64_t i = 0; i < shapes[0][0]; i++)
    for (int64_t j = 0; j < shapes[0][1]; j++)
      OUT(0)[i * shapes[0][1] + j] = IN(0)[i * shapes[0][1] + j] * IN(1)[j];
  return 1;
}

int32_t row_scale_grad(ARGUMENTS) { /* of grad, y, x, w: two results */
  int64_t n = shapes[2][0], k = shapes[2][1];
  if (shapes[4][0] != n || shapes[4][1] != k || shapes[5][0] != k || sizes[4] != n * k || sizes[5] != k) return -5;
  for (int64_t j = 0; j < k; j++) OUT(1)[j] = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < k; j++) {
      OUT(0)[i * k + j] = IN(0)[i * k + j] * IN(3)[j];
      OUT(1)[j] += IN(0)[i * k + j] * IN(2)[i * k + j];
    }
  return 1;
}

int32_t bent(ARGUMENTS) {
  for (int64_t i = 0; i < sizes[0]; i++) OUT(0)[i] = (sqrtf(IN(0)[i] * IN(0)[i] + 1) - 1) / 2 + IN(0)[i];
  return 1;
}

int32_t same(ARGUMENTS) {
  for (int64_t i = 0; i < sizes[0]; i++) OUT(0)[i] = IN(0)[i];
  return sizes[0] == sizes[1];
}

int32_t rows_of_call(ARGUMENTS) {
  for (int64_t i = 0; i < sizes[1]; i++) OUT(0)[i] = (float)shapes[0][0];
  return 1;
}

int32_t refuse_negative(ARGUMENTS) {
  for (int64_t i = 0; i < sizes[0]; i++) {
    if (IN(0)[i] < 0) return 7;
    OUT(0)[i] = IN(0)[i];
  }
  return 1;
}
"""

if shutil.which("cc") is None:
    pytest.skip("needs a C compiler, cc", allow_module_level=True)

FOLDER = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
(FOLDER / "ops.c").write_text(SOURCE)
subprocess.run(["cc", "-O2", "-shared", "-fPIC", "ops.c", "-o", "ops.so", "-lm"], cwd=FOLDER, check=True)
LIBRARY = ctypes.CDLL(str(FOLDER / "ops.so"))


def bent_rule(grad: Any, y: Any, x: Any) -> Any:
    return grad * (x / ((x * x + 1.0).sqrt() * 2.0) + 1.0)


c_swish_grad = smelt.custom_op(LIBRARY.c_swish_grad, inputs=["float32"] * 3, per_sample=True)
c_swish = smelt.custom_op(LIBRARY.c_swish, inputs=["float32"], per_sample=True, gradient=c_swish_grad)
row_scale_grad = smelt.custom_op(
    LIBRARY.row_scale_grad,
    inputs=[("float32", 2), ("float32", 2), ("float32", 2), ("float32", 1)],
    out=lambda g, y, x, w: [x, w],
)
row_scale = smelt.custom_op(
    LIBRARY.row_scale, inputs=[("float32", 2), ("float32", 1)], per_sample=[0], gradient=row_scale_grad
)
bent = smelt.custom_op(LIBRARY.bent, inputs=["float32"], gradient=bent_rule)
native_same = smelt.custom_op(
    LIBRARY.same, inputs=["float32"], per_sample=True, gradient=lambda g, y, x: native_same(g)
)
whole_same = smelt.custom_op(LIBRARY.same, inputs=["float32"], gradient=lambda g, y, x: native_same(g) if g.ndim else g)
rows_of_call = smelt.custom_op(LIBRARY.rows_of_call, inputs=["float32"], per_sample=True)
refuse_negative = smelt.custom_op(
    LIBRARY.refuse_negative, inputs=["float32"], per_sample=True, gradient=lambda g, y, x: g
)
