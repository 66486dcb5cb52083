/* Calls every kernel on odd sizes, on memory that ends where the last byte does.
 *
 * Built with sanitizers by test_sanitizers.py; prints "ok", or what was wrong. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

static uint64_t state = 1;
static uint32_t rnd(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}
static float uniform(void) { return (float)(rnd() % 20001) / 10000 - 1; }

static float read_as(const void *p, int64_t i, int io) {
    if (io == ATP_IO_FP32) return ((const float *)p)[i];
    if (io == ATP_IO_BF16) return atp_from_bf16(((const uint16_t *)p)[i]);
    _Float16 h;
    memcpy(&h, (const uint16_t *)p + i, 2);
    return (float)h;
}
static void write_as(void *p, int64_t i, int io, float v) {
    if (io == ATP_IO_FP32) {
        ((float *)p)[i] = v;
    } else if (io == ATP_IO_BF16) {
        ((uint16_t *)p)[i] = atp_to_bf16(v);
    } else {
        _Float16 h = (_Float16)v;
        memcpy((uint16_t *)p + i, &h, 2);
    }
}

static int check(int kernel, int io, int64_t n, int64_t k, int64_t m, int zeros, int threads) {
    const int width = io == ATP_IO_FP32 ? 4 : 2, int8 = kernel == ATP_INT8;
    char *dense = malloc(n * k * width + 1), *x = malloc(m * k * width + 1);
    char *y = malloc(m * n * width + 1), *bias = malloc(n * width + 1);
    float *whole = malloc(n * k * sizeof(float) + 1);
    for (int64_t i = 0; i < n * k; i++) {
        write_as(dense, i, io, (int)(rnd() % 100) < zeros ? 0 : uniform());
        whole[i] = read_as(dense, i, io);
    }
    for (int64_t i = 0; i < m * k; i++) write_as(x, i, io, uniform());
    for (int64_t i = 0; i < n; i++) write_as(bias, i, io, uniform());
    int64_t groups = atp_ceil(n, ATP_ROWS);
    int64_t *offsets = calloc(groups + 1, sizeof(int64_t));
    if (int8)
        atp_count(whole, n, k, 4, offsets);
    else
        atp_count(dense, n, k, width, offsets);
    int64_t masks_bytes = groups * ATP_ROWS * (int8 ? atp_ceil(k, ATP_STEP8) * 8 : atp_ceil(k, ATP_STEP) * 4);
    void *masks = calloc(1, masks_bytes);
    void *values = calloc(1, offsets[groups] * (int8 ? 1 : width) + 2 * ATP_SLACK);
    uint16_t *scales = calloc(groups * atp_ceil(k, ATP_BLOCK8) * ATP_ROWS + 1, 2);
    if (int8)
        atp_pack_int8(whole, n, k, masks, values, scales);
    else
        atp_pack(dense, n, k, width, masks, values);
    atp_weight w = {n, k, masks, values, offsets, scales};
    int bad = atp_linear(kernel, &w, x, k, m, bias, y, io, threads);
    if (int8) {
        bad |= atp_unpack_int8(&w, io, 0, n, dense, threads);
        for (int64_t i = 0; i < n * k; i++) whole[i] = read_as(dense, i, io);
    } else {
        char *again = malloc(n * k * width + 1);
        bad |= atp_unpack(&w, width, 0, n, again, threads);
        bad |= memcmp(again, dense, n * k * width) != 0 ? 8 : 0;
        free(again);
    }
    double tolerance = io == ATP_IO_FP32 && !int8 ? 1e-4 : io == ATP_IO_FP32 ? 1e-2 : 5e-2;
    for (int64_t t = 0; t < m && !bad; t++)
        for (int64_t i = 0; i < n && !bad; i++) {
            double sum = read_as(bias, i, io), size = 1;
            for (int64_t j = 0; j < k; j++) {
                sum += (double)whole[i * k + j] * read_as(x, t * k + j, io);
                size += fabs((double)whole[i * k + j] * read_as(x, t * k + j, io));
            }
            if (fabs(sum - read_as(y, t * n + i, io)) > tolerance * size) bad = 16;
        }
    if (bad) printf("kernel %d io %d n %ld k %ld m %ld: %d\n", kernel, io, n, k, m, bad);
    free(dense), free(x), free(y), free(bias), free(whole), free(offsets), free(masks);
    free(values), free(scales);
    return bad;
}

int main(void) {
    static const int64_t sizes[][3] = {{1, 1, 1},   {3, 5, 2},    {4, 32, 1},   {5, 33, 7},
                                       {9, 64, 6},  {31, 127, 5}, {17, 129, 3}, {64, 96, 13},
                                       {2, 300, 50}};
    static const int kernels[][2] = {{ATP_BF16_DOT, ATP_IO_BF16}, {ATP_BF16_FMA, ATP_IO_BF16},
                                     {ATP_FP16, ATP_IO_FP16},     {ATP_FP32, ATP_IO_FP32},
                                     {ATP_INT8, ATP_IO_FP32},     {ATP_INT8, ATP_IO_BF16}};
    int bad = 0, features = atp_features();
    if (!(features & ATP_EXPAND)) {
        puts("unsupported");
        return 0;
    }
    for (int s = 0; s < 9; s++)
        for (int i = 0; i < 6; i++) {
            if (kernels[i][0] == ATP_BF16_DOT && !(features & ATP_DOT_BF16)) continue;
            if (kernels[i][0] == ATP_INT8 && !(features & ATP_DOT_INT8)) continue;
            for (int zeros = 0; zeros <= 100; zeros += 50)
                bad |= check(kernels[i][0], kernels[i][1], sizes[s][0], sizes[s][1], sizes[s][2],
                             zeros, 1 + s % 2);
        }
    if (!bad) puts("ok");
    return bad != 0;
}
