"""Reading and aligning on many machines: parts of a file go to Ray workers, results come in order.

The same function reads the same stretches as on one machine, and they are merged in the same
order, so the audit is the same to the last digit. The file must be where every worker can open
it. Needs the extra `[cluster]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from earshot.audit.reading import Part
from earshot.core.errors import EarshotError, MissingExtraError

LOCAL_WORKERS = 2
_AHEAD = 2  # parts in flight for each worker: enough to keep it busy, little to hold

Mapper = Callable[[Callable[[Any], Part], Sequence[Any]], Iterator[Part]]


@contextmanager
def mapped_on_ray(address: str, *, workers: int = LOCAL_WORKERS) -> Iterator[Mapper]:
    """A `map` that runs on Ray, for `read_results`.

    Args:
        address: Of a running cluster, such as "ray://host:10001"; "local" starts one here and
            stops it at the end.
        workers: Processes of a local one.

    Yields:
        The function.

    Raises:
        MissingExtraError: Ray is not installed.
        EarshotError: The cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("an audit on a cluster", package="ray", extra="cluster") from None
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == "local":
        settings |= {"num_cpus": workers, "include_dashboard": False}
    else:
        settings["address"] = address
    try:
        ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError) as err:
        raise EarshotError(
            f"{address}: the Ray cluster cannot be reached ({err}). Check the address, or use "
            "'local'."
        ) from None

    def mapped(function: Callable[[Any], Part], items: Sequence[Any]) -> Iterator[Part]:
        task = ray.remote(function)
        resources: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        limit = max(1, int(resources.get("CPU", 1))) * _AHEAD
        waiting: list[Any] = [task.remote(item) for item in items[:limit]]
        for at in range(len(items)):
            if at + limit < len(items):
                waiting.append(task.remote(items[at + limit]))
            part: Part = ray.get(waiting[at])
            waiting[at] = None  # lets the cluster forget it
            yield part

    try:
        yield mapped
    finally:
        ray.shutdown()
