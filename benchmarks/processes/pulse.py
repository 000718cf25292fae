"""Feels how fast the machine computes: a little work every two milliseconds, by its own processor time.

A host that gives a virtual machine fewer cycles tells it nothing, and what stands still there cannot count it: but the
same work takes more processor time then. Being descheduled, by others or by what is measured, takes none.

Runs until its input ends, and prints JSON: the spells in which the work took more than half as long again as usually,
each as its first and last moment by `time.perf_counter`, which all processes of a Linux machine share.
"""

import json
import select
import statistics
import sys
import time

PAUSE_SECONDS = 0.002
SLOW = 1.5  #: times the median
APART_SECONDS = 0.02  #: what is closer together is one spell
_WORK = 400  #: additions: some ten microseconds


def main() -> None:
    """Feel until told to stop."""
    felt = []
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        felt.append((time.perf_counter(), _beat()))
    print(json.dumps(spells(felt)))


def _beat() -> float:
    """The processor time of the work; what interrupted it once is not taken for a slow machine."""
    return min(_work(), _work())


def _work() -> float:
    began_at, total = time.thread_time(), 0
    for number in range(_WORK):
        total += number
    return time.thread_time() - began_at


def spells(felt: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When the machine was slow, of (moment, seconds of work)."""
    limit = SLOW * statistics.median(cost for _, cost in felt) if felt else 0.0
    found: list[tuple[float, float]] = []
    for moment, cost in felt:
        if cost <= limit:
            continue
        if found and moment - found[-1][1] <= APART_SECONDS:
            found[-1] = (found[-1][0], moment)
        else:
            found.append((moment - PAUSE_SECONDS, moment))
    return found


if __name__ == "__main__":
    main()
