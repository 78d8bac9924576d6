"""Tiles of a picture, on the host and on the device: which positions one program of a block's kernels owns.

A tile is TILE_N pictures × TILE_P rows × TILE_Q columns, all powers of two, nearly square so that the halos of its nine
taps overlap in the L1 cache. Sizes of pictures are arguments, not constants: they are divided by before the loops
only, and a network that meets pictures of every size is compiled once.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .launch import ceil_div, power_of_two


class Tile(NamedTuple):
    """How many pictures, rows and columns one program owns."""

    n: int
    p: int
    q: int

    @classmethod
    def of(cls, positions: int, rows: int, columns: int, windows: bool = False) -> Tile:
        """`positions` (a power of two ≥ 16) of pictures rows × columns, at least 2 × 2 if there are `windows`."""
        least = 2 if windows else 1
        q = max(min(power_of_two(columns), 16 if positions >= 64 else 4, positions // least), least)
        p = max(min(power_of_two(rows), positions // q), least)
        return cls(positions // (p * q), p, q)

    def count(self, batch: int, rows: int, columns: int) -> int:
        return ceil_div(batch, self.n) * ceil_div(rows, self.p) * ceil_div(columns, self.q)

    def divides(self, batch: int, rows: int, columns: int) -> bool:
        return batch % self.n == 0 and rows % self.p == 0 and columns % self.q == 0

    def constants(self) -> dict[str, int]:
        return {"TILE_N": self.n, "TILE_P": self.p, "TILE_Q": self.q}


@triton.jit
def within_tile(TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr, WINDOWS: tl.constexpr):
    """Picture, row and column, each [TILE_N·TILE_P·TILE_Q], of a tile's positions, counted from its first.

    Row by row; or, with WINDOWS, by windows of 2 × 2 with position 2·dy + dx fastest: then `pooled_positions` are
    those of the windows, in their order.
    """
    i = tl.arange(0, TILE_N * TILE_P * TILE_Q)
    if WINDOWS:
        q = i // 4 % (TILE_Q // 2) * 2 + i % 2
        p = i // (2 * TILE_Q) % (TILE_P // 2) * 2 + i // 2 % 2
    else:
        q = i % TILE_Q
        p = i // TILE_Q % TILE_P
    return i // (TILE_Q * TILE_P), p, q


@triton.jit
def tile_origin(tile, rows, columns, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Picture, row and column of a tile's first position."""
    tiles_q = tl.cdiv(columns, TILE_Q)
    tiles_p = tl.cdiv(rows, TILE_P)
    return tile // (tiles_q * tiles_p) * TILE_N, tile // tiles_q % tiles_p * TILE_P, tile % tiles_q * TILE_Q


@triton.jit
def next_origin(n, p, q, rows, columns, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Of the tile after the one that starts at (n, p, q), without a division."""
    q += TILE_Q
    p += tl.where(q >= columns, TILE_P, 0)
    q = tl.where(q >= columns, 0, q)
    n += tl.where(p >= rows, TILE_N, 0)
    p = tl.where(p >= rows, 0, p)
    return n, p, q


@triton.jit
def tile_positions(tile, rows, columns, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr,
                   WINDOWS: tl.constexpr):  # fmt: skip
    """Picture, row and column of a tile's positions, in the order of `within_tile`."""
    n, p, q = within_tile(TILE_N, TILE_P, TILE_Q, WINDOWS)
    first_n, first_p, first_q = tile_origin(tile, rows, columns, TILE_N, TILE_P, TILE_Q)
    return n + first_n, p + first_p, q + first_q


@triton.jit
def pooled_positions(tile, rows, columns, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Picture, row and column of the windows of a tile, in the halved picture; rows and columns as for the tile."""
    return tile_positions(
        tile, (rows + 1) // 2, (columns + 1) // 2, TILE_N, TILE_P // 2, TILE_Q // 2, False
    )


@triton.jit
def windows(values):
    """values [4·windows, K], of positions in the order of windows → those at each of the four positions, [windows, K].

    By splitting, not by a reduction: what a reduction would shuffle from lane to lane, value by value, is moved through
    shared memory once, and then each thread has whole windows.
    """
    channels: tl.constexpr = values.shape[1]
    size: tl.constexpr = values.shape[0] // 4
    values = tl.permute(tl.reshape(values, (size, 2, 2, channels)), (0, 3, 2, 1))  # …, column, row
    upper, lower = tl.split(values)
    upper_left, upper_right = tl.split(upper)
    lower_left, lower_right = tl.split(lower)
    return upper_left, upper_right, lower_left, lower_right


@triton.jit
def pick(y, sign):
    """(y at the largest sign·y of each window, where that was), of positions in the order of windows.

    y [4·windows, K], sign [1, K] → [windows, K] each. The first of equals wins, the last not-a-number before all.
    """
    values = windows(y)
    picked = values[0]
    where = tl.zeros(picked.shape, tl.int32)
    for i in tl.static_range(1, 4):
        key = values[i] * sign
        larger = (key > picked * sign) | (key != key)
        picked = tl.where(larger, values[i], picked)
        where = tl.where(larger, i, where)
    return picked, where
