/* Products with many tokens that do only the work of the nonzeros.
 *
 * 64 tokens are laid side by side, so that one nonzero multiplies four vectors of them. Columns go by
 * in tiles that stay in the first-level cache, and for each tile a panel of rows, whose sums wait in
 * memory meanwhile. A zero weight is skipped: with an infinite input it gives nothing, where a dense
 * product gives NaN.
 */
#include <stdlib.h>

#include "vectors.h"

#define TOKENS 64
#define TILE_STEPS 4 /* 128 columns by 64 tokens: 32 KiB */
#define PANEL_GROUPS 16
#define PANEL (PANEL_GROUPS * ATP_ROWS)
#define LIST (TILE_STEPS * ATP_STEP + 64)

/* What one row has in a tile, as columns of the tile and values. */
typedef struct {
    uint16_t column[LIST];
    float value[LIST];
    int64_t count;
} row_list;

/* The nonzeros of a tile of one group, row by row. Returns where the stream goes on. */
ATP_INLINE ATP_BASE const char *read_tile(const int io, const char *v, const uint32_t *mask,
                                          int64_t steps, row_list *rows) {
    const int width = io == ATP_IO_FP32 ? 4 : 2;
    __m512i number = _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17,
                                      16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) rows[r].count = 0;
    for (int64_t s = 0; s < steps; s++) {
        for (int r = 0; r < ATP_ROWS; r++) {
            const uint32_t bits = mask[s * ATP_ROWS + r];
            row_list *row = &rows[r];
            /* the next tile of this group, after those of the panel's other groups */
            _mm_prefetch(v + ATP_AHEAD / 4, _MM_HINT_T0);
            const int64_t count = _mm_popcnt_u32(bits);
            _mm512_storeu_si512(row->column + row->count,
                                _mm512_maskz_compress_epi16(bits, number));
            /* 32 values, however many there are: a branch would be guessed wrong half the time */
            float *to = row->value + row->count;
            if (io == ATP_IO_FP32) {
                _mm512_storeu_ps(to, _mm512_loadu_ps((const float *)v));
                _mm512_storeu_ps(to + 16, _mm512_loadu_ps((const float *)v + 16));
            } else {
                __m512i raw = _mm512_loadu_si512(v);
                __m256i low = _mm512_castsi512_si256(raw);
                _mm512_storeu_ps(to, io == ATP_IO_BF16 ? atp_widen_bf16(low)
                                                       : _mm512_cvtph_ps(low));
                __m256i high = _mm512_extracti64x4_epi64(raw, 1);
                _mm512_storeu_ps(to + 16, io == ATP_IO_BF16 ? atp_widen_bf16(high)
                                                            : _mm512_cvtph_ps(high));
            }
            row->count += count;
            v += count * width;
        }
        number = _mm512_add_epi16(number, _mm512_set1_epi16(ATP_STEP));
    }
    return v;
}

/* sums[vectors * 16] += values times tile[column][TOKENS]; two sets of sums hide the latency. */
ATP_INLINE ATP_BASE void add_row(const row_list *row, const float *tile, float *sums,
                                 const int vectors) {
    __m512 even[4], odd[4];
    ATP_UNROLL for (int j = 0; j < vectors; j++) {
        even[j] = _mm512_load_ps(sums + 16 * j);
        odd[j] = _mm512_setzero_ps();
    }
    int64_t i = 0;
    for (; i + 2 <= row->count; i += 2) {
        const float *a = tile + (int64_t)row->column[i] * TOKENS;
        const float *b = tile + (int64_t)row->column[i + 1] * TOKENS;
        __m512 first = _mm512_set1_ps(row->value[i]), second = _mm512_set1_ps(row->value[i + 1]);
        ATP_UNROLL for (int j = 0; j < vectors; j++) {
            even[j] = _mm512_fmadd_ps(first, _mm512_load_ps(a + 16 * j), even[j]);
            odd[j] = _mm512_fmadd_ps(second, _mm512_load_ps(b + 16 * j), odd[j]);
        }
    }
    if (i < row->count) {
        const float *a = tile + (int64_t)row->column[i] * TOKENS;
        __m512 last = _mm512_set1_ps(row->value[i]);
        ATP_UNROLL for (int j = 0; j < vectors; j++)
            even[j] = _mm512_fmadd_ps(last, _mm512_load_ps(a + 16 * j), even[j]);
    }
    ATP_UNROLL for (int j = 0; j < vectors; j++)
        _mm512_store_ps(sums + 16 * j, _mm512_add_ps(even[j], odd[j]));
}

/* Sums of groups first .. last - 1. inputs: [k][TOKENS]; sums: [rows][TOKENS]. */
ATP_INLINE ATP_BASE void add_panel(const int io, const atp_weight *w, int64_t first, int64_t last,
                                   const float *inputs, float *sums, const int vectors) {
    const int64_t width = io == ATP_IO_FP32 ? 4 : 2, steps = atp_ceil(w->k, ATP_STEP);
    const char *at[PANEL_GROUPS];
    row_list rows[ATP_ROWS];
    for (int64_t g = first; g < last; g++)
        at[g - first] = (const char *)w->values + w->offsets[g] * width;
    for (int64_t s = 0; s < steps; s += TILE_STEPS) {
        const int64_t count = steps - s < TILE_STEPS ? steps - s : TILE_STEPS;
        for (int64_t g = first; g < last; g++) {
            const uint32_t *mask = (const uint32_t *)w->masks + (g * steps + s) * ATP_ROWS;
            at[g - first] = read_tile(io, at[g - first], mask, count, rows);
            for (int r = 0; r < ATP_ROWS; r++)
                add_row(&rows[r], inputs + s * ATP_STEP * TOKENS,
                        sums + ((g - first) * ATP_ROWS + r) * TOKENS, vectors);
        }
    }
}

static ATP_BASE void run_panel(int io, const atp_weight *w, int64_t first, int64_t last,
                               const float *inputs, float *sums, int vectors) {
#define PANEL_OF(IO)                                                         \
    switch (vectors) {                                                       \
        case 1: add_panel(IO, w, first, last, inputs, sums, 1); break;       \
        case 2: add_panel(IO, w, first, last, inputs, sums, 2); break;       \
        case 3: add_panel(IO, w, first, last, inputs, sums, 3); break;       \
        default: add_panel(IO, w, first, last, inputs, sums, 4); break;      \
    }
    if (io == ATP_IO_FP32)
        PANEL_OF(ATP_IO_FP32)
    else if (io == ATP_IO_BF16)
        PANEL_OF(ATP_IO_BF16)
    else
        PANEL_OF(ATP_IO_FP16)
#undef PANEL_OF
}

/* Lay one token's inputs into its column of inputs [k][TOKENS]. */
static ATP_BASE void spread(const void *x, int64_t k, int io, float *inputs) {
    const __m512i index = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(TOKENS));
    for (int64_t i = 0; i < k; i += 16) {
        __mmask16 lanes = k - i >= 16 ? 0xffff : (__mmask16)((1u << (k - i)) - 1);
        _mm512_mask_i32scatter_ps(inputs + i * TOKENS, lanes, index, atp_load16(x, i, io, lanes),
                                  4);
    }
}

/* Sums [rows][TOKENS] of rows from `row` on, to y [tokens][n]. */
static ATP_BASE void gather(const atp_weight *w, int64_t row, int64_t rows, int64_t token,
                            int64_t tokens, const float *sums, const void *bias, void *y, int io) {
    const __m512i index = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(TOKENS));
    for (int64_t i = 0; i < rows; i += 16) {
        __mmask16 lanes = rows - i >= 16 ? 0xffff : (__mmask16)((1u << (rows - i)) - 1);
        __m512 add = bias ? atp_load16(bias, row + i, io, lanes) : _mm512_setzero_ps();
        for (int64_t t = 0; t < tokens; t++) {
            __m512 v = _mm512_mask_i32gather_ps(add, lanes, index, sums + i * TOKENS + t, 4);
            atp_store16(y, (token + t) * w->n + row + i, io, lanes, bias ? _mm512_add_ps(v, add) : v);
        }
    }
}

/* As atp_linear, for values of the type of x. */
int atp_spmm(const atp_weight *w, const void *x, int64_t ldx, int64_t m, const void *bias, void *y,
             int io, int threads) {
    if (!(atp_features() & ATP_EXPAND)) return ATP_UNSUPPORTED;
    const int64_t groups = atp_ceil(w->n, ATP_ROWS), panels = atp_ceil(groups, PANEL_GROUPS);
    const int64_t io_width = io == ATP_IO_FP32 ? 4 : 2;
    void *scratch = NULL;
    if (threads < 1) threads = 1;
    if (m && w->k && posix_memalign(&scratch, 64, (size_t)(w->k * TOKENS) * sizeof(float)))
        return ATP_NO_MEMORY;
    float *inputs = scratch;
    if (inputs && m < TOKENS) memset(inputs, 0, (size_t)(w->k * TOKENS) * sizeof(float));
#pragma omp parallel num_threads(threads) if (threads > 1)
    for (int64_t begin = 0; begin < m; begin += TOKENS) {
        const int64_t tokens = m - begin < TOKENS ? m - begin : TOKENS;
        const int vectors = (int)atp_ceil(tokens, 16);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++)
            spread((const char *)x + (begin + t) * ldx * io_width, w->k, io, inputs + t);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < panels; p++) {
            float sums[PANEL * TOKENS] __attribute__((aligned(64)));
            const int64_t first = p * PANEL_GROUPS;
            const int64_t last = first + PANEL_GROUPS < groups ? first + PANEL_GROUPS : groups;
            const int64_t row = first * ATP_ROWS;
            memset(sums, 0, sizeof sums);
            run_panel(io, w, first, last, inputs, sums, vectors);
            gather(w, row, w->n - row < PANEL ? w->n - row : PANEL, begin, tokens, sums, bias, y,
                   io);
        }
    }
    free(scratch);
    return ATP_OK;
}
