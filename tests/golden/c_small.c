/* small.c - written by Smelt; small.h is the manual. */
#include "small.h"

typedef char small_arena_has_its_size[sizeof(small_arena) <= SMALL_ARENA_BYTES ? 1 : -1];
typedef char small_f32_has_its_size[sizeof(float) == 4 ? 1 : -1];

static const float c0[18] = {
  -1.0f, 0.05882353f, -0.88235295f, 0.1764706f, -0.7647059f, 0.29411766f, -0.64705884f, 0.4117647f,
  -0.5294118f, 0.5294118f, -0.4117647f, 0.64705884f, -0.29411766f, 0.7647059f, -0.1764706f, 0.88235295f,
  -0.05882353f, 1.0f
};

static const float c1[2] = {
  -1.0f, 1.0f
};

static const float c2[24] = {
  -1.0f, -0.3043478f, 0.39130434f, -0.9130435f, -0.2173913f, 0.47826087f, -0.82608694f, -0.13043478f,
  0.5652174f, -0.73913044f, -0.04347826f, 0.65217394f, -0.65217394f, 0.04347826f, 0.73913044f, -0.5652174f,
  0.13043478f, 0.82608694f, -0.47826087f, 0.2173913f, 0.9130435f, -0.39130434f, 0.3043478f, 1.0f
};

static const float c3[3] = {
  -1.0f, 0.0f, 1.0f
};

static float larger_f32(float a, float b)
{
  return a < b || b != b ? b : a;
}

static void k0(const float *restrict p0, const float *restrict p1, const float *restrict p2, float *restrict p3)
{
  for (int y = 0; y < 4; ++y) {
    const int low = 0 > 1 - y ? 0 : 1 - y;
    const int high = 3 < 5 - y ? 3 : 5 - y;
    float v1[2];
    float v2[2];
    for (int l = 0; l < 2; ++l) {
      v1[l] = 0.0f;
      v2[l] = 0.0f;
    }
    for (int kh = low; kh < high; ++kh) {
      const float v4 = p0[y * 4 + kh * 4 - 4];
      const float v6 = p0[y * 4 + kh * 4 - 3];
      const float v11 = p0[y * 4 + kh * 4 - 3];
      const float v13 = p0[y * 4 + kh * 4 - 2];
      const float v18 = p0[y * 4 + kh * 4 - 2];
      const float v20 = p0[y * 4 + kh * 4 - 1];
      for (int l = 0; l < 2; ++l) {
        const float v3 = p1[kh * 6 + l];
        const float v10 = p1[kh * 6 + l + 2];
        const float v17 = p1[kh * 6 + l + 4];
        v1[l] = v1[l] + v4 * v3 + v11 * v10 + v18 * v17;
        v2[l] = v2[l] + v6 * v3 + v13 * v10 + v20 * v17;
      }
    }
    for (int l = 0; l < 2; ++l) {
      const float v24 = p2[l];
      p3[y * 8 + l + 2] = v1[l] + v24;
      p3[y * 8 + l + 4] = v2[l] + v24;
    }
    for (int x1 = 0; x1 < 2; ++x1) {
      const int past = x1 < 1 ? x1 : 1;
      const int low1 = 0 > 1 - x1 - past * 2 ? 0 : 1 - x1 - past * 2;
      const int high1 = 3 < 5 - x1 - past * 2 ? 3 : 5 - x1 - past * 2;
      float v28[2];
      for (int l = 0; l < 2; ++l)
        v28[l] = 0.0f;
      for (int kh1 = low; kh1 < high; ++kh1) {
        for (int kw = low1; kw < high1; ++kw) {
          const float v31 = p0[y * 4 + x1 + past * 2 + kh1 * 4 + kw - 5];
          for (int l = 0; l < 2; ++l) {
            const float v30 = p1[kh1 * 6 + kw * 2 + l];
            v28[l] = v28[l] + v31 * v30;
          }
        }
      }
      for (int l = 0; l < 2; ++l) {
        const float v34 = p2[l];
        p3[y * 8 + x1 * 2 + past * 4 + l] = v28[l] + v34;
      }
    }
  }
}

static void k1(const float *restrict p0, float *restrict p1)
{
  for (int i = 0; i < 2; ++i) {
    for (int i3 = 0; i3 < 2; ++i3) {
      for (int i1 = 0; i1 < 2; ++i1) {
        const float v0 = p0[i1 + i * 16 + i3 * 4];
        const float v1 = p0[i1 + i * 16 + i3 * 4 + 2];
        const float v2 = p0[i1 + i * 16 + i3 * 4 + 8];
        const float v3 = p0[i1 + i * 16 + i3 * 4 + 10];
        p1[i1 + i * 4 + i3 * 2] = larger_f32(larger_f32(larger_f32(larger_f32(v0, v1), v2), v3), 0.0f);
      }
    }
  }
}

static void k2(const float *restrict p0, float *restrict p1)
{
  for (int i = 0; i < 2; ++i) {
    for (int i3 = 0; i3 < 4; ++i3) {
      const float v0 = p0[i + i3 * 2];
      p1[i * 4 + i3] = v0;
    }
  }
}

static void k3(const float *restrict p0, const float *restrict p1, const float *restrict p2, float *restrict p3)
{
  const float v2 = p0[0];
  const float v6 = p0[1];
  const float v10 = p0[2];
  const float v14 = p0[3];
  const float v18 = p0[4];
  const float v22 = p0[5];
  const float v26 = p0[6];
  const float v30 = p0[7];
  for (int l = 0; l < 3; ++l) {
    const float v1 = p1[l];
    const float v5 = p1[l + 3];
    const float v9 = p1[l + 6];
    const float v13 = p1[l + 9];
    const float v17 = p1[l + 12];
    const float v21 = p1[l + 15];
    const float v25 = p1[l + 18];
    const float v29 = p1[l + 21];
    const float v33 = p2[l];
    const float v34 = 0.0f + v2 * v1 + v6 * v5 + v10 * v9 + v14 * v13 + v18 * v17 + v22 * v21 + v26 * v25 + v30 * v29 + v33;
    p3[l] = v34;
  }
}

void small_run(const float *x, float *y, small_arena *arena)
{
  k0(x, c0, c1, arena->f32); /* conv2d add - 0 Conv2d */
  k1(arena->f32, arena->f32 + 32); /* max_pool2d relu - 2 MaxPool2d */
  k2(arena->f32 + 32, arena->f32); /* copy - 2 MaxPool2d */
  k3(arena->f32, c2, c3, y); /* matmul add - 4 Linear */
}

