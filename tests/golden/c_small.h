/*
 * small.h - a neural network in C99, written by Smelt 0.1.0.
 *
 * A Sequential with 312 multiply-accumulates. No library, no allocation, no state from call to call.
 *
 * Arrays are dense, the last axis fastest, the first one the batch. They must not overlap.
 *   in   x (input): float[SMALL_X_SIZE], shape 1 x 1 x 4 x 4
 *   out  y (output): float[SMALL_Y_SIZE], shape 1 x 3
 *
 * Memory:
 *   flash  188 bytes of constants, and the code
 *   arena  160 bytes: proven the least for these loops in this order, which the caller provides
 *   stack  24 bytes of arrays, and what the compiler adds for three nested calls
 *
 * Example:
 *   static small_arena arena;
 *   float x[SMALL_X_SIZE];
 *   float y[SMALL_Y_SIZE];
 *   ... write x ...
 *   small_run(x, y, &arena);
 *   ... read y ...
 *
 * small_run may run several times at once, each time with memory of its own.
 * Loops are written to be vectorized: compile with -O3, and for the processor that runs them.
 */
#ifndef SMALL_H
#define SMALL_H

#include <stdint.h>

#define SMALL_X_SIZE 16
#define SMALL_Y_SIZE 3
#define SMALL_CONSTANT_BYTES 188
#define SMALL_ARENA_BYTES 160

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  float f32[40];
} small_arena;

void small_run(const float *x, float *y, small_arena *arena);

#ifdef __cplusplus
}
#endif

#endif /* SMALL_H */

