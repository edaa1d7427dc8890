"""Many inputs at once, one for each core, and told in their order."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch


def lists_of(items, size):
    """Yield lists of ``size`` of the items, the last one perhaps shorter."""
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def in_order(work, items):
    """Yield what ``work`` makes of each of the ``items``. As many threads as torch may use each do
    all of an item with one thread of torch: they never wait for one another, as threads would of
    which some look for faces and some run the network. A single item has all threads of torch."""
    items, count = iter(items), torch.get_num_threads()
    first = list(islice(items, 2))
    if len(first) < 2 or count == 1:
        yield from map(work, first)
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    waiting = deque(pool.submit(work, item) for item in first)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > count + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(count)  # of the threads that are yet to come


def side_by_side(items):
    """The items of a generator, each made by a second thread while the one before it is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item
