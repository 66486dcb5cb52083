/* The inner loops: 4 rows of packed weights times a few tokens.
 *
 * Each is one function a number of tokens, so that its sums stay in registers. Weights are expanded
 * anew for every block of tokens: that costs less than keeping a dense copy in the cache.
 */
#ifndef ATP_BLOCKS_H
#define ATP_BLOCKS_H

#include "vectors.h"

/* One group of rows, and where its results go. */
typedef struct {
    const atp_weight *w;
    int64_t group;
    const void *bias;
    void *y;
    int io;
} atp_job;

/* Largest number of tokens in a block: 4 rows of sums and what multiplies them fit 32 registers. */
#define ATP_DOT_TOKENS 6
#define ATP_FMA_TOKENS 5
#define ATP_INT8_TOKENS 4

ATP_INLINE ATP_BASE void finish_block(const atp_job *job, int64_t token, int tokens,
                                      __m512 sums[ATP_ROWS][8]) {
    int64_t row = job->group * ATP_ROWS, n = job->w->n;
    __mmask16 rows = n - row >= ATP_ROWS ? 0xf : (__mmask16)((1u << (n - row)) - 1);
    ATP_UNROLL for (int t = 0; t < tokens; t++) {
        __m128 sum = atp_sum4(sums[0][t], sums[1][t], sums[2][t], sums[3][t]);
        atp_finish(sum, job->bias, job->y, row, (token + t) * n + row, rows, job->io);
    }
}

/* bfloat16 pairs multiplied and summed in one instruction. x: [tokens][ldx] bfloat16. */
ATP_INLINE ATP_BF16 void dot_block(const atp_job *job, const uint16_t *x, int64_t ldx,
                                   int64_t token, const int tokens) {
    const atp_weight *w = job->w;
    int64_t steps = atp_ceil(w->k, ATP_STEP);
    const uint32_t *mask = (const uint32_t *)w->masks + job->group * steps * ATP_ROWS;
    const uint16_t *v = (const uint16_t *)w->values + w->offsets[job->group];
    __m512 sums[ATP_ROWS][8];
    ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) ATP_UNROLL for (int t = 0; t < tokens; t++)
        sums[r][t] = _mm512_setzero_ps();
    for (int64_t s = 0; s < steps; s++, mask += ATP_ROWS, x += ATP_STEP) {
        _mm_prefetch((const char *)v + ATP_AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)v + ATP_AHEAD + 64, _MM_HINT_T0);
        __m512bh row[ATP_ROWS];
        ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) {
            row[r] = (__m512bh)atp_expand16(v, mask[r]);
            v += _mm_popcnt_u32(mask[r]);
        }
        ATP_UNROLL for (int t = 0; t < tokens; t++) {
            __m512bh in = (__m512bh)_mm512_loadu_si512(x + t * ldx);
            ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++)
                sums[r][t] = _mm512_dpbf16_ps(sums[r][t], row[r], in);
        }
    }
    finish_block(job, token, tokens, sums);
}

/* Two vectors of 16 floats from one row of a step. */
ATP_INLINE ATP_BASE __m512 float_half(int kernel, int half, __m512i raw, const float *v,
                                      uint32_t mask) {
    if (kernel == ATP_BF16_FMA)
        return _mm512_castsi512_ps(half ? _mm512_and_si512(raw, _mm512_set1_epi32((int)0xffff0000))
                                        : _mm512_slli_epi32(raw, 16));
    if (kernel == ATP_FP16)
        return _mm512_cvtph_ps(half ? _mm512_extracti64x4_epi64(raw, 1)
                                    : _mm512_castsi512_si256(raw));
    if (half) {
        v += _mm_popcnt_u32(mask & 0xffff);
        mask >>= 16;
    }
    return _mm512_castsi512_ps(atp_expand32(v, (__mmask16)mask));
}

/* Weights widened to float. x: [tokens][ldx] floats, in the order that float_half gives. */
ATP_INLINE ATP_BASE void fma_block(const int kernel, const atp_job *job, const float *x,
                                   int64_t ldx, int64_t token, const int tokens) {
    const int width = kernel == ATP_FP32 ? 4 : 2;
    const atp_weight *w = job->w;
    int64_t steps = atp_ceil(w->k, ATP_STEP);
    const uint32_t *mask = (const uint32_t *)w->masks + job->group * steps * ATP_ROWS;
    const char *v = (const char *)w->values + w->offsets[job->group] * width;
    __m512 sums[ATP_ROWS][8];
    ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) ATP_UNROLL for (int t = 0; t < tokens; t++)
        sums[r][t] = _mm512_setzero_ps();
    for (int64_t s = 0; s < steps; s++, mask += ATP_ROWS, x += ATP_STEP) {
        _mm_prefetch(v + ATP_AHEAD, _MM_HINT_T0);
        _mm_prefetch(v + ATP_AHEAD + 64, _MM_HINT_T0);
        const char *start[ATP_ROWS];
        __m512i raw[ATP_ROWS];
        ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) {
            start[r] = v;
            if (width == 2) raw[r] = atp_expand16(v, mask[r]);
            v += (int64_t)_mm_popcnt_u32(mask[r]) * width;
        }
        ATP_UNROLL for (int half = 0; half < 2; half++) {
            __m512 row[ATP_ROWS];
            ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++)
                row[r] = float_half(kernel, half, raw[r], (const float *)start[r], mask[r]);
            ATP_UNROLL for (int t = 0; t < tokens; t++) {
                __m512 in = _mm512_loadu_ps(x + t * ldx + half * 16);
                ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++)
                    sums[r][t] = _mm512_fmadd_ps(row[r], in, sums[r][t]);
            }
        }
    }
    finish_block(job, token, tokens, sums);
}

/* int8 weights times int16 inputs, exact sums of 128 columns, then their two scales.
 * x: [tokens][ldx] int16; scales: [tokens][blocks], one for 128 columns of a token. A sum of 128
 * products of magnitude 127 * 32767 in 16 lanes of 8 stays below 2^26. */
ATP_INLINE ATP_VNNI void int8_block(const atp_job *job, const int16_t *x, const float *scales,
                                    int64_t ldx, int64_t token, const int tokens) {
    const atp_weight *w = job->w;
    const int64_t blocks = atp_ceil(w->k, ATP_BLOCK8);
    const uint64_t *mask = (const uint64_t *)w->masks + job->group * blocks * 2 * ATP_ROWS;
    const uint16_t *factor = w->scales + job->group * blocks * ATP_ROWS;
    const int8_t *v = (const int8_t *)w->values + w->offsets[job->group];
    __m512 sums[ATP_ROWS][8];
    ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) ATP_UNROLL for (int t = 0; t < tokens; t++)
        sums[r][t] = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks; b++, x += ATP_BLOCK8, factor += ATP_ROWS) {
        const int8_t *start[2][ATP_ROWS];
        uint64_t bits[2][ATP_ROWS];
        _mm_prefetch(v + ATP_AHEAD, _MM_HINT_T0);
        _mm_prefetch(v + ATP_AHEAD + 64, _MM_HINT_T0);
        _mm_prefetch(v + ATP_AHEAD + 128, _MM_HINT_T0);
        ATP_UNROLL for (int h = 0; h < 2; h++) ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) {
            bits[h][r] = mask[h * ATP_ROWS + r];
            start[h][r] = v;
            v += _mm_popcnt_u64(bits[h][r]);
        }
        mask += 2 * ATP_ROWS;
        ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) {
            /* Inputs are read anew for each row: kept, they would not leave registers for sums. */
            __asm__("" ::: "memory");
            __m512i row[4];
            ATP_UNROLL for (int h = 0; h < 2; h++) {
                __m512i q = atp_expand8(start[h][r], bits[h][r]);
                row[2 * h] = _mm512_cvtepi8_epi16(_mm512_castsi512_si256(q));
                row[2 * h + 1] = _mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(q, 1));
            }
            float scale = atp_from_bf16(factor[r]);
            ATP_UNROLL for (int t = 0; t < tokens; t++) {
                /* two chains of two: the latency of a step is several times its time */
                const int16_t *in = x + t * ldx;
                __m512i sum = _mm512_setzero_si512(), other = sum;
                sum = _mm512_dpwssd_epi32(sum, row[0], _mm512_loadu_si512(in));
                other = _mm512_dpwssd_epi32(other, row[1], _mm512_loadu_si512(in + 32));
                sum = _mm512_dpwssd_epi32(sum, row[2], _mm512_loadu_si512(in + 64));
                other = _mm512_dpwssd_epi32(other, row[3], _mm512_loadu_si512(in + 96));
                sum = _mm512_add_epi32(sum, other);
                __m512 both = _mm512_set1_ps(scale * scales[t * blocks + b]);
                sums[r][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), both, sums[r][t]);
            }
        }
    }
    finish_block(job, token, tokens, sums);
}

#endif
