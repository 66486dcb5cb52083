/* y = x W^T + bias for packed W: prepares inputs, shares rows among threads, calls the blocks. */
#include <stdlib.h>

#include "amx.h"
#include "blocks.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

/* Inputs of one pass should stay in the second-level cache while all rows go by. */
#ifndef ATP_PASS_BYTES
#define ATP_PASS_BYTES (768 * 1024)
#endif
#define ATP_PASS_LEAST 24

int atp_features(void) {
    int found = 0;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("popcnt") &&
        __builtin_cpu_supports("fma")) {
        found |= ATP_EXPAND;
        if (__builtin_cpu_supports("avx512bf16")) found |= ATP_DOT_BF16;
        if (__builtin_cpu_supports("avx512vnni")) found |= ATP_DOT_INT8;
        if (atp_amx_usable()) found |= ATP_AMX;
    }
    return found;
}

/* Pages of 2 MiB for a long stream; only advice, so failure does not matter. */
void atp_huge_pages(void *start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 2u << 20;
    uintptr_t from = ((uintptr_t)start + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)start + (uintptr_t)bytes) / page * page;
    if (to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}

/* --- inputs as the blocks want them ---------------------------------------------------------- */

static ATP_BASE void prepare_dot(const uint16_t *x, int64_t k, uint16_t *out) {
    for (int64_t i = 0; i < k; i += 32) {
        __mmask32 lanes = k - i >= 32 ? ~0u : (1u << (k - i)) - 1;
        _mm512_storeu_si512(out + i, _mm512_maskz_loadu_epi16(lanes, x + i));
    }
}

static ATP_BASE void prepare_fma(int kernel, const void *x, int64_t k, int io, float *out) {
    for (int64_t i = 0; i < k; i += 32) {
        int64_t left = k - i;
        __mmask32 lanes = left >= 32 ? ~0u : (1u << left) - 1;
        __m512 first, second;
        if (kernel == ATP_BF16_FMA) {
            __m512i raw = _mm512_maskz_loadu_epi16(lanes, (const uint16_t *)x + i);
            first = float_half(kernel, 0, raw, NULL, 0);
            second = float_half(kernel, 1, raw, NULL, 0);
        } else {
            first = atp_load16(x, i, io, (__mmask16)lanes);
            second = left > 16 ? atp_load16(x, i + 16, io, (__mmask16)(lanes >> 16))
                               : _mm512_setzero_ps();
        }
        _mm512_storeu_ps(out + i, first);
        _mm512_storeu_ps(out + i + 16, second);
    }
}

/* int16 with one scale for 128 columns. What is not finite makes the scale NaN, and so the result. */
static ATP_BASE void prepare_int8(const void *x, int64_t k, int io, int16_t *out, float *scales) {
    for (int64_t b = 0; b * ATP_BLOCK8 < k; b++) {
        __m512 largest = _mm512_setzero_ps(), finite = _mm512_setzero_ps();
        for (int64_t i = b * ATP_BLOCK8; i < k && i < (b + 1) * ATP_BLOCK8; i += 16) {
            __mmask16 lanes = k - i >= 16 ? 0xffff : (__mmask16)((1u << (k - i)) - 1);
            __m512 v = atp_load16(x, i, io, lanes);
            largest = _mm512_max_ps(largest, _mm512_abs_ps(v));
            /* 0 for finite values, NaN for others */
            finite = _mm512_fmadd_ps(v, _mm512_setzero_ps(), finite);
        }
        float scale = _mm512_reduce_max_ps(largest) / 32767;
        float broken = _mm512_reduce_add_ps(finite);
        scales[b] = broken == 0 ? scale : broken;
        __m512 each = _mm512_set1_ps(scale > 0 && broken == 0 ? scale : 1);
        for (int64_t i = b * ATP_BLOCK8; i < (b + 1) * ATP_BLOCK8; i += 16) {
            __mmask16 lanes = k - i >= 16 ? 0xffff : k > i ? (__mmask16)((1u << (k - i)) - 1) : 0;
            __m512 v = lanes ? atp_load16(x, i, io, lanes) : _mm512_setzero_ps();
            __m512i q = _mm512_cvtps_epi32(_mm512_div_ps(v, each));
            _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtsepi32_epi16(q));
        }
    }
}

/* --- blocks of each size ---------------------------------------------------------------------- */

#define CASES(BLOCK, MORE)                                       \
    switch (tokens) {                                            \
        case 1: BLOCK(1); break;                                 \
        case 2: BLOCK(2); break;                                 \
        case 3: BLOCK(3); break;                                 \
        MORE(BLOCK)                                              \
        default: BLOCK(4); break;                                \
    }

#define UP_TO_4(BLOCK)
#define UP_TO_5(BLOCK) \
    case 5: BLOCK(5); break;
#define UP_TO_6(BLOCK) \
    UP_TO_5(BLOCK)     \
    case 6: BLOCK(6); break;

static ATP_BF16 void run_dot(const atp_job *job, const uint16_t *x, int64_t ldx, int64_t token,
                             int tokens) {
#define BLOCK(T) dot_block(job, x, ldx, token, T)
    CASES(BLOCK, UP_TO_6)
#undef BLOCK
}

static ATP_BASE void run_bf16(const atp_job *job, const float *x, int64_t ldx, int64_t token,
                              int tokens) {
#define BLOCK(T) fma_block(ATP_BF16_FMA, job, x, ldx, token, T)
    CASES(BLOCK, UP_TO_5)
#undef BLOCK
}

static ATP_BASE void run_fp16(const atp_job *job, const float *x, int64_t ldx, int64_t token,
                              int tokens) {
#define BLOCK(T) fma_block(ATP_FP16, job, x, ldx, token, T)
    CASES(BLOCK, UP_TO_5)
#undef BLOCK
}

static ATP_BASE void run_fp32(const atp_job *job, const float *x, int64_t ldx, int64_t token,
                              int tokens) {
#define BLOCK(T) fma_block(ATP_FP32, job, x, ldx, token, T)
    CASES(BLOCK, UP_TO_5)
#undef BLOCK
}

static ATP_VNNI void run_int8(const atp_job *job, const int16_t *x, const float *scales,
                              int64_t ldx, int64_t token, int tokens) {
#define BLOCK(T) int8_block(job, x, scales, ldx, token, T)
    CASES(BLOCK, UP_TO_4)
#undef BLOCK
}

/* --- the whole product ------------------------------------------------------------------------ */

/* x: [m][ldx] of type io; y: [m][n] of type io; bias: [n] of type io, or NULL. */
int atp_linear(int kernel, const atp_weight *w, const void *x, int64_t ldx, int64_t m,
               const void *bias, void *y, int io, int threads) {
    const int64_t n = w->n, k = w->k, groups = atp_ceil(n, ATP_ROWS);
    const int features = atp_features();
    const int needed = kernel == ATP_BF16_DOT ? ATP_DOT_BF16
                       : kernel == ATP_INT8   ? ATP_DOT_INT8
                                              : ATP_EXPAND;
    if (kernel < 0 || kernel > ATP_INT8 || !(features & needed)) return ATP_UNSUPPORTED;
    const int io_width = io == ATP_IO_FP32 ? 4 : 2;
    const int width = kernel == ATP_BF16_DOT || kernel == ATP_INT8 ? 2 : 4;
    const int64_t padded = atp_ceil(k, kernel == ATP_INT8 ? ATP_BLOCK8 : ATP_STEP) *
                           (kernel == ATP_INT8 ? ATP_BLOCK8 : ATP_STEP);
    const int64_t blocks = atp_ceil(k, ATP_BLOCK8);
    const int most = kernel == ATP_BF16_DOT ? ATP_DOT_TOKENS
                     : kernel == ATP_INT8   ? ATP_INT8_TOKENS
                                            : ATP_FMA_TOKENS;
    int64_t pass = ATP_PASS_BYTES / (padded ? padded * width : 1);
    if (pass < ATP_PASS_LEAST) pass = ATP_PASS_LEAST;
    /* Passes of as equal size as can be. */
    if (m) pass = atp_ceil(m, atp_ceil(m, pass));
    if (threads < 1) threads = 1;

    /* Read in place where type, order and length are right. */
    const int direct = padded == k && (kernel == ATP_BF16_DOT ||
                                       (kernel == ATP_FP32 && io == ATP_IO_FP32));
    void *scratch = NULL;
    float *scales = NULL;
    if (!direct && m && padded) {
        if (posix_memalign(&scratch, 64, (size_t)(pass * padded * width))) return ATP_NO_MEMORY;
        if (kernel == ATP_INT8) {
            scales = malloc((size_t)(pass * blocks) * sizeof(float));
            if (!scales) {
                free(scratch);
                return ATP_NO_MEMORY;
            }
        }
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t begin = 0; begin < m; begin += pass) {
        const int64_t count = m - begin < pass ? m - begin : pass;
        const char *in = (const char *)x + begin * ldx * io_width;
        int64_t ld = ldx;
        if (scratch) {
            ld = padded;
#pragma omp for schedule(static)
            for (int64_t t = 0; t < count; t++) {
                const char *from = in + t * ldx * io_width;
                char *to = (char *)scratch + t * padded * width;
                if (kernel == ATP_BF16_DOT)
                    prepare_dot((const uint16_t *)from, k, (uint16_t *)to);
                else if (kernel == ATP_INT8)
                    prepare_int8(from, k, io, (int16_t *)to, scales + t * blocks);
                else
                    prepare_fma(kernel, from, k, io, (float *)to);
            }
            in = (const char *)scratch;
        }
        /* Blocks of as equal size as can be: 7 tokens are 4 and 3, not 6 and 1. */
        const int64_t parts = atp_ceil(count, most);
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; g++) {
            const atp_job job = {w, g, bias, y, io};
            for (int64_t p = 0; p < parts; p++) {
                const int64_t t = count * p / parts;
                const int tokens = (int)(count * (p + 1) / parts - t);
                const char *at = in + t * ld * width;
                if (kernel == ATP_BF16_DOT)
                    run_dot(&job, (const uint16_t *)at, ld, begin + t, tokens);
                else if (kernel == ATP_BF16_FMA)
                    run_bf16(&job, (const float *)at, ld, begin + t, tokens);
                else if (kernel == ATP_FP16)
                    run_fp16(&job, (const float *)at, ld, begin + t, tokens);
                else if (kernel == ATP_FP32)
                    run_fp32(&job, (const float *)at, ld, begin + t, tokens);
                else
                    run_int8(&job, (const int16_t *)at, scales + t * blocks, ld, begin + t,
                             tokens);
            }
        }
    }
    free(scratch);
    free(scales);
    return ATP_OK;
}
