"""Arrow schemas of what lies at rest beside the shards."""

import pyarrow as pa

ROWS = pa.schema(
    [
        pa.field("split", pa.int32(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("audio", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("recording", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64()),
        pa.field("channel", pa.int32()),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""`splits.parquet`: one row per manifest row; row group i holds split i. A row with a `reason` the plan rejects."""

STATS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.int32(), nullable=False),
        pa.field("recording", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("license", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("source_rate", pa.int32(), nullable=False),
        pa.field("source_channels", pa.int32(), nullable=False),
        pa.field("num_words", pa.int32(), nullable=False),
        pa.field("num_characters", pa.int32(), nullable=False),
        pa.field("num_unaligned", pa.int32(), nullable=False),
        pa.field("num_doubtful", pa.int32(), nullable=False),
        pa.field("speech_samples", pa.int64(), nullable=False),
        pa.field("score_all", pa.float64()),
        pa.field("score_words", pa.float64()),
        pa.field("score_worst", pa.float64()),
        pa.field("fallback", pa.bool_(), nullable=False),
        pa.field("text_tokens", pa.int32(), nullable=False),
        pa.field("hubert_frames", pa.int32(), nullable=False),
        pa.field("hubert_runs", pa.int32(), nullable=False),
        pa.field("pitch_frames", pa.int32(), nullable=False),
        pa.field("pitch_runs", pa.int32(), nullable=False),
        pa.field("style_frames", pa.int32(), nullable=False),
        pa.field("voiced_share", pa.float64(), nullable=False),
        pa.field("f0_median_hz", pa.float64(), nullable=False),
    ]
)
"""`shard-NNNNNN.stats.parquet`: one row per record, in shard order. `speech_samples` sums the lengths of timed words,
`*_runs` counts ids after deduplication, `f0_median_hz` is 0 where nothing is voiced; scores are null where the aligner
gives none."""

SHARDS = pa.schema(
    [
        pa.field("split", pa.int32(), nullable=False),
        pa.field("inputs", pa.int64(), nullable=False),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("rejects", pa.int64(), nullable=False),
        pa.field("documents", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("num_words", pa.int64(), nullable=False),
        pa.field("text_tokens", pa.int64(), nullable=False),
        pa.field("hubert_runs", pa.int64(), nullable=False),
        pa.field("pitch_runs", pa.int64(), nullable=False),
        pa.field("style_frames", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
"""`shards.parquet`: one row per split, in order: what a reader must know of a shard before it opens it. `documents`
counts the stretches of consecutive utterances of a recording, `bytes` is the size of the tar."""
