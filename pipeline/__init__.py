"""Plan, executor, commit, engines, reader, audit: everything that moves records and knows no signal processing."""
