"""Processes that are given trainings to kill, several at a time."""

import concurrent.futures
import pathlib
import queue
from collections.abc import Callable
from typing import Any

from .._process import Worker

_CHILD = "benchmarks.measures._kills_child:"


class Pool:
    """Processes that make trainings, each by and by.

    Args:
        directory: For the trainings, and their compiled programs.
        size: How many there are.
    """

    def __init__(self, directory: pathlib.Path, size: int = 2):
        # A library that starts threads of its own would forbid them to make copies of themselves.
        environment = {"TREADLE_CACHE": str(directory / "cache"), "OPENBLAS_NUM_THREADS": "1"}
        self._directory = directory
        self._workers = [Worker(environment) for _ in range(size)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = concurrent.futures.ThreadPoolExecutor(size)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def folder(self, name: str) -> str:
        """Where a training lies."""
        return str(self._directory / name)

    def call(self, function: str, **arguments: Any) -> Any:
        """Calls a function of the child in the first process that is idle."""
        worker = self._idle.get()
        try:
            return worker.call(_CHILD + function, **arguments)
        finally:
            self._idle.put(worker)

    def map(self, calls: list[tuple[str, dict]], tell: Callable[[int, Any], Any]) -> list[Any]:
        """Makes calls, several at a time, and tells the number and the result of each."""
        futures = [self._threads.submit(self.call, name, **arguments) for name, arguments in calls]
        for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
            tell(number, future.result())
        return [future.result() for future in futures]
