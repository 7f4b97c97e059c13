"""The read-time reader: draws of interleaving, packing, order and mixing. It needs neither torch nor an engine."""

from pipeline.reader.draw import draw_pieces, draw_sequence
from pipeline.reader.opening import open_reader, open_sources
from pipeline.reader.packing import IGNORED, Block, block_of
from pipeline.reader.sequence_reader import SequenceReader
from pipeline.reader.source import BadShard
from pipeline.reader.vocabularies import vocabulary_of

__all__ = [
    "IGNORED",
    "BadShard",
    "Block",
    "SequenceReader",
    "block_of",
    "draw_pieces",
    "draw_sequence",
    "open_reader",
    "open_sources",
    "vocabulary_of",
]
