/* Calls every kernel on small odd sizes with exactly sized heap buffers, for sanitizers, and compares
 * with a plain loop. Guard bytes behind the outputs must stay. Exits 0 where all is well. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparse.h"

#define GUARD 32

static uint32_t state = 1;
static float uniform(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 24) - 0.5f;
}

static uint16_t bf16(float v) { /* values here have few bits: truncation is exact */
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return (uint16_t)(bits >> 16);
}

static float from_bf16(uint16_t v) {
    uint32_t bits = (uint32_t)v << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static void put(void *p, int64_t i, int width, float v) {
    if (width == 4)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = bf16(v);
}

static float get(const void *p, int64_t i, int width) {
    return width == 4 ? ((const float *)p)[i] : from_bf16(((const uint16_t *)p)[i]);
}

/* 0 where y is x times plain, plus bias. */
static int compare(int kernel, const float *plain, const void *x, int64_t ldx, int64_t m, int64_t n,
                   int64_t k, const void *bias, const void *y) {
    const int width = kernel <= ATP_BF16_FMA ? 2 : 4, int8 = kernel == ATP_INT8;
    const float slack = int8 ? 0.02f : width == 2 ? 0.01f : 1e-5f;
    for (int64_t t = 0; t < m ; t++)
        for (int64_t row = 0; row < n; row++) {
            double sum = get(bias, row, width), size = fabs(sum);
            for (int64_t c = 0; c < k; c++) {
                double part = (double)plain[row * k + c] * get(x, t * ldx + c, width);
                sum += part;
                size += fabs(part);
            }
            if (!(fabs(get(y, t * n + row, width) - sum) <= slack * (size + 1))) return 2;
        }
    return 0;
}

static int check(int kernel, int64_t n, int64_t k, int64_t m, float density, int threads) {
    const int int8 = kernel == ATP_INT8, width = kernel <= ATP_BF16_FMA ? 2 : 4;
    const int io = width == 2 ? ATP_IO_BF16 : ATP_IO_FP32;
    const int64_t groups = (n + 3) / 4, ldx = k + 3;
    float *plain = malloc((size_t)(n * k + 1) * 4);
    void *dense = malloc((size_t)(n * k + 1) * width);
    void *x = malloc((size_t)(m * ldx + 1) * width), *bias = malloc((size_t)(n * width));
    char *y = malloc((size_t)(m * n * width + GUARD));
    int bad = 0;
    for (int64_t i = 0; i < n * k; i++) {
        /* multiples of 1/16 below 1: exact in bfloat16 */
        plain[i] = uniform() + 0.5f < density ? roundf(uniform() * 30) / 16 : 0;
        put(dense, i, width, plain[i]);
    }
    for (int64_t i = 0; i < m * ldx; i++) put(x, i, width, roundf(uniform() * 30) / 16);
    for (int64_t i = 0; i < n; i++) put(bias, i, width, roundf(uniform() * 30) / 16);
    memset(y, 0x5a, (size_t)(m * n * width + GUARD));

    int64_t *offsets = malloc((size_t)(groups + 1) * 8);
    atp_count(dense, n, k, width, offsets);
    const int64_t steps = int8 ? (k + 127) / 128 * 2 : (k + 31) / 32;
    void *masks = calloc((size_t)(groups * steps * 4 + 1), int8 ? 8 : 4);
    void *values = malloc((size_t)(offsets[groups] * (int8 ? 1 : width) + ATP_SLACK));
    uint16_t *scales = int8 ? malloc((size_t)(groups * ((k + 127) / 128) * 4 + 1) * 2) : NULL;
    memset(values, 0, (size_t)(offsets[groups] * (int8 ? 1 : width) + ATP_SLACK));
    if (int8)
        atp_pack_int8(plain, n, k, masks, values, scales);
    else
        atp_pack(dense, n, k, width, masks, values);
    const atp_weight w = {n, k, masks, values, offsets, scales};
    /* then what skips zeros, and what works on tiles */
    const int tiles = io == ATP_IO_BF16 && atp_features() & ATP_AMX;
    if (!tiles && atp_amx(&w, x, ldx, m, bias, y, io, threads) != ATP_UNSUPPORTED) bad = 6;
    for (int pass = 0; pass < (int8 ? 1 : 2 + tiles); pass++) {
        memset(y, 0x5a, (size_t)(m * n * width));
        if (pass == 2)
            bad |= atp_amx(&w, x, ldx, m, bias, y, io, threads);
        else if (pass)
            bad |= atp_spmm(&w, x, ldx, m, bias, y, io, threads);
        else
            bad |= atp_linear(kernel, &w, x, ldx, m, bias, y, io, threads);
        if (!bad) bad = compare(kernel, plain, x, ldx, m, n, k, bias, y);
    }

    for (int i = 0; i < GUARD; i++)
        if (y[m * n * width + i] != 0x5a) bad = 3;
    /* some rows in the middle, and nothing behind them */
    const int64_t first = n / 3, last = n - n / 4;
    char *part = malloc((size_t)((last - first) * k * width + GUARD));
    memset(part, 0x5a, (size_t)((last - first) * k * width + GUARD));
    if (int8)
        atp_unpack_int8(&w, io, first, last, part, threads);
    else
        atp_unpack(&w, width, first, last, part, threads);
    for (int64_t i = 0; i < (last - first) * k; i++)
        if (fabsf(get(part, i, width) - plain[first * k + i]) > (int8 ? 0.01f : 0)) bad = 4;
    for (int i = 0; i < GUARD; i++)
        if (part[(last - first) * k * width + i] != 0x5a) bad = 5;
    if (bad)
        printf("kernel %d, %ldx%ld, m=%ld, density %.1f: %d\n", kernel, (long)n, (long)k, (long)m,
               density, bad);
    free(plain), free(dense), free(x), free(bias), free(y), free(part);
    free(offsets), free(masks), free(values), free(scales);
    return bad != 0;
}

int main(void) {
    const int64_t rows[] = {1, 3, 4, 13}, columns[] = {1, 15, 16, 33, 64, 127, 129, 257};
    const int64_t tokens[] = {1, 2, 3, 5, 6, 7, 49, 64};
    const float densities[] = {0, 0.3f, 1};
    const int features = atp_features();
    int bad = 0, ran = 0;
    for (int kernel = 0; kernel <= ATP_INT8; kernel++) {
        if (!(features & ATP_EXPAND) || kernel == ATP_FP16) continue; /* float16: from Python */
        if (kernel == ATP_BF16_DOT && !(features & ATP_DOT_BF16)) continue;
        if (kernel == ATP_INT8 && !(features & ATP_DOT_INT8)) continue;
        for (unsigned a = 0; a < sizeof rows / sizeof *rows; a++)
            for (unsigned b = 0; b < sizeof columns / sizeof *columns; b++)
                for (unsigned c = 0; c < sizeof tokens / sizeof *tokens; c++)
                    for (unsigned d = 0; d < 3; d++, ran++)
                        bad |= check(kernel, rows[a], columns[b], tokens[c], densities[d],
                                     1 + (int)(c % 2));
    }
    /* tokens and rows that take several panels and passes on tiles, with ends of all lengths */
    const int64_t larger[][3] = {
        {33, 300, 130}, {50, 33, 530}, {271, 65, 97}, {17, 257, 113}, {1, 1, 100}, {64, 288, 512}};
    for (unsigned i = 0; features & ATP_AMX && i < sizeof larger / sizeof *larger; i++, ran++)
        bad |= check(ATP_BF16_FMA, larger[i][0], larger[i][1], larger[i][2], 0.3f, 1 + (int)(i % 3));
    printf("%d ran, %s\n", ran, bad ? "some failed" : "all passed");
    return bad;
}
