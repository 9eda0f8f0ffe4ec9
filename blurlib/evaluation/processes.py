"""Work shared among processes: results as they come, and no process outlives its parent."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

import torch
from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerError(ValueError):
    """Work that cannot be sent to a process, or a process that died."""


def share(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result as it is done; what ends the iteration early stops all workers.

    1 job works in this process. More are new processes with one thread each, which get ``work`` by
    pickle; what it raises is raised here. WorkerError: it cannot be pickled, or a worker died.
    """
    if jobs == 1 or not tasks:
        yield from ((task, work(task)) for task in tasks)
        return
    workers = min(jobs, len(tasks))
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(os.getpid(),))
    try:
        with _interrupts_blocked():
            futures = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except TerminatedWorkerError:
        raise WorkerError(
            "a worker process died, perhaps for lack of memory; run the same again, with fewer "
            "jobs if it repeats: it goes on where it stopped"
        ) from None
    except pickle.PicklingError as error:
        raise WorkerError("the work cannot be sent to other processes; use one job") from error
    finally:
        pool.shutdown(kill_workers=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started inside never see Ctrl-C: it is for their parent, which stops them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
