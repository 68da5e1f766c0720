"""What two processes that share nothing lose to each other: how far one core's speed depends on
another's work here.

    python benchmarks/cores.py --turns 600

Each multiplies small matrices in its nearest cache, in turns of 50 ms: one alone, both, the other
alone, both. Cores of their own do as much beside each other as alone; two halves of one do about
0.6, and a virtual machine may be given either, now and then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from itertools import pairwise

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy comes

import numpy as np

TURN_SECONDS, PRODUCTS_A_LOOK = 0.05, 20


def rates(who: int, began: float, turns: int) -> dict[int, float]:
    """Products a second in each of the turns in which this process works."""
    left, right, product = np.random.default_rng(who).random((3, 64, 64), dtype=np.float32)
    found = {}
    for turn in range(turns):
        starts = began + turn * TURN_SECONDS
        ends = starts + 0.95 * TURN_SECONDS
        time.sleep(max(0.0, starts - time.perf_counter()))
        if turn % 2 == 1 or turn % 4 == 2 * who:
            count, first = 0, time.perf_counter()
            while time.perf_counter() < ends:
                for _ in range(PRODUCTS_A_LOOK):
                    np.dot(left, right, out=product)
                count += PRODUCTS_A_LOOK
            found[turn] = count / (time.perf_counter() - first)
    return found


def main() -> None:
    """Both, and quantiles of what each did beside the other by what it did alone just before."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=600)
    turns = parser.parse_args().turns
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(rates, [(0, time.perf_counter(), 2)] * 2, chunksize=1)  # both have started
        began = time.perf_counter() + 0.2
        everyone = pool.starmap(rates, [(who, began, turns) for who in (0, 1)], chunksize=1)
    ratios = [
        found[both] / found[alone]
        for who, found in enumerate(everyone)
        for alone, both in pairwise(sorted(found))
        if alone % 4 == 2 * who
    ]
    low, quarter, median, three, high = np.quantile(ratios, [0.1, 0.25, 0.5, 0.75, 0.9])
    print(
        f"beside the other by alone, of {len(ratios)} pairs of turns: median {median:.2f}, ", end=""
    )
    print(f"quartiles {quarter:.2f} and {three:.2f}, first and last tenth {low:.2f} and {high:.2f}")


if __name__ == "__main__":
    main()
