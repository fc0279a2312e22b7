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
        lattice_paths: Histories kept by the search of a stream that records a lattice, 1..64;
            each then stands for all that end in the same pieces.
        lattice_beam: Nats, 0..1000: how far behind the best path a lattice reaches.
        lattice_arcs: What a lattice has at most, 1..1,000,000; older and worse arcs go first, and
            the best path stays.
        lattice_context: How many last pieces must agree before two histories become one, up to
            8; 0 takes what the predictor sees, or 4 if it is stateful.

    Raises:
        ConfigError: A value is out of its range.
    """

    method: str = "modified_beam_search"
    max_active_paths: int = 4
    max_symbols_per_frame: int = 0
    blank_penalty: float = 0.0
    lattice_paths: int = 32
    lattice_beam: float = 16.0
    lattice_arcs: int = 20_000
    lattice_context: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f"search.method is '{self.method}'; it must be {' or '.join(METHODS)}."
            )
        for name, low, high in (
            ("max_active_paths", 1, 64),
            ("max_symbols_per_frame", 0, 100),
            ("blank_penalty", -100.0, 100.0),
            ("lattice_paths", 1, 64),
            ("lattice_beam", 0.0, 1000.0),
            ("lattice_arcs", 1, 1_000_000),
            ("lattice_context", 0, 8),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"search.{name} is {value}; it must lie in {low}..{high}.")
