"""Work shared among processes: results as they come, and no process outlives its parent."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerError(ValueError):
    """Work that cannot be sent to a process, or a process that died."""


def share(
    work: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result as it is done; what ends the iteration early stops all workers.

    1 job works in this process. More are started by "spawn", each with one thread, and get a copy
    of ``work``, which must be picklable; what it raises is raised here.

    Raises:
        WorkerError: ``work`` cannot be pickled, or a worker died.
    """
    if not tasks:
        return
    if jobs == 1:
        for task in tasks:
            yield task, work(task)
        return
    context = multiprocessing.get_context("spawn")
    # Workers live as long as this process holds the other end of the pipe, even if it is killed.
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), context, _start_worker, (_pickled(work), reader)
    )
    try:
        with _without_interrupts():
            futures = {pool.submit(_in_worker, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise WorkerError(
            "a worker process died, perhaps for lack of memory; run the same again, with fewer "
            "jobs if it repeats: it goes on where it stopped"
        ) from None
    except BaseException:
        writer.close()  # now, rather than when the tasks that are in work are done
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pickled(work: Callable) -> bytes:
    # By hand, because multiprocessing would move PyTorch's weights into shared memory, which is
    # small in containers.
    try:
        return pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise WorkerError(f"cannot be sent to other processes ({error}); use one job") from None


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits for the end, and processes started inside never see it: their parent stops them.

    Blocking the signal is for the processes, which inherit it. Here it is not enough: the system
    then gives the signal to another thread, and Python raises it in the main one all the same.
    """
    came: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if in_main else None
    if handler is not None:  # None: of another language, or not the main thread
        signal.signal(signal.SIGINT, lambda *_: came.append(1))
    can_block = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_block else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


_work: Callable[[Any], Any]  # of a worker process


def _start_worker(work: bytes, alive: Connection) -> None:
    global _work
    threading.Thread(target=_exit_when_closed, args=(alive,), daemon=True).start()
    torch.set_num_threads(1)
    _work = pickle.loads(work)


def _exit_when_closed(alive: Connection) -> None:
    alive.poll(None)
    os._exit(1)


def _in_worker(task: Any) -> Any:
    return _work(task)
