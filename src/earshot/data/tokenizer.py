"""Words to word-piece ids and back, by SentencePiece.

Ids 0, 1 and 2 are `<blk>`, `<sos/eos>` and `<unk>` in every tokenizer of the package; the
pieces follow. Recognition reads the pieces from the model file and does not come here.
SentencePiece is imported on first use. Does not know models.
"""

from collections.abc import Sequence

from earshot.core.errors import ConfigError

BLANK_ID, SOS_EOS_ID, UNK_ID = 0, 1, 2
RESERVED_PIECES = ("<blk>", "<sos/eos>", "<unk>")
WORD_START = "\u2581"


class Tokenizer:
    """Encodes text as ids of word pieces.

    Args:
        model: A serialised SentencePiece model, as a `.ear` file carries it in the tensor
            `tokenizer`.

    Raises:
        ConfigError: The bytes are no such model, or its first three pieces are not the
            reserved ones.
    """

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            self.pieces = tuple(
                str(self._processor.id_to_piece(i)) for i in range(self._processor.vocab_size())
            )
        except RuntimeError:
            raise ConfigError(
                f"tokenizer: {len(model)} bytes that are no SentencePiece model. "
                "Give it the bytes of a `.model` file."
            ) from None
        if self.pieces[:3] != RESERVED_PIECES:
            raise ConfigError(
                f"tokenizer: the first pieces are {', '.join(self.pieces[:3])}; they must be "
                f"{', '.join(RESERVED_PIECES)}. Train it with these ids reserved."
            )
        self.model = model

    @property
    def scores(self) -> tuple[float, ...]:
        """What SentencePiece gives each piece, the higher the likelier."""
        return tuple(float(self._processor.get_score(i)) for i in range(len(self.pieces)))

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Args:
            text: Words in the form of `text.normalise`.

        Returns:
            Ids; `UNK_ID` stands for characters that the pieces do not have.
        """
        return [int(i) for i in self._processor.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids.

        Args:
            ids: Ids below `len(pieces)`; the three reserved ones give no text.

        Returns:
            Words separated by one space.

        Raises:
            ValueError: An id is out of range.
        """
        for i in ids:
            if not 0 <= i < len(self.pieces):
                raise ValueError(f"tokenizer: id {i}; ids must lie in 0..{len(self.pieces) - 1}.")
        joined = "".join(self.pieces[i] for i in ids if i > UNK_ID)
        return joined.replace(WORD_START, " ").strip()
