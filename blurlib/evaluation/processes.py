"""Work shared among processes by joblib, as results come; on POSIX none outlives its parent."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerError(ValueError):
    """Work that cannot be sent to a process, or a process that died."""


def share(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result as it is done, by ``jobs`` processes of one thread, which get
    ``work`` by pickle and end with the iteration; 1 is this process. What ``work`` raises is raised
    here. WorkerError: it cannot be pickled, or a worker died. More jobs need the main thread."""
    if jobs == 1:
        yield from ((task, work(task)) for task in tasks)
        return
    watch = {"initializer": _start_worker, "initargs": (os.getpid(),)}
    with joblib.parallel_config("loky", inner_max_num_threads=1, **watch):
        workers = max(2, min(jobs, len(tasks)))
        parallel = joblib.Parallel(workers, return_as="generator_unordered", batch_size=1)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process: workers
    try:  # begin here, inherit that and say nothing
        done = parallel(joblib.delayed(lambda t: (t, work(t)))(task) for task in tasks)
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        yield from done
    except TerminatedWorkerError:
        raise WorkerError(
            "a worker process died, perhaps for lack of memory; run the same again, with fewer "
            "jobs if it repeats: it goes on where it stopped"
        ) from None
    except pickle.PicklingError as error:
        raise WorkerError("the work cannot be sent to other processes; use one job") from error


def _start_worker(parent: int) -> None:
    def end_with_it():  # joblib's would wait minutes for a parent that was killed
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
