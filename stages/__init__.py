"""One file per stage: a frozen config that travels and a live stage that works. No engine, no storage."""
