/* Layout of packed weights, and what the kernels share.
 *
 * A weight of n rows (outputs) and k columns (inputs) is cut into groups of 4 rows and steps of 32
 * columns (64 for int8, and an even number of steps). Groups and columns that end early are filled up with zeros.
 *
 *   masks    [groups][steps][4]   one bit a weight, bit i for column step * 32 + i
 *   values   one stream: for every group, step and row of the group, the values whose bits are set
 *   offsets  [groups + 1]         where each group starts in values, in elements
 *   scales   [groups][ceil(k / 128)][4]   int8 only: bfloat16, one for 128 columns of a row
 *
 * values is followed by ATP_SLACK readable bytes, as vectors are loaded whole.
 */
#ifndef ATP_SPARSE_H
#define ATP_SPARSE_H

#include <stdint.h>

#define ATP_ROWS 4
#define ATP_STEP 32
#define ATP_STEP8 64
#define ATP_BLOCK8 128
#define ATP_SLACK 128

/* Instruction sets, bits of atp_features(). */
enum { ATP_EXPAND = 1, ATP_DOT_BF16 = 2, ATP_DOT_INT8 = 4, ATP_AMX = 8 };

/* Kernels: how the values are stored, and what multiplies them. */
enum { ATP_BF16_DOT = 0, ATP_BF16_FMA = 1, ATP_FP16 = 2, ATP_FP32 = 3, ATP_INT8 = 4 };

/* Types of inputs and outputs. */
enum { ATP_IO_FP32 = 0, ATP_IO_BF16 = 1, ATP_IO_FP16 = 2 };

/* Results. */
enum { ATP_OK = 0, ATP_NO_MEMORY = 1, ATP_UNSUPPORTED = 2 };

#define ATP_EXPORT __attribute__((visibility("default")))

typedef struct {
    int64_t n, k;
    const void *masks;
    const void *values;
    const int64_t *offsets;
    const uint16_t *scales; /* int8 only */
} atp_weight;

ATP_EXPORT int atp_features(void);
ATP_EXPORT int atp_linear(int kernel, const atp_weight *w, const void *x, int64_t ldx, int64_t m,
                          const void *bias, void *y, int io, int threads);
ATP_EXPORT int atp_spmm(const atp_weight *w, const void *x, int64_t ldx, int64_t m,
                        const void *bias, void *y, int io, int threads);
ATP_EXPORT int atp_amx(const atp_weight *w, const void *x, int64_t ldx, int64_t m, const void *bias,
                       void *y, int io, int threads);
ATP_EXPORT int atp_count(const void *dense, int64_t n, int64_t k, int width, int64_t *offsets);
ATP_EXPORT int atp_pack(const void *dense, int64_t n, int64_t k, int width, void *masks,
                        void *values);
ATP_EXPORT int atp_pack_int8(const float *dense, int64_t n, int64_t k, void *masks, void *values,
                             uint16_t *scales);
ATP_EXPORT int atp_unpack(const atp_weight *w, int width, int64_t first, int64_t last, void *dense,
                          int threads);
ATP_EXPORT int atp_unpack_int8(const atp_weight *w, int io, int64_t first, int64_t last,
                               void *dense, int threads);
ATP_EXPORT void atp_huge_pages(void *start, int64_t bytes);

static inline int64_t atp_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

#endif
