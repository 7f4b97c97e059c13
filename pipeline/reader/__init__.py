"""The read-time reader: draws of interleaving, packing and order. It needs neither torch nor an engine."""

from pipeline.reader.draw import draw_pieces, draw_sequence
from pipeline.reader.packing import IGNORED, Block
from pipeline.reader.sequence_reader import SequenceReader, vocabulary_of

__all__ = ["IGNORED", "Block", "SequenceReader", "draw_pieces", "draw_sequence", "vocabulary_of"]
