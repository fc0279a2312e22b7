"""Settings of the streaming search; the search itself is the engine's. Knows no audio."""

from dataclasses import dataclass

from earshot.core.errors import ConfigError

METHODS = ("greedy_search", "modified_beam_search")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """How words are searched for.

    Args:
        method: "greedy_search" takes the best piece at every frame; "modified_beam_search"
            keeps `max_active_paths` histories and merges equal ones.
        max_active_paths: Histories kept by the beam, 1..64.
        max_symbols_per_frame: Pieces that one 40 ms frame may emit, 0..100; 0 takes the cap
            that the model was trained with. A lower cap loses long words.
        blank_penalty: Nats taken off the blank's score; above 0 gives fewer deletions and more
            insertions.

    Raises:
        ConfigError: A value is out of its range.
    """

    method: str = "modified_beam_search"
    max_active_paths: int = 4
    max_symbols_per_frame: int = 0
    blank_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f"search.method is '{self.method}'; it must be {' or '.join(METHODS)}."
            )
        for name, low, high in (
            ("max_active_paths", 1, 64),
            ("max_symbols_per_frame", 0, 100),
            ("blank_penalty", -100.0, 100.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"search.{name} is {value}; it must lie in {low}..{high}.")
