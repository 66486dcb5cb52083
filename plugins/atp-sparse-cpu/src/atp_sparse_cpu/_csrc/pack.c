/* Packing and unpacking. Only all-zero bits count as a zero, so that -0.0 comes back too. */
#include <math.h>

#include "vectors.h"

ATP_INLINE ATP_BASE uint32_t nonzero_step(const void *dense, int64_t at, int width, int64_t left,
                                          __m512i *first, __m512i *second) {
    if (width == 2) {
        __mmask32 lanes = left >= 32 ? ~0u : (1u << left) - 1;
        *first = _mm512_maskz_loadu_epi16(lanes, (const uint16_t *)dense + at);
        return _mm512_test_epi16_mask(*first, *first);
    }
    __mmask16 low = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
    int64_t rest = left - 16;
    __mmask16 high = rest >= 16 ? 0xffff : rest > 0 ? (__mmask16)((1u << rest) - 1) : 0;
    const uint32_t *p = (const uint32_t *)dense + at;
    *first = _mm512_maskz_loadu_epi32(low, p);
    *second = _mm512_maskz_loadu_epi32(high, p + 16);
    return _mm512_test_epi32_mask(*first, *first) |
           (uint32_t)_mm512_test_epi32_mask(*second, *second) << 16;
}

/* Nonzeros before each group: offsets[0] = 0 .. offsets[groups] = all. */
ATP_BASE int atp_count(const void *dense, int64_t n, int64_t k, int width, int64_t *offsets) {
    if (width != 2 && width != 4) return ATP_UNSUPPORTED;
    int64_t groups = atp_ceil(n, ATP_ROWS), total = 0;
    for (int64_t g = 0; g < groups; g++) {
        offsets[g] = total;
        for (int64_t row = g * ATP_ROWS; row < n && row < (g + 1) * ATP_ROWS; row++)
            for (int64_t col = 0; col < k; col += ATP_STEP) {
                __m512i a, b;
                total += _mm_popcnt_u32(nonzero_step(dense, row * k + col, width, k - col, &a, &b));
            }
    }
    offsets[groups] = total;
    return ATP_OK;
}

/* values must have room for all nonzeros and ATP_SLACK bytes; masks must be zero. */
ATP_BASE int atp_pack(const void *dense, int64_t n, int64_t k, int width, void *masks,
                      void *values) {
    if (width != 2 && width != 4) return ATP_UNSUPPORTED;
    uint32_t *mask = (uint32_t *)masks;
    uint16_t *v16 = (uint16_t *)values;
    uint32_t *v32 = (uint32_t *)values;
    int64_t groups = atp_ceil(n, ATP_ROWS);
    for (int64_t g = 0; g < groups; g++)
        for (int64_t col = 0; col < k; col += ATP_STEP)
            for (int r = 0; r < ATP_ROWS; r++, mask++) {
                int64_t row = g * ATP_ROWS + r;
                if (row >= n) continue;
                __m512i a, b;
                uint32_t bits = nonzero_step(dense, row * k + col, width, k - col, &a, &b);
                *mask = bits;
                if (width == 2) {
                    _mm512_storeu_si512(v16, _mm512_maskz_compress_epi16(bits, a));
                    v16 += _mm_popcnt_u32(bits);
                } else {
                    _mm512_storeu_si512(v32, _mm512_maskz_compress_epi32((__mmask16)bits, a));
                    v32 += _mm_popcnt_u32(bits & 0xffff);
                    bits >>= 16;
                    _mm512_storeu_si512(v32, _mm512_maskz_compress_epi32((__mmask16)bits, b));
                    v32 += _mm_popcnt_u32(bits);
                }
            }
    return ATP_OK;
}

/* Scale of 128 columns: largest magnitude / 127, rounded up to bfloat16 so that nothing clips. */
static uint16_t scale_of(const float *w, int64_t columns) {
    float largest = 0;
    for (int64_t i = 0; i < columns; i++) largest = fmaxf(largest, fabsf(w[i]));
    float exact = largest / 127;
    uint16_t rounded = atp_to_bf16(exact);
    return atp_from_bf16(rounded) < exact ? (uint16_t)(rounded + 1) : rounded;
}

/* Offsets are those of atp_count with width 4. */
ATP_BASE int atp_pack_int8(const float *dense, int64_t n, int64_t k, void *masks, void *values,
                           uint16_t *scales) {
    int64_t groups = atp_ceil(n, ATP_ROWS), blocks = atp_ceil(k, ATP_BLOCK8);
    int64_t steps = 2 * blocks;
    uint64_t *mask = (uint64_t *)masks;
    int8_t *v = (int8_t *)values;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t b = 0; b < blocks; b++)
            for (int r = 0; r < ATP_ROWS; r++) {
                int64_t row = g * ATP_ROWS + r, col = b * ATP_BLOCK8;
                int64_t columns = k - col < ATP_BLOCK8 ? k - col : ATP_BLOCK8;
                scales[(g * blocks + b) * ATP_ROWS + r] =
                    row < n ? scale_of(dense + row * k + col, columns) : 0;
            }
        for (int64_t s = 0; s < steps; s++)
            for (int r = 0; r < ATP_ROWS; r++, mask++) {
                int64_t row = g * ATP_ROWS + r;
                if (row >= n) continue;
                float scale = atp_from_bf16(
                    scales[(g * blocks + s * ATP_STEP8 / ATP_BLOCK8) * ATP_ROWS + r]);
                for (int i = 0; i < ATP_STEP8 && s * ATP_STEP8 + i < k; i++) {
                    float value = dense[row * k + s * ATP_STEP8 + i];
                    uint32_t bits;
                    memcpy(&bits, &value, 4);
                    if (!bits) continue;
                    *mask |= (uint64_t)1 << i;
                    float scaled = scale > 0 ? rintf(value / scale) : 0;
                    *v++ = (int8_t)fminf(127, fmaxf(-127, scaled));
                }
            }
    }
    return ATP_OK;
}

ATP_INLINE ATP_BASE void unpack_group(const atp_weight *w, int width, int64_t g, int64_t first,
                                      int64_t last, void *dense) {
    int64_t steps = atp_ceil(w->k, ATP_STEP);
    const uint32_t *mask = (const uint32_t *)w->masks + g * steps * ATP_ROWS;
    const char *v = (const char *)w->values + w->offsets[g] * width;
    for (int64_t s = 0; s < steps; s++) {
        _mm_prefetch(v + ATP_AHEAD, _MM_HINT_T0);
        _mm_prefetch(v + ATP_AHEAD + 64, _MM_HINT_T0);
        int64_t left = w->k - s * ATP_STEP;
        __mmask32 lanes = left >= 32 ? ~0u : (1u << left) - 1;
        for (int r = 0; r < ATP_ROWS; r++, mask++) {
            int64_t row = g * ATP_ROWS + r;
            uint32_t bits = *mask;
            int64_t at = (row - first) * w->k + s * ATP_STEP;
            int wanted = row >= first && row < last;
            if (width == 2) {
                if (wanted)
                    _mm512_mask_storeu_epi16((uint16_t *)dense + at, lanes,
                                             atp_expand16(v, bits));
            } else if (wanted) {
                uint32_t *out = (uint32_t *)dense + at;
                const char *second = v + 4 * _mm_popcnt_u32(bits & 0xffff);
                _mm512_mask_storeu_epi32(out, (__mmask16)lanes,
                                         atp_expand32(v, (__mmask16)bits));
                _mm512_mask_storeu_epi32(out + 16, (__mmask16)(lanes >> 16),
                                         atp_expand32(second, (__mmask16)(bits >> 16)));
            }
            v += (int64_t)_mm_popcnt_u32(bits) * width;
        }
    }
}

/* Rows first .. last - 1 as a dense matrix. */
ATP_BASE int atp_unpack(const atp_weight *w, int width, int64_t first, int64_t last, void *dense,
                        int threads) {
    if (width != 2 && width != 4) return ATP_UNSUPPORTED;
    int64_t from = first / ATP_ROWS, to = atp_ceil(last, ATP_ROWS);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t g = from; g < to; g++)
        if (width == 2)
            unpack_group(w, 2, g, first, last, dense);
        else
            unpack_group(w, 4, g, first, last, dense);
    return ATP_OK;
}

static ATP_BASE void unpack_group_int8(const atp_weight *w, int io, int64_t g, int64_t first,
                                       int64_t last, void *dense) {
    int64_t blocks = atp_ceil(w->k, ATP_BLOCK8), steps = 2 * blocks;
    const uint64_t *mask = (const uint64_t *)w->masks + g * steps * ATP_ROWS;
    const int8_t *v = (const int8_t *)w->values + w->offsets[g];
    for (int64_t s = 0; s < steps; s++)
        for (int r = 0; r < ATP_ROWS; r++, mask++) {
            int64_t row = g * ATP_ROWS + r, left = w->k - s * ATP_STEP8;
            __m512i q = atp_expand8(v, *mask);
            v += _mm_popcnt_u64(*mask);
            if (row < first || row >= last) continue;
            int64_t block = g * blocks + s * ATP_STEP8 / ATP_BLOCK8;
            __m512 scale = _mm512_set1_ps(atp_from_bf16(w->scales[block * ATP_ROWS + r]));
            int8_t lanes[ATP_STEP8];
            _mm512_storeu_si512(lanes, q);
            for (int i = 0; i < ATP_STEP8 && i < left; i += 16) {
                __mmask16 here = left - i >= 16 ? 0xffff : (__mmask16)((1u << (left - i)) - 1);
                __m512 value = _mm512_cvtepi32_ps(
                    _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(lanes + i))));
                atp_store16(dense, (row - first) * w->k + s * ATP_STEP8 + i, io, here,
                            _mm512_mul_ps(value, scale));
            }
        }
}

/* Rows first .. last - 1 as a dense matrix of `io` values: integer times scale. */
ATP_BASE int atp_unpack_int8(const atp_weight *w, int io, int64_t first, int64_t last, void *dense,
                             int threads) {
    int64_t from = first / ATP_ROWS, to = atp_ceil(last, ATP_ROWS);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t g = from; g < to; g++) unpack_group_int8(w, io, g, first, last, dense);
    return ATP_OK;
}
