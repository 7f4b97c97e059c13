"""What is exchanged: records, rejects, unit contracts, recipes, tables, times. Nothing heavy is imported here."""
