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
def tile_positions(n, p, q, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Picture, row and column, each [TILE_N·TILE_P·TILE_Q], of a tile that begins at (n, p, q); row by row."""
    i = tl.arange(0, TILE_N * TILE_P * TILE_Q)
    return n + i // (TILE_Q * TILE_P), p + i // TILE_Q % TILE_P, q + i % TILE_Q


@triton.jit
def pooled_positions(tile, rows, columns, TILE_N: tl.constexpr, TILE_P: tl.constexpr, TILE_Q: tl.constexpr):
    """Picture, row and column of the windows of a tile, in the halved picture; rows and columns as for the tile.

    Divided out anew, as half the tile's own origin would stay in registers from before the loop.
    """
    n, p, q = tile_origin(tile, (rows + 1) // 2, (columns + 1) // 2, TILE_N, TILE_P // 2, TILE_Q // 2)
    return tile_positions(n, p, q, TILE_N, TILE_P // 2, TILE_Q // 2)


@triton.jit
def windows(values, TILE_Q: tl.constexpr):
    """values [positions, K] of a tile → those at each of the four positions of its windows, [windows, K].

    By splitting, not by a reduction: what a reduction would shuffle from lane to lane, value by value, is moved through
    shared memory once, and then each thread has whole windows.
    """
    channels: tl.constexpr = values.shape[1]
    size: tl.constexpr = values.shape[0] // 4
    values = tl.permute(tl.reshape(values, (2 * size // TILE_Q, 2, TILE_Q // 2, 2, channels)), (0, 2, 1, 3, 4))
    values = tl.permute(tl.reshape(values, (size, 2, 2, channels)), (0, 3, 2, 1))  # …, column, row
    upper, lower = tl.split(values)
    upper_left, upper_right = tl.split(upper)
    lower_left, lower_right = tl.split(lower)
    return upper_left, upper_right, lower_left, lower_right


@triton.jit
def pick(y, sign, TILE_Q: tl.constexpr):
    """(y at the largest sign·y of each window of a tile, where that was).

    y [positions, K], sign [1, K] → [windows, K] each. The first of equals wins, the last not-a-number before all.
    """
    values = windows(y, TILE_Q)
    picked = values[0]
    where = tl.zeros(picked.shape, tl.int32)
    for i in tl.static_range(1, 4):
        key = values[i] * sign
        larger = (key > picked * sign) | (key != key)
        picked = tl.where(larger, values[i], picked)
        where = tl.where(larger, i, where)
    return picked, where
