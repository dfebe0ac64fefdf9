"""A small transport problem: move whole units between the rows and columns of a matrix, at the least cost.

Each cell holds a number between its least and its most, and is worth 1 for each unit up to its ``worth``,
nothing beyond. Rows have a sum to reach, and columns too. Rows and columns are the nodes of a network and
cells are arcs: a unit through the arc to the column is added to its cell, one back is taken from it.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# Beyond any distance: each step costs 1 at most.
FAR = 1 << 40


class Transport:
    """Cells, changed in place.

    Args:
        cells: The matrix. It must be worth the most that it can be for the sums that it has now.
        worth: Units of each cell that are worth 1.
        least: Lower bound of each cell; ``worth`` is not below it.
        most: Upper bound of each cell; ``worth`` is not above it.
    """

    def __init__(self, cells: Matrix, worth: Matrix, least: Matrix, most: Matrix) -> None:
        self._cells = cells
        self._worth = worth
        self._least = least
        self._most = most

    def settle(self, row_sums: Matrix, column_sums: Matrix) -> tuple[Mask, Mask]:
        """Bring the sums as near as can be to those asked for, and lose the least worth by it.

        A row whose sum is too small has units to give, and so has a column whose sum is too big; the others
        take them.

        Returns:
            The rows and columns that can be reached from those that still have units to give.
        """
        row_gives = row_sums - self._cells.sum(axis=1)
        column_gives = self._cells.sum(axis=0) - column_sums
        while True:
            below, above = self._cells < self._worth, self._cells > self._worth
            down = np.where(below, self._worth, self._most) - self._cells
            up = self._cells - np.where(above, self._worth, self._least)
            rows, columns = _distances(down > 0, up > 0, below, above, row_gives > 0, column_gives > 0)
            near_rows, near_columns = rows < FAR, columns < FAR
            if not (row_gives[near_rows] < 0).any() and not (column_gives[near_columns] < 0).any():
                return near_rows, near_columns
            # Only steps of cheapest paths; as potentials, the distances make all of these free at once.
            ahead = rows[:, None] - below == columns
            back = columns + ~above == rows[:, None]
            down[~(ahead & near_rows[:, None])] = 0
            up[~(back & near_columns)] = 0
            _Push(self._cells, down, up, row_gives, column_gives).run()


def _distances(
    down: Mask, up: Mask, below: Mask, above: Mask, row_starts: Mask, column_starts: Mask
) -> tuple[Matrix, Matrix]:
    """Least cost from any start to each row and column, by relaxing all arcs until nothing changes."""
    down_cost = np.where(down, -below.astype(np.int64), FAR)
    up_cost = np.where(up, (~above).astype(np.int64), FAR)
    rows = np.where(row_starts, 0, FAR)
    columns = np.where(column_starts, 0, FAR)
    while True:
        nearer = np.minimum(columns, (rows[:, None] + down_cost).min(axis=0))
        nearer[nearer > FAR // 2] = FAR
        near = np.minimum(rows, (nearer + up_cost).min(axis=1))
        near[near > FAR // 2] = FAR
        if (nearer == columns).all() and (near == rows).all():
            return rows, columns
        rows, columns = near, nearer


class _Push:
    """One round: as much as goes along the arcs given, by paths that are short (Dinic's blocking flow)."""

    def __init__(
        self, cells: Matrix, down: Matrix, up: Matrix, row_gives: Matrix, column_gives: Matrix
    ) -> None:
        self._cells = cells
        self._room = (down, up)
        self._gives = (row_gives, column_gives)
        self._levels = self._count_levels()
        # What each node may still go on to, the next one last: a dead end is struck off for good.
        self._onward: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})

    def run(self) -> None:
        for side in (0, 1):
            for start in np.flatnonzero(self._gives[side] > 0).tolist():
                for path in self._paths(side, start):
                    self._send(side, path)

    def _count_levels(self) -> tuple[Matrix, Matrix]:
        """Steps from the nearest node that gives; -1: out of reach."""
        levels = tuple(np.where(gives > 0, 0, -1) for gives in self._gives)
        arcs = (self._room[0] > 0, (self._room[1] > 0).T)
        fresh = [gives > 0 for gives in self._gives]
        step = 0
        while fresh[0].any() or fresh[1].any():
            step += 1
            reached = [arcs[1 - side][fresh[1 - side]].any(axis=0) & (levels[side] < 0) for side in (0, 1)]
            for side in (0, 1):
                levels[side][reached[side]] = step
            fresh = reached
        return levels[0], levels[1]

    def _next(self, side: int, node: int) -> list[int]:
        known = self._onward[side].get(node)
        if known is None:
            room = self._room[0][node] if side == 0 else self._room[1][:, node]
            later = self._levels[1 - side] == self._levels[side][node] + 1
            known = np.flatnonzero((room > 0) & later)[::-1].tolist()
            self._onward[side][node] = known
        return known

    def _paths(self, side: int, start: int) -> Iterator[list[int]]:
        """Paths from a node that gives to ones that take; send along each before asking for the next."""
        while self._gives[side][start] > 0:
            path = [start]
            while self._gives[(side + len(path) - 1) % 2][path[-1]] >= 0:
                onward = self._next((side + len(path) - 1) % 2, path[-1])
                if onward:
                    path.append(onward[-1])
                    continue
                path.pop()
                if not path:
                    return
                self._next((side + len(path) - 1) % 2, path[-1]).pop()
            yield path

    def _send(self, side: int, path: list[int]) -> None:
        arcs = []
        for number, (here, there) in enumerate(pairwise(path)):
            at = (side + number) % 2
            arcs.append((at, here, (here, there) if at == 0 else (there, here)))
        last = (side + len(path) - 1) % 2
        units = min(int(self._gives[side][path[0]]), -int(self._gives[last][path[-1]]))
        units = min(units, *(int(self._room[at][cell]) for at, _, cell in arcs))
        for at, here, cell in arcs:
            self._room[at][cell] -= units
            self._cells[cell] += units if at == 0 else -units
            if not self._room[at][cell]:
                self._onward[at][here].pop()
        self._gives[side][path[0]] -= units
        self._gives[last][path[-1]] += units
