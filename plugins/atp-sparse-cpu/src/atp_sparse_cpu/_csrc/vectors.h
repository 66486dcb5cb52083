/* Small pieces that the kernels are built of; AVX-512 with VBMI2. */
#ifndef ATP_VECTORS_H
#define ATP_VECTORS_H

#include <immintrin.h>
#include <string.h>

#include "sparse.h"

#define ATP_BASE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,popcnt,fma")))
#define ATP_VNNI \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512vnni,popcnt,fma")))
#define ATP_BF16 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx512bf16,popcnt,fma")))
#define ATP_INLINE static inline __attribute__((always_inline))
#define ATP_UNROLL _Pragma("GCC unroll 16")

/* How far ahead of its use the stream of values is fetched. The hardware's own prefetching stops at
 * the ends of 4 KiB pages. */
#define ATP_AHEAD 4096

/* Nearest bfloat16, ties to even; NaN stays NaN. */
ATP_INLINE uint16_t atp_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

ATP_INLINE float atp_from_bf16(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

ATP_INLINE ATP_BASE __m512 atp_widen_bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* 16 floats from `io` values at p; lanes outside `lanes` are 0 and not read. */
ATP_INLINE ATP_BASE __m512 atp_load16(const void *p, int64_t at, int io, __mmask16 lanes) {
    if (io == ATP_IO_FP32) return _mm512_maskz_loadu_ps(lanes, (const float *)p + at);
    __m256i halves = _mm256_maskz_loadu_epi16(lanes, (const uint16_t *)p + at);
    return io == ATP_IO_BF16 ? atp_widen_bf16(halves) : _mm512_cvtph_ps(halves);
}

ATP_INLINE ATP_BASE __m512i atp_round_bf16(__m512 v) {
    __m512i bits = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_srli_epi32(up, 16);
}

/* Store 16 floats as `io` values. */
ATP_INLINE ATP_BASE void atp_store16(void *p, int64_t at, int io, __mmask16 lanes, __m512 v) {
    if (io == ATP_IO_FP32) {
        _mm512_mask_storeu_ps((float *)p + at, lanes, v);
    } else if (io == ATP_IO_BF16) {
        _mm256_mask_storeu_epi16((uint16_t *)p + at, lanes,
                                 _mm512_cvtepi32_epi16(atp_round_bf16(v)));
    } else {
        _mm256_mask_storeu_epi16((uint16_t *)p + at, lanes,
                                 _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
}

/* The sums of the lanes of four vectors. */
ATP_INLINE ATP_BASE __m128 atp_sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d lo = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d hi = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512 all = _mm512_add_ps(_mm512_castpd_ps(lo), _mm512_castpd_ps(hi));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Results of one group of rows for one token: add the bias, store. */
ATP_INLINE ATP_BASE void atp_finish(__m128 sums, const void *bias, void *y, int64_t row, int64_t at,
                                    __mmask16 rows, int io) {
    __m512 v = _mm512_zextps128_ps512(sums);
    if (bias) v = _mm512_add_ps(v, atp_load16(bias, row, io, rows));
    atp_store16(y, at, io, rows, v);
}

/* 64 bytes in a register. Compilers would make load and expansion one instruction, which is slower:
 * it must not read the bytes it does not need. */
ATP_INLINE ATP_BASE __m512i atp_load64(const void *p) {
    __m512i v = _mm512_loadu_si512(p);
    __asm__("" : "+v"(v));
    return v;
}

/* 32 values of 16 bits. */
ATP_INLINE ATP_BASE __m512i atp_expand16(const void *v, uint32_t mask) {
    return _mm512_maskz_expand_epi16(mask, atp_load64(v));
}

/* 16 values of 32 bits. */
ATP_INLINE ATP_BASE __m512i atp_expand32(const void *v, __mmask16 mask) {
    return _mm512_maskz_expand_epi32(mask, atp_load64(v));
}

/* 64 values of 8 bits. */
ATP_INLINE ATP_BASE __m512i atp_expand8(const void *v, uint64_t mask) {
    return _mm512_maskz_expand_epi8(mask, atp_load64(v));
}

#endif
