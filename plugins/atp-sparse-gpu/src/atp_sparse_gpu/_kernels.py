"""Triton kernels over the packed format: products with few tokens, and unpacking.

All kernels walk a tile of ROWS rows by CHUNKS bytes of the bitmask. A thread owns a byte, eight
columns. Where in the stream its first value lies follows from the segment's offset and a prefix
sum of popcounts over bytes; the others follow by adding bits. So there is one popcount and one
step of the scan for eight weights, neighbouring threads read neighbouring values, and a row costs
the same however its nonzeros are spread.

Segments (`_packed.SEGMENT`) make tiles independent: none waits for the counts of the one before.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["INTERPRETED", "dot_kernel", "fma_kernel", "unpack_kernel"]


@triton.jit
def _popcount(bits, NATIVE: tl.constexpr):
    """Number of ones in the low byte of int32 `bits`."""
    if NATIVE:
        return tl.inline_asm_elementwise(
            "popc.b32 $0, $1;", "=r,r", [bits], dtype=tl.int32, is_pure=True, pack=1
        )
    # Triton's interpreter knows no assembler.
    pairs = bits - ((bits >> 1) & 0x55)
    nibbles = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return (nibbles + (nibbles >> 4)) & 0x0F


@triton.jit
def _next(at, bits, column: tl.constexpr):
    """The value of one column of every byte, and the pointer past it."""
    bit = (bits >> column) & 1
    return tl.load(at, bit != 0, other=0.0), at + bit


@triton.jit
def _tile(
    mask, values, offsets, rows, inside, tile, row_words, segments,
    CHUNKS: tl.constexpr, SEGMENT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """The weights of one tile by bit, eight times [ROWS, CHUNKS]; zeros outside of the matrix."""
    chunk = tile * CHUNKS + tl.arange(0, CHUNKS)
    # Four threads share a word. Byte loads would be vectorized, which gives a thread 32
    # neighbouring columns; then the loads of values would be scattered.
    words = tl.load(
        mask + rows[:, None] * row_words + (chunk // 4)[None, :],
        mask=inside[:, None] & (chunk // 4 < row_words)[None, :],
        other=0,
    )
    bits = (words >> ((chunk % 4) * 8)[None, :]) & 0xFF
    start = tl.load(offsets + rows * segments + tile * (CHUNKS * 8 // SEGMENT), inside, other=0)
    count = _popcount(bits, NATIVE)
    # The pointer itself is moved on: two instructions fewer a column than an index costs.
    at = values + start[:, None] + (tl.cumsum(count, 1) - count)
    v0, at = _next(at, bits, 0)
    v1, at = _next(at, bits, 1)
    v2, at = _next(at, bits, 2)
    v3, at = _next(at, bits, 3)
    v4, at = _next(at, bits, 4)
    v5, at = _next(at, bits, 5)
    v6, at = _next(at, bits, 6)
    v7, at = _next(at, bits, 7)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def _dense_tile(
    mask, values, offsets, rows, inside, tile, row_words, segments,
    CHUNKS: tl.constexpr, SEGMENT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """The weights of a tile in one piece, [ROWS, CHUNKS, 8]."""
    v0, v1, v2, v3, v4, v5, v6, v7 = _tile(
        mask, values, offsets, rows, inside, tile, row_words, segments, CHUNKS, SEGMENT, NATIVE
    )
    # Each join adds a last axis: of columns 4, then 2, then 1 apart.
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.join(even, odd).reshape(rows.shape[0], CHUNKS, 8)


@triton.jit
def _fma(sums, weights, x, column, end):
    """Add the products of one token with a tile, in float32; columns from `end` on count nothing.

    The loads of x are strided, but from the cache, and each serves all rows of the tile. One wide
    load that is taken apart afterwards costs a trip through shared memory.
    """
    for bit in tl.static_range(8):
        at = column + bit
        inputs = tl.load(x + at, at < end, other=0.0).to(tl.float32)
        sums += inputs[None, :] * weights[bit].to(tl.float32)
    return sums


@triton.jit
def _finish(sums, bias, y, rows, inside, HAS_BIAS: tl.constexpr):
    """Sum over the bytes, add the bias, store one token's outputs."""
    result = tl.sum(sums, axis=1)
    if HAS_BIAS:
        result += tl.load(bias + rows, inside, other=0.0).to(tl.float32)
    tl.store(y + rows, result.to(y.dtype.element_ty), inside)


@triton.jit
def fma_kernel(
    x, mask, values, offsets, bias, y, tokens, n, k, row_words, segments,
    HAS_BIAS: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    SEGMENT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """y [tokens, n] = x [tokens, k] · Wᵀ + bias for tokens ≤ M = 1, 2 or 4.

    Everything in the loop is [ROWS, CHUNKS] and of one layout, so that nothing moves between
    threads but the prefix sum; that is why the tokens are written out.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    sums0 = tl.zeros([ROWS, CHUNKS], tl.float32)
    sums1 = tl.zeros([ROWS, CHUNKS], tl.float32)
    sums2 = tl.zeros([ROWS, CHUNKS], tl.float32)
    sums3 = tl.zeros([ROWS, CHUNKS], tl.float32)
    for tile in range(tl.cdiv(row_words * 4, CHUNKS)):
        weights = _tile(
            mask, values, offsets, rows, inside, tile, row_words, segments,
            CHUNKS, SEGMENT, NATIVE,
        )  # fmt: skip
        column = (tile * CHUNKS + tl.arange(0, CHUNKS)) * 8
        sums0 = _fma(sums0, weights, x, column, k)
        if M > 1:
            sums1 = _fma(sums1, weights, x + k, column, tl.where(tokens > 1, k, 0))
        if M > 2:
            sums2 = _fma(sums2, weights, x + 2 * k, column, tl.where(tokens > 2, k, 0))
            sums3 = _fma(sums3, weights, x + 3 * k, column, tl.where(tokens > 3, k, 0))
    _finish(sums0, bias, y, rows, inside, HAS_BIAS)
    if M > 1:
        _finish(sums1, bias, y + n, rows, inside & (tokens > 1), HAS_BIAS)
    if M > 2:
        _finish(sums2, bias, y + 2 * n, rows, inside & (tokens > 2), HAS_BIAS)
        _finish(sums3, bias, y + 3 * n, rows, inside & (tokens > 3), HAS_BIAS)


@triton.jit
def dot_kernel(
    x, mask, values, offsets, bias, y, tokens, n, k, row_words, segments,
    HAS_BIAS: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr, CHUNKS: tl.constexpr,
    SEGMENT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """The same for tokens ≤ M = 16 on tensor cores: a tile is expanded, then multiplied."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n
    token = tl.arange(0, M)
    known = token < tokens
    sums = tl.zeros([ROWS, M], tl.float32)
    for tile in range(tl.cdiv(row_words * 4, CHUNKS)):
        weights = _dense_tile(
            mask, values, offsets, rows, inside, tile, row_words, segments,
            CHUNKS, SEGMENT, NATIVE,
        )  # fmt: skip
        column = tile * CHUNKS * 8 + tl.arange(0, CHUNKS * 8)
        inputs = tl.load(
            x + (token * k)[None, :] + column[:, None],
            mask=known[None, :] & (column < k)[:, None],
            other=0.0,
        )
        matrix = weights.reshape(ROWS, CHUNKS * 8)
        if not NATIVE:  # the interpreter multiplies the bits of bfloat16 as integers
            matrix = matrix.to(tl.float32)
            inputs = inputs.to(tl.float32)
        # "ieee": float32 weights are not rounded to tf32, as in torch's default.
        sums = tl.dot(matrix, inputs, sums, input_precision="ieee")
    if HAS_BIAS:
        sums += tl.load(bias + rows, inside, other=0.0).to(tl.float32)[:, None]
    tl.store(
        y + token[None, :] * n + rows[:, None],
        sums.to(y.dtype.element_ty),
        mask=known[None, :] & inside[:, None],
    )


@triton.jit
def unpack_kernel(
    mask, values, offsets, dense, n, k, row_words, segments,
    ROWS: tl.constexpr, CHUNKS: tl.constexpr, SEGMENT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """Write the dense weights [n, k]; one program a tile."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tile = tl.program_id(1)
    inside = rows < n
    weights = _dense_tile(
        mask, values, offsets, rows, inside, tile, row_words, segments, CHUNKS, SEGMENT, NATIVE
    )
    chunk = tile * CHUNKS + tl.arange(0, CHUNKS)
    column = chunk[:, None] * 8 + tl.arange(0, 8)[None, :]
    tl.store(
        dense + (rows * k)[:, None, None] + column[None, :, :],
        weights,
        mask=inside[:, None, None] & (column < k)[None, :, :],
    )


INTERPRETED = not isinstance(fma_kernel, triton.runtime.JITFunction)
"""Whether TRITON_INTERPRET=1 was set when this module was imported: kernels run on the CPU."""
