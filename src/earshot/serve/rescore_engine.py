"""One thread that rescores for everybody, as many lattices at a time as are there.

A lattice joins the others at the next step of theirs and leaves when it is done, so nobody waits
for a batch to fill or to empty, and the language model reads its weights once for all of them.
What waits is bounded: whoever comes when the queue is full is told when to come back. Knows
nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from earshot.decode.language import LanguageScorer
from earshot.decode.rescoring import (
    Hypothesis,
    RescoringConfig,
    Steps,
    answer_together,
    rescoring_steps,
)
from earshot.decode.rescoring_wire import Refusal, Request
from earshot.serve.logs import log
from earshot.serve.rescore_config import RescoreLimits
from earshot.serve.rescore_metrics import RescoreMetrics

__all__ = ["RefusedError", "RescoringEngine"]


class RefusedError(Exception):
    """A lattice that was not rescored, and why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@dataclass(slots=True, eq=False)
class _Job:
    request: Request
    nbest: int
    client: str
    arrived: float
    deadline: float
    report: Callable[[tuple[Hypothesis, ...] | RefusedError], None]
    steps: Steps | None = None
    wanted: list[Any] | None = None
    abandoned: bool = False


class RescoringEngine:
    """Rescores lattices of many clients.

    Args:
        scorer: The language model; only the engine's thread calls it.
        config: Weights.
        limits: How many may wait, and how long.
        nbest: Hypotheses of a request that does not say how many.
        metrics: What is counted; by default counters of its own.
    """

    def __init__(
        self,
        scorer: LanguageScorer,
        config: RescoringConfig,
        *,
        limits: RescoreLimits | None = None,
        nbest: int = 10,
        metrics: RescoreMetrics | None = None,
    ) -> None:
        self.limits = limits or RescoreLimits()
        self.metrics = metrics or RescoreMetrics()
        self.model = scorer.name
        self._scorer = scorer
        self._config = config
        self._nbest = nbest
        self._queue: deque[_Job] = deque()
        self._clients: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._draining = False
        self._stopped = False
        self._unfinished = 0
        self._thread = threading.Thread(target=self._run, daemon=True, name="earshot-rescoring")
        self._thread.start()

    async def rescore(self, request: Request, *, client: str) -> tuple[Hypothesis, ...]:
        """Rescore a lattice; cancelling gives it up.

        Args:
            request: What a client sent.
            client: Who it is.

        Returns:
            Hypotheses, best first.

        Raises:
            RefusedError: It is too large, there is too much to do, it took too long, or the
                language model failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[Hypothesis, ...]] = loop.create_future()

        def settle(outcome: tuple[Hypothesis, ...] | RefusedError) -> None:
            if future.done():
                return
            if isinstance(outcome, RefusedError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def report(outcome: tuple[Hypothesis, ...] | RefusedError) -> None:
            try:
                loop.call_soon_threadsafe(settle, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        job = self._enter(request, client, report)
        try:
            return await future
        except asyncio.CancelledError:
            job.abandoned = True
            raise

    def stop(self, *, drain_timeout_s: float | None = None) -> bool:
        """Take nothing more, finish what is there, and end the thread.

        Args:
            drain_timeout_s: Seconds to wait for that; by default those of the limits.

        Returns:
            Whether everything was finished.
        """
        limit_s = self.limits.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        deadline = time.monotonic() + limit_s
        with self._changed:
            self._draining = True
            while self._unfinished and time.monotonic() < deadline:
                self._changed.wait(0.05)
            finished = not self._unfinished
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(5.0)
        return finished

    def drain(self) -> None:
        """Take nothing more; what is there goes on."""
        with self._changed:
            self._draining = True

    @property
    def waiting(self) -> int:
        """Lattices that wait or are being rescored."""
        with self._changed:
            return self._unfinished

    def _enter(
        self,
        request: Request,
        client: str,
        report: Callable[[tuple[Hypothesis, ...] | RefusedError], None],
    ) -> _Job:
        limits = self.limits
        if request.lattice.num_arcs > limits.max_arcs:
            raise self._refused(
                413,
                "lattice_too_large",
                f"the lattice has {request.lattice.num_arcs} arcs; it may have {limits.max_arcs}. "
                "Prune it more",
            )
        now = time.monotonic()
        wait_s = limits.max_wait_s
        if request.timeout_ms:
            wait_s = min(wait_s, request.timeout_ms / 1000)
        job = _Job(request, request.nbest or self._nbest, client, now, now + wait_s, report)
        with self._changed:
            if self._draining or self._stopped:
                raise self._refused(
                    503, "stopping", "the server is being stopped. Try another one", retry_s=5.0
                )
            if len(self._queue) >= limits.max_queue:
                raise self._refused(
                    429, "queue_full", f"{len(self._queue)} lattices wait already", retry_s=1.0
                )
            if self._clients[client] >= limits.max_per_client:
                raise self._refused(
                    429,
                    "too_many_requests",
                    f"{self._clients[client]} lattices of this client wait already; at most "
                    f"{limits.max_per_client} may",
                    retry_s=1.0,
                )
            self._clients[client] += 1
            self._unfinished += 1
            self._queue.append(job)
            self.metrics.waiting(self._unfinished)
            self._changed.notify_all()
        return job

    def _refused(
        self, status: int, code: str, message: str, *, retry_s: float = 0.0
    ) -> RefusedError:
        self.metrics.refused(code)
        return RefusedError(Refusal(status, code, message, retry_s))

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        active: list[_Job] = []
        while True:
            with self._changed:
                while not self._queue and not active and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    left = [*active, *self._queue]
                    self._queue.clear()
                    break
                joining: list[_Job] = []
                while self._queue and len(active) + len(joining) < self.limits.max_batch:
                    joining.append(self._queue.popleft())
            active += [job for job in joining if self._is_wanted(job) and self._begin(job)]
            active = [job for job in active if self._is_wanted(job)]
            if active:
                active = self._step(active)
        for job in left:
            self._end(job, self._refused(503, "stopping", "the server was stopped", retry_s=5.0))

    def _is_wanted(self, job: _Job) -> bool:
        if job.abandoned:
            self._end(job, self._refused(499, "abandoned", "the client is gone"))
            return False
        if time.monotonic() > job.deadline:
            self._end(
                job,
                self._refused(504, "deadline", "the lattice was not rescored in time", retry_s=1.0),
            )
            return False
        return True

    def _begin(self, job: _Job) -> bool:
        try:
            steps = rescoring_steps(
                job.request.lattice, self._scorer.start(), self._config, nbest=job.nbest
            )
            job.wanted = next(steps)
            job.steps = steps
            return True
        except Exception as err:
            self._failed(job, err)
            return False

    def _step(self, active: list[_Job]) -> list[_Job]:
        began = time.monotonic()
        try:
            answers = answer_together(self._scorer, [job.wanted or [] for job in active])
        except Exception as err:
            for job in active:
                self._failed(job, err)
            return []
        going_on = []
        for job, answer in zip(active, answers, strict=True):
            assert job.steps is not None
            try:
                job.wanted = job.steps.send(answer)
                going_on.append(job)
            except StopIteration as stop:
                self._end(job, stop.value)
            except Exception as err:
                self._failed(job, err)
        self.metrics.step(len(active), time.monotonic() - began)
        return going_on

    def _failed(self, job: _Job, err: Exception) -> None:
        # What was said stays out of the log: the kind of error suffices.
        log("rescoring failed", error=type(err).__name__)
        message = f"the language model failed ({type(err).__name__}). See the server's log"
        self._end(job, self._refused(500, "failed", message))

    def _end(self, job: _Job, outcome: tuple[Hypothesis, ...] | RefusedError) -> None:
        job.steps = job.wanted = None  # and with them the model's states
        with self._changed:
            self._unfinished -= 1
            self._clients[job.client] -= 1
            if self._clients[job.client] <= 0:
                del self._clients[job.client]
            self.metrics.waiting(self._unfinished)
            self._changed.notify_all()
        if not isinstance(outcome, RefusedError):
            self.metrics.rescored(job.request.lattice.num_arcs, time.monotonic() - job.arrived)
        job.report(outcome)
