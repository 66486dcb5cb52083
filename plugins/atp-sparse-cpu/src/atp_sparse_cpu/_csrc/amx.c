/* Products with many tokens on bfloat16 tiles (AMX).
 *
 * A step of one row, expanded, is 64 bytes: a row of a tile. So 16 rows (a band: 4 groups) by 32
 * columns of weights are the first factor, 32 columns by 16 tokens of inputs the second one, and the
 * sums are 16 rows by 16 tokens of floats. Inputs are brought into the order of the second factor
 * once. Few tokens take a tile of weights as it comes; for many, panels of weights are expanded into
 * the second-level cache, and all tokens go over them. An output is summed in the same order
 * whatever the number of tokens and threads.
 */
#include <stdlib.h>

#include "amx.h"
#include "vectors.h"

#ifndef ATP_HAS_AMX

int atp_amx_usable(void) { return 0; }

int atp_amx(const atp_weight *w, const void *x, int64_t ldx, int64_t m, const void *bias, void *y,
            int io, int threads) {
    (void)w, (void)x, (void)ldx, (void)m, (void)bias, (void)y, (void)io, (void)threads;
    return ATP_UNSUPPORTED;
}

#else

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux saves tiles only for programs that asked to use them. */
#define REQUEST_PERMISSION 0x1023
#define TILE_DATA 18

static int ask(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    const unsigned bf16 = 1u << 22, tile = 1u << 24;
    if ((d & (bf16 | tile)) != (bf16 | tile)) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* Asked once: under a hypervisor cpuid takes microseconds. Two threads that ask at once find the
 * same. */
int atp_amx_usable(void) {
    static int known = -1;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (found < 0) {
        found = ask();
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found;
}

/* Tiles are aligned to their size: reading one that lies in two pages takes several times as long. */
#define TILE 16 /* rows of any tile, and tokens */
#define TILE_BYTES (TILE * 64)
#define BAND (TILE / ATP_ROWS) /* groups whose rows make one tile */

#define FEW 6  /* tiles of tokens whose sums fit the registers */
#define LAG 2  /* steps that a tile of weights waits before it is read */
#define RING 4 /* tiles that may wait, a power of 2 above LAG */

/* For more tokens: two bands of a panel stay in the first-level cache, and all of it, its sums and
 * the inputs of DEPTH steps in the second one. */
#define PANEL 16 /* bands, even */
#define DEPTH 8  /* steps */
#define PASS 512 /* tokens, a multiple of 32 */

/* In assembly, as GCC's own intrinsics do not tell it that they read memory. */
#define TILE_ZERO(C) __asm__ volatile("tilezero %%tmm" #C::)
#define TILE_LOAD(T, P) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #T::"r"(P), "r"((int64_t)64) : "memory")
#define TILE_STORE(T, P) \
    __asm__ volatile("tilestored %%tmm" #T ", (%0,%1,1)" ::"r"(P), "r"((int64_t)64) : "memory")
#define TILE_DOT(C, A, B) __asm__ volatile("tdpbf16ps %%tmm" #B ", %%tmm" #A ", %%tmm" #C::)

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t columns[16]; /* bytes */
    uint8_t rows[16];
} tile_shape;

static void open_tiles(void) {
    tile_shape shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.columns[t] = 64, shape.rows[t] = TILE;
    __asm__ volatile("ldtilecfg %0" ::"m"(shape));
}

static void close_tiles(void) { __asm__ volatile("tilerelease" ::); }

/* 16 vectors of 16 words of 32 bits: rows become columns. */
ATP_INLINE ATP_BASE void transpose(__m512i v[TILE]) {
    __m512i u[TILE];
    ATP_UNROLL for (int i = 0; i < TILE; i += 2) {
        u[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        u[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    ATP_UNROLL for (int i = 0; i < TILE; i += 4) {
        v[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    ATP_UNROLL for (int i = 0; i < 4; i++) {
        u[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        u[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        u[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        u[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    ATP_UNROLL for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(u[i], u[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(u[i], u[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(u[i + 4], u[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(u[i + 4], u[i + 12], 0xdd);
    }
}

/* One step of up to 16 tokens: [16 pairs of columns][16 tokens][2]. x: [tokens][ldx], at the step. */
static ATP_BASE void pack_inputs(const uint16_t *x, int64_t ldx, int64_t tokens, int64_t left,
                                 char *out) {
    const __mmask32 lanes = left >= ATP_STEP ? ~0u : (1u << left) - 1;
    __m512i v[TILE];
    ATP_UNROLL for (int t = 0; t < TILE; t++)
        v[t] = t < tokens ? _mm512_maskz_loadu_epi16(lanes, x + t * ldx) : _mm512_setzero_si512();
    transpose(v);
    ATP_UNROLL for (int i = 0; i < TILE; i++) _mm512_store_si512(out + 64 * i, v[i]);
}

/* What stays the same in a call. */
typedef struct {
    const atp_weight *w;
    const uint32_t *nothing; /* masks of a group without weights */
    const void *bias;
    void *y;
    int64_t steps, bands, m;
    int io;
} task;

/* Sums [16 rows][16 tokens] of a band to y, which is [m][n]. */
static ATP_BASE void finish(const task *job, const float *sums, int64_t band, int64_t token) {
    const int64_t n = job->w->n, row = band * TILE, left = job->m - token;
    if (row >= n) return;
    const __mmask16 rows = n - row >= TILE ? 0xffff : (__mmask16)((1u << (n - row)) - 1);
    __m512i v[TILE];
    ATP_UNROLL for (int r = 0; r < TILE; r++) v[r] = _mm512_load_si512(sums + TILE * r);
    transpose(v);
    const __m512 add = job->bias ? atp_load16(job->bias, row, job->io, rows) : _mm512_setzero_ps();
    ATP_UNROLL for (int t = 0; t < TILE; t++) {
        if (t >= left) break;
        __m512 sum = _mm512_castsi512_ps(v[t]);
        if (job->bias) sum = _mm512_add_ps(sum, add);
        atp_store16(job->y, (token + t) * n + row, job->io, rows, sum);
    }
}

/* Where the four groups of a band are read. */
typedef struct {
    const uint32_t *mask[BAND];
    const uint16_t *v[BAND];
} place;

static place start_of(const task *job, int64_t band) {
    const atp_weight *w = job->w;
    const int64_t groups = atp_ceil(w->n, ATP_ROWS);
    place at;
    for (int i = 0; i < BAND; i++) {
        const int64_t g = band * BAND + i;
        const int there = g < groups;
        at.mask[i] = there ? (const uint32_t *)w->masks + g * job->steps * ATP_ROWS : job->nothing;
        at.v[i] = (const uint16_t *)w->values + (there ? w->offsets[g] : 0);
    }
    return at;
}

/* One step of a band as a tile. */
ATP_INLINE ATP_BASE void expand(place *at, int64_t step, char *out) {
    ATP_UNROLL for (int i = 0; i < BAND; i++) ATP_UNROLL for (int r = 0; r < ATP_ROWS; r++) {
        const uint32_t mask = at->mask[i][step * ATP_ROWS + r];
        _mm512_store_si512(out + (i * ATP_ROWS + r) * 64, atp_expand16(at->v[i], mask));
        at->v[i] += _mm_popcnt_u32(mask);
    }
}

/* The bytes of a band that are to be fetched while another one is worked on. */
typedef struct {
    const char *masks, *values;
    int64_t share; /* of values, for one step */
} ahead;

static ahead after(const task *job, int64_t band) {
    const atp_weight *w = job->w;
    const int64_t groups = atp_ceil(w->n, ATP_ROWS), first = band * BAND;
    const int64_t last = first + BAND < groups ? first + BAND : groups;
    if (first >= groups) return (ahead){(const char *)w->masks, (const char *)w->values, 0};
    const int64_t bytes = (w->offsets[last] - w->offsets[first]) * 2;
    return (ahead){(const char *)w->masks + first * job->steps * ATP_ROWS * 4,
                   (const char *)((const uint16_t *)w->values + w->offsets[first]),
                   atp_ceil(bytes, job->steps)};
}

ATP_INLINE void fetch(ahead *next) {
    _mm_prefetch(next->masks, _MM_HINT_T0);
    next->masks += BAND * ATP_ROWS * 4;
    for (int64_t i = 0; i < next->share; i += 64) _mm_prefetch(next->values + i, _MM_HINT_T0);
    next->values += next->share;
}

/* The numbers of tiles must be written out. */
#define EACH(TILES, DO) \
    if (TILES > 0) { DO(0) } \
    if (TILES > 1) { DO(1) } \
    if (TILES > 2) { DO(2) } \
    if (TILES > 3) { DO(3) } \
    if (TILES > 4) { DO(4) } \
    if (TILES > 5) { DO(5) }
#define EACH_LATER(TILES, DO) \
    if (TILES > 0) { DO(3, 0) } \
    if (TILES > 1) { DO(4, 1) } \
    if (TILES > 2) { DO(5, 2) }

/* One band times all tokens, or two bands times up to 3 tiles of them, expanded as they go: a tile
 * of weights waits for some steps, as it cannot be read before what was written has left the
 * processor's queue of stores. x: [steps][tiles] tiles. */
ATP_INLINE ATP_BASE void few_tokens(const task *job, int64_t band, const char *x, const int tiles,
                                    const int bands) {
    char weights[RING][2][TILE_BYTES] __attribute__((aligned(TILE_BYTES)));
    float sums[TILE * TILE] __attribute__((aligned(TILE_BYTES)));
    place at = start_of(job, band), at2 = start_of(job, band + bands - 1);
    ahead next = after(job, band + bands), next2 = after(job, band + 2 * bands - 1);
#define DO(C) TILE_ZERO(C);
    EACH(FEW, DO)
#undef DO
    for (int64_t s = 0; s < job->steps + LAG; s++) {
        if (s < job->steps) {
            expand(&at, s, weights[s % RING][0]);
            fetch(&next);
            if (bands > 1) {
                expand(&at2, s, weights[s % RING][1]);
                fetch(&next2);
            }
        }
        if (s < LAG) continue;
        const char *ready = weights[(s - LAG) % RING][0];
        TILE_LOAD(6, ready);
#define DO(C) TILE_LOAD(7, x + C * TILE_BYTES); TILE_DOT(C, 6, 7);
        EACH(tiles, DO)
#undef DO
        if (bands > 1) {
            TILE_LOAD(6, ready + TILE_BYTES);
#define DO(C, T) TILE_LOAD(7, x + T * TILE_BYTES); TILE_DOT(C, 6, 7);
            EACH_LATER(tiles, DO)
#undef DO
        }
        x += tiles * TILE_BYTES;
    }
#define DO(C) TILE_STORE(C, sums); finish(job, sums, band, C * TILE);
    EACH(tiles, DO)
#undef DO
    if (bands > 1) {
#define DO(C, T) TILE_STORE(C, sums); finish(job, sums, band + 1, T * TILE);
        EACH_LATER(tiles, DO)
#undef DO
    }
}

static ATP_BASE void run_few(const task *job, int64_t band, const char *x, int64_t tiles) {
    switch (tiles) {
        case 1: few_tokens(job, band, x, 1, 2); break;
        case 2: few_tokens(job, band, x, 2, 2); break;
        case 3: few_tokens(job, band, x, 3, 2); break;
        case 4: few_tokens(job, band, x, 4, 1); break;
        case 5: few_tokens(job, band, x, 5, 1); break;
        default: few_tokens(job, band, x, 6, 1); break;
    }
}

/* Two bands times 16 tokens, or 32, for some steps. a: [2][DEPTH] tiles; x: [steps][tiles]; sums:
 * [2][tiles] tiles, which `more` says to add to. */
ATP_INLINE void block(const char *a, const char *x, char *sums, int64_t steps, int more,
                      const int tiles) {
    if (more) {
        TILE_LOAD(0, sums);
        TILE_LOAD(1, sums + tiles * TILE_BYTES);
        if (tiles > 1) {
            TILE_LOAD(2, sums + TILE_BYTES);
            TILE_LOAD(3, sums + 3 * TILE_BYTES);
        }
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        if (tiles > 1) {
            TILE_ZERO(2);
            TILE_ZERO(3);
        }
    }
    for (int64_t s = 0; s < steps; s++, a += TILE_BYTES, x += tiles * TILE_BYTES) {
        TILE_LOAD(4, a);
        TILE_LOAD(6, x);
        TILE_DOT(0, 4, 6);
        TILE_LOAD(5, a + DEPTH * TILE_BYTES);
        TILE_DOT(1, 5, 6);
        if (tiles > 1) {
            TILE_LOAD(7, x + TILE_BYTES);
            TILE_DOT(2, 4, 7);
            TILE_DOT(3, 5, 7);
        }
    }
    TILE_STORE(0, sums);
    TILE_STORE(1, sums + tiles * TILE_BYTES);
    if (tiles > 1) {
        TILE_STORE(2, sums + TILE_BYTES);
        TILE_STORE(3, sums + 3 * TILE_BYTES);
    }
}

/* Steps of a band. */
static ATP_BASE void expand_band(place *at, int64_t first, int64_t last, char *out) {
    place now = *at;
    for (int64_t s = first; s < last; s++, out += TILE_BYTES) expand(&now, s, out);
    *at = now;
}

/* Bands first .. last - 1 times the tokens of a pass. x: of every DEPTH steps, pairs of tiles of
 * tokens, each [DEPTH][2] tiles; the last pair may be one tile. Sums wait in memory while the next
 * steps are expanded. */
static ATP_BASE void many_tokens(const task *job, int64_t first, int64_t last, const char *x,
                                 int64_t token, int64_t tiles, char *scratch) {
    const int64_t steps = job->steps, pairs = (last - first + 1) / 2;
    char *weights = scratch, *sums = scratch + 2 * pairs * DEPTH * TILE_BYTES;
    place at[PANEL];
    for (int64_t b = 0; b < 2 * pairs; b++) at[b] = start_of(job, first + b);
    for (int64_t s = 0; s < steps; s += DEPTH) {
        const int64_t end = s + DEPTH < steps ? s + DEPTH : steps, count = end - s;
        for (int64_t b = 0; b < 2 * pairs; b++)
            expand_band(&at[b], s, end, weights + b * DEPTH * TILE_BYTES);
        for (int64_t p = 0; p < pairs; p++) {
            const char *a = weights + 2 * p * DEPTH * TILE_BYTES;
            for (int64_t t = 0; t < tiles; t += 2) {
                const int wide = tiles - t > 1;
                const char *in = x + (s * tiles + t * count) * TILE_BYTES;
                char *out = sums + 2 * (p * tiles + t) * TILE_BYTES;
                if (wide)
                    block(a, in, out, count, s > 0, 2);
                else
                    block(a, in, out, count, s > 0, 1);
                for (int64_t i = 0; end == steps && i < 2 * (1 + wide); i++)
                    finish(job, (const float *)(out + i * TILE_BYTES),
                           first + 2 * p + i / (1 + wide), token + (t + i % (1 + wide)) * TILE);
            }
        }
    }
}

/* In tiles, where many_tokens wants the tile of step s and tokens t. */
static int64_t place_of(int64_t s, int64_t steps, int64_t t, int64_t tiles) {
    const int64_t begin = s / DEPTH * DEPTH, count = steps - begin < DEPTH ? steps - begin : DEPTH;
    const int64_t pair = t & ~(int64_t)1, wide = tiles - pair > 1 ? 2 : 1;
    return begin * tiles + pair * count + (s - begin) * wide + t - pair;
}

/* As atp_linear, for bfloat16 values, inputs and outputs. */
int atp_amx(const atp_weight *w, const void *x, int64_t ldx, int64_t m, const void *bias, void *y,
            int io, int threads) {
    if (io != ATP_IO_BF16 || !(atp_features() & ATP_AMX)) return ATP_UNSUPPORTED;
    if (!m || !w->n) return ATP_OK;
    if (!w->k) return atp_linear(ATP_BF16_FMA, w, x, ldx, m, bias, y, io, threads);
    const int64_t steps = atp_ceil(w->k, ATP_STEP), bands = atp_ceil(w->n, TILE);
    const int64_t all = atp_ceil(m, TILE);
    const int few = all <= FEW;
    /* Passes of as equal size as can be, in pairs of tiles. */
    const int64_t passes = atp_ceil(all, PASS / TILE);
    const int64_t pass = few ? all : atp_ceil(atp_ceil(all, passes), 2) * 2;
    /* Panels likewise, in pairs of bands, and no fewer than threads. */
    if (threads < 1) threads = 1;
    const int64_t parts = atp_ceil(atp_ceil(bands, PANEL), threads) * threads;
    const int64_t panel = few ? (all <= FEW / 2 ? 2 : 1) : atp_ceil(atp_ceil(bands, parts), 2) * 2;
    const int64_t panels = atp_ceil(bands, panel);
    const int64_t packed = pass * steps * TILE_BYTES, zeros = steps * ATP_ROWS * 4;
    void *inputs = NULL;
    if (posix_memalign(&inputs, TILE_BYTES, (size_t)(packed + zeros + 64))) return ATP_NO_MEMORY;
    memset((char *)inputs + packed, 0, (size_t)zeros);
    const task job = {w, (const uint32_t *)((char *)inputs + packed), bias, y, steps, bands, m, io};
    int broken = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        void *scratch = NULL;
        const int64_t own = panel * (DEPTH + pass);
        if (!few && posix_memalign(&scratch, TILE_BYTES, (size_t)(own * TILE_BYTES)))
            __atomic_store_n(&broken, 1, __ATOMIC_RELAXED);
#pragma omp barrier
        const int well = !__atomic_load_n(&broken, __ATOMIC_RELAXED);
        if (well) open_tiles();
        for (int64_t begin = 0; well && begin < all; begin += pass) {
            const int64_t tiles = all - begin < pass ? all - begin : pass;
#pragma omp for schedule(static)
            for (int64_t i = 0; i < tiles * steps; i++) {
                const int64_t t = i / steps, s = i % steps, token = (begin + t) * TILE;
                const int64_t at = few ? s * tiles + t : place_of(s, steps, t, tiles);
                pack_inputs((const uint16_t *)x + token * ldx + s * ATP_STEP, ldx, m - token,
                            w->k - s * ATP_STEP, (char *)inputs + at * TILE_BYTES);
            }
#pragma omp for schedule(static)
            for (int64_t p = 0; p < panels; p++) {
                if (few)
                    run_few(&job, p * panel, inputs, tiles);
                else
                    many_tokens(&job, p * panel, (p + 1) * panel < bands ? (p + 1) * panel : bands,
                                inputs, begin * TILE, tiles, scratch);
            }
        }
        if (well) close_tiles();
        free(scratch);
    }
    free(inputs);
    return broken ? ATP_NO_MEMORY : ATP_OK;
}

#endif
